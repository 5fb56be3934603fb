"""What a path stands for: folders, zip archives, DICOMDIR; nothing outside, nothing left behind."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.fileset import FileSet

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.io import find
from ldct_denoise.io.dicom import archive
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.find import find_images
from ldct_denoise.io.inspect import inspect
from ldct_denoise.io.volume_files import open_volume_file
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.io.volumes import voxels
from ldct_denoise.volume import Geometry, Volume
from tests.dicom_files import cells, write_ct


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that archives are extracted to."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for dose in ("quarter_3mm", "full_3mm"):
        for number in range(3):
            write_ct(tmp_path / "study" / dose / f"{number}.IMA", number, SeriesInstanceUID=f"1.2.{len(dose)}")
    return tmp_path / "study"


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


# Zip ---------------------------------------------------------------------------------------------------------


def test_a_zip_is_read_like_its_folder_and_leaves_nothing(study: Path, temporary: Path) -> None:
    path = zipped(study)
    shutil.rmtree(study)
    found = find_images(path).series
    assert [len(series) for series in found] == [3, 3]
    np.testing.assert_array_equal(found[0].read_hu(1), cells(1).astype(np.float32) - 1024)
    assert len(list(temporary.iterdir())) == 1
    copy = pickle.loads(pickle.dumps(found[0]))  # what another process holds does not remove the files
    del copy
    gc.collect()
    assert found[0].read_hu(0).shape == (6, 8)
    del found
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_a_zip_gives_the_doses_and_pairs_of_its_folder(study: Path) -> None:
    path = zipped(study)
    here, there = inspect(path), inspect(study)
    assert sorted(one["dose"] for one in here["series"]) == ["low", "normal"]
    assert [pair["slices"] for pair in here["pairs"]] == [pair["slices"] for pair in there["pairs"]] == [3]
    assert {one["folder"] for one in here["series"]} == {f"{path}/quarter_3mm", f"{path}/full_3mm"}


def test_extracted_files_go_at_the_end_of_the_process(study: Path, tmp_path: Path) -> None:
    program = (
        "import sys, tempfile; from pathlib import Path; from ldct_denoise.io.find import find_images;"
        "found = find_images(Path(sys.argv[1])).series; print(found[0].slices[0].path)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, zipped(study)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip().endswith(".IMA")
    assert not Path(run.stdout.strip()).exists()


def test_volumes_in_a_zip(study: Path, tmp_path: Path) -> None:
    series = find_images(study / "full_3mm").series[0]
    (tmp_path / "box").mkdir()
    write_volume(tmp_path / "box" / "v.nii.gz", Volume.of(series), series.geometry)
    (volume,) = find_images(zipped(tmp_path / "box")).series
    gc.collect()
    np.testing.assert_array_equal(volume.read_hu(2), series.read_hu(2))


def test_a_label_volume_is_no_image_to_denoise(study: Path, tmp_path: Path) -> None:
    series = find_images(study / "full_3mm").series[0]
    box = tmp_path / "box"
    box.mkdir()
    write_volume(box / "image.nii.gz", Volume.of(series), series.geometry)
    write_volume(box / "lesions.nii.gz", Volume.of(series), series.geometry, labels=True)
    found = find_images(box)
    assert [source.name for source in found.series] == ["image.nii.gz"]
    (aside,) = found.skipped
    assert "label" in aside.reason


@pytest.mark.parametrize("sides", ["10 10 99999999999", "10 10 500000000", "100000 10 10", "10 10 0"])
def test_only_the_volume_of_impossible_size_is_skipped(study: Path, sides: str) -> None:
    head = f"ObjectType = Image\nNDims = 3\nDimSize = {sides}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (study / "bad.mha").write_bytes(head.encode() + bytes(200))
    found = find_images(study)
    assert [len(series) for series in found.series] == [3, 3]
    ((path, reason),) = ((item.path, item.reason) for item in found.skipped)
    assert path == study / "bad.mha"
    assert len(reason.splitlines()) == 1


def test_whatever_opening_a_volume_fails_with_concerns_that_file_alone(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, archive: object) -> None:
        raise MemoryError("Unable to allocate 48.0 GiB")

    (study / "bad.nrrd").touch()
    monkeypatch.setattr(find, "open_volume_file", broken)
    found = find_images(study)
    assert [len(series) for series in found.series] == [3, 3]
    assert [item.reason for item in found.skipped] == ["unreadable (Unable to allocate 48.0 GiB)"]


@pytest.mark.parametrize("name", ["../out.dcm", "/etc/out.dcm", "a/../../out", "C:\\out", "a\\..\\out"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, temporary: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"x")
    with pytest.raises(InputError, match=f"{path}: .*leads out"):
        find_images(path)
    assert list(temporary.iterdir()) == []


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path, link = tmp_path / "bad.zip", zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="leads out"):
        scan(path)


def test_a_bomb_is_refused_before_it_is_extracted(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("zeros", "w", force_zip64=True) as bomb,
    ):
        for _ in range(300):
            bomb.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"inflates \d+ times"):
        scan(path)
    assert list(temporary.iterdir()) == []


def test_extracted_bytes_are_counted_whatever_the_archive_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(1 << 20))
    monkeypatch.setattr(archive, "_refuse_hostile", lambda path, members: None)
    monkeypatch.setattr(archive, "MAX_EXTRACTED_BYTES", 1000)
    with pytest.raises(InputError, match="inflates to more"):
        scan(path)
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_too_many_files_and_broken_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: Path) -> None:
    path = zipped(study)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    with pytest.raises(InputError, match="more than 5 files"):
        scan(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=f"{path}: broken or encrypted archive"):
        scan(path)


def test_a_zip_inside_a_folder_is_named(study: Path) -> None:
    zipped(study).rename(study / "more.zip")
    (aside,) = scan(study).skipped
    assert aside.path.name == "more.zip"
    assert "give it as the path itself" in aside.reason


# DICOMDIR ----------------------------------------------------------------------------------------------------


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A disc with two series of three slices."""
    files = FileSet()
    for kernel in ("B30f", "B70f"):
        for number in range(3):
            instance = dcmread(write_ct(tmp_path / kernel / str(number), number, ConvolutionKernel=kernel))
            instance.StudyDate = "20260101"
            instance.StudyID = instance.AccessionNumber = instance.SeriesNumber = "1"
            instance.StudyTime, instance.SeriesInstanceUID = "120000", f"1.2.{len(kernel)}.{kernel[1:3]}"
            files.add(instance)
    files.write(tmp_path / "disc")
    return tmp_path / "disc" / "DICOMDIR"


def test_a_dicomdir_lists_the_files_to_read(disc: Path) -> None:
    write_ct(disc.parent / "stray", 9)
    inventory = scan(disc)
    assert sorted(series.metadata.kernel for series in inventory.series) == ["B30f", "B70f"]
    assert [len(series) for series in inventory.series] == [3, 3]
    assert inventory.skipped == ()
    whole = scan(disc.parent)
    assert sum(len(series) for series in whole.series) == 7
    assert [item.reason for item in whole.skipped] == ["a DICOMDIR; the files themselves were examined"]


def test_capitals_that_copying_changed(disc: Path) -> None:
    for folder, folders, names in os.walk(disc.parent, topdown=False):
        for name in [*folders, *names]:
            if name != "DICOMDIR":
                os.rename(Path(folder, name), Path(folder, name.lower()))
    assert [len(series) for series in scan(disc).series] == [3, 3]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # which the test itself writes
@pytest.mark.parametrize("way", [["..", "OUT"], ["/etc", "passwd"], ["PT000000", "..", "..", "OUT"], ["LINK"]])
def test_a_dicomdir_does_not_lead_out_of_its_folder(disc: Path, way: list[str]) -> None:
    write_ct(disc.parent.parent / "OUT", 9)
    (disc.parent / "LINK").symlink_to(disc.parent.parent / "OUT")
    directory = dcmread(disc)
    records = [record for record in directory.DirectoryRecordSequence if "ReferencedFileID" in record]
    records[0].ReferencedFileID = way
    records[1].ReferencedFileID = ["GONE"]
    directory.save_as(disc)
    inventory = scan(disc)
    assert sum(len(series) for series in inventory.series) == 4
    assert [item.reason for item in inventory.skipped] == [
        "the DICOMDIR leads out of its folder",
        "listed in the DICOMDIR but missing",
    ]


# Volumes -----------------------------------------------------------------------------------------------------


def flat(value: float = 0.0) -> Volume:
    return Volume(np.full((2, 6, 8), value), Geometry.from_affine(np.eye(4), (2, 6, 8)))


def test_a_volume_may_be_read_by_whom_the_umask_says(tmp_path: Path) -> None:
    for mask, mode in ((0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_volume(tmp_path / "v.nii", flat(), flat().geometry, overwrite=True)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "v.nii").stat().st_mode) == mode


@pytest.mark.parametrize("name", ["v.nii", "v.nrrd", "v.mha"])
def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, name: str) -> None:
    noise = Volume(
        np.random.default_rng(0).normal(0, 100, (2, 60, 80)), Geometry.from_affine(np.eye(4), (2, 60, 80))
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OutputError, match=f"{name}: cannot be written .*free disk space"):
            write_volume(tmp_path / name, noise, noise.geometry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_the_limits_of_an_integer_type_are_kept(tmp_path: Path, dtype: type[np.integer]) -> None:
    import SimpleITK as sitk

    ends = np.iinfo(dtype)
    data = np.array([[[ends.min, ends.max, 0, 7]]], dtype)
    sitk.WriteImage(sitk.GetImageFromArray(data), str(tmp_path / "in.nii"))
    given = open_volume_file(tmp_path / "in.nii")  # such values are no CT: find_images would skip the file
    write_volume(tmp_path / "out.nii", Volume.of(given), given.geometry, like=tmp_path / "in.nii")
    out = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii"))).ravel()
    assert out.dtype == dtype
    assert [int(value) for value in out[[0, 2, 3]]] == [ends.min, 0, 7]
    assert int(out[1]) == pytest.approx(ends.max, rel=1e-6)


# Folders -----------------------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe would make us wait for ever, a device read without end."""
    folder = tmp_path / "in"
    write_ct(folder / "good")
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to("/dev/zero")
    (folder / "broken").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
        inventory = scan(folder)
    assert [len(series) for series in inventory.series] == [1]
    named = {item.path.name: item.reason for item in inventory.skipped}
    assert named.pop("loop") == "a link to a folder that is read already, or to one above; not followed"
    assert named == dict.fromkeys(("pipe", "device", "broken", "s"), "not a regular file")
    for name in ("pipe", "device"):
        with pytest.raises(InputError, match="not a regular file"):
            scan(folder / name)


def test_a_link_beside_its_file_is_not_read(tmp_path: Path) -> None:
    """Three slices stay one series, whatever the names of the links to them."""
    for number in range(3):
        write_ct(tmp_path / "real" / str(number), number)
        (tmp_path / f"a-link-{number}").symlink_to(tmp_path / "real" / str(number))
    found = scan(tmp_path)
    assert [(one.metadata.path, len(one)) for one in found.series] == [(tmp_path / "real", 3)]
    assert {item.reason for item in found.skipped} == {"a link to a file that is read already"}
    assert len(found.skipped) == 3
    (linked,) = scan(tmp_path / "a-link-0").series
    assert len(linked) == 1


def test_a_tree_of_links_is_read_once(tmp_path: Path) -> None:
    """Links to folders, to a folder inside one, to each other and to a folder above."""
    write_ct(tmp_path / "elsewhere" / "good" / "0001.dcm")
    (tmp_path / "in").mkdir()
    for name, target in {"P1": "elsewhere", "P1-again": "elsewhere", "inner": "elsewhere/good", "up": "."}.items():
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for path in (tmp_path / "in", tmp_path / "link", tmp_path / "in" / "P1"):
        inventory = find_images(path)
        assert [len(series) for series in inventory.series] == [1]
        assert {item.reason for item in inventory.skipped} == {
            "a link to a folder that is read already, or to one above; not followed"
        }


def test_a_link_in_a_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match="a: a link that leads nowhere, or in a circle"):
        find_images(tmp_path / "a")


def test_an_output_that_is_not_finished_is_left_alone(tmp_path: Path) -> None:
    write_ct(tmp_path / ".out.partial-abc" / "0001.dcm")
    write_ct(tmp_path / "in" / "good", 1)
    inventory = scan(tmp_path)
    assert [len(series) for series in inventory.series] == [1]
    assert [item.reason for item in inventory.skipped] == ["an output that is not finished"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_nothing_there(tmp_path: Path, make: object) -> None:
    path = tmp_path / "x"
    make(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=f"^{path}: [^\n]*$"):
        find_images(path)


def _counted(slices: int, side: int = 64) -> np.ndarray:
    """Every slice a noise of its own, so that nothing compresses and none is another."""
    return np.random.default_rng(0).integers(-1000, 1000, (slices, side, side)).astype(np.float32)


def _write_counted(path: Path, hu: np.ndarray) -> None:
    write_volume(path, iter(hu), Geometry.from_affine(np.diag([3.0, 0.7, 0.7, 1.0]), hu.shape), overwrite=True)


def test_a_compressed_volume_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slice after slice: in all a few times the file (its index, the slices), not the file for every slice."""
    hu, path, counts = _counted(20), tmp_path / "v.nii.gz", [0]
    _write_counted(path, hu)
    readinto = voxels._GzipView.readinto

    def counting(view: voxels._GzipView, buffer: memoryview) -> int:
        count = readinto(view, buffer)
        counts[0] += count
        return count

    monkeypatch.setattr(voxels._GzipView, "readinto", counting)
    series = open_volume_file(path)
    for index in range(20):
        np.testing.assert_array_equal(series.read_hu(index), hu[index])
    assert 0.9 * path.stat().st_size < counts[0] < 4 * path.stat().st_size


def test_a_volume_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    for shift in (0, 7):
        _write_counted(path, _counted(2) + shift)
        np.testing.assert_array_equal(open_volume_file(path).read_hu(1), _counted(2)[1] + shift)


def test_forked_processes_do_not_move_each_others_place_in_a_volume(tmp_path: Path) -> None:
    hu, path = _counted(40), tmp_path / "v.nii.gz"
    _write_counted(path, hu)
    series = open_volume_file(path)
    np.testing.assert_array_equal(series.read_hu(0), hu[0])
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            same = all(np.array_equal(series.read_hu(index), hu[index]) for index in range(40))
            os._exit(0 if same else 1)
        children.append(child)
    assert all(np.array_equal(series.read_hu(index), hu[index]) for index in range(40))
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


@pytest.mark.parametrize(("axis", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "")])
def test_slices_that_are_not_axial_are_a_problem(tmp_path: Path, axis: int, plane: str) -> None:
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = np.roll(np.eye(3), -axis, axis=0)
    path = tmp_path / "v.nii"
    write_volume(path, iter(_counted(3)), Geometry.from_affine(affine, (3, 64, 64)))
    assert [problem.split(" ")[0] for problem in open_volume_file(path).metadata.problems] == [plane] * bool(plane)

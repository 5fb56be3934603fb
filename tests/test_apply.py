"""Apply: an identity model changes no stored value, range and strength are kept, outputs are whole or absent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner
from ldct_denoise.cli.main import cli
from torch import Tensor

from ldct_denoise.errors import ConfigError, InputError, ModelError, OutputError, PartialError
from ldct_denoise.inference.batch import apply
from ldct_denoise.inference.series import apply_series, derivation_of
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import Scale
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.derived.deidentify import public_uid
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_files import open_volume_file
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.report.apply import apply_report_writer
from ldct_denoise.volume import Volume
from tests.conftest import ROOT
from tests.synthetic import DEFAULT_SCALE, Shift, random_volume, run_cli, run_program, shift_model


@pytest.fixture
def series(tmp_path: Path) -> Series:
    write_series(
        random_volume(),
        tmp_path / "in",
        SeriesAttributes(patient_id="P1", study_uid="1.2.3", series_number=3, description="t"),
    )
    found = scan(tmp_path / "in").series[0]
    assert isinstance(found, Series)
    return found


def test_an_identity_model_gives_every_stored_value_back(series: Series, tmp_path: Path) -> None:
    apply_series(series, shift_model(), tmp_path / "out")
    derived = scan(tmp_path / "out", include_derived=True).series[0]
    for index in range(len(series)):
        np.testing.assert_array_equal(derived.read_stored(index), series.read_stored(index))


def test_identity_on_every_real_encoding(shared_data: Path, tmp_path: Path) -> None:
    """Every readable CT image of the test set, through the network path, in every encoding."""
    tried = 0
    for file in sorted((shared_data / "dicom_cases").rglob("*")):
        if not file.is_file() or not (found := scan(file).series):
            continue
        source = found[0]
        try:
            before = source.read_stored(0)
        except InputError:
            continue
        apply_series(source, shift_model(), tmp_path / str(tried))
        after = scan(tmp_path / str(tried), include_derived=True).series[0].read_stored(0)
        np.testing.assert_array_equal(after, before, err_msg=file.name)
        tried += 1
    assert tried >= 12


def test_strength_blends_and_the_range_is_respected() -> None:
    source = random_volume(low=-1024, high=3000)
    narrow = shift_model(10, Scale(-1000, 1000))
    for strength in (0.0, 0.4, 1.0):
        for index, hu in restore_slices(source, narrow, ApplySettings(strength)):
            given = source.read_hu(index)
            inside = (given >= -1000) & (given <= 1000)
            np.testing.assert_allclose(hu[inside] - given[inside], 10 * strength, atol=0.01)
            np.testing.assert_array_equal(hu[~inside], given[~inside])
    with pytest.raises(ConfigError, match=r"0 .*1"):
        ApplySettings(1.5)


class Lopsided(Shift):
    """Adds a ramp that a flip or a turn moves: a mean over all of them makes it even."""

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, side) for side in image.shape[-2:])
        return image + 10 / self.scale.width_hu * (rows[:, None] + 2 * columns)


def test_tta_turns_each_slice_and_back() -> None:
    source, once = random_volume(), ApplySettings()
    lopsided = TrainedModel("lopsided", Lopsided(0, DEFAULT_SCALE), "lopsided", DEFAULT_SCALE, {}, "0" * 64)
    every = ApplySettings(tta=True)
    for (index, even), (_, uneven) in zip(
        restore_slices(source, lopsided, every), restore_slices(source, lopsided, once), strict=True
    ):
        given = source.read_hu(index)
        assert np.abs(uneven - given).max() > 20
        np.testing.assert_allclose(even, given, atol=0.01)
    for index, hu in restore_slices(source, shift_model(), every):  # the identity stays the identity, to the bit
        np.testing.assert_array_equal(hu, source.read_hu(index))
    narrow = shift_model(scale=Scale(-1000, 2000))  # in its units a sum of floats would be rounded
    for (_, even), (_, straight) in zip(
        restore_slices(source, narrow, every), restore_slices(source, narrow, once), strict=True
    ):
        np.testing.assert_array_equal(even, straight)
    assert derivation_of(shift_model(), every).settings != derivation_of(shift_model(), once).settings


def test_nifti_in_nifti_out_with_place_and_type_kept(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(-1000, 1000, (21, 34, 5)).astype(np.int16)
    affine = np.array([[-0.7, 0, 0, 80], [0, -0.8, 0, 90], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "in.nii.gz")
    written = apply(tmp_path / "in.nii.gz", shift_model(7), tmp_path / "out.nii.gz")
    out = nibabel.load(written[0])
    np.testing.assert_allclose(out.affine, affine, atol=1e-5)
    assert out.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(out.dataobj), data + 7)
    with pytest.raises(OutputError, match="overwrite"):
        apply(tmp_path / "in.nii.gz", shift_model(7), tmp_path / "out.nii.gz")
    with pytest.raises(ConfigError, match="not DICOM"):
        apply(tmp_path / "in.nii.gz", shift_model(), tmp_path / "dicom", writing=WriteSettings(format="dicom"))


def test_dicom_to_nifti(series: Series, tmp_path: Path) -> None:
    written = apply_series(series, shift_model(), tmp_path / "out", writing=WriteSettings(format="nifti"))
    back = find_images(written, include_derived=True).series[0]
    np.testing.assert_array_equal(Volume.of(back).hu, Volume.of(series).hu)
    np.testing.assert_allclose(back.geometry.affine, series.geometry.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd", "x.mha"])
def test_the_input_is_never_written_over(tmp_path: Path, name: str) -> None:
    given, method = tmp_path / name, Shift(7, DEFAULT_SCALE)
    write_volume(given, random_volume(), random_volume().geometry)
    before = given.read_bytes()
    link = tmp_path / f"link-{name}"
    link.symlink_to(given)
    method.restore = None  # type: ignore[assignment,method-assign]  # nothing may be computed
    for output in (tmp_path, given, link):
        with pytest.raises(OutputError, match="is the input"):
            apply(
                given,
                TrainedModel("m", method, "m", DEFAULT_SCALE, {}, ""),
                output,
                writing=WriteSettings(overwrite=True),
            )
    assert given.read_bytes() == before


def test_the_format_is_told_by_the_name(series: Series, tmp_path: Path) -> None:
    for name in ("out.nii.gz", "out.nrrd"):
        assert apply(tmp_path / "in", shift_model(), tmp_path / name) == [tmp_path / name]
        np.testing.assert_array_equal(open_volume_file(tmp_path / name).read_hu(1), series.read_hu(1))
    with pytest.raises(OutputError, match=r"two files; name it \.mha"):
        apply(tmp_path / "in", shift_model(), tmp_path / "out.mhd")


def test_an_mhd_becomes_an_mha(tmp_path: Path) -> None:
    import SimpleITK as sitk

    write_volume(tmp_path / "v.mha", random_volume(), random_volume().geometry)
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "v.mha")), str(tmp_path / "v.mhd"))
    (written,) = apply(tmp_path / "v.mhd", shift_model(7), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [written.name] == ["v.mha"]
    np.testing.assert_array_equal(open_volume_file(written).read_hu(1), random_volume().hu[1] + 7)


class Mean(Shift):
    """Every pixel sees the whole slice."""

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        return image.mean((-2, -1), keepdim=True).expand_as(image)


def test_what_is_no_number_stays_and_does_not_spread(tmp_path: Path) -> None:
    hu = random_volume().hu.copy()
    hu[1, 3, 4], hu[1, 5, 6], hu[2, 7, 8] = np.nan, np.inf, -np.inf
    source = random_volume().with_hu(hu)
    lopsided = TrainedModel("mean", Mean(0, DEFAULT_SCALE), "mean", DEFAULT_SCALE, {}, "")
    clean = random_volume().with_hu(np.where(np.isfinite(hu), hu, DEFAULT_SCALE.low_hu))
    known = np.isfinite(hu)
    for settings in (ApplySettings(), ApplySettings(guard_range=False), ApplySettings(precision="bf16")):
        for (index, out), (_, expected) in zip(
            restore_slices(source, lopsided, settings), restore_slices(clean, lopsided, settings), strict=True
        ):
            np.testing.assert_array_equal(out[known[index]], expected[known[index]])
            np.testing.assert_array_equal(out[~known[index]], hu[index][~known[index]])
    with pytest.raises(ModelError, match="slice 0: shift returns non-finite values"):
        next(restore_slices(random_volume(), shift_model(np.nan)))


@pytest.mark.parametrize("name", ["v.nii", "v.nrrd", "v.mha"])
def test_a_volume_is_not_denoised_twice(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        write_volume(tmp_path / "in" / f"{number}{name}", random_volume(), random_volume().geometry)
    assert len(apply(tmp_path / "in", shift_model(7), tmp_path / "in" / "out")) == 2
    found = find_images(tmp_path / "in")
    assert sorted(source.name for source in found.series) == [f"1{name}", f"2{name}"]
    reasons = {
        item.path.suffix: item.reason for item in found.skipped if item.path.suffix not in (".jsonl", ".lock")
    }
    assert reasons == {Path(name).suffix: "already denoised by ldct-denoise"}
    assert len(find_images(tmp_path / "in", include_derived=True).series) == 4


def test_colour_is_no_volume_to_denoise(tmp_path: Path) -> None:
    colour = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "rgb.nii.gz")
    with pytest.raises(InputError, match=r"rgb\.nii\.gz: colour"):
        apply(tmp_path / "rgb.nii.gz", shift_model(), tmp_path / "out")


def test_a_volume_takes_no_setting_that_only_dicom_has(series: Series, tmp_path: Path) -> None:
    write_volume(tmp_path / "in.nii", random_volume(), random_volume().geometry)
    for told, writing in {
        "--deidentify": WriteSettings(deidentify=True),
        "--compress": WriteSettings(compress="rle"),
        "--private-tags remove": WriteSettings(private_tags="remove"),
        "--keep-manufacturer": WriteSettings(keep_manufacturer=True),
        "--convert-enhanced": WriteSettings(convert_enhanced=True),
    }.items():
        with pytest.raises(ConfigError, match=told):
            apply(tmp_path / "in.nii", shift_model(), tmp_path / "out.nii", writing=writing)
    with pytest.raises(ConfigError, match="--convert-enhanced"):
        apply(tmp_path / "in", shift_model(), tmp_path / "out.nii", writing=WriteSettings(convert_enhanced=True))
    assert not (tmp_path / "out.nii").exists()


def test_a_deidentified_volume_has_another_name_and_nothing_burned_in(series: Series, tmp_path: Path) -> None:
    writing = WriteSettings(format="nifti", deidentify=True)
    (written,) = apply(tmp_path / "in", shift_model(), tmp_path / "out", writing=writing)
    assert written.name == f"{public_uid(series.uid)}.nii.gz"
    last = sorted((tmp_path / "in").iterdir())[-1]
    image = pydicom.dcmread(last)
    image.BurnedInAnnotation = "YES"
    image.save_as(last)
    with pytest.raises(InputError, match="burned-in"):
        apply(tmp_path / "in", shift_model(), tmp_path / "again", writing=writing)
    assert not (tmp_path / "again").exists()


def test_a_tree_of_several_series_with_one_broken(tmp_path: Path) -> None:
    for number in (1, 2):
        write_series(
            random_volume(),
            tmp_path / "in" / str(number),
            SeriesAttributes(
                patient_id="P",
                study_uid="1.2.3",
                series_uid=f"1.2.3.{number}",
                series_number=number,
                description="t",
            ),
        )
    written = apply(tmp_path / "in", shift_model(), tmp_path / "out")
    assert sorted(path.name for path in written) == ["1.2.3.1", "1.2.3.2"]
    broken = sorted((tmp_path / "in" / "2").iterdir())[0]
    dataset = pydicom.dcmread(broken)
    dataset.PixelData = dataset.PixelData[:-100]
    dataset.save_as(broken)
    inventory = find_images(tmp_path / "in")
    if any(str(broken) == str(item.path) for item in inventory.skipped):
        return  # noticed already when it was found
    with pytest.raises(PartialError) as told:
        apply(tmp_path / "in", shift_model(), tmp_path / "again")
    assert broken.name in told.value.failures[0]
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["1.2.3.1"]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_slice_that_cannot_be_read_is_told_after_the_others_were_done(
    tmp_path: Path, count: int, keep: float
) -> None:
    for number in range(1, count + 1):
        write_series(
            random_volume(),
            tmp_path / "in" / str(number),
            SeriesAttributes(
                patient_id="P",
                study_uid="1.2.3",
                series_uid=f"1.2.3.{number}",
                series_number=number,
                description="t",
            ),
        )
    (tmp_path / "in" / "readme.txt").write_text("by right left out")
    shutil.copy(next((tmp_path / "in" / "1").iterdir()), tmp_path / "in" / "copy.dcm")
    assert len(apply(tmp_path / "in", shift_model(), tmp_path / "whole")) == count
    broken = sorted((tmp_path / "in" / "1").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[: int(keep * broken.stat().st_size)])
    with pytest.raises(PartialError) as told:
        apply(tmp_path / "in", shift_model(), tmp_path / "out")
    (line,) = told.value.failures
    assert line.startswith(f"{broken}: ")
    assert line.endswith("; its series lacks it")
    assert sorted(len(one) for one in scan(tmp_path / "out", include_derived=True).series) == [2, 3][:count]


@pytest.mark.slow
def test_a_killed_apply_leaves_nothing_under_a_final_name(series: Series, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom tests.synthetic import shift_model\n"
        "from ldct_denoise.inference.series import apply_series\nfrom ldct_denoise.io.dicom.scan import scan\n"
        "def slow(done, total, name):\n    print(done, flush=True)\n    time.sleep(30 if done == 2 else 0)\n"
        "apply_series(scan(Path(sys.argv[1])).series[0], shift_model(), Path(sys.argv[2]), progress=slow)\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "2":
        assert process.poll() is None
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()
    apply_series(series, shift_model(), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 3


def test_nothing_to_denoise_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty folder"):
        apply(tmp_path / "empty", shift_model(), tmp_path / "out")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"no CT series.*notes\.txt"):
        apply(tmp_path / "text", shift_model(), tmp_path / "out")


def test_the_log_tells_the_time_of_each_stage(
    series: Series, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line without any name, which `apply --verbose` shows."""
    with caplog.at_level("INFO", logger="ldct_denoise.inference.series"):
        apply_series(series, load_model("lir-ct-small"), tmp_path / "out")
    (line,) = [record.getMessage() for record in caplog.records]
    seconds = r"\d+\.\d s"
    stages = f"read {seconds}, network {seconds}, blend {seconds}, write {seconds}, side by side"
    assert re.fullmatch(f"{len(series)} slices: {stages}", line), line


def test_a_report_is_written_beside_the_series(series: Series, tmp_path: Path) -> None:
    settings = ApplySettings(seed=7, tta=True)
    report_on = apply_report_writer(shift_model(1), settings)
    apply_series(series, shift_model(1), tmp_path / "out", settings, write_report=report_on)
    report = (tmp_path / "out-report.html").read_text(encoding="utf-8")
    assert "<html" in report.lower()
    told = (">strength<", ">precision<", ">fp32<", ">mean of 8 flips and rotations<")
    assert [text for text in told if text not in report] == []


def test_the_command_ends_with_report_verdict_and_viewer(
    series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    served: list[list[str]] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("ldct_denoise.view.serve_view", lambda sources, names, **more: served.append(names))
    given = [
        "apply",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        "--model",
        "bilateral",
        "--open",
        "--view",
    ]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 0, result.output
    path, last = result.stdout.splitlines()
    assert path == str(tmp_path / "out")
    assert last.startswith(f"{tmp_path / 'out-report.html'}: ")
    assert "checks" in last
    assert opened == [(tmp_path / "out-report.html").as_uri()]
    assert served == [["INPUT", "OUTPUT"]]


def test_another_report_is_not_written_over_unasked(series: Series, tmp_path: Path) -> None:
    report, report_on = tmp_path / "out-report.html", apply_report_writer(shift_model(), ApplySettings())
    report.write_text("mine")
    with pytest.raises(OutputError, match=r"out-report\.html: already exists"):
        apply_series(series, shift_model(), tmp_path / "out", write_report=report_on)
    assert (report.read_text(), (tmp_path / "out").exists()) == ("mine", False)
    writing = WriteSettings(overwrite=True)
    apply_series(series, shift_model(), tmp_path / "out", writing=writing, write_report=report_on)
    assert "<html" in report.read_text(encoding="utf-8").lower()


def test_a_report_that_fails_leaves_the_series(series: Series, tmp_path: Path) -> None:
    def nothing(*arguments: object) -> None:
        raise ValueError("nothing to measure")

    with pytest.raises(PartialError, match=r"out: written, but not its report \(nothing to measure\)") as told:
        apply(tmp_path / "in", shift_model(), tmp_path / "out", write_report=nothing)
    assert told.value.written == (tmp_path / "out",)
    assert told.value.failures == ()
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 3
    lost = sorted((tmp_path / "in").iterdir())[-1]
    lost.write_bytes(lost.read_bytes()[:-100])
    with pytest.raises(PartialError, match="but not its report") as told:
        apply(tmp_path / "in", shift_model(), tmp_path / "again", write_report=nothing)
    assert [line.split(":")[0] for line in told.value.failures] == [str(lost)]


def test_odd_sizes_through_a_network(tmp_path: Path) -> None:
    from ldct_denoise import methods

    method = methods.build(
        "lir", {"architecture": "unet", "base_channels": 4, "blocks_per_level": 1, "norm": "none"}, Scale()
    ).eval()
    source = random_volume((1, 61, 83))
    restored = dict(restore_slices(source, TrainedModel("n", method, "lir", Scale(), {}, "")))
    assert restored[0].shape == (61, 83)
    with torch.inference_mode():
        image = torch.from_numpy(Scale().to_unit(source.read_hu(0)))[None, None]
        expected = Scale().to_hu(method.restore(image))[0, 0].numpy()
    np.testing.assert_allclose(restored[0], expected, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_the_command_line_prints_what_was_written_though_something_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    for number in range(1, count + 1):
        write_series(
            random_volume(),
            tmp_path / "in" / str(number),
            SeriesAttributes(
                patient_id="P",
                study_uid="1.2.3",
                series_uid=f"1.2.3.{number}",
                series_number=number,
                description="t",
            ),
        )
    broken = sorted((tmp_path / "in" / "1").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:-100])
    output = tmp_path / "out"
    code, printed, error = run_cli(capsys, "apply", tmp_path / "in", "--output", output, "--model", "bilateral")
    assert code == 1
    assert "error: " in error
    written = [output] if count == 1 else [output / "1.2.3.1", output / "1.2.3.2"]
    assert sorted(printed.splitlines()) == [str(path) for path in written]


@pytest.mark.slow
def test_the_command_line_tells_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "in.nii", random_volume(), random_volume().geometry)
    for arguments, told in (
        (("apply", tmp_path / "none", "--output", tmp_path / "o"), "none"),
        (("apply", tmp_path / "in.nii", "--output", tmp_path / "o.nii", "--model", "no-such"), "no-such"),
        (
            ("apply", tmp_path / "in.nii", "--output", tmp_path / "o.nii", "--model", "nlm", "--strength", "2"),
            "strength",
        ),
        (("train", "--output", tmp_path / "run"), "--dicom-root"),
        (
            ("train", "--dicom-root", tmp_path, "--output", tmp_path / "run", "--set", "training.nonsense=1"),
            "nonsense",
        ),
        (("train", "--dicom-root", tmp_path, "--output", tmp_path / "run"), "no normal-dose series"),
    ):
        code, _, error = run_cli(capsys, *arguments)
        lines = error.strip().splitlines()
        assert code == 2, arguments
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert told in lines[0]
        assert "Traceback" not in error
    result = run_program("apply", tmp_path / "none", "--output", tmp_path / "o")  # the same as a program
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (2, 1)


def test_help_and_the_catalogue_answer_without_torch() -> None:
    for arguments in (["--help"], ["models", "--json"], ["train", "--help"]):
        code = (
            "import sys\nfrom ldct_denoise.cli.main import main\n"
            f"try:\n    main({arguments!r})\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
            "assert not {'torch', 'monai', 'SimpleITK', 'skimage'} & set(sys.modules), 'slow import'\n"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        if "--json" in arguments:
            catalogue = json.loads(result.stdout)
            assert {"lir", "bm3d", "redcnn", "cyclegan"} <= {method["name"] for method in catalogue["methods"]}

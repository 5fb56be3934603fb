"""Volume files: every stored type, scale and format gives HU, and keeps them; what is not HU is refused."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.inference.batch import apply
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.find import find_images
from ldct_denoise.io.orientation import oriented_like
from ldct_denoise.io.slice_matching import best_match, match_slices
from ldct_denoise.io.volume_files import VolumeFile, open_volume_file
from ldct_denoise.io.volumes import voxels
from ldct_denoise.io.volumes.stored_type import FLOAT_HU, StoredType, choose_type, preferred_type
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import shift_model

SHAPE = (3, 36, 44)
INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
SCALES = [(1.0, 0.0), (1.0, -1024.0), (0.5, -1000.0), (2.2086, -1024.0), (-1.0, 1024.0), (np.nan, 0.0), (0.0, 5.0)]


@pytest.fixture(scope="session")
def field(shared_data: Path) -> Path:
    """Small inputs, one folder for each reported situation."""
    return shared_data / "field"


def write_nifti(path: Path, stored: np.ndarray, scale: tuple[float, float] = (1.0, 0.0), **fields: Any) -> Path:
    """Write stored values of shape (slices, rows, columns) as they are."""
    image = nibabel.Nifti1Image(stored.transpose(2, 1, 0), np.diag([-0.7, -0.8, 2.5, 1]), dtype=stored.dtype)
    image.header.set_slope_inter(1.0, 0.0)
    nibabel.save(image, path)
    data = bytearray(gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes())
    data[112:120] = np.array(scale, dtype="<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(data)) if path.name.endswith(".gz") else bytes(data))
    return path


def stored_values(path: Path) -> tuple[np.ndarray, float, float]:
    image = nibabel.load(path)
    return np.asarray(image.dataobj.get_unscaled()), float(image.dataobj.slope), float(image.dataobj.inter)


def in_hu(path: Path) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)


def ct_values(dtype: str, scale: tuple[float, float], seed: int = 0) -> np.ndarray:
    """Stored values of a noisy CT, over the part of -1024…1500 HU that the type holds."""
    slope, intercept = scale if scale[0] and np.isfinite(scale[0]) else (1.0, 0.0)
    hu = np.random.default_rng(seed).uniform(-1024, 1500, SHAPE)
    stored = (hu - intercept) / slope
    if np.dtype(dtype).kind == "f":
        return stored.astype(dtype)
    info = np.iinfo(dtype)
    return np.clip(np.rint(stored), info.min, info.max).astype(dtype)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
def test_the_identity_keeps_every_stored_value_and_scale(
    tmp_path: Path, dtype: str, scale: tuple[float, float], suffix: str
) -> None:
    path = write_nifti(tmp_path / f"in{suffix}", ct_values(dtype, scale), scale)
    source = open_volume_file(path)
    expected = nibabel.load(path).get_fdata().transpose(2, 1, 0)
    np.testing.assert_allclose(Volume.of(source).hu, expected, rtol=1e-6, atol=1e-3)
    write_identity(source, tmp_path / f"out{suffix}")
    given, written = stored_values(path), stored_values(tmp_path / f"out{suffix}")
    assert written[0].dtype == given[0].dtype
    np.testing.assert_array_equal(written[0], given[0])
    np.testing.assert_array_equal(written[1:], given[1:])
    np.testing.assert_array_equal(Volume.of(open_volume_file(tmp_path / f"out{suffix}")).hu, Volume.of(source).hu)
    write_identity(source, tmp_path / "out.nrrd")
    np.testing.assert_allclose(in_hu(tmp_path / "out.nrrd"), Volume.of(source).hu, rtol=1e-7, atol=0)


def write_identity(source: VolumeFile, path: Path, shift_hu: float = 0.0) -> None:
    from ldct_denoise.io.volume_writer import write_volume

    slices = (source.read_hu(index) + np.float32(shift_hu) for index in range(len(source)))
    write_volume(path, slices, source.geometry, like=source.path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
def test_the_identity_keeps_every_type_of_nrrd_and_metaimage(
    tmp_path: Path, dtype: str, suffix: str, compressed: bool
) -> None:
    import SimpleITK as sitk

    stored = ct_values(dtype, (1.0, 0.0))
    path = tmp_path / f"in{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(stored), str(path), useCompression=compressed)
    source = open_volume_file(path)
    assert source.header.layout.compression != "itk"
    np.testing.assert_array_equal(Volume.of(source).hu, stored.astype(np.float32))
    for name in (f"out{suffix}", "out.nii"):
        write_identity(source, tmp_path / name)
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
        assert written.dtype == stored.dtype
        np.testing.assert_array_equal(written, stored)


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nrrd", "out.mha"])
@pytest.mark.parametrize("shift_hu", [-300.25, 2000.5])
@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
def test_values_outside_the_input_type_are_held(
    tmp_path: Path, dtype: str, scale: tuple[float, float], shift_hu: float, name: str
) -> None:
    source = open_volume_file(write_nifti(tmp_path / "in.nii.gz", ct_values(dtype, scale), scale))
    write_identity(source, tmp_path / name, shift_hu)
    written = Volume.of(open_volume_file(tmp_path / name)).hu
    np.testing.assert_allclose(written, Volume.of(source).hu + np.float32(shift_hu), atol=0.5, rtol=1e-6)


def test_the_type_of_a_result() -> None:
    kept = StoredType(np.dtype(np.uint16), 1.0, -1024.0)
    assert choose_type(kept, -1024, 3000, 0) == kept
    assert choose_type(kept, -1024.4, 3000, 0) == kept
    assert choose_type(kept, -1030, 3000, 0) == StoredType(np.dtype(np.int16), 1.0, -1024.0)
    assert choose_type(kept, -1030, 60000, 0) == StoredType(np.dtype(np.int32), 1.0, -1024.0)
    assert preferred_type(kept, can_scale=False) == StoredType(np.dtype(np.int16))
    coarse = StoredType(np.dtype(np.uint8), 2.2086, -60.0)
    assert choose_type(coarse, -60, 500, 0) == coarse
    assert choose_type(coarse, -60, 500, 1.1) == FLOAT_HU
    assert preferred_type(coarse, can_scale=False) == FLOAT_HU == preferred_type(None, can_scale=True)


def test_padding_of_nan_stays(tmp_path: Path) -> None:
    stored = ct_values("float32", (1.0, 0.0))
    stored[:, :5], stored[0, 10, 10] = np.nan, np.inf
    path = write_nifti(tmp_path / "in.nii", stored)
    assert exclusion_of(path) == ""
    write_identity(open_volume_file(path), tmp_path / "out.nii")
    np.testing.assert_array_equal(stored_values(tmp_path / "out.nii")[0].transpose(2, 1, 0), stored)
    apply(path, shift_model(7.0), tmp_path / "denoised.nii")
    denoised = stored_values(tmp_path / "denoised.nii")[0].transpose(2, 1, 0)
    np.testing.assert_array_equal(np.isnan(denoised), np.isnan(stored))
    mask = np.where(blocks([1, 2, 3]) > 0, blocks([1, 2, 3]), np.nan).astype(np.float32)
    assert "a label map" in exclusion_of(write_nifti(tmp_path / "mask.nii.gz", mask))


@pytest.mark.parametrize("name", ["u16_inter.nii", "dcm2niix_f17.nii"])
@pytest.mark.parametrize("output", ["out.nii.gz", "out.nrrd"])
def test_unsigned_volumes_with_an_intercept_keep_negative_hu(
    field: Path, tmp_path: Path, name: str, output: str
) -> None:
    path = field / "F18_nifti_scaled" / name
    apply(path, shift_model(), tmp_path / output, ApplySettings(strength=0))
    np.testing.assert_array_equal(in_hu(tmp_path / output), in_hu(path))
    apply(path, shift_model(-20.0), tmp_path / f"shifted-{output}")
    hu, shifted = in_hu(path), in_hu(tmp_path / f"shifted-{output}")
    in_range = (hu >= -1024) & (hu <= 3071)
    np.testing.assert_allclose(shifted[in_range], hu[in_range] - 20, atol=0.5)


# What is not HU ------------------------------------------------------------------------------------------------


def noise_ct(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A disc of tissue and fat in air, with noise."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[: shape[1], : shape[2]] - np.array(shape[1:])[:, None, None] / 2
    radius = np.hypot(row, column)
    hu = np.select([radius < 10, radius < 14], [50.0, -100.0], -1000.0)
    return hu + rng.normal(0, 20, shape)


def blocks(values: list[int], shape: tuple[int, int, int] = (12, 36, 44)) -> np.ndarray:
    """Labels in rectangular areas, on slices in the middle."""
    labels = np.zeros(shape)
    for index, value in enumerate(values):
        labels[4:8, 5 + 8 * (index // 4) :][:, :7, 3 + 10 * (index % 4) : 12 + 10 * (index % 4)] = value
    return labels


def exclusion_of(path: Path, assume_hu: bool = False) -> str:
    """Kind and reason of the exclusion; empty where the volume is read."""
    found = find_images(path, assume_hu=assume_hu)
    return "" if found.series else f"{found.skipped[0].kind}: {found.skipped[0].reason}"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("values", [[], [1], [255], [1, 2, 3], [*range(1, 17)]], ids=str)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_label_maps_are_set_aside_by_their_values(
    tmp_path: Path, suffix: str, values: list[int], dtype: str
) -> None:
    import SimpleITK as sitk

    path = tmp_path / f"liver{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(blocks(values).astype(dtype)), str(path))
    assert exclusion_of(path).startswith("other_object: a label map")
    assert exclusion_of(path, assume_hu=True).startswith("other_object: a label map")


RNG = np.random.default_rng(0)
NOT_HU = {
    "0 to 1": (np.clip((noise_ct() + 1024) / 4095, 0, 1), "perhaps normalised"),
    "z-scores": ((noise_ct() - noise_ct().mean()) / noise_ct().std(), "perhaps normalised"),
    "HU + 1024": (np.clip(noise_ct() + 1024, 0, 4095).round(), "subtract 1024"),
    "MR": (np.abs(RNG.normal(300, 100, SHAPE)).round(), "perhaps MR"),
    "MR with a masked background": (np.where(noise_ct() > -500, RNG.integers(50, 800, SHAPE), 0), "perhaps MR"),
    "a photograph": (RNG.integers(0, 256, SHAPE), "perhaps MR"),
    "SUV": (RNG.gamma(1, 2, SHAPE) * 3, "values are not HU"),
}


@pytest.mark.parametrize("case", NOT_HU)
def test_values_that_are_not_hu_are_refused_with_a_remedy(tmp_path: Path, case: str) -> None:
    values, hint = NOT_HU[case]
    path = write_nifti(tmp_path / "in.nii.gz", values.astype(np.float32))
    reason = exclusion_of(path)
    assert reason.startswith("not_hu: values are not HU: ")
    assert hint in reason
    assert "--assume-hu" in reason
    assert exclusion_of(path, assume_hu=True) == ""


HU = {
    "CT": noise_ct(),
    "windowed CT": np.clip(noise_ct(), -160, 240),
    "a crop of tissue and fat": noise_ct()[:, 8:28, 12:32],
    "CT without noise": np.where(noise_ct() > -500, 40, -1000),
    "padding of -3024": np.where(noise_ct() > -500, noise_ct(), -3024),
    "air only in one slice": np.concatenate([np.full((2, 36, 44), -1000), noise_ct()]),
    "zeros around one slice": np.concatenate([np.zeros((20, 36, 44)), noise_ct(), np.zeros((20, 36, 44))]),
}


@pytest.mark.parametrize("case", HU)
def test_ct_is_not_refused(tmp_path: Path, case: str) -> None:
    assert exclusion_of(write_nifti(tmp_path / "in.nii.gz", HU[case].astype(np.float32))) == ""


def test_one_slice_of_a_ct_shows_that_it_is_in_hu() -> None:
    from ldct_denoise.io.volumes.guards import values_exclusion

    read: list[int] = []

    def read_hu(index: int) -> np.ndarray:
        read.append(index)
        return noise_ct()[0].astype(np.float32)

    assert values_exclusion(read_hu, 300) is None
    assert read == [0]


def test_label_maps_beside_a_ct(field: Path) -> None:
    found = find_images(field / "F15_labels_beside_ct")
    assert sorted(source.metadata.path.parent.name for source in found.series) == ["s0001", "s0002"]
    assert len(found.skipped) == 6  # four masks, the dcmqi labels, the README
    reasons = [item.reason for item in found.skipped if item.path.name != "README"]
    assert all("label" in reason for reason in reasons), reasons


# Coordinates ---------------------------------------------------------------------------------------------------


def test_orders_of_the_same_voxels_are_measured_against_each_other(field: Path, tmp_path: Path) -> None:
    """LPS, LAS, RAS and permuted orders: nothing differs, whichever is the reference."""
    folder = field / "F23_nifti_axes"
    files = {path.name.split(".")[0]: path for path in folder.glob("*.nii.gz")}
    sources = {name: find_images(path).series[0] for name, path in files.items()}
    for name, candidate in sources.items():
        for reference in sources.values():
            match = best_match(candidate, [reference], "reference")
            assert len(match.indices) == len(candidate)
            for first, second in match.indices[:: len(match.indices) // 5]:
                np.testing.assert_array_equal(match.first.read_hu(first), match.second.read_hu(second))
        apply(files[name], shift_model(), tmp_path / name, ApplySettings(strength=0))
        given, written = nibabel.load(files[name]), nibabel.load(tmp_path / name / files[name].name)
        np.testing.assert_array_equal(given.get_fdata(), written.get_fdata())
        np.testing.assert_allclose(given.affine, written.affine, atol=1e-5)
        codes = [(int(one.header["qform_code"]), int(one.header["sform_code"])) for one in (given, written)]
        assert codes[0] == codes[1]
    evaluation = evaluate(sources["RAS"], sources["LPS"])
    assert {row.value for row in evaluation.rows if row.metric == "rmse"} == {0.0}


def test_a_transposed_slice_of_anisotropic_pixels_finds_its_place() -> None:
    shape = (4, 5, 7)
    hu = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    affine = np.array([[0, 0, 0.7, -20], [0, 0.9, 0, -30], [2.5, 0, 0, 100], [0, 0, 0, 1.0]])
    given = Volume(hu, Geometry.from_affine(affine, shape))
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        for flips in np.ndindex(2, 2, 2):
            steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
            data = hu.transpose(order)[steps]
            columns = affine[:3, :3][:, list(order)]
            origin = affine[:3, 3] + sum(columns[:, i] * (data.shape[i] - 1) for i in range(3) if flips[i])
            other = np.eye(4)
            other[:3, :3], other[:3, 3] = columns * np.where(flips, -1, 1), origin
            moved = oriented_like(Volume(data, Geometry.from_affine(other, data.shape)), given.geometry)
            np.testing.assert_allclose(moved.geometry.affine, affine, atol=1e-9)
            pairs = match_slices(given.geometry, moved.geometry)
            assert pairs == tuple((index, index) for index in range(shape[0]))
            for first, second in pairs:
                np.testing.assert_array_equal(moved.read_hu(second), hu[first])
    shifted = affine.copy()
    shifted[0, 3] += 0.3
    away = Volume(hu, Geometry.from_affine(shifted, shape))
    assert match_slices(given.geometry, oriented_like(away, given.geometry).geometry) == ()


@pytest.mark.parametrize(
    ("name", "spacing", "problem"),
    [
        ("unit_sform.nii", (2.5, 4.6875, 4.6875), "sform and qform disagree"),
        ("no_codes.nii", (2.5, 4.6875, 4.6875), "no orientation"),
        ("sheared.nii", (2.5, 4.6875, 4.6875), ""),
        ("gz_named.nii", (2.5, 4.6875, 4.6875), ""),
        ("plain_named.nii.gz", (2.5, 4.6875, 4.6875), ""),
    ],
)
def test_nifti_headers_that_contradict_themselves(
    field: Path, tmp_path: Path, name: str, spacing: tuple[float, ...], problem: str
) -> None:
    (source,) = find_images(field / "F12_nifti_affines" / name).series
    np.testing.assert_allclose(source.geometry.spacing_mm, spacing, atol=1e-4)
    assert [text.startswith(problem) for text in source.metadata.problems] == [True] * bool(problem)
    reference = find_images(field / "F15_labels_beside_ct" / "s0001" / "ct.nii.gz").series[0]
    for index in range(len(reference)):
        np.testing.assert_array_equal(source.read_hu(index), reference.read_hu(index))
    apply(source.path, shift_model(), tmp_path, ApplySettings(strength=0))
    written = open_volume_file(tmp_path / name)
    np.testing.assert_allclose(written.geometry.affine, source.geometry.affine, atol=1e-4)
    given_codes = source.header.nifti_codes
    assert written.header.nifti_codes == given_codes
    assert written.metadata.problems == (source.metadata.problems if name == "no_codes.nii" else ())
    assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")


def nifti_with(path: Path, **fields: Any) -> Path:
    """A small CT whose header has other values; ``sform`` and ``qform`` are RAS matrices with their codes."""
    image = nibabel.Nifti1Image(noise_ct().astype(np.int16).T, np.diag([-0.7, -0.8, 2.5, 1]))
    for name in ("sform", "qform"):
        matrix, code = fields.pop(name, (None, 0))
        getattr(image, f"set_{name}")(matrix, code)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


RIGHT, UNIT = np.diag([-0.7, -0.8, 2.5, 1]), np.diag([-1.0, -1.0, 1.0, 1])
MOVED = RIGHT + np.array([[0, 0, 0, 50], *np.zeros((3, 4))])


@pytest.mark.parametrize(
    ("fields", "spacing", "origin_x", "problem"),
    [
        ({"sform": (RIGHT, 1)}, (2.5, 0.8, 0.7), 0, ""),
        ({"qform": (RIGHT, 1)}, (2.5, 0.8, 0.7), 0, ""),
        ({"sform": (RIGHT, 1), "qform": (RIGHT, 1)}, (2.5, 0.8, 0.7), 0, ""),
        ({"sform": (UNIT, 1)}, (2.5, 0.8, 0.7), 0, "the sform has lost the spacing"),
        ({"sform": (MOVED, 2), "qform": (RIGHT, 1)}, (2.5, 0.8, 0.7), -50, "sform and qform place"),
        ({"sform": (RIGHT * [[2], [2], [2], [1]], 2)}, (5, 1.6, 1.4), 0, "sform and pixdim disagree"),
        ({"sform": (RIGHT * [[1e-3], [1e-3], [1e-3], [1]], 1), "xyzt_units": 1}, (2.5, 0.8, 0.7), 0, None),
    ],
)
def test_which_coordinates_of_a_nifti_count(
    tmp_path: Path, fields: dict[str, Any], spacing: tuple[float, ...], origin_x: float, problem: str | None
) -> None:
    source = open_volume_file(nifti_with(tmp_path / "in.nii", **fields))
    np.testing.assert_allclose(source.geometry.spacing_mm, spacing, rtol=1e-4)
    assert source.geometry.positions_mm[0][0] == pytest.approx(origin_x, abs=1e-3)
    if problem is not None:
        assert [text.startswith(problem) for text in source.metadata.problems] == [True] * bool(problem)


def test_a_volume_whose_rows_and_columns_are_oblique_is_refused(tmp_path: Path) -> None:
    sheared = RIGHT.copy()
    sheared[0, 1] = 0.3
    assert "not perpendicular" in exclusion_of(nifti_with(tmp_path / "in.nii", sform=(sheared, 1)))


@pytest.mark.parametrize("size", [(44, 36, 3, 1), (44, 36, 3, 1, 1), (44, 36, 3, 2), (44, 36, 3, 1, 3), (44, 108)])
def test_one_volume_of_a_4d_file_is_read(tmp_path: Path, size: tuple[int, ...]) -> None:
    data = np.resize(noise_ct().astype(np.int16).T, size)
    data = noise_ct().astype(np.int16).T.reshape(size, order="F") if data.size == noise_ct().size else data
    nibabel.save(nibabel.Nifti1Image(data, RIGHT), tmp_path / "in.nii.gz")
    is_one = len(size) > 3 and np.prod(size[3:]) == 1
    assert exclusion_of(tmp_path / "in.nii.gz").endswith("" if is_one else "give one 3-D volume of HU")
    if is_one:
        (source,) = find_images(tmp_path / "in.nii.gz").series
        np.testing.assert_array_equal(Volume.of(source).hu, noise_ct().astype(np.int16))
        write_identity(source, tmp_path / "out.nii.gz")
        assert len(open_volume_file(tmp_path / "out.nii.gz")) == 3


@pytest.mark.parametrize("name", ["ct.nhdr", "ct.mhd"])
def test_detached_headers_are_read_with_their_data(field: Path, tmp_path: Path, name: str) -> None:
    folder = field / "F27_detached"
    (source,) = find_images(folder / name).series
    assert source.header.layout.compression in ("gzip", "zlib")
    np.testing.assert_array_equal(Volume.of(source).hu, in_hu(folder / name))
    found = find_images(folder)
    assert [item.name for item in found.series] == ["ct.mhd", "ct.nhdr"]
    assert [item.path.name for item in found.skipped] == ["README"]
    apply(folder / name, shift_model(), tmp_path, ApplySettings(strength=0))
    (written,) = tmp_path.iterdir()
    np.testing.assert_array_equal(in_hu(written), in_hu(folder / name))


@pytest.mark.parametrize("name", ["ct.nhdr", "ct.mhd"])
def test_a_detached_header_without_its_data_is_named(field: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((field / "F27_detached" / name).read_bytes())
    assert "data" in exclusion_of(tmp_path / name)


# Memory and time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii", ".nii.gz"])
def test_memory_does_not_grow_with_the_files_that_are_open(tmp_path: Path, suffix: str, compressed: bool) -> None:
    import SimpleITK as sitk

    stored = np.random.default_rng(0).integers(-1000, 1000, (32, 128, 128)).astype(np.int16)
    sources = []
    for number in range(12):
        path = tmp_path / f"{number}{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(stored), str(path), useCompression=compressed)
        sources.append(open_volume_file(path))
    sources[0].read_hu(31)
    tracemalloc.start()
    for index in range(0, 32, 5):
        for source in sources:
            np.testing.assert_array_equal(source.read_hu(index), stored[index])
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.2 * stored.nbytes
    assert peak < 2 * stored.nbytes


def test_a_random_slice_of_a_compressed_file_inflates_a_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voxels, "INDEX_SPACING", 1 << 18)
    stored = np.random.default_rng(0).integers(-1000, 1000, (80, 128, 128)).astype(np.int16)
    path = write_nifti(tmp_path / "in.nii.gz", stored)
    source, counts = open_volume_file(path), [0]
    source.read_hu(79)  # the index is built while the file is inflated for the first time
    readinto = voxels._GzipView.readinto

    def counting(view: voxels._GzipView, buffer: memoryview) -> int:
        counts.append(readinto(view, buffer))
        return counts[-1]

    monkeypatch.setattr(voxels._GzipView, "readinto", counting)
    for index in (70, 3, 41, 12, 66):
        np.testing.assert_array_equal(source.read_hu(index), stored[index])
    assert sum(counts) / 5 < 0.3 * path.stat().st_size


def test_a_header_is_read_without_the_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "in.nii.gz", noise_ct().astype(np.int16))
    monkeypatch.setattr(voxels.VoxelLayout, "read", lambda layout, index: pytest.fail("voxels were read"))
    assert open_volume_file(path).header.stored_type.dtype == np.int16


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd", ".nii"])
def test_a_truncated_file_is_an_error_and_not_a_slice(tmp_path: Path, suffix: str) -> None:
    import SimpleITK as sitk

    path = tmp_path / f"in{suffix}"
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 64, 64)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=suffix != ".nii")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"slice 19 cannot be read"):
        open_volume_file(path).read_hu(19)

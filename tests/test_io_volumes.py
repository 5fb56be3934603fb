"""Volume files: every stored type, scale and format gives HU, and keeps them; what is not HU is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldct_denoise.inference.batch import apply
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.volume_files import VolumeFile, open_volume_file
from ldct_denoise.io.volumes.stored_type import FLOAT_HU, StoredType, choose_type, preferred_type
from ldct_denoise.volume import Volume
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
    import nibabel

    image = nibabel.Nifti1Image(stored.transpose(2, 1, 0), np.diag([-0.7, -0.8, 2.5, 1]), dtype=stored.dtype)
    image.header.set_slope_inter(1.0, 0.0)
    nibabel.save(image, path)
    data = bytearray(gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes())
    data[112:120] = np.array(scale, dtype="<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(data)) if path.name.endswith(".gz") else bytes(data))
    return path


def stored_values(path: Path) -> tuple[np.ndarray, float, float]:
    import nibabel

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
    import nibabel

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


def test_padding_of_nan_is_air_and_stays_nan(tmp_path: Path) -> None:
    stored = ct_values("float32", (1.0, 0.0))
    stored[:, :5], stored[0, 10, 10] = np.nan, np.inf
    source = open_volume_file(write_nifti(tmp_path / "in.nii", stored))
    assert (source.read_hu(0)[:5] == -1024).all()
    assert np.isfinite(source.read_hu(0)).all()
    write_identity(source, tmp_path / "out.nii")
    np.testing.assert_array_equal(stored_values(tmp_path / "out.nii")[0].transpose(2, 1, 0), stored)


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

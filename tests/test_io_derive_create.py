"""Series made from scratch are valid CT images that other readers understand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from ldct_denoise.errors import OutputError
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry

STUDY = derived_uid("study")


@pytest.fixture
def volume() -> Volume:
    geometry = axial_geometry(4, 24, 20, (3.0, 0.7, 0.7), (-5, -6, 0))
    return Volume(np.random.default_rng(0).normal(0, 300, geometry.shape).astype(np.float32), geometry)


def _write(volume: Volume, folder: Path) -> Path:
    return write_series(
        volume,
        folder,
        SeriesAttributes(
            patient_id="P1",
            study_uid=STUDY,
            series_number=3,
            description="Low Dose Images",
            kernel="D45f",
            tube_current_ma=[100, 110, 120, 130],
        ),
    )


def test_values_round_to_the_nearest_hu_and_simpleitk_sees_the_geometry(volume: Volume, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    folder = _write(volume, tmp_path / "series")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), np.rint(volume.hu))
    np.testing.assert_allclose(image.GetSpacing(), (0.7, 0.7, 3.0), atol=1e-6)


def test_the_same_arguments_give_the_same_bytes(volume: Volume, tmp_path: Path) -> None:
    first, second = _write(volume, tmp_path / "a"), _write(volume, tmp_path / "b")
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_exposure_and_synthetic_flag_are_told(volume: Volume, tmp_path: Path) -> None:
    image = dcmread(_write(volume, tmp_path / "series") / "1-002.dcm")
    assert (image.XRayTubeCurrent, image.Exposure, image.SyntheticData) == (110, 55, "YES")


def test_an_existing_file_is_not_overwritten(volume: Volume, tmp_path: Path) -> None:
    _write(volume, tmp_path / "series")
    with pytest.raises(OutputError, match="already exists"):
        _write(volume, tmp_path / "series")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools (dciodvfy) is not installed")
def test_dciodvfy_finds_no_error(volume: Volume, tmp_path: Path) -> None:
    path = _write(volume, tmp_path / "series") / "1-001.dcm"
    output = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False).stderr
    errors = [line for line in output.splitlines() if line.startswith("Error")]
    # Synthetic Data is younger than this dciodvfy (June 2022).
    assert [line for line in errors if "(0008,001c)" not in line] == []

"""``ldct-denoise simulate``: derived, labelled, deterministic series of the right noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result
from ldct_denoise.cli.simulate import command

from ldct_denoise.errors import ConfigError
from ldct_denoise.io.create import write_series
from ldct_denoise.io.files import open_file, write_volume
from ldct_denoise.io.find import find_images
from ldct_denoise.physics.phantom import Patient, with_noise


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic patient of 4 slices at normal dose, DICOM."""
    patient = Patient(3, slices=4, size=192)
    folder = tmp_path_factory.mktemp("normal") / "Full Dose Images"
    write_series(
        with_noise(patient.truth(), 1, 1),
        folder,
        patient_id="L001",
        study_uid="2.25.1",
        series_uid=None,
        series_number=1,
        description="Full Dose Images",
        kernel="Sim35",
        tube_current_ma=[200.0] * 4,
    )
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def pixels(folder: Path) -> np.ndarray:
    series = find_images(folder, include_derived=True).series[0]
    return np.stack([series.read_hu(index) for index in range(len(series))])


def test_dicom_is_derived_labelled_and_noisier(normal: Path, tmp_path: Path) -> None:
    result = run(normal, "--dose", 0.25, "-o", tmp_path / "low")
    assert result.exit_code == 0
    assert result.output.strip().splitlines()[-1] == str(tmp_path / "low")
    files = sorted((tmp_path / "low").glob("*.dcm"))
    assert len(files) == 4
    image = pydicom.dcmread(files[0])
    assert image.ImageType[0] == "DERIVED"
    assert image.SyntheticData == "YES"
    assert "simulated 25% dose" in image.SeriesDescription
    assert "low dose simulated" in image.DerivationDescription
    added = pixels(tmp_path / "low") - pixels(normal)
    assert abs(added.mean()) < 1
    assert 10 < added[:, 60:130, 60:130].std() < 60


def test_the_same_seed_gives_the_same_pixels_and_another_does_not(normal: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(normal, "--dose", 0.5, "--seed", seed, "-o", tmp_path / name)
    a, b, c = (pixels(tmp_path / name) for name in "abc")
    np.testing.assert_array_equal(a, b)
    source = pixels(normal)
    inner = (slice(None), slice(60, 130), slice(60, 130))
    between = np.corrcoef((a - source)[inner].ravel(), (c - source)[inner].ravel())[0, 1]
    assert abs(between) < 0.1


def test_slices_have_noise_of_their_own(normal: Path, tmp_path: Path) -> None:
    run(normal, "--dose", 0.5, "-o", tmp_path / "low")
    added = (pixels(tmp_path / "low") - pixels(normal))[:, 60:130, 60:130].reshape(4, -1)
    assert np.abs(np.corrcoef(added) - np.eye(4)).max() < 0.15


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_nifti_in_and_out(normal: Path, tmp_path: Path, geometry: str) -> None:
    series = find_images(normal).series[0]
    hu = [series.read_hu(index) for index in range(len(series))]
    write_volume(tmp_path / "normal.nii.gz", iter(hu), series.geometry)
    low = tmp_path / "low.nii.gz"
    assert run(tmp_path / "normal.nii.gz", "--dose", 0.25, "--geometry", geometry, "-o", low).exit_code == 0
    written = open_file(low)
    assert len(written) == 4
    np.testing.assert_allclose(written.geometry.positions_mm, series.geometry.positions_mm, atol=1e-3)
    assert 10 < (written.read_hu(1) - hu[1])[60:130, 60:130].std() < 60


def test_dicom_out_as_nifti(normal: Path, tmp_path: Path) -> None:
    assert run(normal, "--dose", 0.5, "--format", "nifti", "-o", tmp_path / "low.nii").exit_code == 0
    assert len(open_file(tmp_path / "low.nii")) == 4


def test_full_dose_adds_nothing(normal: Path, tmp_path: Path) -> None:
    run(normal, "--dose", 1, "-o", tmp_path / "same")
    np.testing.assert_array_equal(pixels(tmp_path / "same"), pixels(normal))


@pytest.mark.parametrize("dose", [0, 1.5, -1])
def test_an_impossible_dose_is_refused(normal: Path, tmp_path: Path, dose: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        run(normal, "--dose", dose, "-o", tmp_path / "low")
    assert not (tmp_path / "low").exists()

"""``ldct-denoise simulate``: derived, labelled, deterministic series of the right noise."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result
from ldct_denoise.cli.simulate import command

from ldct_denoise.errors import ConfigError, InputError, OutputError, PartialError
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_files import open_volume_file
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.phantoms.patients import Patient
from ldct_denoise.phantoms.scan import stack_geometry, with_noise
from ldct_denoise.volume import Volume


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic patient of 4 slices at normal dose, DICOM."""
    patient = Patient(3, slices=4, size=192)
    folder = tmp_path_factory.mktemp("normal") / "Full Dose Images"
    write_series(
        with_noise(patient.truth(), 1, 1),
        folder,
        SeriesAttributes(
            patient_id="L001",
            study_uid="2.25.1",
            series_number=1,
            description="Full Dose Images",
            kernel="Sim35",
            tube_current_ma=[200.0] * 4,
        ),
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
    for told in (
        "bow_tie=0.35",
        "electronic_noise_ma=0.085",
        "geometry=parallel",
        "noise_spectrum=measured",
        "seed=0",
    ):
        assert told in image.DerivationDescription
    assert image.DerivationDescription.endswith("research use only, not for primary diagnosis")
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


@pytest.mark.parametrize(("arguments", "neighbour"), [((), 0.28), (("--slice-correlation", 0), 0.0)])
def test_noise_of_neighbouring_slices_correlates(
    normal: Path, tmp_path: Path, arguments: tuple[object, ...], neighbour: float
) -> None:
    """Contiguous slices: as in real scans by default, independent on request."""
    run(normal, "--dose", 0.5, "-o", tmp_path / "low", *arguments)
    added = (pixels(tmp_path / "low") - pixels(normal))[:, 60:130, 60:130].reshape(4, -1)
    found = np.corrcoef(added)
    assert np.diag(found, 1) == pytest.approx(neighbour, abs=0.06)
    assert np.abs(np.diag(found, 2)).max() < 0.15


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_nifti_in_and_out(normal: Path, tmp_path: Path, geometry: str) -> None:
    series = find_images(normal).series[0]
    hu = [series.read_hu(index) for index in range(len(series))]
    write_volume(tmp_path / "normal.nii.gz", iter(hu), series.geometry)
    low = tmp_path / "low.nii.gz"
    assert run(tmp_path / "normal.nii.gz", "--dose", 0.25, "--geometry", geometry, "-o", low).exit_code == 0
    written = open_volume_file(low)
    assert len(written) == 4
    np.testing.assert_allclose(written.geometry.positions_mm, series.geometry.positions_mm, atol=1e-3)
    assert 10 < (written.read_hu(1) - hu[1])[60:130, 60:130].std() < 60


def test_dicom_out_as_nifti(normal: Path, tmp_path: Path) -> None:
    assert run(normal, "--dose", 0.5, "--format", "nifti", "-o", tmp_path / "low.nii").exit_code == 0
    assert len(open_volume_file(tmp_path / "low.nii")) == 4


def test_full_dose_adds_nothing(normal: Path, tmp_path: Path) -> None:
    run(normal, "--dose", 1, "-o", tmp_path / "same")
    np.testing.assert_array_equal(pixels(tmp_path / "same"), pixels(normal))


@pytest.mark.parametrize("dose", [0, 1.5, -1])
def test_an_impossible_dose_is_refused(normal: Path, tmp_path: Path, dose: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        run(normal, "--dose", dose, "-o", tmp_path / "low")
    assert not (tmp_path / "low").exists()


def test_slices_that_cannot_be_read_are_named(normal: Path, tmp_path: Path) -> None:
    shutil.copytree(normal, tmp_path / "in")
    broken = tmp_path / "in" / "1-003.dcm"
    broken.write_bytes(broken.read_bytes()[:-20000])
    with pytest.raises(PartialError, match="written, but slices") as caught:
        run(tmp_path / "in", "--dose", 0.5, "-o", tmp_path / "low")
    assert len(caught.value.failures) == 1
    assert "1-003.dcm" in caught.value.failures[0]
    assert caught.value.written == (tmp_path / "low",)
    assert len(list((tmp_path / "low").glob("*.dcm"))) == 3


def air(folder: Path) -> None:
    """A series that no noise can be measured in."""
    hu = np.full((2, 64, 64), -1000, np.float32)
    write_series(
        Volume(hu, stack_geometry(2, 64, 300.0)),
        folder,
        SeriesAttributes(patient_id="A", study_uid="2.25.0", series_number=1, description="air"),
    )


def test_a_series_that_fails_does_not_stop_the_others(normal: Path, tmp_path: Path) -> None:
    air(tmp_path / "in" / "a")
    shutil.copytree(normal, tmp_path / "in" / "b")
    with pytest.raises(PartialError, match="of 1 of 2 series") as caught:
        run(tmp_path / "in", "--dose", 0.5, "-o", tmp_path / "low")
    assert [path.parent for path in caught.value.written] == [tmp_path / "low"]
    assert len(caught.value.failures) == 1
    assert "4.7 mm are too coarse" in caught.value.failures[0]
    assert len(list(tmp_path.glob("low/*/*.dcm"))) == 4


def test_a_tree_is_taken_up_where_an_earlier_run_stopped(normal: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(normal, tmp_path / "in" / name)
    for path in (tmp_path / "in" / "b").iterdir():
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID += ".1"
        image.SOPInstanceUID += ".1"
        image.save_as(path)
    ask = (tmp_path / "in", "--dose", 0.5, "-o", tmp_path / "low")
    assert run(*ask).exit_code == 0
    kept, lost = sorted((tmp_path / "low").iterdir())
    times = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    before = pixels(lost)
    shutil.rmtree(lost)
    assert run(*ask).output.split() == [str(kept), str(lost)]
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == times
    assert (pixels(lost) == before).all()
    shutil.copytree(normal, tmp_path / "in" / "0")  # found first
    for path in (tmp_path / "in" / "0").iterdir():
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID += ".2"
        image.SOPInstanceUID += ".2"
        image.save_as(path)
    assert run(*ask).exit_code == 0
    assert len(list((tmp_path / "low").iterdir())) == 3  # a tree that has grown: the others are known still
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == times
    with pytest.raises(InputError, match="none of 3 series"):  # another scanner is another simulation
        run(*ask, "--bow-tie", 0.1)


def test_where_every_series_fails_nothing_is_done(tmp_path: Path) -> None:
    air(tmp_path / "in" / "a")
    shutil.copytree(tmp_path / "in" / "a", tmp_path / "in" / "b")
    for path in (tmp_path / "in" / "b").iterdir():
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID += ".1"
        image.SOPInstanceUID += ".1"
        image.save_as(path)
    with pytest.raises(InputError, match="none of 2 series") as caught:
        run(tmp_path / "in", "--dose", 0.5, "-o", tmp_path / "low")
    assert len(caught.value.failures) == 2


def test_one_volume_file_cannot_hold_several_series(normal: Path, tmp_path: Path) -> None:
    air(tmp_path / "in" / "a")
    shutil.copytree(normal, tmp_path / "in" / "b")
    with pytest.raises(OutputError, match="names one file"):
        run(tmp_path / "in", "--dose", 0.5, "--format", "nifti", "-o", tmp_path / "low.nii.gz")
    assert not (tmp_path / "low.nii.gz").exists()


def test_nan_and_padding_of_a_volume_stay(normal: Path, tmp_path: Path) -> None:
    series = find_images(normal).series[0]
    hu = np.stack([series.read_hu(index) for index in range(len(series))])
    hu[:, :5], hu[:, -5:] = np.nan, -3024
    write_volume(tmp_path / "normal.nii.gz", iter(hu), series.geometry)
    assert run(tmp_path / "normal.nii.gz", "--dose", 0.25, "-o", tmp_path / "low.nii.gz").exit_code == 0
    low = open_volume_file(tmp_path / "low.nii.gz").read_hu(1)
    assert np.isnan(low[:5]).all()
    assert (low[-5:] == -3024).all()
    assert np.isfinite(low[5:]).all()

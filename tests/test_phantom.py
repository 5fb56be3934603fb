"""Phantoms: truth of known HU, position and size; scans with the right noise; files in the TCIA layout."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from ldct_denoise.cli.phantom import command
from scipy import ndimage

from ldct_denoise.errors import ConfigError, OutputError
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_files import open_volume_file
from ldct_denoise.phantoms.patients import Patient, write_patients
from ldct_denoise.phantoms.quality import (
    FIELD_MM,
    MATERIALS_HU,
    WIRE_AT_MM,
    WIRE_HU,
    WIRE_RADIUS_MM,
    QualityPhantom,
)
from ldct_denoise.phantoms.scan import SLICE_MM, SYSTEM_BLUR_PX, scan, stack_geometry
from ldct_denoise.volume import Volume


@pytest.fixture(scope="module")
def patient() -> Patient:
    return Patient(5, slices=24, size=256)


def share(hu: np.ndarray, low: float, high: float) -> float:
    """Fraction of the body's pixels in a range of HU."""
    body = ndimage.binary_fill_holes(hu > -300)
    return float(np.mean((hu[body] > low) & (hu[body] < high)))


def test_a_patient_has_a_chest_and_an_abdomen(patient: Patient) -> None:
    abdomen, liver, chest = (patient.truth_hu(index) for index in (2, 11, 22))
    assert share(chest, -1000, -700) > 0.25  # lungs
    assert share(abdomen, -1000, -700) < 0.08  # bowel gas only
    assert share(abdomen, -1000, -700) > 0.001
    assert share(liver, 66, 100) > 0.15  # liver and spleen
    for hu in (abdomen, liver, chest):
        assert 0.005 < share(hu, 300, 1500) < 0.12  # spine and ribs
        assert share(hu, -140, -60) > 0.1  # fat
    lungs = ndimage.binary_erosion(chest < -600, iterations=3) & (ndimage.binary_fill_holes(chest > -300))
    assert np.mean(chest[lungs] > -300) == 0
    inside = ndimage.binary_closing(chest < -600, iterations=4) & ndimage.binary_fill_holes(chest > -300)
    assert np.sum(inside & (chest > -400)) > 30  # vessels


def test_lesions_have_their_contrast_size_and_label(patient: Patient) -> None:
    labels, spacing = patient.lesion_labels(), patient.geometry.pixel_spacing_mm[0]
    for number, lesion in enumerate(patient.lesions, 1):
        inside = labels.hu == number
        volume = inside.sum() * spacing**2 * SLICE_MM
        assert volume == pytest.approx(4 / 3 * np.pi * lesion.radius_mm**3, rel=0.4)
        index = int(np.argmax(inside.sum(axis=(1, 2))))
        with_lesion = patient.truth_hu(index)
        bare = Patient(5, slices=24, size=256)
        bare.lesions = ()
        core = ndimage.binary_erosion(inside[index])
        change = (with_lesion - bare.truth_hu(index))[core if core.any() else inside[index]]
        assert change.mean() == pytest.approx(lesion.contrast_hu, rel=0.25)


def test_the_seed_determines_the_body() -> None:
    one, again, other = (Patient(seed, 4, 96).truth_hu(1) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.mean(np.abs(one - other) > 20) > 0.1


def test_quarter_dose_has_at_least_twice_the_noise(patient: Patient) -> None:
    hu = patient.truth_hu(11)
    truth = Volume(hu[None], stack_geometry(1, 256, 400.0))
    full, low = (scan(truth, dose, 3).hu[0] - hu for dose in (1.0, 0.25))
    inner = slice(96, 160), slice(80, 176)
    assert 2.0 < low[inner].std() / full[inner].std() < 2.6  # electronic noise adds to the square root
    assert 5 < full[inner].std() < 60
    assert full[inner].std() > 1.5 * full[:30, :30].std()
    assert abs(np.corrcoef(low[inner].ravel(), full[inner].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("kind", ["water", "inserts", "edge", "wire", "low-contrast"])
def test_quality_phantoms_match_their_table(kind: str) -> None:
    phantom = QualityPhantom(kind, 2, 512)
    truth, labels = phantom.truth().hu, phantom.labels().hu
    np.testing.assert_array_equal(truth[0], truth[1])
    assert truth[0, 256, 120] == pytest.approx(0, abs=0.5)
    assert truth[0, 5, 5] == -1000
    for row in phantom.table()[1:]:
        core = ndimage.binary_erosion(labels[0] == row["label"], iterations=4)
        if core.any():
            assert truth[0][core].mean() == pytest.approx(float(str(row["hu"])), abs=1)


def test_inserts_are_of_four_materials_and_low_contrast_discs_of_several_sizes() -> None:
    assert len(QualityPhantom("inserts").rods) == len(MATERIALS_HU) == 4
    discs = QualityPhantom("low-contrast").rods
    assert len({disc.hu for disc in discs}) >= 3
    assert len({disc.radius_mm for disc in discs}) >= 4


def test_the_wire_preserves_its_signal_and_shows_the_resolution() -> None:
    truth = QualityPhantom("wire", 1, 512).truth()
    spacing = truth.geometry.pixel_spacing_mm[0]
    near = truth.hu[0, 200:312, 200:312].astype(float)
    assert near.sum() * spacing**2 == pytest.approx(WIRE_HU * np.pi * WIRE_RADIUS_MM**2, rel=0.02)
    row, column = np.mgrid[200:312, 200:312]
    centre = [(axis * near).sum() / near.sum() for axis in (row, column)]
    spread = ((row - centre[0]) ** 2 * near).sum() / near.sum()
    assert centre[1] == pytest.approx((WIRE_AT_MM[0] + FIELD_MM / 2) / spacing - 0.5, abs=0.1)
    # The blur's variance and the wire's own; a pixel grid adds 0 to 1/4, by where the wire lies.
    least = SYSTEM_BLUR_PX**2 + (WIRE_RADIUS_MM / spacing) ** 2 / 4
    assert 0.95 * least < spread < least + 0.27


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 96, 128, 200, 256, 400, 700, 1024])
@pytest.mark.parametrize("kind", ["wire", "low-contrast"])
def test_every_rod_is_sampled_and_labelled_at_every_size(kind: str, size: int) -> None:
    phantom = QualityPhantom(kind, 1, size)
    truth, labels = phantom.truth(), phantom.labels().hu[0]
    assert set(np.unique(labels)) == {0, *range(1, len(phantom.rods) + 1)}
    if kind == "wire":
        spacing = truth.geometry.pixel_spacing_mm[0]
        middle = slice(size // 2 - size // 8, size // 2 + size // 8)
        signal = truth.hu[0, middle, middle].astype(float).sum() * spacing**2
        assert signal == pytest.approx(WIRE_HU * np.pi * WIRE_RADIUS_MM**2, rel=0.02)


@pytest.mark.parametrize(("kind", "realisations"), [("cheese", 1), ("water", 0)])
def test_impossible_phantoms_are_refused(kind: str, realisations: int) -> None:
    with pytest.raises(ConfigError, match="phantom"):
        QualityPhantom(kind, realisations)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_patients_are_written_in_the_tcia_layout_with_labels(tmp_path: Path) -> None:
    result = run("-o", tmp_path / "p", "--patients", 1, "--slices", 6, "--size", 128, "--seed", 2)
    assert result.exit_code == 0
    study = next((tmp_path / "p" / "L001").iterdir())
    series = sorted(
        found.metadata.description for found in find_images(study).series if found.metadata.description
    )
    assert series == ["Full Dose Images", "Low Dose Images"]
    truth, labels = open_volume_file(study / "truth.nii.gz"), open_volume_file(study / "lesions.nii.gz")
    full = find_images(next(study.glob("1.0*"))).series[0]
    np.testing.assert_allclose(truth.geometry.positions_mm, full.geometry.positions_mm, atol=1e-3)
    with (study / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    seen = {int(value) for index in range(6) for value in np.unique(labels.read_hu(index))}
    assert seen <= {0, *(int(row["label"]) for row in rows)}
    assert len(rows) == 4


def test_a_phantom_is_written_with_independent_realisations(tmp_path: Path) -> None:
    result = run("-o", tmp_path / "w", "--kind", "water", "--slices", 3, "--size", 128)
    study = Path(result.output.strip().splitlines()[-1])
    full, low = (find_images(next(study.glob(f"{number}.0*"))).series[0] for number in (1, 2))
    noise = np.stack([full.read_hu(index)[40:88, 40:88].ravel() for index in range(3)])
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.15
    assert low.read_hu(0)[40:88, 40:88].std() > 1.7 * noise.std()
    assert (study / "labels.csv").read_text().splitlines()[1].startswith("0,water")


def test_overwriting_removes_earlier_patients(tmp_path: Path) -> None:
    small = {"slices": 1, "size": 64}
    write_patients(tmp_path / "p", patients=2, seed=1, **small)
    (tmp_path / "p" / ".phantom.partial-killed").mkdir()
    write_patients(tmp_path / "p", patients=1, seed=2, **small, overwrite=True)
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["L001"]
    assert [path.name for path in (tmp_path / "p" / "L001").iterdir()] == ["synthetic-2"]


@pytest.mark.parametrize("name", ["notes.txt", "L001/synthetic-1/mine.csv", "L002/08-30-2018/1-001.dcm"])
def test_overwriting_removes_only_files_of_phantoms(tmp_path: Path, name: str) -> None:
    write_patients(tmp_path / "p", patients=1, slices=1, size=64, seed=1)
    mine = tmp_path / "p" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("kept")
    with pytest.raises(OutputError, match="which is not part of a phantom"):
        write_patients(tmp_path / "p", patients=1, slices=1, size=64, seed=2, overwrite=True)
    assert mine.read_text() == "kept"
    assert (tmp_path / "p" / "L001" / "synthetic-1" / "truth.nii.gz").is_file()


def test_an_interrupted_phantom_leaves_the_earlier_one_unchanged(tmp_path: Path) -> None:
    write_patients(tmp_path / "p", patients=1, slices=2, size=64, seed=1)
    before = sorted(tmp_path.rglob("*"))

    def stop(done: int, total: int, name: str) -> None:
        # The second scan: the first series is written.
        if "low dose" in name:
            # What is half made is never read as images.
            assert len(find_images(tmp_path / "p").series) == len(find_images(tmp_path / "p" / "L001").series)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_patients(tmp_path / "p", patients=1, slices=2, size=64, seed=2, overwrite=True, progress=stop)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_with_files_is_refused_without_overwriting(tmp_path: Path) -> None:
    write_patients(tmp_path / "p", patients=1, slices=1, size=64)
    with pytest.raises(OutputError, match="--overwrite"):
        run("-o", tmp_path / "p", "--kind", "water", "--slices", 1, "--size", 64)


@pytest.mark.parametrize("kind", ["patient", "wire"])
def test_a_dose_that_is_nan_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match="dose nan"):
        run("-o", tmp_path / "p", "--kind", kind, "--dose", "nan", "--size", 64)
    assert not (tmp_path / "p").exists()

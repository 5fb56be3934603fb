"""Quanta of a scan: from headers, from images, in bodies that are hard to simulate, and in the summary of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from ldct_denoise.io.dicom.images import mas_per_ma
from ldct_denoise.io.find import find_images
from ldct_denoise.physics.dose import DoseSimulator, scan_noise
from ldct_denoise.physics.exposure import expected_quanta
from ldct_denoise.physics.noise import NoiseModel
from ldct_denoise.physics.scanner import DEFAULT_SCANNER, Scanner
from ldct_denoise.physics.simulation_summary import SeriesSummary, disagreements, write_summaries
from ldct_denoise.physics.slice_correlation import CorrelatedFields, correlation_weights, noise_correlations
from ldct_denoise.physics.texture import Texture
from ldct_denoise.volume import Geometry, SeriesMetadata, Volume

SIDE, SPACING, QUANTA = 224, (1.9, 1.9), 9e5
F = np.arange(0.05, 0.65, 0.05)
MODEL = NoiseModel("soft", F, F * np.exp(-((F / 0.25) ** 2)) / 0.107, np.ones(1))
Y, X = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * SPACING[0]


def body(width_mm: float, height_mm: float) -> np.ndarray:
    """An ellipse of soft tissue in air."""
    return np.where((2 * X / width_mm) ** 2 + (2 * Y / height_mm) ** 2 < 1, 40, -1000).astype(np.float32)


def scanned(hu: np.ndarray, scanner: Scanner, current_ma: float = 300) -> tuple[Volume, np.ndarray]:
    """Full dose of a slice, and the noise of a direct scan at a quarter of it."""
    texture = Texture.of(MODEL, SPACING)
    full, quarter = (
        scan_noise(
            hu, SPACING, texture, quanta_per_ma=QUANTA, current_ma=current_ma * dose, scanner=scanner,
            rng=np.random.default_rng(seed),
        )
        for dose, seed in ((1, 0), (0.25, 1))
    )  # fmt: skip
    geometry = Geometry(np.zeros((1, 3)), (1, 0, 0), (0, 1, 0), SPACING, SIDE, SIDE, step_mm=(0, 0, 3))
    header = SeriesMetadata(slice_thickness_mm=3.0, tube_current_ma=(current_ma,), kvp=120.0, mas_per_ma=0.5)
    return Volume((hu + full)[None], geometry, uid="1.2", patient="P", name="body", metadata=header), quarter


@pytest.mark.parametrize(
    ("hu", "scanner"),
    [
        pytest.param(body(320, 220), DEFAULT_SCANNER, id="abdomen"),
        pytest.param(body(320, 220), replace(DEFAULT_SCANNER, bow_tie=0), id="no bow tie"),
        pytest.param(body(400, 200), DEFAULT_SCANNER, id="shoulders"),
        pytest.param(np.where(np.hypot(X - 60, Y) < 6, 3071, body(320, 220)), DEFAULT_SCANNER, id="metal"),
    ],
)
def test_noise_of_difficult_bodies(hu: np.ndarray, scanner: Scanner) -> None:
    """Inserted noise makes full dose as noisy as a direct scan, in the middle and at the edge."""
    source, direct = scanned(np.asarray(hu, np.float32), scanner)
    low = DoseSimulator(source, model=MODEL).simulate(0, 0.25, 0) - hu
    inner = np.abs(hu - 40) < 1
    middle = inner & (np.hypot(X, Y) < 50)
    edge = inner & (np.abs(X) > 90) & (np.abs(Y) < 50) & (np.abs(X) < 145)
    assert low[inner].std() == pytest.approx(direct[inner].std(), rel=0.06)
    assert low[middle].std() == pytest.approx(direct[middle].std(), rel=0.10)
    assert low[edge].std() == pytest.approx(direct[edge].std(), rel=0.12)


def test_rays_with_few_quanta_are_counted() -> None:
    wide, narrow = (
        DoseSimulator(scanned(body(width, 220), DEFAULT_SCANNER)[0], model=MODEL) for width in (420, 250)
    )
    assert wide.low_count_share(0, 1) < wide.low_count_share(0, 0.1) < wide.low_count_share(0, 0.02)
    assert wide.low_count_share(0, 1) == 0
    assert wide.low_count_share(0, 0.02) > 0.1
    assert narrow.low_count_share(0, 0.25) == 0


@pytest.mark.parametrize("spacing_mm", [3.0, 2.0, 1.0])
def test_fields_correlate_as_asked(spacing_mm: float) -> None:
    asked = noise_correlations(spacing_mm, 3.0)
    fields = CorrelatedFields(
        np.arange(5) * spacing_mm, spacing_mm, asked, lambda rng: rng.standard_normal((100, 400), dtype=np.float32)
    )
    drawn = np.stack([fields.of_slice(index, 1).ravel() for index in range(5)])
    assert drawn.std(axis=1) == pytest.approx(1, abs=0.02)
    found = np.corrcoef(drawn)
    for lag in (1, 2):
        assert np.diag(found, lag).mean() == pytest.approx(asked[lag], abs=0.04)
    np.testing.assert_array_equal(drawn[2], fields.of_slice(2, 1).ravel())


def test_correlation_of_contiguous_and_overlapping_slices() -> None:
    """Real scans: 0.26 to 0.30 contiguous, 0.49 with two thirds of the thickness between slices."""
    assert 0.26 <= noise_correlations(3, 3)[1] <= 0.30
    assert noise_correlations(2, 3)[1] == pytest.approx(0.49, abs=0.02)
    assert noise_correlations(2, 3, 0.2)[1] == pytest.approx(0.2)
    np.testing.assert_array_equal(noise_correlations(2, 3, 0)[1:], 0)
    assert np.sum(correlation_weights(noise_correlations(2, 3)) ** 2) == pytest.approx(1)


def test_slices_far_apart_or_at_one_position_are_independent() -> None:
    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal(20000).astype(np.float32)

    for offsets in ([0.0, 3.0, 60.0], [0.0, 0.0, 3.0]):
        fields = CorrelatedFields(np.array(offsets), 3.0, noise_correlations(3, 3), draw)
        assert abs(np.corrcoef(fields.of_slice(0, 0), fields.of_slice(2, 0))[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"RevolutionTime": 0.5, "SpiralPitchFactor": 0.8, "Exposure": 7, "XRayTubeCurrent": 115}, 0.62),
        ({"ExposureTime": 500, "XRayTubeCurrent": 450, "Exposure": 281}, 0.62),  # Siemens: effective mAs
        ({"ExposureTime": 570, "XRayTubeCurrent": 400, "Exposure": 4684}, 0.57),  # GE: another quantity
        ({"XRayTubeCurrent": 360, "Exposure": 300}, 0.83),  # Philips: neither rotation time nor pitch
        ({"ExposureTime": 500}, 0.5),
        ({"XRayTubeCurrent": 360}, None),
        ({"XRayTubeCurrent": 0, "Exposure": 300}, None),
        ({}, None),
    ],
)
def test_effective_mas_from_the_header(attributes: dict[str, float], expected: float | None) -> None:
    header = Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    assert mas_per_ma(header) == expected


def test_kernels_of_one_scan_have_the_same_quanta(mayo2016: Path) -> None:
    """L143 by a soft and a sharp kernel, and another patient of the same scanner: one number per mAs."""
    found = []
    for folder in ("L143/full_3mm", "L143/full_3mm_sharp"):
        source = find_images(mayo2016 / folder).series[0]
        found.append(DoseSimulator(source).quanta_per_ma / expected_quanta(source).per_ma)
    assert max(found) / min(found) < 1.15
    assert found == pytest.approx([1, 1], abs=0.2)


def summary(kernel: str, quanta: float, shares: tuple[float, ...] = (0.0,)) -> SeriesSummary:
    return SeriesSummary(f"1.2.{kernel}", kernel, "P, SIEMENS, 120 kV", 0.25, quanta, 1e6, shares)


def test_warnings_about_quanta(tmp_path: Path) -> None:
    assert summary("B30f", 1.1e6).warnings == ()
    assert "0.4 times the quanta" in summary("B30f", 4e5).warnings[0]
    assert "in 1 of 2 slices up to 2 % of the rays" in summary("B30f", 1e6, (0.0, 0.02)).warnings[0]
    assert not list(disagreements([summary("B30f", 1.1e6), summary("D45f", 1e6)]))
    [warning] = disagreements([summary("B30f", 4e5), summary("D45f", 1e6)])
    assert "D45f and B30f" in warning
    assert "factor of 2.5" in warning
    path = tmp_path / "low-simulation.json"
    path.write_text("no JSON", encoding="utf-8")
    write_summaries(path, [summary("B30f", 1e6)])
    write_summaries(path, [summary("D45f", 4e5)])
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert [entry["name"] for entry in entries] == ["B30f", "D45f"]
    assert entries[1]["warnings"]

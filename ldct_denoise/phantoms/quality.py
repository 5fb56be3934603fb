"""Image-quality phantoms with known truth: every slice of a series is the same object with noise of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError
from ldct_denoise.phantoms.folder import replace_phantoms
from ldct_denoise.phantoms.patients import detect, fine_axis_mm, stack_geometry, write_study
from ldct_denoise.physics.dose import require_dose
from ldct_denoise.volume import Volume

#: Field of view and diameter of the water cylinder, mm.
FIELD_MM = 300.0
WATER_MM = 240.0
#: Fine samples along a pixel's side.
OVERSAMPLING = 4
#: Materials of the contrast inserts: HU at 120 kV, about those of the usual rods.
MATERIALS_HU = {"polyethylene": -95.0, "acrylic": 120.0, "acetal": 340.0, "PTFE": 940.0}
INSERT_RADIUS_MM, INSERT_RING_MM = 12.5, 65.0
#: The edge: a block in the middle, turned by a few degrees so that pixels sample its border everywhere.
EDGE_HALF_MM, EDGE_TURN_DEG, EDGE_HU = 40.0, 3.0, 100.0
#: The wire: a thin metal rod a little off the middle.
WIRE_RADIUS_MM, WIRE_HU, WIRE_AT_MM = 0.25, 8000.0, (10.3, -7.7)
#: Low-contrast discs: a ring for each contrast, a disc for each radius.
LOW_CONTRASTS_HU = {-5.0: 35.0, -10.0: 65.0, -20.0: 95.0}
LOW_RADII_MM = (7.5, 5.0, 4.0, 3.0, 2.0, 1.5)


@dataclass(frozen=True)
class Rod:
    """A round (or, with a turn, square) rod along the phantom: what it is, centre, radius or half side, HU."""

    what: str
    x_mm: float
    y_mm: float
    radius_mm: float
    hu: float
    turn_deg: float | None = None

    def inside(self, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points lie in it; the nearest one where it is too thin for any."""
        x, y = x_mm - self.x_mm, y_mm - self.y_mm
        if self.turn_deg is None:
            away = np.hypot(x, y)
            return np.asarray(away <= max(self.radius_mm, away.min()))
        cos, sin = math.cos(math.radians(self.turn_deg)), math.sin(math.radians(self.turn_deg))
        return np.asarray(np.maximum(np.abs(x * cos + y * sin), np.abs(y * cos - x * sin)) <= self.radius_mm)


def _on_a_ring(radius_mm: float, number: int, count: int, offset: float = 0.0) -> tuple[float, float]:
    turn = 2 * math.pi * (number + offset) / count
    return radius_mm * math.cos(turn), radius_mm * math.sin(turn)


def _inserts() -> list[Rod]:
    return [
        Rod(what, *_on_a_ring(INSERT_RING_MM, number, len(MATERIALS_HU), 0.5), INSERT_RADIUS_MM, hu)
        for number, (what, hu) in enumerate(MATERIALS_HU.items())
    ]


def _low_contrast() -> list[Rod]:
    return [
        Rod(f"{hu:g} HU", *_on_a_ring(ring_mm, number, len(LOW_RADII_MM), ring / 3), radius_mm, hu)
        for ring, (hu, ring_mm) in enumerate(LOW_CONTRASTS_HU.items())
        for number, radius_mm in enumerate(LOW_RADII_MM)
    ]


#: What each kind of phantom holds besides water.
KINDS: Mapping[str, Callable[[], list[Rod]]] = {
    "water": lambda: [],
    "inserts": _inserts,
    "edge": lambda: [Rod("block", 0.0, 0.0, EDGE_HALF_MM, EDGE_HU, EDGE_TURN_DEG)],
    "wire": lambda: [Rod("wire", *WIRE_AT_MM, WIRE_RADIUS_MM, WIRE_HU)],
    "low-contrast": _low_contrast,
}


@dataclass(frozen=True)
class QualityPhantom:
    """A water cylinder of 240 mm and what it holds.

    Parameters
    ----------
    kind : str
        A key of ``KINDS``.
    realisations : int
        Slices: the same object, each with noise of its own.
    size : int
        Pixels along a side.

    Raises
    ------
    ConfigError
        For an unknown kind, or no realisation.
    """

    kind: str
    realisations: int = 10
    size: int = 512

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"phantom {self.kind!r}: give one of {', '.join(KINDS)}")
        if self.realisations < 1 or self.size < 32:
            raise ConfigError("phantom: give at least 1 realisation and 32 pixels along a side")

    @property
    def rods(self) -> list[Rod]:
        """What is in the water."""
        return KINDS[self.kind]()

    def truth(self) -> Volume:
        """Without noise, HU."""
        axis = fine_axis_mm(self.size, FIELD_MM, OVERSAMPLING)
        x, y = axis[None], axis[:, None]
        hu = np.where(np.hypot(x, y) <= WATER_MM / 2, 0.0, -1000.0)
        for rod in self.rods:
            inside = rod.inside(x, y)
            # What the samples miss of a thin rod's area is made up for in HU: the signal is their product.
            area = inside.sum() * (axis[1] - axis[0]) ** 2
            missed = math.pi * rod.radius_mm**2 / max(area, 1e-9) if rod.turn_deg is None else 1.0
            hu[inside] = rod.hu * missed
        one = detect(hu, OVERSAMPLING)
        geometry = stack_geometry(self.realisations, self.size, FIELD_MM)
        return Volume(np.repeat(one[None], self.realisations, axis=0), geometry)

    def labels(self) -> Volume:
        """1, 2, … inside the rods; 0 elsewhere."""
        axis = fine_axis_mm(self.size, FIELD_MM, 1)
        one = np.zeros((self.size, self.size), np.float32)
        for number, rod in enumerate(self.rods, 1):
            one[rod.inside(axis[None], axis[:, None])] = number
        geometry = stack_geometry(self.realisations, self.size, FIELD_MM)
        return Volume(np.repeat(one[None], self.realisations, axis=0), geometry)

    def table(self) -> list[dict[str, object]]:
        """What the labels stand for, the water first."""
        water = Rod("water", 0.0, 0.0, WATER_MM / 2, 0.0)
        return [
            {
                "label": number,
                "what": rod.what,
                "x_mm": round(rod.x_mm, 3),
                "y_mm": round(rod.y_mm, 3),
                "radius_mm": rod.radius_mm,
                "hu": rod.hu,
            }
            for number, rod in enumerate([water, *self.rods])
        ]


def make_quality_phantom(
    output: Path,
    phantom: QualityPhantom,
    *,
    seed: int = 0,
    dose: float = 0.25,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] = lambda d, t, n: None,
) -> Path:
    """Write a phantom's scans at normal and low dose, its truth, labels and a table of what it holds.

    ``output/QA-<KIND>/synthetic-<seed>/`` with two DICOM series, ``truth.nii.gz``, ``labels.nii.gz`` and
    ``labels.csv``; all of it appears when it is whole.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        If ``output`` holds files and ``overwrite`` is not given, or anything that is no phantom's.
    ConfigError
        If the dose is out of range.
    """
    require_dose(dose)
    name = f"QA-{phantom.kind.upper()}"
    study = Path(name) / f"synthetic-{seed}"
    with replace_phantoms(output, overwrite) as folder:
        write_study(
            folder / study,
            name,
            phantom.truth(),
            phantom.labels(),
            phantom.table(),
            labels_name="labels",
            dose=dose,
            seed=seed,
            progress=progress,
        )
    return output / study

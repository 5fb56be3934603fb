"""Image-quality phantoms with known truth; every slice is an independent noise realisation of one object."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError
from ldct_denoise.phantoms.folder import replace_phantoms
from ldct_denoise.phantoms.scan import detect, fine_axis_mm, stack_geometry
from ldct_denoise.phantoms.study import GroundTruth, write_study
from ldct_denoise.physics.dose import require_dose
from ldct_denoise.volume import Volume

#: Field of view and diameter of the water cylinder, mm.
FIELD_MM = 300.0
WATER_MM = 240.0
#: Fine samples along a pixel's side.
OVERSAMPLING = 4
#: Materials of the contrast inserts: approximate HU at 120 kV of common phantom rods.
MATERIALS_HU = {"polyethylene": -95.0, "acrylic": 120.0, "acetal": 340.0, "PTFE": 940.0}
INSERT_RADIUS_MM, INSERT_RING_MM = 12.5, 65.0
#: The edge: a block in the centre, rotated by a few degrees so that pixels sample its edge at all distances.
EDGE_HALF_MM, EDGE_TURN_DEG, EDGE_HU = 40.0, 3.0, 100.0
#: The wire: a thin metal rod slightly off the centre.
WIRE_RADIUS_MM, WIRE_HU, WIRE_AT_MM = 0.25, 8000.0, (10.3, -7.7)
#: Low-contrast discs: one ring per contrast (HU: ring radius in mm), one disc per radius.
LOW_CONTRASTS_HU = {-5.0: 35.0, -10.0: 65.0, -20.0: 95.0}
LOW_RADII_MM = (7.5, 5.0, 4.0, 3.0, 2.0, 1.5)


@dataclass(frozen=True)
class Rod:
    """A rod along the phantom, round or square.

    Parameters
    ----------
    name : str
    x_mm, y_mm : float
        Centre, mm.
    radius_mm : float
        Radius, or half the side of a square rod.
    hu : float
    turn_deg : float, optional
        Rotation of a square rod; round by default.
    """

    name: str
    x_mm: float
    y_mm: float
    radius_mm: float
    hu: float
    turn_deg: float | None = None

    def inside(self, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Mask of the points inside the rod; the nearest point if the rod is too thin for any."""
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
        Rod(name, *_on_a_ring(INSERT_RING_MM, number, len(MATERIALS_HU), 0.5), INSERT_RADIUS_MM, hu)
        for number, (name, hu) in enumerate(MATERIALS_HU.items())
    ]


def _low_contrast() -> list[Rod]:
    return [
        Rod(f"{hu:g} HU", *_on_a_ring(ring_mm, number, len(LOW_RADII_MM), ring / 3), radius_mm, hu)
        for ring, (hu, ring_mm) in enumerate(LOW_CONTRASTS_HU.items())
        for number, radius_mm in enumerate(LOW_RADII_MM)
    ]


#: Rods of each kind of phantom.
KINDS: Mapping[str, Callable[[], list[Rod]]] = {
    "water": lambda: [],
    "inserts": _inserts,
    "edge": lambda: [Rod("block", 0.0, 0.0, EDGE_HALF_MM, EDGE_HU, EDGE_TURN_DEG)],
    "wire": lambda: [Rod("wire", *WIRE_AT_MM, WIRE_RADIUS_MM, WIRE_HU)],
    "low-contrast": _low_contrast,
}


@dataclass(frozen=True)
class QualityPhantom:
    """A water cylinder of 240 mm with rods.

    Parameters
    ----------
    kind : str
        A key of ``KINDS``.
    realisations : int
        Number of slices, each with an independent noise realisation.
    size : int
        Matrix size, pixels.

    Raises
    ------
    ConfigError
        If the kind is unknown, or realisations or size are too small.
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
        """The rods in the water."""
        return KINDS[self.kind]()

    def truth(self) -> Volume:
        """The noise-free phantom, HU."""
        axis = fine_axis_mm(self.size, FIELD_MM, OVERSAMPLING)
        x, y = axis[None], axis[:, None]
        hu = np.where(np.hypot(x, y) <= WATER_MM / 2, 0.0, -1000.0)
        for rod in self.rods:
            inside = rod.inside(x, y)
            # The HU of a thin rod compensate for the error of its sampled area: its signal is their product.
            area = inside.sum() * (axis[1] - axis[0]) ** 2
            correction = math.pi * rod.radius_mm**2 / max(area, 1e-9) if rod.turn_deg is None else 1.0
            hu[inside] = rod.hu * correction
        one = detect(hu, OVERSAMPLING)
        geometry = stack_geometry(self.realisations, self.size, FIELD_MM)
        return Volume(np.repeat(one[None], self.realisations, axis=0), geometry)

    def labels(self) -> Volume:
        """Label volume: 1, 2, … inside the rods, 0 elsewhere."""
        axis = fine_axis_mm(self.size, FIELD_MM, 1)
        one = np.zeros((self.size, self.size), np.float32)
        for number, rod in enumerate(self.rods, 1):
            one[rod.inside(axis[None], axis[:, None])] = number
        geometry = stack_geometry(self.realisations, self.size, FIELD_MM)
        return Volume(np.repeat(one[None], self.realisations, axis=0), geometry)

    def table(self) -> list[dict[str, object]]:
        """Meaning of the labels, one row for each; the first is the water."""
        water = Rod("water", 0.0, 0.0, WATER_MM / 2, 0.0)
        return [
            {
                "label": number,
                "object": rod.name,
                "x_mm": round(rod.x_mm, 3),
                "y_mm": round(rod.y_mm, 3),
                "radius_mm": rod.radius_mm,
                "hu": rod.hu,
            }
            for number, rod in enumerate([water, *self.rods])
        ]


def write_quality_phantom(
    output: Path,
    phantom: QualityPhantom,
    *,
    seed: int = 0,
    dose: float = 0.25,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] = lambda d, t, n: None,
) -> Path:
    """Write scans of a phantom at normal and low dose, its truth, and its labels.

    ``output/QA-<KIND>/synthetic-<seed>/`` holds two DICOM series, ``truth.nii.gz``, ``labels.nii.gz`` and
    ``labels.csv``. They appear when all are complete.

    Parameters
    ----------
    output : Path
    phantom : QualityPhantom
    seed : int
        Seed of the noise.
    dose : float
        Low dose as a fraction of the normal dose.
    overwrite : bool
        Replace everything that an earlier call left in ``output``.
    progress : callable
        Called with (slices done, slices in all, note).

    Returns
    -------
    Path
        Folder of the study.

    Raises
    ------
    OutputError
        If ``output`` is not empty and ``overwrite`` is not given, or holds files that are not from a phantom.
    ConfigError
        If the dose is out of range.
    """
    require_dose(dose)
    name = f"QA-{phantom.kind.upper()}"
    study = Path(name) / f"synthetic-{seed}"
    with replace_phantoms(output, overwrite) as folder:
        truth = GroundTruth(name, phantom.truth(), phantom.labels(), phantom.table(), "labels")
        write_study(folder / study, truth, dose=dose, seed=seed, progress=progress)
    return output / study

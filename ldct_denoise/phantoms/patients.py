"""Synthetic patients with known truth, scanned at normal and low dose.

The truth is sampled finely and averaged, as detector pixels average over their area.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.phantoms.anatomy import Anatomy, paint
from ldct_denoise.phantoms.folder import replace_phantoms
from ldct_denoise.phantoms.scan import SLICE_MM, detect, fine_axis_mm, stack_geometry
from ldct_denoise.phantoms.study import GroundTruth, write_study
from ldct_denoise.physics.dose import require_dose
from ldct_denoise.volume import Geometry, Volume

#: Field of view, mm.
FIELD_MM = 400.0
#: Samples of the truth per pixel, along rows and columns.
OVERSAMPLING = 2
#: Number of lesions of a patient, and the radii and contrasts they are drawn from.
LESIONS = 4
LESION_RADII_MM = (3.0, 5.0, 8.0)
LESION_CONTRASTS_HU = (-20.0, -30.0, -40.0, 25.0)
#: Range along the body in which the liver is large.
LIVER_ALONG = (0.35, 0.62)


@dataclass(frozen=True)
class Lesion:
    """A spherical low-contrast lesion in the liver.

    Parameters
    ----------
    x_mm, y_mm, z_mm : float
        Centre, mm.
    radius_mm : float
    contrast_hu : float
        Difference from the liver, HU.
    """

    x_mm: float
    y_mm: float
    z_mm: float
    radius_mm: float
    contrast_hu: float

    def inside(self, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64], z_mm: float) -> NDArray[np.bool_]:
        """Mask of the points of a slice inside the lesion.

        Parameters
        ----------
        x_mm, y_mm : ndarray
            Coordinates of the points, which broadcast against each other, mm.
        z_mm : float
            Position of the slice, mm.

        Returns
        -------
        ndarray of bool
        """
        away = (x_mm - self.x_mm) ** 2 + (y_mm - self.y_mm) ** 2 + (z_mm - self.z_mm) ** 2
        return np.asarray(away <= self.radius_mm**2)


class Patient:
    """A synthetic patient.

    Parameters
    ----------
    seed : int
        Determines size, organs, vessels and lesions.
    slices : int
        Number of slices from the mid-abdomen to the chest.
    size : int
        Matrix size, pixels.
    """

    def __init__(self, seed: int, slices: int = 24, size: int = 512) -> None:
        self.seed, self.slices, self.size = seed, slices, size
        self.anatomy = Anatomy(seed)
        self.lesions = self._draw_lesions(np.random.default_rng([8, seed]))

    def _draw_lesions(self, rng: np.random.Generator) -> tuple[Lesion, ...]:
        """Draw lesions in the right lobe of the liver that do not touch."""
        found: list[Lesion] = []
        while len(found) < LESIONS:
            x, y = self.anatomy.organ_point_mm("liver", *rng.uniform(-0.55, 0.55, 2))
            z = rng.uniform(*LIVER_ALONG) * self.slices * SLICE_MM
            radius, contrast = float(rng.choice(LESION_RADII_MM)), float(rng.choice(LESION_CONTRASTS_HU))
            if all(
                math.dist((x, y, z), (other.x_mm, other.y_mm, other.z_mm)) > radius + other.radius_mm + 2
                for other in found
            ):
                found.append(Lesion(x, y, z, radius, contrast))
        return tuple(found)

    @property
    def geometry(self) -> Geometry:
        """Geometry of the axial slices."""
        return stack_geometry(self.slices, self.size, FIELD_MM)

    def truth_hu(self, index: int) -> NDArray[np.float32]:
        """One slice without noise, HU."""
        axis = fine_axis_mm(self.size, FIELD_MM, OVERSAMPLING)
        hu = paint(self.anatomy.shapes((index + 0.5) / self.slices), axis, axis, self._grain(index, len(axis)))
        x, y = np.meshgrid(axis, axis, sparse=True)
        for lesion in self.lesions:
            hu[lesion.inside(x, y, index * SLICE_MM)] += lesion.contrast_hu
        return detect(hu, OVERSAMPLING)

    def _grain(self, index: int, side: int) -> NDArray[np.float64]:
        """Smooth tissue texture of unit variance; two consecutive slices share it."""
        rng = np.random.default_rng([11, self.seed, index // 2])
        coarse = ndimage.gaussian_filter(rng.standard_normal((side // 4, side // 4)), 2.0)
        return ndimage.zoom(coarse / coarse.std(), side / (side // 4), order=1)[:side, :side]

    def lesion_labels(self) -> Volume:
        """Label volume: 1, 2, … inside the lesions, 0 elsewhere."""
        axis = fine_axis_mm(self.size, FIELD_MM, 1)
        x, y = np.meshgrid(axis, axis, sparse=True)
        labels = np.zeros(self.geometry.shape, np.float32)
        for number, lesion in enumerate(self.lesions, 1):
            for index in range(self.slices):
                labels[index][lesion.inside(x, y, index * SLICE_MM)] = number
        return Volume(labels, self.geometry)

    def lesion_table(self) -> list[dict[str, object]]:
        """Meaning of the labels, one row for each."""
        return [
            {"label": number, "object": "lesion", **{key: round(value, 3) for key, value in vars(lesion).items()}}
            for number, lesion in enumerate(self.lesions, 1)
        ]

    def truth(self) -> Volume:
        """All slices without noise."""
        return Volume(np.stack([self.truth_hu(index) for index in range(self.slices)]), self.geometry)


def write_patients(
    output: Path,
    *,
    patients: int = 3,
    slices: int = 24,
    size: int = 512,
    seed: int = 0,
    dose: float = 0.25,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] = lambda d, t, n: None,
) -> list[str]:
    """Write synthetic patients at normal and low dose, as DICOM in the TCIA layout, with truth and lesion labels.

    Files are ``output/L001/<study>/1.000000-Full Dose Images-…/1-001.dcm``, ``…/Low Dose Images…``,
    ``truth.nii.gz``, ``lesions.nii.gz`` and ``lesions.csv`` (position, radius and contrast of each). They appear
    when all are complete.

    Parameters
    ----------
    output : Path
    patients : int
        Number of patients.
    slices : int
        Slices of each patient.
    size : int
        Matrix size, pixels.
    seed : int
        Another seed gives other patients.
    dose : float
        Low dose as a fraction of the normal dose.
    overwrite : bool
        Replace everything that an earlier call left in ``output``.
    progress : callable
        Called with (slices done, slices in all, note).

    Returns
    -------
    list of str
        Names of the patients.

    Raises
    ------
    OutputError
        If ``output`` is not empty and ``overwrite`` is not given, or holds files that are not from a phantom.
    ConfigError
        If the dose is out of range.
    """
    require_dose(dose)
    names = [f"L{number:03d}" for number in range(1, patients + 1)]
    with replace_phantoms(output, overwrite) as folder:
        for number, name in enumerate(names, 1):
            patient = Patient(seed * 1000 + number, slices, size)
            truth, labels, table = patient.truth(), patient.lesion_labels(), patient.lesion_table()
            write_study(
                folder / name / f"synthetic-{seed}",
                GroundTruth(name, truth, labels, table, "lesions"),
                dose=dose,
                seed=patient.seed,
                progress=progress,
            )
    return names

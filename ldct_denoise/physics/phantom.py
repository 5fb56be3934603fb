"""Synthetic patients with known truth: an abdomen and lower chest of smooth shapes that vary with a seed.

The truth is sampled finely and averaged down, so that edges are as sharp as a detector would see them. Noise at
normal and low dose has a kernel's spectrum and a level that follows the attenuation; for noise that comes from
projections see ``ldct_denoise.physics.dose``.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import OutputError
from ldct_denoise.io.create import write_series
from ldct_denoise.io.files import write_volume
from ldct_denoise.io.uids import derived_uid
from ldct_denoise.physics.noise import filtered_noise
from ldct_denoise.volume import Geometry, Volume

#: Field of view, mm, and distance of slices.
FIELD_MM = 380.0
SLICE_MM = 3.0
#: The truth is sampled this many times finer along rows and columns.
OVERSAMPLING = 2
#: Noise in the middle of an average patient at normal dose, HU.
NORMAL_NOISE_HU = 14.0
#: Kernel of the synthetic scanner: where its noise spectrum peaks, 1/mm.
KERNEL = "Sim35"
KERNEL_PEAK_PER_MM = 0.35


@dataclass(frozen=True)
class Ellipse:
    """An elliptic organ in one slice: centre and half axes in mm, rotation in radians, HU, texture in HU."""

    x_mm: float
    y_mm: float
    a_mm: float
    b_mm: float
    angle: float
    hu: float
    texture_hu: float = 0.0

    def inside(self, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points lie in it."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        along, across = (
            (x_mm - self.x_mm) * cos + (y_mm - self.y_mm) * sin,
            (y_mm - self.y_mm) * cos - (x_mm - self.x_mm) * sin,
        )
        return (along / self.a_mm) ** 2 + (across / self.b_mm) ** 2 <= 1


@dataclass(frozen=True)
class Lesion:
    """A subtle sphere in the liver: centre (x, y, z) and radius in mm, contrast in HU."""

    x_mm: float
    y_mm: float
    z_mm: float
    radius_mm: float
    contrast_hu: float


class Patient:
    """A synthetic patient: a seed decides size, organs, vessels and lesions.

    Parameters
    ----------
    seed : int
    slices, size : int
        Slices, and pixels along a side.
    """

    def __init__(self, seed: int, slices: int = 24, size: int = 512) -> None:
        self.seed, self.slices, self.size = seed, slices, size
        rng = np.random.default_rng([7, seed])
        self.width_mm, self.depth_mm = rng.uniform(145, 170), rng.uniform(100, 125)
        self.fat_mm = rng.uniform(10, 28)
        self._phase = rng.uniform(0, 2 * math.pi, 6)
        self._vessels = rng.uniform(-1, 1, (40, 4))
        self.lesions = tuple(
            Lesion(
                -70 + rng.uniform(-28, 28), -10 + rng.uniform(-28, 28), rng.uniform(0.2, 0.8) * slices * SLICE_MM,
                float(rng.choice([3.0, 5.0, 8.0])), float(rng.choice([-20.0, -30.0, 25.0])),
            )
            for _ in range(3)
        )  # fmt: skip

    @property
    def geometry(self) -> Geometry:
        """Axial slices around the patient's origin."""
        spacing = FIELD_MM / self.size
        corner = -(FIELD_MM - spacing) / 2
        positions = np.array([[corner, corner, number * SLICE_MM] for number in range(self.slices)])
        return Geometry(positions, (1, 0, 0), (0, 1, 0), (spacing, spacing), self.size, self.size)

    def organs(self, z_mm: float) -> list[Ellipse]:
        """What lies in the slice at ``z_mm``, from the outside to the inside: the later covers the earlier."""
        w, d, fat = self.width_mm, self.depth_mm, self.fat_mm
        share = z_mm / max(self.slices * SLICE_MM, 1.0)
        sway = 4 * np.sin(2 * math.pi * share + self._phase)
        found = [
            Ellipse(0, 0, w, d, 0, -100, 6),  # fat
            Ellipse(0, 2, w - fat, d - fat, 0, 48, 4),  # muscle wall
            Ellipse(0, -4, w - fat - 10, d - fat - 12, 0, -95, 6),  # fat between organs
            Ellipse(-66 + sway[0], -8, 62, 58 + sway[1], 0.2, 58, 4),  # liver
            Ellipse(72 + sway[2], 18, 32, 40, -0.5, 52, 4),  # spleen
            Ellipse(40 + sway[3], -40, 34, 24, 0.4, 30, 3),  # stomach
            Ellipse(44 + sway[3], -50, 20, 9, 0.2, -950),  # gas in it
            Ellipse(-46, 48, 20, 27, 0.4, 36, 3),  # kidneys
            Ellipse(50, 50, 20, 27, -0.4, 36, 3),
        ]
        if share > 0.55:  # lung bases
            grow = (share - 0.55) / 0.45
            found += [Ellipse(side * 88, 22, 12 + 26 * grow, 20 + 42 * grow, 0, -850, 12) for side in (-1, 1)]
        found += self._bones(d) + self._tubes(sway)
        return found

    def _bones(self, depth_mm: float) -> list[Ellipse]:
        spine = [
            Ellipse(0, 52, 23, 18, 0, 420, 40),
            Ellipse(0, 52, 19, 14, 0, 200, 60),
            Ellipse(0, 76, 9, 8, 0, 20),
        ]
        spine.append(Ellipse(0, 90, 4, 14, 0, 500, 30))
        wall = self.width_mm - self.fat_mm - 7, depth_mm - self.fat_mm - 8
        angles = self._phase[0] * 0.05 + np.linspace(0.15, 2 * math.pi + 0.15, 13)[:-1]
        ribs = [
            Ellipse(
                wall[0] * math.cos(t),
                wall[1] * math.sin(t),
                8,
                4,
                math.atan2(wall[1] * math.cos(t), -wall[0] * math.sin(t)),
                650,
                40,
            )
            for t in angles
            if abs(math.cos(t)) > 0.3
        ]
        return [*spine, *ribs]

    def _tubes(self, sway: NDArray[np.float64]) -> list[Ellipse]:
        """Aorta, cava, and vessels of the liver."""
        tubes = [Ellipse(10, 26, 11, 11, 0, 150), Ellipse(-16, 28, 12, 10, 0, 120)]
        for x, y, size, bright in self._vessels[:26]:
            radius = 1.0 + 1.4 * abs(size)
            tubes.append(
                Ellipse(-66 + sway[0] + 44 * x, -8 + 38 * y + sway[4], radius, radius, 0, 105 + 25 * bright)
            )
        for x, y, size, _ in self._vessels[26:]:  # small bowel
            tubes.append(Ellipse(58 * x + 14, -38 + 26 * y + sway[5], 9 + 3 * size, 8, x, 25, 5))
        return tubes

    def truth_hu(self, index: int) -> NDArray[np.float32]:
        """One slice without noise, HU."""
        fine = self.size * OVERSAMPLING
        axis = (np.arange(fine) + 0.5) / fine * FIELD_MM - FIELD_MM / 2
        x, y = np.meshgrid(axis, axis)
        z = index * SLICE_MM
        hu = np.full((fine, fine), -1000.0)
        hu[(np.abs(y - 132) < 4) & (np.abs(x) < 170)] = -600  # the table
        grain = self._grain(index, fine)
        for organ in self.organs(z):
            inside = organ.inside(x, y)
            hu[inside] = organ.hu + organ.texture_hu * grain[inside]
        for lesion in self.lesions:
            inside = (x - lesion.x_mm) ** 2 + (y - lesion.y_mm) ** 2 + (
                z - lesion.z_mm
            ) ** 2 <= lesion.radius_mm**2
            hu[inside] += lesion.contrast_hu
        coarse = hu.reshape(self.size, OVERSAMPLING, self.size, OVERSAMPLING).mean(axis=(1, 3))
        return ndimage.gaussian_filter(coarse, 0.6).astype(np.float32)  # the scanner's own resolution

    def _grain(self, index: int, side: int) -> NDArray[np.float64]:
        """Smooth unit-variance texture of tissue, continuous enough from slice to slice."""
        rng = np.random.default_rng([11, self.seed, index // 2])
        coarse = ndimage.gaussian_filter(rng.standard_normal((side // 4, side // 4)), 2.0)
        return ndimage.zoom(coarse / coarse.std(), side / (side // 4), order=1)[:side, :side]

    def lesion_labels(self) -> Volume:
        """1, 2, … inside the lesions, 0 elsewhere."""
        geometry = self.geometry
        spacing = geometry.pixel_spacing_mm[0]
        axis = geometry.positions_mm[0][0] + np.arange(self.size) * spacing
        x, y = np.meshgrid(axis, axis)
        labels = np.zeros(geometry.shape, np.float32)
        for number, lesion in enumerate(self.lesions, 1):
            for index in range(self.slices):
                z = index * SLICE_MM
                labels[index][
                    (x - lesion.x_mm) ** 2 + (y - lesion.y_mm) ** 2 + (z - lesion.z_mm) ** 2 <= lesion.radius_mm**2
                ] = number
        return Volume(labels, geometry)

    def truth(self) -> Volume:
        """All slices without noise."""
        return Volume(np.stack([self.truth_hu(index) for index in range(self.slices)]), self.geometry)


def with_noise(truth: Volume, dose: float, seed: int) -> Volume:
    """The truth as scanned at ``dose`` (1: normal): variance goes as 1/dose, and noise is most in the middle.

    Parameters
    ----------
    truth : Volume
    dose : float
        Fraction of the normal dose, > 0.
    seed : int
        Another seed is another scan.
    """
    geometry = truth.geometry
    side = geometry.rows
    spacing = geometry.pixel_spacing_mm[0]
    down, along = np.fft.fftfreq(2 * side, spacing), np.fft.rfftfreq(2 * side, spacing)
    radius = np.hypot(down[:, None], along[None])
    power = radius * np.exp(-((radius / (KERNEL_PEAK_PER_MM * 2**0.5)) ** 2))  # a ramp rolled off by the kernel
    noisy = np.empty(truth.hu.shape, np.float32)
    for index, hu in enumerate(truth.hu):
        rng = np.random.default_rng([13, seed, index, round(dose * 1e6)])
        field = filtered_noise(power, (1, side, side), rng)[0]
        body = ndimage.gaussian_filter(np.clip(hu + 1000, 0, 1500), side / 12) / 1000
        noisy[index] = hu + field * NORMAL_NOISE_HU / math.sqrt(dose) * np.clip(body, 0.25, None)
    return truth.with_hu(noisy)


def make_pool(
    output: Path,
    *,
    patients: int = 3,
    slices: int = 24,
    size: int = 512,
    seed: int = 0,
    dose: float = 0.25,
    overwrite: bool = False,
) -> list[str]:
    """Write synthetic patients at normal and low dose, as DICOM in the TCIA layout, with truth and lesion labels.

    ``output/L001/<study>/1.000000-Full Dose Images-…/1-001.dcm``, ``…/Low Dose Images…``, ``truth.nii.gz`` and
    ``lesions.nii.gz``.

    Returns
    -------
    list of str
        The patients' names.
    """
    names = []
    for number in range(1, patients + 1):
        name = f"L{number:03d}"
        patient = Patient(seed * 1000 + number, slices, size)
        truth = patient.truth()
        study_uid = derived_uid("phantom", name, seed, slices, size)
        study = output / name / f"synthetic-{seed}"
        if study.exists():
            if not overwrite:
                raise OutputError(f"{study}: exists; give --overwrite or another folder")
            shutil.rmtree(study)
        for series_number, (label, fraction) in enumerate((("Full", 1.0), ("Low", dose)), 1):
            write_series(
                with_noise(truth, fraction, patient.seed),
                study / f"{series_number}.000000-{label} Dose Images-{patient.seed:05d}",
                patient_id=name,
                study_uid=study_uid,
                series_uid=None,
                series_number=series_number,
                description=f"{label} Dose Images",
                kernel=KERNEL,
                tube_current_ma=[200 * fraction] * slices,
            )
        write_volume(study / "truth.nii.gz", truth, truth.geometry)
        write_volume(study / "lesions.nii.gz", patient.lesion_labels(), truth.geometry)
        names.append(name)
    return names

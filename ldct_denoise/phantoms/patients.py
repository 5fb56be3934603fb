"""Synthetic patients with known truth, scanned at normal and low dose.

The truth is sampled finely and averaged, as detector pixels average over their area. Patients are scanned by the
simulator of ``ldct_denoise.physics.dose``; :func:`with_noise` is a faster approximation whose noise depends only
on the thickness of the body.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.phantoms.anatomy import Anatomy, paint
from ldct_denoise.phantoms.folder import replace_phantoms
from ldct_denoise.physics.dose import require_dose, scan_noise
from ldct_denoise.physics.noise import NoiseModel, filtered_noise
from ldct_denoise.physics.scanner import DEFAULT_SCANNER
from ldct_denoise.physics.texture import Texture
from ldct_denoise.volume import Geometry, Volume

#: Field of view and slice spacing, mm.
FIELD_MM = 400.0
SLICE_MM = 3.0
#: Samples of the truth per pixel, along rows and columns.
OVERSAMPLING = 2
#: Noise in the centre of an average patient at normal dose, HU.
NORMAL_NOISE_HU = 14.0
#: Kernel of the synthetic scanner, and the peak of its noise power spectrum, 1/mm.
KERNEL = "Sim35"
KERNEL_PEAK_PER_MM = 0.35
#: Normal dose: mean tube current, and quanta per mm, radian and mA (a Siemens Definition AS+ has about a million).
NORMAL_MA = 200.0
QUANTA_PER_MA = 1.0e6
#: Resolution of the synthetic scanner: σ of a Gaussian, pixels.
SYSTEM_BLUR_PX = 0.6
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
        """Mask of the points of the slice at ``z_mm`` inside the lesion."""
        away = (x_mm - self.x_mm) ** 2 + (y_mm - self.y_mm) ** 2 + (z_mm - self.z_mm) ** 2
        return np.asarray(away <= self.radius_mm**2)


def fine_axis_mm(size: int, field_mm: float, oversampling: int) -> NDArray[np.float64]:
    """Centres of the fine samples along a side.

    Parameters
    ----------
    size : int
        Pixels along the side.
    field_mm : float
        Field of view.
    oversampling : int
        Samples per pixel.

    Returns
    -------
    ndarray, shape (size · oversampling,)
        mm from the centre.
    """
    fine = size * oversampling
    return (np.arange(fine) + 0.5) / fine * field_mm - field_mm / 2


def detect(fine_hu: NDArray[np.float64], oversampling: int) -> NDArray[np.float32]:
    """Average fine samples to pixels, and blur them by the scanner's resolution (a Gaussian of 0.6 pixels)."""
    size = len(fine_hu) // oversampling
    coarse = fine_hu.reshape(size, oversampling, size, oversampling).mean(axis=(1, 3))
    return ndimage.gaussian_filter(coarse, SYSTEM_BLUR_PX).astype(np.float32)


def stack_geometry(slices: int, size: int, field_mm: float) -> Geometry:
    """Geometry of square axial slices, centred, 3 mm apart.

    Parameters
    ----------
    slices : int
        Number of slices.
    size : int
        Matrix size, pixels.
    field_mm : float
        Field of view.

    Returns
    -------
    Geometry
    """
    spacing = field_mm / size
    corner = -(field_mm - spacing) / 2
    positions = np.array([[corner, corner, number * SLICE_MM] for number in range(slices)])
    return Geometry(positions, (1, 0, 0), (0, 1, 0), (spacing, spacing), size, size)


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


def with_noise(truth: Volume, dose: float, seed: int) -> Volume:
    """Add stationary-spectrum noise to a noise-free volume: variance ∝ 1/dose, strongest in the centre of the
    body.

    Parameters
    ----------
    truth : Volume
        Noise-free volume.
    dose : float
        Fraction of the normal dose, > 0.
    seed : int
        Another seed gives another noise realisation.

    Returns
    -------
    Volume
    """
    geometry = truth.geometry
    side = geometry.rows
    spacing = geometry.pixel_spacing_mm[0]
    down, along = np.fft.fftfreq(2 * side, spacing), np.fft.rfftfreq(2 * side, spacing)
    radius = np.hypot(down[:, None], along[None])
    power = radius * np.exp(-((radius / (KERNEL_PEAK_PER_MM * 2**0.5)) ** 2))  # a ramp, rolled off by the kernel
    noisy = np.empty(truth.hu.shape, np.float32)
    for index, hu in enumerate(truth.hu):
        rng = np.random.default_rng([13, seed, index, round(dose * 1e6)])
        field = filtered_noise(power, (1, side, side), rng)[0]
        body = ndimage.gaussian_filter(np.clip(hu + 1000, 0, 1500), side / 12) / 1000
        noisy[index] = hu + field * NORMAL_NOISE_HU / math.sqrt(dose) * np.clip(body, 0.25, None)
    return truth.with_hu(noisy)


def scan(
    truth: Volume, dose: float, seed: int, progress: Callable[[int, int, str], None] = lambda d, t, n: None
) -> Volume:
    """Scan a noise-free volume with the simulated scanner: quantum and electronic noise of its projections.

    Parameters
    ----------
    truth : Volume
        Noise-free volume.
    dose : float
        Fraction of the normal dose (200 mA), > 0.
    seed : int
        Another seed gives another noise realisation.
    progress : callable
        Called with (slices done, slices in all, note).

    Returns
    -------
    Volume
    """
    spacing_mm = truth.geometry.pixel_spacing_mm
    texture = Texture.of(synthetic_kernel(spacing_mm), spacing_mm)
    noisy = np.empty(truth.hu.shape, np.float32)
    for index, hu in enumerate(truth.hu):
        rng = np.random.default_rng([29, seed, index, round(dose * 1e6)])
        noisy[index] = hu + scan_noise(
            hu, spacing_mm, texture, quanta_per_ma=QUANTA_PER_MA, current_ma=NORMAL_MA * dose,
            scanner=DEFAULT_SCANNER, rng=rng,
        )  # fmt: skip
        progress(index + 1, len(noisy), truth.name)
    return truth.with_hu(noisy)


def synthetic_kernel(spacing_mm: tuple[float, float]) -> NoiseModel:
    """Noise power spectrum of the synthetic scanner's kernel: a ramp, rolled off by a Gaussian."""
    frequency = np.arange(0.025, 0.72 / min(spacing_mm), 0.025)
    nps = frequency * np.exp(-((frequency / (KERNEL_PEAK_PER_MM * 2**0.5)) ** 2))
    return NoiseModel(KERNEL, frequency, nps / nps.max(), np.ones(1))


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


@dataclass(frozen=True)
class GroundTruth:
    """A noise-free object, to be scanned.

    Parameters
    ----------
    name : str
        Patient ID of the scans.
    volume : Volume
        The object without noise, HU.
    labels : Volume
        Label volume of the same geometry.
    table : sequence of mapping
        Meaning of the labels, one row for each.
    labels_name : str
        File name of labels and table, without extension.
    """

    name: str
    volume: Volume
    labels: Volume
    table: Sequence[Mapping[str, object]]
    labels_name: str


def write_study(
    study: Path,
    truth: GroundTruth,
    *,
    dose: float,
    seed: int,
    progress: Callable[[int, int, str], None] = lambda d, t, n: None,
) -> None:
    """Write scans of an object at normal and low dose (DICOM), its truth and labels (NIfTI) and their table (CSV).

    Parameters
    ----------
    study : Path
        Folder of the study.
    truth : GroundTruth
    dose : float
        Low dose as a fraction of the normal dose.
    seed : int
        Seed of the noise.
    progress : callable
        Called with (slices done, slices in all, note).
    """
    name, volume = truth.name, truth.volume
    study_uid = derived_uid("phantom", name, seed, *volume.geometry.shape, dose)
    for series_number, (label, fraction) in enumerate((("Full", 1.0), ("Low", dose)), 1):
        named = Volume(volume.hu, volume.geometry, name=f"{name}, {label.lower()} dose")
        write_series(
            scan(named, fraction, seed, progress),
            study / f"{series_number}.000000-{label} Dose Images-{seed:05d}",
            SeriesAttributes(
                patient_id=name,
                study_uid=study_uid,
                series_number=series_number,
                description=f"{label} Dose Images",
                kernel=KERNEL,
                tube_current_ma=[NORMAL_MA * fraction] * len(volume),
            ),
        )
    write_volume(study / "truth.nii.gz", volume, volume.geometry)
    write_volume(study / f"{truth.labels_name}.nii.gz", truth.labels, volume.geometry, labels=True)
    with (study / f"{truth.labels_name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(truth.table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(truth.table)

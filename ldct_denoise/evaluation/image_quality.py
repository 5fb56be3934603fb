"""Image quality of a denoiser on a simulated phantom: noise, resolution, detectability, dose equivalence.

Every slice is a new noise realisation of the same object, so the truth is known and repetitions cost nothing. A
network trained on patients may behave differently in a phantom than in a patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import ConfigError
from ldct_denoise.evaluation.inserts import CORE_FRACTION
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.metrics.contrast import Linearity, hu_linearity
from ldct_denoise.metrics.detectability import (
    Detectability,
    DoseEquivalence,
    dose_equivalence,
    eye_filter,
    gaussian_task,
    hotelling_detectability,
    laguerre_gauss_channels,
    npw_detectability,
    radial_frequency,
)
from ldct_denoise.metrics.noise import NoisePowerSpectrum, RadialSpectrum, noise_power_spectrum
from ldct_denoise.metrics.series_noise import RING_PER_MM
from ldct_denoise.metrics.sharpness import TaskTransfer, ttf_of_disk
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.phantoms.scan import with_noise
from ldct_denoise.volume import Geometry, SliceSource, Volume

#: Matrix size and pixel spacing.
SIDE_PX, SPACING_MM = 256, 0.75
BODY_RADIUS_MM, BODY_HU = 88.0, 50.0
#: Resolution of the simulated scanner: σ of a Gaussian, mm.
BLUR_MM = 0.6
#: Rods on a ring: contrast to the body, HU.
ROD_CONTRASTS_HU = (-100.0, 40.0, 120.0, 400.0)
ROD_RADIUS_MM, RING_MM = 14.0, 45.0
LESION_SIGMA_MM = 3.0
#: ROIs of a slice: side in pixels, and how many along a side of the grid. Each holds one lesion, or noise alone.
ROI_PX, ROIS_PER_SIDE = 32, 4
#: Number of Laguerre–Gauss channels of the Hotelling observer.
CHANNELS = 5
BOOTSTRAP_REPEATS = 300
#: The scanner's transfer function is divided out, but not below this value.
MIN_SCANNER_TRANSFER = 0.05

Stack = NDArray[np.floating]
Restore = Callable[[SliceSource], Iterable[NDArray[np.floating]]]


@dataclass(frozen=True)
class ImageQualitySettings:
    """Settings of the simulation.

    Parameters
    ----------
    dose : float
        Dose of the images that are denoised, as a fraction of the normal dose.
    doses : tuple of float
        Doses of the unprocessed images that they are compared with; ``dose`` is added.
    lesion_hu : float
        Contrast of the Gaussian lesion (σ = 3 mm), HU.
    realisations : int
        Slices of each kind; each has 16 ROIs.
    seed : int

    Raises
    ------
    ConfigError
        If doses or realisations are out of range.
    """

    dose: float = 0.25
    doses: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    lesion_hu: float = -6.0
    realisations: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(0 < dose <= 1 for dose in (self.dose, *self.doses)) or len(set(self.doses)) < 2:
            raise ConfigError("doses: give at least two fractions of the normal dose, above 0 and at most 1")
        if self.realisations < 2:
            raise ConfigError("realisations: give at least 2")


@dataclass(frozen=True)
class PhantomMeasurements:
    """Measurements of one kind of image (unprocessed or denoised) at one dose.

    Parameters
    ----------
    noise : NoisePowerSpectrum
    spectrum : RadialSpectrum
        Radial mean of ``noise``.
    transfer : mapping from contrast (HU) to TaskTransfer
        From the rods, averaged over the realisations.
    rod_hu : mapping from contrast (HU) to float
        Mean HU in the core of each rod.
    body_hu : float
        Mean HU of the uniform ROIs.
    linearity : Linearity
        HU of the rods against the truth.
    observers : mapping from observer to Detectability
        ``CHO`` (channelised Hotelling) and ``NPWE`` (non-prewhitening with eye filter).
    """

    noise: NoisePowerSpectrum
    spectrum: RadialSpectrum
    transfer: Mapping[float, TaskTransfer]
    rod_hu: Mapping[float, float]
    body_hu: float
    linearity: Linearity
    observers: Mapping[str, Detectability]


@dataclass(frozen=True)
class ImageQualityStudy:
    """Result of :func:`measure_image_quality`.

    Parameters
    ----------
    settings : ImageQualitySettings
    unprocessed : mapping from dose to PhantomMeasurements
    denoised : PhantomMeasurements
    equivalence : mapping from observer to DoseEquivalence
        Dose at which unprocessed images reach the d′ of the denoised ones.
    example : mapping from str to ndarray
        One slice of the rods: ``input``, ``output`` and ``truth``, HU.
    """

    settings: ImageQualitySettings
    unprocessed: Mapping[float, PhantomMeasurements]
    denoised: PhantomMeasurements
    equivalence: Mapping[str, DoseEquivalence]
    example: Mapping[str, Stack]


def measure_image_quality(
    restore: Restore,
    settings: ImageQualitySettings = ImageQualitySettings(),
    progress: Callable[[int, int], None] | None = None,
) -> ImageQualityStudy:
    """Simulate phantom images, denoise them and measure both.

    Parameters
    ----------
    restore : callable
        Takes a series and returns its denoised slices (HU) in order; see :func:`slice_restorer`.
    settings : ImageQualitySettings
    progress : callable, optional
        Called with (kinds of images done, kinds in all).

    Returns
    -------
    ImageQualityStudy
    """
    doses = sorted({*settings.doses, settings.dose})
    measured: dict[float, PhantomMeasurements] = {}
    for done, dose in enumerate(doses):
        measured[dose] = _measure(_scans(settings, dose), settings)
        if progress:
            progress(done + 1, len(doses) + 1)
    scans = _scans(settings, settings.dose)
    restored = {kind: scan.with_hu(np.stack(list(restore(scan)))) for kind, scan in scans.items()}
    denoised = _measure(restored, settings)
    if progress:
        progress(len(doses) + 1, len(doses) + 1)
    equivalence = {
        observer: dose_equivalence(
            doses, [measured[dose].observers[observer] for dose in doses], denoised.observers[observer]
        )
        for observer in denoised.observers
    }
    example = {"input": scans["rods"].hu[0], "output": restored["rods"].hu[0], "truth": _truth("rods", settings)}
    return ImageQualityStudy(settings, measured, denoised, equivalence, example)


def slice_restorer(model: TrainedModel, settings: ApplySettings) -> Restore:
    """The ``restore`` argument of :func:`measure_image_quality` for a model."""
    return lambda source: [hu for _, hu in restore_slices(source, model, settings)]


def phantom_geometry(slices: int) -> Geometry:
    """Geometry of the phantom's slices: centred, 3 mm apart."""
    corner = -(SIDE_PX - 1) / 2 * SPACING_MM
    positions = np.array([[corner, corner, 3.0 * number] for number in range(slices)])
    return Geometry(positions, (1, 0, 0), (0, 1, 0), (SPACING_MM, SPACING_MM), SIDE_PX, SIDE_PX)


def rod_centres_px() -> dict[float, tuple[float, float]]:
    """Row and column of each rod's centre, by contrast."""
    angles = 2 * np.pi * np.arange(len(ROD_CONTRASTS_HU)) / len(ROD_CONTRASTS_HU) + np.pi / 4
    middle = (SIDE_PX - 1) / 2
    return {
        contrast: (middle + RING_MM * np.sin(angle) / SPACING_MM, middle + RING_MM * np.cos(angle) / SPACING_MM)
        for contrast, angle in zip(ROD_CONTRASTS_HU, angles, strict=True)
    }


def lesion_shape() -> Stack:
    """A Gaussian lesion of height 1 in the centre of an ROI, shape (ROI_PX, ROI_PX)."""
    axis = (np.arange(ROI_PX) - (ROI_PX - 1) / 2) * SPACING_MM
    return np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * LESION_SIGMA_MM**2))


def _truth(kind: str, settings: ImageQualitySettings) -> Stack:
    """The object without noise: ``rods``, ``lesions`` or ``plain``."""
    fine = 4  # sampled finely and averaged, as detector pixels average over their area
    axis = (np.arange(SIDE_PX * fine) + 0.5) / fine - 0.5
    rows, columns = axis[:, None], axis[None, :]
    middle = (SIDE_PX - 1) / 2
    hu = np.full((SIDE_PX * fine, SIDE_PX * fine), -1000.0)
    hu[np.hypot(rows - middle, columns - middle) * SPACING_MM < BODY_RADIUS_MM] = BODY_HU
    if kind == "rods":
        for contrast, (row, column) in rod_centres_px().items():
            hu[np.hypot(rows - row, columns - column) * SPACING_MM < ROD_RADIUS_MM] = BODY_HU + contrast
    coarse = hu.reshape(SIDE_PX, fine, SIDE_PX, fine).mean(axis=(1, 3))
    image: Stack = ndimage.gaussian_filter(coarse, BLUR_MM / SPACING_MM)
    if kind == "lesions":
        for roi in _rois():
            image[roi] += settings.lesion_hu * lesion_shape()
    return image


def _rois() -> list[tuple[slice, slice]]:
    start = (SIDE_PX - ROIS_PER_SIDE * ROI_PX) // 2
    starts = [start + number * ROI_PX for number in range(ROIS_PER_SIDE)]
    return [(slice(r, r + ROI_PX), slice(c, c + ROI_PX)) for r in starts for c in starts]


def _scans(settings: ImageQualitySettings, dose: float) -> dict[str, Volume]:
    """Realisations of all three objects at a dose, each with independent noise."""
    geometry = phantom_geometry(settings.realisations)
    scans = {}
    for number, kind in enumerate(("rods", "lesions", "plain")):
        truth = np.broadcast_to(_truth(kind, settings), geometry.shape)
        volume = Volume(truth, geometry, f"{kind}-{dose:g}", "phantom", kind)
        scans[kind] = with_noise(volume, dose, settings.seed * 10 + number)
    return scans


def _measure(scans: Mapping[str, Volume], settings: ImageQualitySettings) -> PhantomMeasurements:
    spacing = (SPACING_MM, SPACING_MM)
    present, absent = (_cut(scans[kind].hu) for kind in ("lesions", "plain"))
    noise = noise_power_spectrum(absent, spacing)
    mean = scans["rods"].hu.mean(axis=0, dtype=np.float64)
    centres = rod_centres_px()
    transfer = {
        contrast: ttf_of_disk(mean, centre, ROD_RADIUS_MM, spacing) for contrast, centre in centres.items()
    }
    rod_hu = {contrast: _core_mean(mean, centre) for contrast, centre in centres.items()}
    nominal = [BODY_HU + contrast for contrast in rod_hu]
    weakest = min(transfer, key=abs)  # nearest to the lesion's contrast
    observers = {
        "CHO": hotelling_detectability(
            present, absent, _channels(), repeats=BOOTSTRAP_REPEATS, seed=settings.seed
        ),
        "NPWE": _eye_observer(absent, transfer[weakest], settings),
    }
    return PhantomMeasurements(
        noise,
        noise.radial(RING_PER_MM),
        transfer,
        rod_hu,
        float(absent.mean(dtype=np.float64)),
        hu_linearity(nominal, list(rod_hu.values())),
        observers,
    )


def _cut(stack: Stack) -> Stack:
    """All ROIs of all slices, shape (n, ROI_PX, ROI_PX)."""
    return np.concatenate([stack[:, rows, columns] for rows, columns in _rois()])


def _channels() -> NDArray[np.float64]:
    return laguerre_gauss_channels(ROI_PX, np.sqrt(2 * np.pi) * LESION_SIGMA_MM / SPACING_MM, CHANNELS)


def _core_mean(mean: Stack, centre: tuple[float, float]) -> float:
    rows, columns = np.ogrid[:SIDE_PX, :SIDE_PX]
    core = np.hypot(rows - centre[0], columns - centre[1]) * SPACING_MM < CORE_FRACTION * ROD_RADIUS_MM
    return float(mean[core].mean())


def _eye_observer(absent: Stack, transfer: TaskTransfer, settings: ImageQualitySettings) -> Detectability:
    """NPWE d′ of the lesion, with an interval by a bootstrap over the ROIs of the noise spectrum.

    The scanner's transfer function is divided out, because the lesion is added after the scanner's blur.
    """
    spacing = (SPACING_MM, SPACING_MM)
    single = [noise_power_spectrum(roi[None], spacing) for roi in absent]
    power, axes = np.array([item.power for item in single]), (single[0].row_frequency, single[0].column_frequency)
    radius = radial_frequency(single[0])
    task = gaussian_task(radius, LESION_SIGMA_MM, abs(settings.lesion_hu))
    scanner = np.exp(-2 * (np.pi * BLUR_MM * transfer.frequency) ** 2) * np.sinc(transfer.frequency * SPACING_MM)
    ratio = transfer.value / np.maximum(scanner, MIN_SCANNER_TRANSFER)
    relative = TaskTransfer(transfer.frequency, ratio, transfer.contrast_hu)
    eye = eye_filter(radius)
    rng = np.random.default_rng(settings.seed)

    def d_prime(weights: NDArray[np.float64]) -> float:
        mean = NoisePowerSpectrum(np.tensordot(weights, power, 1), *axes)
        return npw_detectability(mean, task, relative, eye)

    count = len(power)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=BOOTSTRAP_REPEATS) / count
    samples = np.array([d_prime(weights) for weights in draws])
    low, high = np.quantile(samples, [0.025, 0.975])
    return Detectability(d_prime(np.full(count, 1 / count)), float(low), float(high), samples)

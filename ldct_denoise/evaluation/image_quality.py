"""Image quality of a denoiser on a simulated phantom: noise, resolution, detectability, dose equivalence.

Every slice is a new noise realisation of a known object, so the truth is known and repetitions cost nothing. All
doses, and the images with and without lesions, share their noise realisations: what differs is the dose, the
lesion or the denoiser. A network trained on patients may behave differently in a phantom than in a patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError
from ldct_denoise.evaluation.inserts import CORE_FRACTION
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.metrics.contrast import Linearity, hu_linearity
from ldct_denoise.metrics.dose_equivalence import DoseEquivalence, dose_equivalence
from ldct_denoise.metrics.noise import NoisePowerSpectrum, RadialSpectrum, noise_power_spectrum
from ldct_denoise.metrics.observers import (
    Detectability,
    gabor_channels,
    hotelling_detectability,
    laguerre_gauss_channels,
    npwe_template,
    template_detectability,
)
from ldct_denoise.metrics.sharpness import TaskTransfer, ttf_of_disk
from ldct_denoise.metrics.unpaired_noise import RING_PER_MM
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.phantoms.tasks import (
    BACKGROUND_HU,
    DEFAULT_LESIONS,
    ROD_RADIUS_MM,
    ROI_PX,
    SIDE_PX,
    SPACING_MM,
    Lesion,
    add_lesions,
    background_truth,
    cut_rois,
    phantom_geometry,
    rod_centres_px,
    rod_truth,
    scan_noise_hu,
)
from ldct_denoise.volume import SliceSource, Volume

#: Number of Laguerre–Gauss channels of the CHO.
CHANNELS = 5
#: Internal noise of the Gabor CHO: variance of each channel relative to that from the images.
INTERNAL_NOISE = 1.0
#: Names of the observers; see :class:`PhantomMeasurements`.
OBSERVERS = ("NPWE", "Gabor CHO", "CHO")
BOOTSTRAP_REPEATS = 400

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
    lesions : tuple of Lesion
        Lesions to be detected.
    realisations : int
        Slices of each kind; each has 8 regions of each background.
    seed : int

    Raises
    ------
    ConfigError
        If doses or realisations are out of range, or there is no lesion.
    """

    dose: float = 0.25
    doses: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    lesions: tuple[Lesion, ...] = DEFAULT_LESIONS
    realisations: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(0 < dose <= 1 for dose in (self.dose, *self.doses)) or len(set(self.doses)) < 2:
            raise ConfigError("doses: give at least two fractions of the normal dose, above 0 and at most 1")
        if self.realisations < 3:
            raise ConfigError("realisations: give at least 3")
        if not self.lesions or len(set(self.lesions)) < len(self.lesions):
            raise ConfigError("lesions: give at least one, and none twice")

    def by_background(self) -> dict[str, list[Lesion]]:
        """The lesions of each background."""
        found: dict[str, list[Lesion]] = {}
        for lesion in self.lesions:
            found.setdefault(lesion.background, []).append(lesion)
        return found


#: A lesion and an observer.
Task = tuple[Lesion, str]


@dataclass(frozen=True)
class PhantomMeasurements:
    """Measurements of one kind of image (unprocessed or denoised) at one dose.

    Parameters
    ----------
    noise : NoisePowerSpectrum
        Of the liver.
    spectrum : RadialSpectrum
        Radial mean of ``noise``.
    transfer : mapping from contrast (HU) to TaskTransfer
        From the rods, with intervals over the realisations.
    rod_hu : mapping from contrast (HU) to float
        Mean HU in the core of each rod.
    body_hu : float
        Mean HU of the liver.
    linearity : Linearity
        HU of the rods against the truth.
    detectability : mapping from (Lesion, observer) to Detectability
        Observers: ``NPWE`` (non-prewhitening with eye filter; template of the ideal lesion), ``Gabor CHO``
        (channelised Hotelling with internal noise) and ``CHO`` (channelised Hotelling with Laguerre–Gauss
        channels: what an ideal linear observer can see).
    """

    noise: NoisePowerSpectrum
    spectrum: RadialSpectrum
    transfer: Mapping[float, TaskTransfer]
    rod_hu: Mapping[float, float]
    body_hu: float
    linearity: Linearity
    detectability: Mapping[Task, Detectability]


@dataclass(frozen=True)
class ImageQualityStudy:
    """Result of :func:`measure_image_quality`.

    Parameters
    ----------
    settings : ImageQualitySettings
    unprocessed : mapping from dose to PhantomMeasurements
    denoised : PhantomMeasurements
    equivalence : mapping from (Lesion, observer) to DoseEquivalence
        Dose at which unprocessed images reach the d′ of the denoised ones.
    example : mapping from str to ndarray
        One slice of the rods: ``input``, ``output`` and ``truth``, HU.
    """

    settings: ImageQualitySettings
    unprocessed: Mapping[float, PhantomMeasurements]
    denoised: PhantomMeasurements
    equivalence: Mapping[Task, DoseEquivalence]
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
        Called with (steps done, steps in all).

    Returns
    -------
    ImageQualityStudy
    """
    phantom = _Phantom(settings)
    doses = sorted({*settings.doses, settings.dose})
    measured: dict[float, PhantomMeasurements] = {}
    steps = len(doses) + phantom.slices
    for done, dose in enumerate(doses):
        measured[dose] = _measure(phantom.scan(dose), phantom)
        if progress:
            progress(done + 1, steps)
    scan = phantom.scan(settings.dose)
    restored = np.empty_like(scan)
    for index, hu in enumerate(
        restore(Volume(scan, phantom_geometry(len(scan)), "phantom", "phantom", "phantom"))
    ):
        restored[index] = hu
        if progress:
            progress(len(doses) + index + 1, steps)
    denoised = _measure(restored, phantom)
    equivalence = {
        task: dose_equivalence(doses, [measured[dose].detectability[task] for dose in doses], found)
        for task, found in denoised.detectability.items()
    }
    example = {"input": scan[0], "output": restored[0], "truth": phantom.truths[0]}
    return ImageQualityStudy(settings, measured, denoised, equivalence, example)


def slice_restorer(model: TrainedModel, settings: ApplySettings) -> Restore:
    """The ``restore`` argument of :func:`measure_image_quality` for a model."""
    return lambda source: (hu for _, hu in restore_slices(source, model, settings))


class _Phantom:
    """Objects and noise: the realisations of the rods, of the background, and of the background with lesions."""

    def __init__(self, settings: ImageQualitySettings) -> None:
        self.settings = settings
        self.lesions = settings.by_background()
        count = settings.realisations
        rods, background = (
            scan_noise_hu(count, 2 * settings.seed + number, with_lung=bool(number)) for number in (0, 1)
        )
        self.images = max(map(len, self.lesions.values()))
        empty = background_truth()
        filled = [add_lesions(empty, self.lesions, number) for number in range(self.images)]
        self.truths = [rod_truth(), empty, *filled]
        self._noise = [rods, *[background] * (1 + self.images)]

    @property
    def slices(self) -> int:
        """Number of slices of a scan."""
        return len(self.truths) * self.settings.realisations

    def scan(self, dose: float) -> NDArray[np.float32]:
        """All slices at a dose: every object with all realisations of its noise, HU."""
        parts = [truth + noise / np.sqrt(dose) for truth, noise in zip(self.truths, self._noise, strict=True)]
        return np.concatenate(parts).astype(np.float32)

    def rods(self, scan: Stack) -> Stack:
        """The slices of the rods."""
        return scan[: self.settings.realisations]

    def without_lesions(self, scan: Stack, background: str) -> Stack:
        """The ROIs without lesions, shape (realisations, rois, ROI_PX, ROI_PX)."""
        count = self.settings.realisations
        return cut_rois(scan[count : 2 * count], background)

    def with_lesion(self, scan: Stack, lesion: Lesion) -> Stack:
        """The ROIs with a lesion, each in the place of the one without it."""
        count, of_background = self.settings.realisations, self.lesions[lesion.background]
        number = of_background.index(lesion)
        filled = [
            cut_rois(scan[(2 + image) * count : (3 + image) * count], lesion.background)
            for image in range(self.images)
        ]
        # The ROI of this place holds this lesion in the image with (place + image) % lesions = number.
        places = range(filled[0].shape[1])
        return np.stack([filled[(number - place) % len(of_background)][:, place] for place in places], axis=1)


def _measure(scan: Stack, phantom: _Phantom) -> PhantomMeasurements:
    spacing = (SPACING_MM, SPACING_MM)
    liver = phantom.without_lesions(scan, "liver").reshape(-1, ROI_PX, ROI_PX)
    noise = noise_power_spectrum(liver, spacing)
    rods = phantom.rods(scan)
    mean = rods.mean(axis=0, dtype=np.float64)
    centres = rod_centres_px()
    transfer = {
        contrast: ttf_of_disk(rods, centre, ROD_RADIUS_MM, spacing, seed=phantom.settings.seed)
        for contrast, centre in centres.items()
    }
    rod_hu = {contrast: _core_mean(mean, centre) for contrast, centre in centres.items()}
    nominal = [BACKGROUND_HU["liver"] + contrast for contrast in rod_hu]
    return PhantomMeasurements(
        noise,
        noise.radial(RING_PER_MM),
        transfer,
        rod_hu,
        float(liver.mean(dtype=np.float64)),
        hu_linearity(nominal, list(rod_hu.values())),
        _detectability(scan, phantom),
    )


def _detectability(scan: Stack, phantom: _Phantom) -> dict[Task, Detectability]:
    """d′ of every lesion by every observer."""
    seed = phantom.settings.seed
    found: dict[Task, Detectability] = {}
    gabor = gabor_channels(ROI_PX, SPACING_MM)
    for background, lesions in phantom.lesions.items():
        absent = phantom.without_lesions(scan, background)
        for lesion in lesions:
            images = phantom.with_lesion(scan, lesion), absent
            laguerre = laguerre_gauss_channels(ROI_PX, np.sqrt(2 * np.pi) * lesion.sigma_mm / SPACING_MM, CHANNELS)
            template = npwe_template(lesion.image(), (SPACING_MM, SPACING_MM))
            of_observers = (
                template_detectability(*images, template, seed=seed, repeats=BOOTSTRAP_REPEATS),
                hotelling_detectability(
                    *images, gabor, internal_noise=INTERNAL_NOISE, seed=seed, repeats=BOOTSTRAP_REPEATS
                ),
                hotelling_detectability(*images, laguerre, seed=seed, repeats=BOOTSTRAP_REPEATS),
            )
            found |= {(lesion, name): one for name, one in zip(OBSERVERS, of_observers, strict=True)}
    return found


def _core_mean(mean: Stack, centre: tuple[float, float]) -> float:
    rows, columns = np.ogrid[:SIDE_PX, :SIDE_PX]
    core = np.hypot(rows - centre[0], columns - centre[1]) * SPACING_MM < CORE_FRACTION * ROD_RADIUS_MM
    return float(mean[core].mean())

"""A denoiser on a simulated phantom: noise, resolution by contrast, detectability and the dose it is worth.

Every slice is a new realisation of the same object, so that the truth is known and repeats cost nothing. A network
that was trained on patients may behave otherwise in a phantom, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import ConfigError
from ldct_denoise.inference.slices import ApplySettings, restore_slices
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
from ldct_denoise.metrics.sharpness import TaskTransfer, ttf_of_disk
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.phantoms.patients import with_noise
from ldct_denoise.volume import Geometry, SliceSource, Volume

SIDE_PX, SPACING_MM = 256, 0.75
BODY_RADIUS_MM, BODY_HU = 88.0, 50.0
BLUR_MM = 0.6  # the simulated scanner's own resolution, a Gaussian's σ
#: Rods: contrast to the body in HU, on a ring.
ROD_CONTRASTS_HU = (-100.0, 40.0, 120.0, 400.0)
ROD_RADIUS_MM, RING_MM = 14.0, 45.0
LESION_SIGMA_MM = 3.0
SQUARE_PX = 32  # a lesion's surroundings, and a square of the noise spectrum
SQUARES_PER_SIDE = 4
CHANNELS = 5
BOOTSTRAP_REPEATS = 300

Stack = NDArray[np.floating]
Restore = Callable[[SliceSource], Iterable[NDArray[np.floating]]]


@dataclass(frozen=True)
class StudySettings:
    """What is simulated.

    Parameters
    ----------
    dose : float
        Of the images that are denoised, as a share of the normal dose.
    doses : tuple of float
        Of the unprocessed images that they are set against, ``dose`` among them.
    lesion_hu : float
        Contrast of the Gaussian lesion (σ = 3 mm).
    realisations : int
        Slices of each kind; each has 16 squares with and 16 without the lesion.
    seed : int

    Raises
    ------
    ConfigError
        If doses or realisations are impossible.
    """

    dose: float = 0.25
    doses: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    lesion_hu: float = -6.0
    realisations: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(0 < dose <= 1 for dose in (self.dose, *self.doses)) or len(set(self.doses)) < 2:
            raise ConfigError("doses: give at least two shares of the normal dose, above 0 and at most 1")
        if self.realisations < 2:
            raise ConfigError("realisations: give at least 2")


@dataclass(frozen=True)
class PhantomImage:
    """One kind of image, unprocessed or denoised, at one dose.

    Parameters
    ----------
    noise : NoisePowerSpectrum
    spectrum : RadialSpectrum
        Its radial mean.
    transfer : mapping from contrast (HU) to TaskTransfer
        From the rods, averaged over the realisations.
    rod_hu : mapping from contrast (HU) to float
        Mean HU in each rod's middle.
    body_hu : float
        Mean HU of the uniform squares.
    linearity : Linearity
        Of the rods' HU against the truth.
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
class PhantomStudy:
    """Unprocessed images by dose, the denoised ones, and the dose that these are worth to each observer."""

    settings: StudySettings
    unprocessed: Mapping[float, PhantomImage]
    denoised: PhantomImage
    equivalence: Mapping[str, DoseEquivalence]
    example: Mapping[str, Stack]  # one slice of the rods: input, output, truth


def study_phantom(
    restore: Restore,
    settings: StudySettings = StudySettings(),
    progress: Callable[[int, int], None] | None = None,
) -> PhantomStudy:
    """Simulate, denoise, measure.

    Parameters
    ----------
    restore : callable
        From a series to its denoised slices (HU), in order.
    settings : StudySettings
    progress : callable, optional
        Called with (kinds of images done, kinds in all).
    """
    doses = sorted({*settings.doses, settings.dose})
    measured: dict[float, PhantomImage] = {}
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
    return PhantomStudy(settings, measured, denoised, equivalence, example)


def restore_with(model: TrainedModel, settings: ApplySettings) -> Restore:
    """A model as the function that :func:`study_phantom` takes."""
    return lambda source: [hu for _, hu in restore_slices(source, model, settings)]


def geometry(slices: int) -> Geometry:
    """Where the phantom's slices lie: centred, 3 mm apart."""
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


def _truth(kind: str, settings: StudySettings) -> Stack:
    """The object without noise: ``rods``, ``lesions`` or ``plain``."""
    fine = 4  # sampled finely and averaged down, so that borders are as a detector sees them
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
        for place in _squares():
            image[place] += settings.lesion_hu * lesion_shape()
    return image


def lesion_shape() -> Stack:
    """A Gaussian of height 1 in the middle of a square."""
    axis = (np.arange(SQUARE_PX) - (SQUARE_PX - 1) / 2) * SPACING_MM
    return np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * LESION_SIGMA_MM**2))


def _squares() -> list[tuple[slice, slice]]:
    start = (SIDE_PX - SQUARES_PER_SIDE * SQUARE_PX) // 2
    starts = [start + number * SQUARE_PX for number in range(SQUARES_PER_SIDE)]
    return [(slice(r, r + SQUARE_PX), slice(c, c + SQUARE_PX)) for r in starts for c in starts]


def _scans(settings: StudySettings, dose: float) -> dict[str, Volume]:
    """Realisations of all three objects at a dose, each with noise of its own."""
    place = geometry(settings.realisations)
    scans = {}
    for number, kind in enumerate(("rods", "lesions", "plain")):
        truth = np.broadcast_to(_truth(kind, settings), place.shape)
        volume = Volume(truth, place, f"{kind}-{dose:g}", "phantom", kind)
        scans[kind] = with_noise(volume, dose, settings.seed * 10 + number)
    return scans


def _measure(scans: Mapping[str, Volume], settings: StudySettings) -> PhantomImage:
    spacing = (SPACING_MM, SPACING_MM)
    present, absent = (_cut(scans[kind].hu) for kind in ("lesions", "plain"))
    noise = noise_power_spectrum(absent, spacing)
    mean = scans["rods"].hu.mean(axis=0, dtype=np.float64)
    centres = rod_centres_px()
    transfer = {contrast: ttf_of_disk(mean, at, ROD_RADIUS_MM, spacing) for contrast, at in centres.items()}
    rod_hu = {contrast: _core_mean(mean, at) for contrast, at in centres.items()}
    nominal = [BODY_HU + contrast for contrast in rod_hu]
    weakest = min(transfer, key=abs)  # nearest to the lesion's contrast
    observers = {
        "CHO": hotelling_detectability(
            present, absent, _channels(), repeats=BOOTSTRAP_REPEATS, seed=settings.seed
        ),
        "NPWE": _eye_observer(absent, transfer[weakest], settings),
    }
    return PhantomImage(
        noise,
        noise.radial(0.05),
        transfer,
        rod_hu,
        float(absent.mean(dtype=np.float64)),
        hu_linearity(nominal, list(rod_hu.values())),
        observers,
    )


def _cut(stack: Stack) -> Stack:
    """All squares of all slices, shape (n, side, side)."""
    return np.concatenate([stack[:, rows, columns] for rows, columns in _squares()])


def _channels() -> NDArray[np.float64]:
    return laguerre_gauss_channels(SQUARE_PX, np.sqrt(2 * np.pi) * LESION_SIGMA_MM / SPACING_MM, CHANNELS)


def _core_mean(mean: Stack, centre: tuple[float, float]) -> float:
    rows, columns = np.ogrid[:SIDE_PX, :SIDE_PX]
    core = np.hypot(rows - centre[0], columns - centre[1]) * SPACING_MM < 0.6 * ROD_RADIUS_MM
    return float(mean[core].mean())


def _eye_observer(absent: Stack, transfer: TaskTransfer, settings: StudySettings) -> Detectability:
    """NPWE d′ of the lesion, its interval by a bootstrap over the squares of the noise spectrum.

    The transfer function is relative to the scanner's own: the lesion is simulated after its blur.
    """
    spacing = (SPACING_MM, SPACING_MM)
    single = [noise_power_spectrum(square[None], spacing) for square in absent]
    power, axes = np.array([item.power for item in single]), (single[0].row_frequency, single[0].column_frequency)
    radius = radial_frequency(single[0])
    task = gaussian_task(radius, LESION_SIGMA_MM, abs(settings.lesion_hu))
    own = np.exp(-2 * (np.pi * BLUR_MM * transfer.frequency) ** 2) * np.sinc(transfer.frequency * SPACING_MM)
    relative = TaskTransfer(transfer.frequency, transfer.value / np.maximum(own, 0.05), transfer.contrast_hu)
    eye = eye_filter(radius)
    rng = np.random.default_rng(settings.seed)

    def judge(weights: NDArray[np.float64]) -> float:
        mean = NoisePowerSpectrum(np.tensordot(weights, power, 1), *axes)
        return npw_detectability(mean, task, relative, eye)

    count = len(power)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=BOOTSTRAP_REPEATS) / count
    samples = np.array([judge(weights) for weights in draws])
    low, high = np.quantile(samples, [0.025, 0.975])
    return Detectability(judge(np.full(count, 1 / count)), float(low), float(high), samples)


def statement(study: PhantomStudy, observer: str) -> str:
    """What an observer says of the denoiser, in one sentence with its interval."""
    raw, ours = study.unprocessed[study.settings.dose].observers[observer], study.denoised.observers[observer]
    worth = study.equivalence[observer]
    text = (
        f"{observer}: d′ {raw.d_prime:.2f} ({raw.low:.2f} to {raw.high:.2f}) unprocessed and {ours.d_prime:.2f} "
        f"({ours.low:.2f} to {ours.high:.2f}) denoised at {100 * study.settings.dose:g} % of the dose"
    )
    if not np.isfinite([worth.dose, worth.low, worth.high]).all():
        return f"{text}; too far apart or too uncertain to say which dose that is worth."
    return (
        f"{text}; unprocessed images reach that at {100 * worth.dose:.0f} % of the dose "
        f"(95 % interval {100 * worth.low:.0f} to {100 * worth.high:.0f} %)."
    )

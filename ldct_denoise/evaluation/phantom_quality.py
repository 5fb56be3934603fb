"""Image quality of one section of a phantom: noise, uniformity, HU and resolution of inserts, detectability.

Definitions follow AAPM Report 233 (TG-233), "Performance evaluation of computed tomography systems", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.inserts import CORE_FRACTION, SURROUNDINGS
from ldct_denoise.evaluation.phantom_sections import PhantomSection
from ldct_denoise.metrics.contrast import Linearity, hu_linearity
from ldct_denoise.metrics.noise import NoisePowerSpectrum, noise_power_spectrum, periodograms
from ldct_denoise.metrics.observers import Detectability, npwe_template, template_detectability
from ldct_denoise.metrics.sharpness import TaskTransfer, find_disk_centre, ttf_of_disk
from ldct_denoise.metrics.statistics import small_sample_spread
from ldct_denoise.metrics.texture import mean_noise_frequency
from ldct_denoise.phantoms.insertion import InsertedLesion, disc
from ldct_denoise.phantoms.qa_phantoms import Module, PhantomInsert
from ldct_denoise.volume import Volume

Stack = NDArray[np.floating]

#: A TTF is reported if contrast over noise, times the root of the number of slices, is at least this (TG-233).
MIN_TOTAL_CNR = 15.0
#: Limits of the kernel's blur, σ in mm, as estimated from the noise.
BLUR_LIMITS_MM = (0.3, 1.2)
BOOTSTRAP_REPEATS = 400
MAX_CORRELATION = 0.9


@dataclass(frozen=True)
class InsertQuality:
    """One insert in one kind of image.

    Parameters
    ----------
    mean_hu : float
        Mean of the core.
    noise_hu : float
        Standard deviation in the core, mean over the slices.
    transfer : TaskTransfer or None
        None where the contrast is too low for the number of slices, or the insert too small.
    """

    mean_hu: float
    noise_hu: float
    transfer: TaskTransfer | None


@dataclass(frozen=True)
class PhantomQuality:
    """Image quality of one section in one kind of image: unprocessed or denoised.

    Parameters
    ----------
    noise : Detectability
        1/noise of the uniform ROIs, 1/HU, with bootstrap samples over the slices: what rises with dose.
    spectrum : NoisePowerSpectrum
    slice_correlation : float
        Of the noise of neighbouring slices.
    mean_hu : float
        Of the central ROI.
    uniformity_hu : float
        Largest deviation of an ROI's mean from that of the central one.
    inserts : mapping from str to InsertQuality
    linearity : Linearity or None
        Of the inserts.
    contrast_hu, cnr : float
        Of the largest low-contrast target; NaN without one.
    detectability : mapping from InsertedLesion to Detectability
        d′ of the non-prewhitening observer with eye filter.
    """

    noise: Detectability
    spectrum: NoisePowerSpectrum
    slice_correlation: float
    mean_hu: float
    uniformity_hu: float
    inserts: Mapping[str, InsertQuality]
    linearity: Linearity | None
    contrast_hu: float
    cnr: float
    detectability: Mapping[InsertedLesion, Detectability]

    @property
    def noise_hu(self) -> float:
        """Standard deviation of the noise, HU."""
        return 1 / self.noise.d_prime if self.noise.d_prime else float("inf")

    @property
    def noise_interval_hu(self) -> tuple[float, float]:
        """Limits of its 95 % interval; NaN where the data do not carry one."""
        if not self.noise.low > 0:
            return float("nan"), float("nan")
        return 1 / self.noise.high, 1 / self.noise.low

    @property
    def mean_frequency_per_mm(self) -> float:
        """Mean frequency of the noise."""
        return mean_noise_frequency(self.spectrum)


@dataclass(frozen=True)
class PhantomRegion:
    """Pixels of a section that are measured.

    Parameters
    ----------
    name : str
        Material, or ``uniform`` and a number.
    slices : tuple of int
    corner : tuple of 2 ints
        Row and column of the first pixel of ``mask``.
    mask : ndarray of bool
    """

    name: str
    slices: tuple[int, ...]
    corner: tuple[int, int]
    mask: NDArray[np.bool_]


def lesion_name(lesion: InsertedLesion) -> str:
    """Name in tables."""
    return f"{lesion.diameter_mm:g} mm, {lesion.contrast_hu:+g} HU"


class ScannedSection:
    """Slices of one section, read once: of the uniform module, with lesions, of the inserts, of low contrast.

    Parameters
    ----------
    section : PhantomSection
    lesions : sequence of InsertedLesion
        Added to the ROIs of the uniform module in turn.
    seed : int
        Seed of the bootstrap.
    """

    def __init__(self, section: PhantomSection, lesions: Sequence[InsertedLesion], seed: int) -> None:
        self.section, self.lesions, self.seed = section, tuple(lesions), seed
        self.indices: dict[str, list[int]] = {"uniform": list(section.uniform)}
        location = section.location
        if location is not None:
            self._choose("inserts", location.phantom.insert_module)
            if location.phantom.low_contrast_module is not None:
                self._choose("low contrast", location.phantom.low_contrast_module)
        self.stacks: dict[str, Stack] = {
            name: np.stack([section.source.read_hu(index) for index in slices])
            for name, slices in self.indices.items()
        }
        self.blur_mm = self._blur_mm()
        self.indices["lesions"] = self.indices["uniform"]
        self.stacks["lesions"] = self._with_lesions()

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Row and column spacing."""
        return self.section.source.geometry.pixel_spacing_mm

    @property
    def slices(self) -> int:
        """Slices that are denoised."""
        return sum(map(len, self.stacks.values()))

    def volume(self, name: str) -> Volume:
        """The slices of a module as a series of their own."""
        source, indices = self.section.source, self.indices[name]
        geometry = source.geometry.select(indices)
        metadata = source.metadata.select(indices)
        return Volume(self.stacks[name], geometry, source.uid, source.patient, source.name, metadata)

    def shown(self, stacks: Mapping[str, Stack] | None = None) -> list[Stack]:
        """Stacks of which the report shows a slice."""
        stacks = stacks or self.stacks
        return [stacks[name] for name in ("uniform", "inserts", "low contrast") if name in stacks]

    def measure(self, stacks: Mapping[str, Stack]) -> PhantomQuality:
        """Image quality of unprocessed or denoised slices."""
        rois = self._rois(stacks["uniform"])
        flat = rois.reshape(-1, *rois.shape[2:])
        correlation = _slice_correlation(rois)
        means = rois.mean(axis=(0, 2, 3), dtype=np.float64)
        inserts = self._inserts(stacks)
        contrast_hu, cnr = self._low_contrast(stacks)
        return PhantomQuality(
            _noise(rois, correlation, self.seed),
            noise_power_spectrum(flat, self.spacing_mm),
            correlation,
            float(means[0]),
            float(np.abs(means - means[0]).max()),
            inserts,
            self._linearity(inserts),
            contrast_hu,
            cnr,
            self._detectability(rois, self._rois(stacks["lesions"]), correlation),
        )

    def _choose(self, name: str, module: Module) -> None:
        slices = self.section.location.module_slices(self.section.source, module) if self.section.location else []
        if slices:
            self.indices[name] = slices

    def _rois(self, stack: Stack) -> Stack:
        """ROIs of the uniform module, shape (slices, rois, side, side)."""
        return np.stack([stack[:, rows, columns] for rows, columns in self.section.rois], axis=1)

    def _blur_mm(self) -> float:
        """Resolution of the kernel: for a Gaussian the noise of filtered back-projection, f·MTF², has the mean
        frequency 1/(4·√π·σ).
        """
        rois = self._rois(self.stacks["uniform"])
        spectrum = noise_power_spectrum(rois.reshape(-1, *rois.shape[2:]), self.spacing_mm)
        return float(np.clip(1 / (4 * np.sqrt(np.pi) * mean_noise_frequency(spectrum)), *BLUR_LIMITS_MM))

    def _lesion(self, lesion: InsertedLesion) -> NDArray[np.float64]:
        side = self.section.rois[0][0].stop - self.section.rois[0][0].start
        return lesion.contrast_hu * disc(lesion.diameter_mm, self.spacing_mm, side, self.blur_mm)

    def _with_lesions(self) -> Stack:
        """The uniform slices with a lesion in every ROI, in turn."""
        images = [self._lesion(lesion) for lesion in self.lesions]
        stack = self.stacks["uniform"].copy()
        for number, (rows, columns) in enumerate(self.section.rois if images else ()):
            stack[:, rows, columns] += images[number % len(images)]
        return stack

    def _detectability(
        self, absent: Stack, present: Stack, correlation: float
    ) -> dict[InsertedLesion, Detectability]:
        factor = ((1 + correlation) / (1 - correlation)) ** 0.5
        found = {}
        for number, lesion in enumerate(self.lesions):
            rois = slice(number, None, len(self.lesions))
            template = npwe_template(self._lesion(lesion), self.spacing_mm)
            scored = template_detectability(
                present[:, rois], absent[:, rois], template, seed=self.seed, repeats=BOOTSTRAP_REPEATS
            )
            found[lesion] = _spread(scored, factor)
        return found

    def regions(self) -> list[PhantomRegion]:
        """ROIs of the uniform module, and the cores of the inserts."""
        found = [
            PhantomRegion(
                f"uniform {number}",
                tuple(self.indices["uniform"]),
                (rows.start, columns.start),
                np.ones((rows.stop - rows.start, columns.stop - columns.start), dtype=bool),
            )
            for number, (rows, columns) in enumerate(self.section.rois, start=1)
        ]
        for insert, (box, centre) in self._places.items():
            shape = self.stacks["inserts"][0][box].shape
            core = self._disc_mask(shape, centre, CORE_FRACTION * insert.radius_mm)
            corner = box[0].start, box[1].start
            found.append(PhantomRegion(insert.name, tuple(self.indices["inserts"]), corner, core))
        return found

    @cached_property
    def _places(self) -> dict[PhantomInsert, tuple[tuple[slice, slice], tuple[float, float]]]:
        """A square around each insert, and the insert's centre in it."""
        location = self.section.location
        found: dict[PhantomInsert, tuple[tuple[slice, slice], tuple[float, float]]] = {}
        if location is None:
            return found
        for insert in location.phantom.inserts:
            given = location.insert_px(self.section.source, self.indices["inserts"], insert)
            box, inner = self._box(given, insert)
            mean = self.stacks["inserts"][:, *box].mean(axis=0, dtype=np.float64)
            found[insert] = box, find_disk_centre(mean, inner, insert.radius_mm, self.spacing_mm)
        return found

    def _inserts(self, stacks: Mapping[str, Stack]) -> dict[str, InsertQuality]:
        return {
            insert.name: self._insert(stacks["inserts"][:, *box], centre, insert)
            for insert, (box, centre) in self._places.items()
        }

    def _box(
        self, centre_px: tuple[float, float], insert: PhantomInsert
    ) -> tuple[tuple[slice, slice], tuple[float, float]]:
        """Square around an insert, and the insert's centre in it."""
        half = [SURROUNDINGS * insert.radius_mm / mm for mm in self.spacing_mm]
        rows, columns = (slice(max(0, int(c - h)), int(c + h) + 2) for c, h in zip(centre_px, half, strict=True))
        return (rows, columns), (centre_px[0] - rows.start, centre_px[1] - columns.start)

    def _insert(self, stack: Stack, centre: tuple[float, float], insert: PhantomInsert) -> InsertQuality:
        core = self._disc_mask(stack.shape[1:], centre, CORE_FRACTION * insert.radius_mm)
        noise_hu = float(stack[:, core].std(axis=1, ddof=1, dtype=np.float64).mean())
        transfer: TaskTransfer | None
        try:
            transfer = ttf_of_disk(stack, centre, insert.radius_mm, self.spacing_mm, seed=self.seed)
        except InputError:  # the insert is too small for these pixels
            transfer = None
        if transfer and abs(transfer.contrast_hu) * len(stack) ** 0.5 < MIN_TOTAL_CNR * noise_hu:
            transfer = None
        return InsertQuality(float(stack[:, core].mean(dtype=np.float64)), noise_hu, transfer)

    def _linearity(self, inserts: Mapping[str, InsertQuality]) -> Linearity | None:
        if not inserts or self.section.location is None:
            return None
        nominal = [insert.nominal_hu for insert in self.section.location.phantom.inserts]
        return hu_linearity(nominal, [insert.mean_hu for insert in inserts.values()])

    def _low_contrast(self, stacks: Mapping[str, Stack]) -> tuple[float, float]:
        """Contrast of the largest target and its ratio to the noise in it."""
        location = self.section.location
        target = location.phantom.low_contrast if location else None
        if location is None or target is None or "low contrast" not in stacks:
            return float("nan"), float("nan")
        stack, slices = stacks["low contrast"], self.indices["low contrast"]

        def values(angle_deg: float, distance_mm: float, radius_mm: float) -> Stack:
            centre = location.point_px(self.section.source, slices, angle_deg, distance_mm)
            return stack[:, self._disc_mask(stack.shape[1:], centre, radius_mm)].astype(np.float64)

        inside = values(target.angle_deg, target.distance_mm, CORE_FRACTION * target.radius_mm)
        around = [values(*point, target.background_radius_mm).mean() for point in target.background]
        contrast = float(inside.mean() - np.mean(around))
        noise_hu = float(inside.std(axis=1, ddof=1).mean())
        return contrast, abs(contrast) / noise_hu if noise_hu > 0 else float("nan")

    def _disc_mask(
        self, shape: tuple[int, ...], centre_px: tuple[float, float], radius_mm: float
    ) -> NDArray[np.bool_]:
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        row_mm, column_mm = self.spacing_mm
        distance = np.hypot((rows - centre_px[0]) * row_mm, (columns - centre_px[1]) * column_mm)
        return np.asarray(distance < radius_mm)


def _noise(rois: Stack, correlation: float, seed: int) -> Detectability:
    """1/noise, with bootstrap samples over the slices, spread for the correlation of neighbouring slices."""
    variances = np.array([periodograms(of_slice).mean() for of_slice in rois])
    slices = len(variances)
    weights = np.random.default_rng(seed).multinomial(slices, np.full(slices, 1 / slices), BOOTSTRAP_REPEATS)
    value = variances.mean() ** -0.5
    samples = (weights @ variances / slices) ** -0.5
    samples = value + small_sample_spread(slices) * (samples - samples.mean())
    low, high = np.quantile(samples, [0.025, 0.975])
    # Squares of Gaussian noise correlate by the square of its correlation.
    factor = ((1 + correlation**2) / (1 - correlation**2)) ** 0.5
    return _spread(Detectability(float(value), float(low), float(high), samples), factor)


def _spread(found: Detectability, factor: float) -> Detectability:
    """The same value with an interval that is wider by a factor."""
    centre = found.d_prime
    low, high, samples = (centre + factor * (value - centre) for value in (found.low, found.high, found.samples))
    return replace(found, low=float(low), high=float(high), samples=np.asarray(samples))


def _slice_correlation(rois: Stack) -> float:
    """Correlation of the noise of neighbouring slices, 0 to 0.9."""
    noise = rois - rois.mean(axis=(2, 3), keepdims=True)
    noise = noise - noise.mean(axis=0)
    slices = len(noise)
    variance = float((noise**2).mean())
    # Subtracting the mean over n slices lowers the correlation by about 1/(n − 1).
    raw = float((noise[1:] * noise[:-1]).mean()) / variance if variance > 0 else 0.0
    return float(np.clip(raw + 1 / (slices - 1), 0.0, MAX_CORRELATION))

"""Blend the network's output with its input so that noise texture and small lesions are those of normal dose.

With x the noisy slice, y the network's output and r = x − y the residual, the blended slice is

    out = y + a·(F∗r + c·C∗r) + bright spots

F and C are radial filters, f in 1/mm:

    F(f) = (T(f) − H(f)) / (1 − H(f)), clipped to 0…1      fine noise
    T(f) = t + b·min(f/f₁, 1)²                             noise amplitude that is left
    C(f) = q·exp(−(f/f₀)²)                                 the scale of lesions of 3 mm and more

H(f) = Re S_xy / S_xx is the transfer of noise through the network, measured in uniform tissue of the series. No
reference image is needed. The map a is 0 in air and 1 elsewhere; c is 0 in fat and 1 in organs, muscle and lung.

F and F + C are then raised to g + u·(1 − g), with the least u that keeps the texture: the mean frequency of what
is left, noise and anatomy, is at least 89 % of that of normal dose. Normal dose has the input's anatomy and r² of
its noise power; r follows from the noise level. Little noise over anatomy thus needs a larger u: an input that is
already at normal dose changes little.
``docs/research/texture.md`` says how the parameters were chosen and what they give.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ldct_denoise.inference.bright_spots import bright_spot_map
from ldct_denoise.inference.smoothing import fade, gaussian_mm
from ldct_denoise.metrics.noise import periodograms
from ldct_denoise.physics.noise import (
    MIN_UNIFORM_ROIS,
    MIN_VARIANCE_HU2,
    UNIFORM_FRACTION,
    anatomy_ratio,
    fill_with_air,
    radial_nps,
    soft_tissue_rois,
    without_anatomy,
)
from ldct_denoise.volume import Image

#: Slices at least this thick have the noise index of normal dose, mm; in thinner ones it is higher.
REFERENCE_THICKNESS_MM = 3.0
#: Slices of a series in which the transfer of noise is measured.
MEASURED_SLICES = 8
#: Fewest uniform ROIs, of all measured slices together, that determine the transfer.
MIN_ROIS = 20
#: ROIs of organs and muscle are preferred, HU of their mean.
ORGAN_HU = (0.0, 140.0)
#: Transfer of noise at 0.05, 0.10, … /mm where a series has too few uniform ROIs: the median of seven series.
TYPICAL_TRANSFER = (0.80, 0.52, 0.28, 0.19, 0.16, 0.15)
#: Sigma of the Gaussian that smooths y before tissues are told apart by HU, mm.
TISSUE_SMOOTHING_MM = 2.5
#: Frequency above which a bright spot holds noise alone, 1/mm.
SPOT_MAX_FREQUENCY_PER_MM = 0.7
#: Frequency of bright spots, at which the transfer of noise is read, 1/mm.
SPOT_FREQUENCY_PER_MM = 0.17
#: Frequency at which the noise index is read, 1/mm: the scale of lesions, hardly dependent on the kernel.
INDEX_FREQUENCY_PER_MM = 0.2


@dataclass(frozen=True)
class BlendParameters:
    """How much of the residual is given back.

    Parameters
    ----------
    fine_fraction : float
        t: fraction of the amplitude of fine noise that is left.
    lesion_fraction, lesion_frequency_per_mm : float
        q and f₀. exp(−(f/f₀)²) is a Gaussian of sigma 1/(√2·π·f₀) = 1.2 mm.
    nyquist_lift, lift_frequency_per_mm : float
        b and f₁: sharp kernels need more noise near the Nyquist frequency.
    max_frequency_loss : float
        Largest reduction of the mean frequency of noise and anatomy, relative to normal dose.
    anatomy_weight : float
        Power of anatomy in typical ROIs of organs, relative to the most uniform ones that are measured.
    normal_dose_index : float
        Noise index of normal dose in slices of 3 mm and more, HU·mm. r = (normal_dose_index/index)^1.5, at most 1.
    min_noise_share : float
        Smallest r.
    max_lift : float
        Largest u.
    low_noise_index : float
        Where the noise index √NPS(0.2/mm) is below this, HU·mm, t grows as (low_noise_index/index)^0.8, so that
        the output's noise rises with the input's.
    fat_hu, lung_hu, air_hu : tuple of 2 floats
        HU of the smoothed output over which the lesion part fades in above fat and below soft tissue, and over
        which any giving back fades in above air.
    keep_bright_spots : bool
        Give back small bright spots that stand out of the noise, such as calcifications.
    """

    fine_fraction: float = 0.22
    lesion_fraction: float = 0.80
    lesion_frequency_per_mm: float = 0.19
    nyquist_lift: float = 0.12
    lift_frequency_per_mm: float = 0.6
    max_frequency_loss: float = 0.11
    anatomy_weight: float = 3.0
    normal_dose_index: float = 30.0
    min_noise_share: float = 0.42
    max_lift: float = 0.75
    low_noise_index: float = 36.0
    fat_hu: tuple[float, float] = (-40.0, 10.0)
    lung_hu: tuple[float, float] = (-200.0, -300.0)
    air_hu: tuple[float, float] = (-930.0, -880.0)
    keep_bright_spots: bool = True


DEFAULT_PARAMETERS = BlendParameters()


@dataclass(frozen=True)
class NoiseTransfer:
    """Noise in uniform tissue of a series before and after the network, in radial bins of 0.05 /mm.

    Parameters
    ----------
    frequencies_per_mm : ndarray, shape (bins,)
        Centres of the bins, 1/mm.
    input_nps, output_nps, cross_nps : ndarray, shape (bins,)
        NPS of x, NPS of y and the real part of their cross spectrum, HU²·mm², residual anatomy removed.
    anatomy_nps : ndarray, shape (bins,)
        Power of anatomy in these ROIs of x, HU²·mm².
    roi_count : int
        Number of uniform ROIs that were measured; 0 where a typical transfer stands in for the measured one.
    nyquist_per_mm : float
        Nyquist frequency along the coarser axis of the image, 1/mm.
    thickness_mm : float
        Slice thickness, mm.
    parameters : BlendParameters
    """

    frequencies_per_mm: NDArray[np.float64]
    input_nps: NDArray[np.float64]
    output_nps: NDArray[np.float64]
    cross_nps: NDArray[np.float64]
    anatomy_nps: NDArray[np.float64]
    roi_count: int
    nyquist_per_mm: float = math.inf
    thickness_mm: float = REFERENCE_THICKNESS_MM
    parameters: BlendParameters = field(default=DEFAULT_PARAMETERS)

    @property
    def transfer(self) -> NDArray[np.float64]:
        """H(f): fraction of the noise amplitude that the network leaves, 0…1, shape (bins,)."""
        return np.clip(self.cross_nps / np.maximum(self.input_nps, 1e-9), 0.0, 1.0)

    @property
    def noise_index(self) -> float:
        """√NPS of the input at 0.2 /mm, HU·mm."""
        return float(np.sqrt(np.interp(INDEX_FREQUENCY_PER_MM, self.frequencies_per_mm, self.input_nps)))

    def gains(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fraction of the residual that is given back by default, 0…1 by bin.

        Returns
        -------
        fine : ndarray, shape (bins,)
            F: in fat.
        all : ndarray, shape (bins,)
            F + C: in organs, muscle and lung.
        """
        p, f, transfer = self.parameters, self.frequencies_per_mm, self.transfer
        fraction = p.fine_fraction
        if self.roi_count:
            fraction = min(1.0, fraction * max(1.0, p.low_noise_index / max(self.noise_index, 1e-6)) ** 0.8)
        target = np.minimum(fraction + p.nyquist_lift * np.minimum(f / p.lift_frequency_per_mm, 1) ** 2, 1)
        fine = np.clip((target - transfer) / np.maximum(1 - transfer, 0.05), 0, 1)
        everything = np.minimum(fine + p.lesion_fraction * np.exp(-((f / p.lesion_frequency_per_mm) ** 2)), 1)
        lift = self._lift(everything)
        return fine + lift * (1 - fine), everything + lift * (1 - everything)

    def _lift(self, gain: NDArray[np.float64]) -> float:
        """u: the least rise of a gain towards 1 that keeps the texture of normal dose, at most ``max_lift``."""
        p = self.parameters
        if not self.roi_count:
            return 0.0
        anatomy = p.anatomy_weight * self.anatomy_nps
        index = self.noise_index * np.sqrt(min(self.thickness_mm / REFERENCE_THICKNESS_MM, 1.0))
        noise_share = np.clip((p.normal_dose_index / max(index, 1e-6)) ** 1.5, p.min_noise_share, 1.0)
        wanted = (1 - p.max_frequency_loss) * self._mean_frequency(anatomy + noise_share**2 * self.input_nps)
        low, high = 0.0, p.max_lift
        if self._mean_frequency(anatomy + self._power(gain)) >= wanted:
            return low
        for _ in range(20):  # bisection
            middle = (low + high) / 2
            if self._mean_frequency(anatomy + self._power(gain + middle * (1 - gain))) < wanted:
                low = middle
            else:
                high = middle
        return high

    def _power(self, gain: NDArray[np.float64]) -> NDArray[np.float64]:
        """NPS of the output where a fraction ``gain`` of the residual is given back."""
        power = (
            self.output_nps
            + 2 * gain * (self.cross_nps - self.output_nps)
            + gain**2 * (self.input_nps - 2 * self.cross_nps + self.output_nps)
        )
        return np.maximum(power, 0)

    def _mean_frequency(self, nps: NDArray[np.float64]) -> float:
        """Mean frequency of a spectrum, over the plane and up to the Nyquist frequency, 1/mm."""
        f = np.where(self.frequencies_per_mm <= self.nyquist_per_mm, self.frequencies_per_mm, 0)
        return float(np.sum(f**2 * nps) / max(float(np.sum(f * nps)), 1e-9))

    def remaining_noise(self, position: float) -> float:
        """Standard deviation in uniform tissue, relative to the input's, at a position of the dial."""
        power = self._power(_at_position(self.gains()[1], position))
        f = self.frequencies_per_mm
        return float(np.sqrt(np.sum(f * power) / np.sum(f * self.input_nps)))

    def position(self, noise_reduction: float) -> float:
        """Position of the dial that reduces noise by a given amount.

        Parameters
        ----------
        noise_reduction : float
            Reduction of the standard deviation in uniform tissue, 0…1; 0.5 leaves half of it. A reduction larger
            than the network's own gives the network's output.

        Returns
        -------
        float
            −1 is the network's output, 0 the default, 1 the input.
        """
        low, high = -1.0, 1.0
        for _ in range(40):  # bisection: the remaining noise rises with the position
            middle = (low + high) / 2
            if self.remaining_noise(middle) < 1 - noise_reduction:
                low = middle
            else:
                high = middle
        return (low + high) / 2


def measure_noise_transfer(
    slices: Iterable[tuple[Image, Image]],
    spacing_mm: tuple[float, float],
    thickness_mm: float | None = None,
    parameters: BlendParameters = DEFAULT_PARAMETERS,
) -> NoiseTransfer:
    """Measure how the network transfers the noise of a series.

    Parameters
    ----------
    slices : iterable of (ndarray, ndarray)
        Noisy slices and the network's output at full strength, HU. Eight, evenly spread, are enough.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    thickness_mm : float, optional
        Slice thickness, mm; unknown thickness counts as 3 mm.
    parameters : BlendParameters

    Returns
    -------
    NoiseTransfer
    """
    spectra: list[NDArray[np.float64]] = []
    totals: list[NDArray[np.float64]] = []
    count = 0
    for noisy, denoised in slices:
        x, y = _uniform_rois(noisy, denoised, spacing_mm)
        if not len(x):
            continue
        power = [periodograms(rois, hann_window=True).mean(axis=0) for rois in (x, y, x - y)]
        if power[0].mean() < MIN_VARIANCE_HU2:
            continue
        cross = (power[0] + power[1] - power[2]) / 2
        spectra.append(np.stack([radial_nps(one, spacing_mm)[1] for one in (power[0], power[1], cross)]))
        totals.append(radial_nps(periodograms(x).mean(axis=0), spacing_mm)[1])
        count += len(x)
    f = radial_nps(np.zeros(_ROI_SHAPE), spacing_mm)[0]
    if count < MIN_ROIS:
        transfer = np.interp(f, f[: len(TYPICAL_TRANSFER)], TYPICAL_TRANSFER)
        flat = np.full(f.shape, parameters.low_noise_index**2)
        return NoiseTransfer(f, flat, transfer**2 * flat, transfer * flat, 0 * flat, 0, parameters=parameters)
    # Every slice has equal weight in H; the spectra are scaled back to the mean noise level.
    levels = [np.mean(one[0]) for one in spectra]
    mean = np.mean([one / level for one, level in zip(spectra, levels, strict=True)], axis=0) * np.mean(levels)
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    known = mean[0] > 1e-4 * mean[0].max()
    f = f[known]
    before, after, cross = mean[:, known] * pixel_mm2
    noise = without_anatomy(f, before)
    share = noise / before
    return NoiseTransfer(
        f,
        noise,
        after * share,
        cross * share,
        np.maximum(np.mean(totals, axis=0)[known] * pixel_mm2 - noise, 0),
        count,
        0.5 / max(spacing_mm),
        REFERENCE_THICKNESS_MM if thickness_mm is None else thickness_mm,
        parameters,
    )


def blend_slice(
    noisy: Image,
    denoised: Image,
    transfer: NoiseTransfer,
    spacing_mm: tuple[float, float],
    position: float = 0.0,
) -> NDArray[np.float32]:
    """Blend one slice.

    Parameters
    ----------
    noisy, denoised : ndarray, shape (rows, columns)
        The input and the network's output at full strength, HU.
    transfer : NoiseTransfer
        Of the series.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    position : float
        −1 returns ``denoised``, 0 the default blend, 1 returns ``noisy`` (:meth:`NoiseTransfer.position`).

    Returns
    -------
    ndarray, shape (rows, columns), float32
        HU.
    """
    x, y = np.asarray(noisy, np.float32), np.asarray(denoised, np.float32)
    if position <= -1 or position >= 1:
        return y if position <= -1 else x
    p = transfer.parameters
    residual = np.nan_to_num(x - y, nan=0.0, posinf=0.0, neginf=0.0)
    filters = _RadialFilters(residual, spacing_mm)
    fine, everything = transfer.gains()
    smooth = gaussian_mm(np.nan_to_num(y), TISSUE_SMOOTHING_MM, spacing_mm)
    has_lesions = np.maximum(fade(smooth, *p.fat_hu), fade(smooth, *p.lung_hu))
    back = filters.apply(transfer.frequencies_per_mm, fine)
    back += has_lesions * filters.apply(transfer.frequencies_per_mm, everything - fine)
    back *= fade(smooth, *p.air_hu)
    if p.keep_bright_spots:
        left = float(np.interp(SPOT_FREQUENCY_PER_MM, transfer.frequencies_per_mm, transfer.transfer))
        spots = bright_spot_map(np.nan_to_num(x), residual, smooth, spacing_mm, left)
        if spots is not None:
            back += spots * _RadialFilters(residual - back, spacing_mm).low_pass(SPOT_MAX_FREQUENCY_PER_MM)
    back = back + position * (residual - back) if position > 0 else back * (1 + position)
    return np.asarray(y + back, np.float32)


_ROI_SHAPE = (32, 32)


def _uniform_rois(
    noisy: Image, denoised: Image, spacing_mm: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The most uniform soft-tissue ROIs of the noisy slice, and the same ROIs of the denoised one."""
    corners, rois = soft_tissue_rois(fill_with_air(np.asarray(noisy, np.float32)))
    if not len(rois):
        return rois, rois
    level = rois.mean(axis=(1, 2))
    organs = (level > ORGAN_HU[0]) & (level < ORGAN_HU[1])
    if organs.sum() >= MIN_UNIFORM_ROIS:
        corners, rois = corners[organs], rois[organs]
    kept = max(min(MIN_UNIFORM_ROIS, len(rois)), round(UNIFORM_FRACTION * len(rois)))
    best = np.argsort(anatomy_ratio(periodograms(rois, hann_window=True), spacing_mm))[:kept]
    side = rois.shape[1]
    same = [denoised[row : row + side, column : column + side] for row, column in corners[best]]
    return rois[best], np.asarray(same, np.float64)


def _at_position(gain: NDArray[np.float64], position: float) -> NDArray[np.float64]:
    return gain + position * (1 - gain) if position > 0 else gain * (1 + position)


@lru_cache(maxsize=4)
def _radial_frequency_per_mm(size: tuple[int, ...], spacing_mm: tuple[float, float]) -> NDArray[np.float32]:
    """Radial frequency of each coefficient of a real transform, 1/mm."""
    down, along = fft.fftfreq(size[0], spacing_mm[0]), fft.rfftfreq(size[1], spacing_mm[1])
    radial: NDArray[np.float32] = np.hypot(down[:, None], along[None]).astype(np.float32)
    return radial


class _RadialFilters:
    """Radial filters of one image, by its spectrum."""

    def __init__(self, image: NDArray[np.float32], spacing_mm: tuple[float, float]) -> None:
        self.shape = image.shape
        self.size = tuple(fft.next_fast_len(side, real=True) for side in image.shape)
        self.frequency_per_mm = _radial_frequency_per_mm(self.size, spacing_mm)
        self.spectrum = fft.rfft2(image, s=self.size)

    def apply(self, frequencies_per_mm: NDArray[np.float64], gain: NDArray[np.float64]) -> NDArray[np.float32]:
        """The image filtered by a gain that is interpolated between frequencies."""
        return self._inverse(np.interp(self.frequency_per_mm, frequencies_per_mm, gain).astype(np.float32))

    def low_pass(self, cutoff_per_mm: float) -> NDArray[np.float32]:
        """The image filtered by exp(−(f/cutoff)⁴)."""
        return self._inverse(np.exp(-((self.frequency_per_mm / np.float32(cutoff_per_mm)) ** 4)))

    def _inverse(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        rows, columns = self.shape
        filtered: NDArray[np.float32] = fft.irfft2(self.spectrum * weight, s=self.size)[:rows, :columns]
        return filtered

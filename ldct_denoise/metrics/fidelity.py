"""How far an image is from its reference: PSNR, SSIM, errors and bias in HU, per window and region.

Inside a window both images are clipped to it and ``data_range`` is its width. Every function takes HU and an
optional boolean mask; a measurement in a mask uses no pixel outside it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.intensity import Window
from ldct_denoise.regions.tissues import bounding_box

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

SSIM_SIGMA_PX = 1.5
SSIM_RADIUS_PX = 5  # 11 taps, as Wang et al. 2004
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class SsimForm:
    """Which of the published variants of SSIM is computed; the default is the one of this project.

    Parameters
    ----------
    uniform : bool
        7×7 box with sample covariance (scikit-image's default) instead of the Gaussian with population covariance.
    zero_padded : bool
        Zeros beyond the border and no pixel left out of the mean (pytorch-ssim, which RED-CNN and CoreDiff use),
        instead of leaving out the border pixels that the kernel does not cover.
    from_zero : bool
        The window's lower edge counts as 0 (images scaled to 0…1 or 0…255) instead of the HU themselves; this
        changes the luminance term only.
    """

    uniform: bool = False
    zero_padded: bool = False
    from_zero: bool = False


DEFAULT_SSIM = SsimForm()


def rmse(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Root mean squared difference, HU."""
    return float(np.sqrt(np.mean(np.square(_difference(candidate, reference, window, mask)))))


def mae(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Mean absolute difference, HU."""
    return float(np.mean(np.abs(_difference(candidate, reference, window, mask))))


def hu_bias(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Mean of candidate − reference, HU."""
    return float(np.mean(_difference(candidate, reference, window, mask)))


def noise_std(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Standard deviation of candidate − reference, HU; the reference's own noise is part of it."""
    return float(np.std(_difference(candidate, reference, window, mask)))


def psnr(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio ``20 log10(window width / rmse)``, dB; infinite for equal images."""
    return _psnr_of(rmse(candidate, reference, window, mask), window)


def ssim(
    candidate: Image, reference: Image, window: Window, mask: Mask | None = None, form: SsimForm = DEFAULT_SSIM
) -> float:
    """Mean structural similarity (Wang et al. 2004, eq. 13).

    Gaussian weights (σ = 1.5 px, 11 taps), population covariance, K1 = 0.01, K2 = 0.03 and ``data_range`` the
    window's width, computed on the clipped HU. Without a mask it is scikit-image's number: mirrored borders,
    the outer 5 pixels left out of the mean. With a mask the local means are normalised convolutions over the
    mask's own pixels (Knutsson & Westin 1993), and the map is averaged over the mask.
    """
    return _mean_inside(ssim_map(candidate, reference, window, mask, form), mask)


def ssim_map(
    candidate: Image, reference: Image, window: Window, mask: Mask | None = None, form: SsimForm = DEFAULT_SSIM
) -> Image:
    """Structural similarity pixel by pixel; 5 pixels smaller on each side where no mask is given.

    With a mask, values outside it mean nothing.
    """
    luminance, contrast_structure = ssim_terms(candidate, reference, window, mask, form)
    return luminance * contrast_structure


def ssim_terms(
    candidate: Image,
    reference: Image,
    window: Window,
    mask: Mask | None = None,
    form: SsimForm = DEFAULT_SSIM,
    mean: LocalMean | None = None,
) -> tuple[Image, Image]:
    """The luminance term and the contrast-structure term of :func:`ssim_map` (eq. 6, and 7·8).

    ``mean`` is the mask's own :class:`LocalMean` where one was made before.
    """
    # In window widths around the level: E[x²] − E[x]² then loses no digits in float32. Only the luminance
    # term depends on the origin.
    first, second = ((window.clip(image) - window.level_hu) / window.width_hu for image in (candidate, reference))
    origin = 0.5 if form.from_zero else window.level_hu / window.width_hu
    if form.zero_padded:
        padding = -origin  # a zero of the published images
        first, second = (np.pad(image, SSIM_RADIUS_PX, constant_values=padding) for image in (first, second))
    mean = mean or LocalMean(mask, first.dtype, form)
    mean_1, mean_2 = mean(first), mean(second)
    covariance = (mean(first * second) - mean_1 * mean_2) * mean.sample_factor
    variances = (mean(first * first + second * second) - mean_1 * mean_1 - mean_2 * mean_2) * mean.sample_factor
    contrast_structure = (2 * covariance + K2**2) / (variances + K2**2)
    mean_1, mean_2 = mean_1 + origin, mean_2 + origin
    luminance = (2 * mean_1 * mean_2 + K1**2) / (mean_1**2 + mean_2**2 + K1**2)
    if form.zero_padded and mask is not None:
        inner = slice(SSIM_RADIUS_PX, -SSIM_RADIUS_PX)
        return luminance[inner, inner], contrast_structure[inner, inner]
    return luminance, contrast_structure


def measure(
    candidate: Image,
    reference: Image,
    window: Window,
    regions: Mapping[str, Mask | None],
    form: SsimForm = DEFAULT_SSIM,
    means: MutableMapping[tuple[str, SsimForm], LocalMean] | None = None,
) -> dict[tuple[str, str], float]:
    """Every number of this file for one slice, one window and several regions.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Clips both images and gives ``data_range``.
    regions : mapping from name to mask
        ``None`` for the whole image; regions without a pixel are left out.
    form : SsimForm
        The variant of SSIM.
    means : mutable mapping, optional
        Filled with what depends on a region and not on the images; give the same one for every image and window of
        these regions to save a fifth of the time.

    Returns
    -------
    dict from (region, metric) to float
        ``psnr`` (dB), ``ssim``, ``rmse``, ``mae``, ``hu_bias``, ``noise_std`` (HU).
    """
    first, second = window.clip(candidate), window.clip(reference)
    difference = first - second
    means = {} if means is None else means
    values: dict[tuple[str, str], float] = {}
    for name, mask in regions.items():
        if mask is not None and not mask.any():
            continue
        inside = difference if mask is None else difference[mask]
        bias = float(np.mean(inside, dtype=np.float64))
        mean_square = float(np.mean(np.square(inside), dtype=np.float64))
        values[name, "psnr"] = _psnr_of(mean_square**0.5, window)
        box = (slice(None), slice(None)) if mask is None else bounding_box(mask)
        part = None if mask is None else mask[box]  # no pixel outside the mask counts anyway
        if (name, form) not in means:
            means[name, form] = LocalMean(part, first.dtype, form)
        luminance, contrast = ssim_terms(first[box], second[box], window, part, form, means[name, form])
        values[name, "ssim"] = _mean_inside(luminance * contrast, part)
        values[name, "rmse"] = mean_square**0.5
        values[name, "mae"] = float(np.mean(np.abs(inside), dtype=np.float64))
        values[name, "hu_bias"] = bias
        values[name, "noise_std"] = max(mean_square - bias**2, 0.0) ** 0.5
    return values


def _difference(candidate: Image, reference: Image, window: Window, mask: Mask | None) -> Image:
    difference = window.clip(candidate).astype(np.float64) - window.clip(reference)
    return difference if mask is None else difference[mask]


def _psnr_of(rmse_hu: float, window: Window) -> float:
    return 20 * float(np.log10(window.width_hu / rmse_hu)) if rmse_hu > 0 else float("inf")


def _mean_inside(values: Image, mask: Mask | None) -> float:
    return float(np.mean(values if mask is None else values[mask], dtype=np.float64))


class LocalMean:
    """Weighted local mean of a :class:`SsimForm` where the kernel fits; over the mask's own pixels if any.

    Parameters
    ----------
    mask : ndarray of bool, optional
    dtype : dtype
        Of the images.
    form : SsimForm
    """

    def __init__(self, mask: Mask | None, dtype: np.dtype, form: SsimForm) -> None:
        self._radius = 3 if form.uniform else SSIM_RADIUS_PX
        offsets = np.arange(-self._radius, self._radius + 1)
        taps = np.ones(len(offsets)) if form.uniform else np.exp(-0.5 * (offsets / SSIM_SIGMA_PX) ** 2)
        self._taps = taps / taps.sum()
        self.sample_factor = 49 / 48 if form.uniform else 1.0
        self._mask = None
        if mask is not None:
            self._mask = (np.pad(mask, SSIM_RADIUS_PX) if form.zero_padded else mask).astype(dtype)
            # Inside the mask the weight is at least the centre's; outside it does not matter.
            self._weight = np.maximum(self._blur(self._mask), self._taps[0] ** 2)

    def __call__(self, image: Image) -> Image:
        """The local means, the kernel's radius smaller on each side where there is no mask."""
        if self._mask is not None:
            inside: Image = self._blur(image * self._mask)
            inside /= self._weight
            return inside
        inner = slice(self._radius, -self._radius)
        return self._blur(image)[inner, inner]

    def _blur(self, image: Image) -> Image:
        return _along_rows(_along_columns(image, self._taps), self._taps)


def _along_columns(image: Image, taps: NDArray[np.float64]) -> Image:
    """Symmetric taps down the columns, zeros beyond; whole rows at a time take half the time of SciPy's lines."""
    radius, rows = len(taps) // 2, image.shape[0]
    padded = np.pad(image, ((radius, radius), (0, 0)))
    return _weighted([padded[shift : shift + rows] for shift in range(len(taps))], taps.astype(image.dtype))


def _along_rows(image: Image, taps: NDArray[np.float64]) -> Image:
    radius, columns = len(taps) // 2, image.shape[1]
    padded = np.pad(image, ((0, 0), (radius, radius)))
    return _weighted([padded[:, shift : shift + columns] for shift in range(len(taps))], taps.astype(image.dtype))


def _weighted(shifted: Sequence[Image], taps: Image) -> Image:
    radius = len(taps) // 2
    total: Image = shifted[radius] * taps[radius]
    pair = np.empty_like(total)
    for near in range(radius):
        np.add(shifted[near], shifted[-1 - near], out=pair)
        pair *= taps[near]
        total += pair
    return total

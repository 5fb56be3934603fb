"""Structural similarity (SSIM) on HU, by window and region, with the variants of published protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.intensity import Window

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Gaussian window of SSIM: σ and radius in pixels (11 taps), and the constants (Wang et al. 2004).
SSIM_SIGMA_PX, SSIM_RADIUS_PX = 1.5, 5
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class SsimForm:
    """Variant of SSIM. The default is the variant of Wang et al. 2004; the others serve published protocols.

    Parameters
    ----------
    uniform : bool
        7×7 box with sample covariance (scikit-image's default) instead of the Gaussian with population covariance.
    border : {"valid", "zeros", "reflect"}
        ``valid`` leaves out the border pixels that the kernel does not cover. The others take the mean over all
        pixels, with zeros beyond the border (pytorch-ssim, used by RED-CNN and CoreDiff) or the image reflected at
        its outermost pixels (kornia, used by DU-GAN).
    from_zero : bool
        The window's lower edge counts as 0 (images scaled to 0…1 or 0…255) instead of the HU themselves. Only the
        luminance term depends on it.
    clamped : bool
        Values of the map below 0 count as 0 (DU-GAN).
    """

    uniform: bool = False
    border: Literal["valid", "zeros", "reflect"] = "valid"
    from_zero: bool = False
    clamped: bool = False


DEFAULT_SSIM = SsimForm()


def ssim(
    candidate: Image, reference: Image, window: Window, mask: Mask | None = None, form: SsimForm = DEFAULT_SSIM
) -> float:
    """Mean structural similarity (SSIM).

    Mean of ``(2·μ₁·μ₂ + C₁)·(2·σ₁₂ + C₂) / ((μ₁² + μ₂² + C₁)·(σ₁² + σ₂² + C₂))`` with ``C = (K·window width)²``,
    K₁ = 0.01, K₂ = 0.03, Gaussian weights (σ = 1.5 px, 11 taps) and population covariance, on the clipped HU.
    Without a mask the outer 5 pixels are left out of the mean, as in scikit-image. With a mask the local means are
    normalised convolutions over the pixels of the mask, and the map is averaged over the mask.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Both images are clipped to it.
    mask : ndarray of bool, shape (rows, columns), optional
        Region; the whole image by default.
    form : SsimForm
        Variant of SSIM.

    Returns
    -------
    float
        −1 to 1, dimensionless; NaN for an image that is smaller than the window.

    References
    ----------
    Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    IEEE Trans. Image Process. 13, 2004, eq. 13.
    Knutsson & Westin, "Normalized and differential convolution", CVPR 1993.
    """
    return mean_inside(ssim_map(candidate, reference, window, mask, form), mask)


def ssim_map(
    candidate: Image, reference: Image, window: Window, mask: Mask | None = None, form: SsimForm = DEFAULT_SSIM
) -> Image:
    """Map of the structural similarity; see :func:`ssim`.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Both images are clipped to it.
    mask : ndarray of bool, shape (rows, columns), optional
        Region.
    form : SsimForm
        Variant of SSIM.

    Returns
    -------
    ndarray
        5 pixels smaller on each side without a mask. With a mask, values outside it are undefined.
    """
    luminance, contrast_structure = ssim_terms(candidate, reference, window, mask, form)
    return ssim_product(luminance, contrast_structure, form)


def ssim_product(luminance: Image, contrast_structure: Image, form: SsimForm) -> Image:
    """The map from its two terms.

    Parameters
    ----------
    luminance, contrast_structure : ndarray
        From :func:`ssim_terms`.
    form : SsimForm
        Variant of SSIM.

    Returns
    -------
    ndarray
    """
    product = luminance * contrast_structure
    return np.maximum(product, 0) if form.clamped else product


def ssim_terms(
    candidate: Image,
    reference: Image,
    window: Window,
    mask: Mask | None = None,
    form: SsimForm = DEFAULT_SSIM,
    mean: LocalMean | None = None,
) -> tuple[Image, Image]:
    """The luminance term and the contrast-structure term of :func:`ssim_map` (Wang et al. 2004, eq. 6, and 7·8).

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Both images are clipped to it.
    mask : ndarray of bool, shape (rows, columns), optional
        Region.
    form : SsimForm
        Variant of SSIM.
    mean : LocalMean, optional
        Local mean of this mask and form, if it was constructed before.

    Returns
    -------
    luminance, contrast_structure : ndarray
        Maps as :func:`ssim_map` returns them.
    """
    # In units of the window width around the level, E[x²] − E[x]² loses no digits in float32. Only the luminance
    # term depends on the origin.
    first, second = ((window.clip(image) - window.level_hu) / window.width_hu for image in (candidate, reference))
    origin = 0.5 if form.from_zero else window.level_hu / window.width_hu
    if form.border == "zeros":
        padding = -origin  # the value 0 of the published images
        first, second = (np.pad(image, SSIM_RADIUS_PX, constant_values=padding) for image in (first, second))
    elif form.border == "reflect":
        first, second = (np.pad(image, SSIM_RADIUS_PX, mode="reflect") for image in (first, second))
    mean = mean or LocalMean(mask, first.dtype, form)
    mean_1, mean_2 = mean(first), mean(second)
    covariance = (mean(first * second) - mean_1 * mean_2) * mean.sample_factor
    variances = (mean(first * first + second * second) - mean_1 * mean_1 - mean_2 * mean_2) * mean.sample_factor
    contrast_structure = (2 * covariance + K2**2) / (variances + K2**2)
    mean_1, mean_2 = mean_1 + origin, mean_2 + origin
    luminance = (2 * mean_1 * mean_2 + K1**2) / (mean_1**2 + mean_2**2 + K1**2)
    if form.border != "valid" and mask is not None:
        inner = slice(SSIM_RADIUS_PX, -SSIM_RADIUS_PX)
        return luminance[inner, inner], contrast_structure[inner, inner]
    return luminance, contrast_structure


def mean_inside(values: Image, mask: Mask | None) -> float:
    """Mean of a map over a mask, or over the whole map; NaN where it is empty."""
    inside = values if mask is None else values[mask]
    return float(np.mean(inside, dtype=np.float64)) if inside.size else float("nan")


class LocalMean:
    """Weighted local mean of a :class:`SsimForm`: where the kernel fits, or over the pixels of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (rows, columns), optional
    dtype : dtype
        Data type of the images.
    form : SsimForm
        Variant of SSIM.
    """

    def __init__(self, mask: Mask | None, dtype: np.dtype, form: SsimForm) -> None:
        self._radius = 3 if form.uniform else SSIM_RADIUS_PX
        offsets = np.arange(-self._radius, self._radius + 1)
        taps = np.ones(len(offsets)) if form.uniform else np.exp(-0.5 * (offsets / SSIM_SIGMA_PX) ** 2)
        self._taps = taps / taps.sum()
        self.sample_factor = 49 / 48 if form.uniform else 1.0
        self._mask = None
        if mask is not None:
            self._mask = (mask if form.border == "valid" else np.pad(mask, SSIM_RADIUS_PX)).astype(dtype)
            # Inside the mask the weight is at least the centre tap's; outside it does not matter.
            self._weight = np.maximum(self._blur(self._mask), self._taps[0] ** 2)

    def __call__(self, image: Image) -> Image:
        """Local means; without a mask smaller by the kernel's radius on each side."""
        if self._mask is not None:
            inside: Image = self._blur(image * self._mask)
            inside /= self._weight
            return inside
        inner = slice(self._radius, -self._radius)
        return self._blur(image)[inner, inner]

    def _blur(self, image: Image) -> Image:
        return _along_rows(_along_columns(image, self._taps), self._taps)


def _along_columns(image: Image, taps: NDArray[np.float64]) -> Image:
    """Convolve the columns with symmetric taps, zeros beyond the border; twice as fast as SciPy's correlate1d."""
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

"""Resolution: task transfer function (TTF) from a circular insert or a straight edge.

A denoiser is not linear: its resolution depends on the contrast of the edge, which is reported with the curve.

References
----------
AAPM Report 233 (TG-233), "Performance evaluation of computed tomography systems", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal, special

from ldct_denoise.errors import InputError
from ldct_denoise.metrics.statistics import small_sample_spread

Image = NDArray[np.floating]

#: Bins of the edge profile per pixel.
OVERSAMPLING = 8
#: An insert's edge profile reaches this fraction of the radius to both sides of the edge.
DISK_REACH = 0.8
#: Share of the line spread function that is tapered. A window that is not flat where the function is not zero,
#: such as Hann's, narrows it: by 6 % of f50 for an insert of 6 mm radius and a blur of 0.75 mm.
TAPERED = 0.5
#: The smallest insert that a TTF can be measured from: radius in pixels, and pixels near its edge.
MIN_RADIUS_PX, MIN_EDGE_PIXELS = 4, 50
#: Fewest realisations for an interval.
MIN_REALISATIONS = 3
#: The centre is searched in this multiple of the radius, and believed if the contrast is so many times its error.
CENTRE_REACH, MIN_CENTRE_SIGNIFICANCE = 1.6, 5.0


@dataclass(frozen=True)
class TaskTransfer:
    """A task transfer function.

    Parameters
    ----------
    frequency : ndarray, shape (n,)
        Rising from 0, 1/mm.
    value : ndarray, shape (n,)
        Dimensionless, 1 at frequency 0.
    contrast_hu : float
        Contrast of the edge it was measured on, inside − outside, HU.
    samples : ndarray, shape (m, n), optional
        Bootstrap samples of ``value`` over realisations.
    realisations : int
        Number of images with independent noise.
    """

    frequency: NDArray[np.float64]
    value: NDArray[np.float64]
    contrast_hu: float
    samples: NDArray[np.float64] | None = None
    realisations: int = 1

    def frequency_at(self, value: float) -> float:
        """Frequency at which the curve first falls to ``value`` (0.5: f50, 0.1: f10), 1/mm; NaN if it does not."""
        return _first_crossing(self.frequency, self.value, value)

    def frequency_interval(self, value: float) -> tuple[float, float]:
        """95 % interval of :meth:`frequency_at`, 1/mm.

        NaN without samples, or where some samples do not fall to the value. The bootstrap samples are spread for
        the small number of realisations (:func:`~ldct_denoise.metrics.statistics.small_sample_spread`).
        """
        estimate = self.frequency_at(value)
        if self.samples is None or not np.isfinite(estimate):
            return float("nan"), float("nan")
        found = np.array([_first_crossing(self.frequency, sample, value) for sample in self.samples])
        if np.isnan(found).any():
            return float("nan"), float("nan")
        found = estimate + small_sample_spread(self.realisations) * (found - found.mean())
        low, high = np.quantile(found, [0.025, 0.975])
        return float(low), float(high)


def ttf_of_disk(
    hu: Image,
    centre_px: tuple[float, float],
    radius_mm: float,
    pixel_spacing_mm: tuple[float, float],
    *,
    seed: int = 0,
    repeats: int = 200,
) -> TaskTransfer:
    """Task transfer function from the edge of a circular insert.

    The distance of every pixel from the centre gives the oversampled edge profile. Its derivative is the line
    spread function, and the modulus of the Fourier transform of that is the TTF. Give repeated slices if the
    contrast is not well above the noise: their profiles are averaged. A wrong centre blurs the profile; see
    :func:`find_disk_centre`.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns) or (realisations, rows, columns)
        One image, or images of the same object with independent noise, HU. Three or more give an interval.
    centre_px : tuple of 2 floats
        Row and column of the centre, pixels.
    radius_mm : float
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    seed : int
        Seed of the bootstrap over realisations.
    repeats : int
        Number of bootstrap samples.

    Returns
    -------
    TaskTransfer

    Raises
    ------
    InputError
        If the insert is too small, or not completely inside the image. Its surroundings may be cut off, because
        the profile is a mean over all directions.

    References
    ----------
    Richard et al., "Towards task-based assessment of CT performance: System and object MTF across different
    reconstruction algorithms", Med. Phys. 39, 2012.
    """
    stack = hu.reshape(-1, *hu.shape[-2:])
    middle, half = np.array(centre_px), radius_mm / np.array(pixel_spacing_mm)
    if np.any(middle - half < -0.5) or np.any(middle + half > np.array(stack.shape[1:]) - 0.5):
        raise InputError(
            f"an insert of radius {radius_mm:g} mm is not completely inside the image; check centre and radius"
        )
    distance = _distance_mm(stack.shape[1:], centre_px, pixel_spacing_mm)
    reach = DISK_REACH * radius_mm
    ring = np.abs(distance - radius_mm) < reach
    if ring.sum() < MIN_EDGE_PIXELS or radius_mm < MIN_RADIUS_PX * max(pixel_spacing_mm):
        raise InputError(
            f"an insert of radius {radius_mm:g} mm is too small for a TTF; give {MIN_RADIUS_PX} pixels or more"
        )
    step = min(pixel_spacing_mm) / OVERSAMPLING
    profiles = np.array([_edge_profile(radius_mm - distance[ring], image[ring], reach, step) for image in stack])
    curve = _transfer_of_profile(profiles.mean(axis=0), step)
    count = len(profiles)
    if count < MIN_REALISATIONS:
        return curve
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=repeats) / count
    samples = np.array([_transfer_of_profile(profile, step).value for profile in weights @ profiles])
    return replace(curve, samples=samples, realisations=count)


def find_disk_centre(
    hu: Image, centre_px: tuple[float, float], radius_mm: float, pixel_spacing_mm: tuple[float, float]
) -> tuple[float, float]:
    """Centre of a circular insert by least squares: a disc with a blurred edge, near the given centre.

    Position, radius, blur, contrast and background are fitted.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU; the mean of repeated slices where there are any.
    centre_px : tuple of 2 floats
        Row and column of the approximate centre, pixels.
    radius_mm : float
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    tuple of 2 floats
        Row and column, pixels. The given centre where the insert hardly stands out of the noise, or where the fit
        is further away than a third of the radius.
    """
    from scipy.optimize import least_squares

    spacing = np.array(pixel_spacing_mm)
    rows, columns = np.nonzero(_distance_mm(hu.shape, centre_px, pixel_spacing_mm) < CENTRE_REACH * radius_mm)
    values = np.asarray(hu[rows, columns], dtype=np.float64)
    y, x = (rows - centre_px[0]) * spacing[0], (columns - centre_px[1]) * spacing[1]

    def fit(parameters: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Residuals and contrast of the best disc with this shift, change of radius and blur."""
        down, along, wider, blur = parameters
        inside = special.ndtr((radius_mm + wider - np.hypot(y - down, x - along)) / max(abs(blur), 1e-3))
        level = inside - inside.mean()
        contrast = float(level @ values / max(level @ level, 1e-12))
        return values - values.mean() - contrast * level, contrast

    pixel_mm = float(spacing.mean())
    found = least_squares(lambda parameters: fit(parameters)[0], [0.0, 0.0, 0.0, pixel_mm], x_scale=pixel_mm)
    residual, contrast = fit(found.x)
    shift = found.x[:2]
    error = float(residual.std()) / np.sqrt(2 * np.pi * radius_mm / pixel_mm)
    if abs(contrast) < MIN_CENTRE_SIGNIFICANCE * error or np.hypot(*shift) > radius_mm / 3:
        return centre_px
    return centre_px[0] + float(shift[0] / spacing[0]), centre_px[1] + float(shift[1] / spacing[1])


def ttf_of_edge(hu: Image, pixel_spacing_mm: tuple[float, float]) -> TaskTransfer:
    """Task transfer function from one straight, slightly slanted edge that crosses a region.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        A region that contains nothing but the two sides of the edge, HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    TaskTransfer

    Raises
    ------
    InputError
        If the region is constant.

    References
    ----------
    ISO 12233, slanted-edge method.
    """
    smooth = ndimage.gaussian_filter(np.asarray(hu, dtype=np.float64), 1.5)
    down, along = np.gradient(smooth, *pixel_spacing_mm)
    weight = down**2 + along**2
    total = weight.sum()
    if total <= 0:
        raise InputError("the region holds no edge; choose one that an edge crosses")
    rows, columns = np.mgrid[: hu.shape[0], : hu.shape[1]] * np.reshape(pixel_spacing_mm, (2, 1, 1))
    centre = (weight * rows).sum() / total, (weight * columns).sum() / total
    angle = 0.5 * np.arctan2(2 * (down * along).sum(), (along**2 - down**2).sum())
    distance = (columns - centre[1]) * np.cos(angle) + (rows - centre[0]) * np.sin(angle)
    if (along * np.cos(angle) + down * np.sin(angle)).sum() < 0:
        distance = -distance
    reach = 0.9 * min(distance.max(), -distance.min())
    near = np.abs(distance) < reach
    step = min(pixel_spacing_mm) / OVERSAMPLING
    return _transfer_of_profile(_edge_profile(distance[near], hu[near], reach, step), step)


def _distance_mm(
    shape: tuple[int, ...], centre_px: tuple[float, float], pixel_spacing_mm: tuple[float, float]
) -> NDArray[np.float64]:
    """Distance of every pixel from a point, mm."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    distance: NDArray[np.float64] = np.hypot(
        (rows - centre_px[0]) * pixel_spacing_mm[0], (columns - centre_px[1]) * pixel_spacing_mm[1]
    )
    return distance


def _edge_profile(distance: Image, hu: Image, reach: float, step: float) -> NDArray[np.float64]:
    """Mean HU in bins of the signed distance from the edge, mm (positive inside)."""
    count = int(2 * reach / step)
    bins = np.clip(((distance + reach) / step).astype(int), 0, count - 1)
    size = np.bincount(bins, minlength=count)
    filled = np.flatnonzero(size)
    means = np.bincount(bins, weights=hu, minlength=count)[filled] / size[filled]
    return np.interp(np.arange(count), filled, means)


def _transfer_of_profile(profile: NDArray[np.float64], step: float) -> TaskTransfer:
    """Transfer function from an edge profile with bins of ``step`` mm."""
    count = len(profile)
    quarter = max(count // 6, 1)
    contrast = float(profile[-quarter:].mean() - profile[:quarter].mean())
    spread = np.diff(profile) * signal.windows.tukey(count - 1, TAPERED)
    padded = 8 * count
    value = np.abs(np.fft.rfft(spread, padded))
    frequency = np.fft.rfftfreq(padded, step)
    keep = frequency <= 1.5 / (2 * step * OVERSAMPLING)
    # Binning and the finite difference each multiply the spectrum by a sinc, which is divided out.
    known = np.sinc(frequency[keep] * step) ** 2
    curve = np.asarray(value[keep] / value[0] / known, dtype=np.float64)
    return TaskTransfer(np.asarray(frequency[keep], dtype=np.float64), curve, contrast)


def _first_crossing(frequency: NDArray[np.float64], curve: NDArray[np.float64], value: float) -> float:
    """Frequency at which a curve first falls to a value; NaN if it does not."""
    below = np.flatnonzero(curve < value)
    if not len(below) or below[0] == 0:
        return float("nan")
    after, before = below[0], below[0] - 1
    part = (curve[before] - value) / (curve[before] - curve[after])
    return float(frequency[before] + part * (frequency[after] - frequency[before]))

"""Quality checks of a denoised series without a reference: input against output alone.

Every check gets a status (green, amber, red) and a reason in words. The limits are this project's own, calibrated
as described in ``docs/reference/measurements.md``. They warn; they do not certify.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.metrics.checks import (
    Check,
    check_flicker,
    check_lesion_changes,
    check_noise,
    check_removed_anatomy,
    check_sharpness,
    check_shift,
    check_texture,
)
from ldct_denoise.metrics.contrast import Flicker
from ldct_denoise.metrics.lesion_changes import LesionChange, lesion_change_map, lesion_z_limits
from ldct_denoise.metrics.noise import global_noise_level, noise_map
from ldct_denoise.metrics.noise_change import AFTER, BEFORE, NoiseChange, noise_change
from ldct_denoise.metrics.unpaired_noise import RoiStack, stack_rois
from ldct_denoise.regions.body import body_mask
from ldct_denoise.regions.tissues import TISSUES, tissue_masks

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: σ of the Gaussian derivatives of the edge gradients, and of the smoothing that finds strong edges, pixels.
EDGE_SIGMA_PX, STRONG_EDGE_SIGMA_PX = 1.0, 1.5
#: σ of the two Gaussians whose difference is the detail band, pixels.
DETAIL_SIGMA_PX = (2.0, 4.0)
#: Percentile of the gradient above which pixels are strong edges, for sharpness and for the residual correlation.
STRONG_EDGE_PERCENTILE, DETAIL_EDGE_PERCENTILE = 98, 95
#: Fewest pixels of a tissue in a slice.
MIN_TISSUE_PX = 400
#: Side of the neighbourhood of the correlation map, pixels.
BLOCK_PX = 32
#: Lesion-sized changes with a smaller absolute z are not listed, and no more of a series than so many.
LISTED_Z, LISTED_CHANGES = 4.0, 20


@dataclass(frozen=True)
class NoReferenceReport:
    """Measurements of a series before and after denoising, and the checks.

    Parameters
    ----------
    checks : tuple of Check
    noise_hu : mapping from tissue to (before, after)
        Global noise level, HU.
    shift_hu : mapping from tissue to float
        Mean of after − before, HU.
    noise : NoiseChange or None
        Noise power spectra, and what follows from them; None if no ROI was found.
    slices : int
        Number of slices on which everything was measured.
    lesion_changes : tuple of LesionChange
        Largest lesion-sized changes of all slices, the largest first.
    lesion_z_limits : tuple of 2 floats
        Limits (amber, red) of their absolute z.
    """

    checks: tuple[Check, ...]
    noise_hu: Mapping[str, tuple[float, float]]
    shift_hu: Mapping[str, float]
    noise: NoiseChange | None
    slices: int
    lesion_changes: tuple[LesionChange, ...]
    lesion_z_limits: tuple[float, float]


@dataclass
class _Accumulator:
    """Sums over the slices."""

    flicker: tuple[Flicker, Flicker]
    levels: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    shifts: dict[str, list[float]] = field(default_factory=dict)
    rois: list[RoiStack] = field(default_factory=list)
    gradients: list[tuple[float, float]] = field(default_factory=list)
    residuals: list[tuple[float, float, float]] = field(default_factory=list)
    changes: list[LesionChange] = field(default_factory=list)
    searched: list[tuple[int, int, float]] = field(default_factory=list)


def no_reference_report(
    slices: Iterable[tuple[Image, Image]],
    pixel_spacing_mm: tuple[float, float],
    progress: Callable[[int], None] | None = None,
    *,
    offsets_mm: Sequence[float] = (),
    slice_spacing_mm: float = 1.0,
    sampled: Container[int] | None = None,
) -> NoReferenceReport:
    """Measure a series before and after denoising, without a reference.

    Parameters
    ----------
    slices : iterable of (before, after)
        HU, in order along the patient; read one after the other.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    progress : callable, optional
        Called with the number of slices done.
    offsets_mm : sequence of float
        Position of each slice along the normal, mm. By default the slices are contiguous.
    slice_spacing_mm : float
        Distance of neighbouring slices, mm; flicker is measured between those.
    sampled : container of int, optional
        Numbers of the slices on which everything is measured; by default all. The others are only searched for
        lesion-sized changes.

    Returns
    -------
    NoReferenceReport
    """
    sums, measured = _Accumulator((Flicker(slice_spacing_mm), Flicker(slice_spacing_mm))), 0
    offsets = list(offsets_mm)
    for number, (before, after) in enumerate(slices):
        if not offsets_mm:
            offsets.append(number * slice_spacing_mm)
        body = body_mask(before, pixel_spacing_mm)
        _find_lesion_changes(sums, before, after, body, pixel_spacing_mm, number)
        if sampled is None or number in sampled:
            images = np.asarray(before, np.float64), np.asarray(after, np.float64)
            _add_slice(sums, *images, body, pixel_spacing_mm, offsets[number])
            measured += 1
        if progress:
            progress(number + 1)
    changes = tuple(sorted(sums.changes, key=lambda change: -abs(change.z))[:LISTED_CHANGES])
    found_px, body_px, area_cm2 = (sum(item[part] for item in sums.searched) for part in range(3))
    limits = lesion_z_limits(area_cm2)
    noise = noise_change(sums.rois, pixel_spacing_mm)
    noise_hu = _noise_levels(sums, noise.coarse_factors if noise else (1.0, 1.0))
    shift_hu = {tissue: float(np.mean(values)) for tissue, values in sums.shifts.items()}
    product, square = (sum(item[part] for item in sums.gradients) for part in (0, 1))
    totals = (sum(item[part] for item in sums.residuals) for part in range(3))
    checks = (
        check_noise(noise_hu),
        check_shift(shift_hu),
        check_sharpness(product / square if square > 0 else float("nan")),
        check_removed_anatomy(correlation_of_sums(*totals)),
        check_lesion_changes(changes, found_px / max(body_px, 1), limits, offsets),
        check_flicker(*(flicker.value_hu for flicker in sums.flicker)),
        check_texture(noise.texture if noise else (float("nan"), float("nan"))),
    )
    found = tuple(check for check in checks if check is not None)
    return NoReferenceReport(found, noise_hu, shift_hu, noise, measured, changes, limits)


def residual_edge_correlation(before: Image, after: Image, body: Mask) -> float:
    """Correlation of the removed signal with the detail of the input, at the input's edges (−1 to 1).

    ``Σ r·d / √(Σ r² · Σ d²)`` over the strongest 5 % of the edges inside the body. ``r`` is the band-passed
    residual (before − after) and ``d`` the band-passed input; the band is a difference of Gaussians (σ = 2 and 4
    pixels), in which noise is weak against anatomy. If only noise was removed the correlation is near 0. A blurred
    edge or a removed lesion leaves its own detail in the residual: 0.6 and more for a blur
    (``docs/reference/measurements.md``).

    Parameters
    ----------
    before, after : ndarray, shape (rows, columns)
        Image before and after denoising, HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask; see :func:`~ldct_denoise.regions.body.body_mask`.

    Returns
    -------
    float
        NaN where the body holds no edge or nothing was removed.

    See Also
    --------
    residual_edge_sums : The sums, to pool several slices.
    """
    return correlation_of_sums(*residual_edge_sums(before, after, body))


def residual_edge_sums(before: Image, after: Image, body: Mask) -> tuple[float, float, float]:
    """The sums of :func:`residual_edge_correlation`: (Σ r·d, Σ r², Σ d²).

    Parameters
    ----------
    before, after : ndarray, shape (rows, columns)
        Image before and after denoising, HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask.

    Returns
    -------
    tuple of 3 floats
        Add them up over slices and give the totals to :func:`correlation_of_sums`.
    """
    residual, detail, edges = _residual_and_detail(
        np.asarray(before, np.float64), np.asarray(after, np.float64), body
    )
    return (
        float(np.sum((residual * detail)[edges])),
        float(np.sum(residual[edges] ** 2)),
        float(np.sum(detail[edges] ** 2)),
    )


def correlation_of_sums(product: float, first: float, second: float) -> float:
    """Correlation from sums: ``product / √(first · second)``.

    Parameters
    ----------
    product, first, second : float
        Totals of the sums of :func:`residual_edge_sums`.

    Returns
    -------
    float
        −1 to 1; NaN if ``first`` or ``second`` is 0.
    """
    return product / float(np.sqrt(first * second)) if first > 0 and second > 0 else float("nan")


def edge_gradient_sums(before: Image, after: Image, body: Mask) -> tuple[float, float]:
    """Sums for the ratio of edge gradients after/before: (Σ g_after·g_before, Σ g_before·g_before).

    Over the strongest 2 % of the edges of the smoothed input, where noise is weak. The ratio of the sums is 1 if
    the edges keep their sharpness, and less if they are blurred.

    Parameters
    ----------
    before, after : ndarray, shape (rows, columns)
        Image before and after denoising, HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask.

    Returns
    -------
    tuple of 2 floats
        (HU/pixel)².
    """
    first, second = _gradients(before), _gradients(after)
    strength = np.hypot(*_gradients(ndimage.gaussian_filter(before, STRONG_EDGE_SIGMA_PX)))
    wide = ndimage.binary_dilation(body, iterations=3)
    strong = wide & (strength >= np.percentile(strength[wide], STRONG_EDGE_PERCENTILE)) if wide.any() else wide
    product = sum((a * b)[strong].sum() for a, b in zip(first, second, strict=True))
    square = sum((a * a)[strong].sum() for a in first)
    return float(product), float(square)


def residual_edge_map(before: Image, after: Image, body: Mask) -> NDArray[np.float64]:
    """Map of :func:`residual_edge_correlation` within neighbourhoods of 32×32 pixels.

    Parameters
    ----------
    before, after : ndarray, shape (rows, columns)
        Image before and after denoising, HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask.

    Returns
    -------
    ndarray, shape (rows, columns)
        −1 to 1; 0 where the neighbourhood holds fewer than 32 edge pixels, because noise alone would decide there.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    residual, detail, edges = _residual_and_detail(before, after, body)
    weight = edges.astype(np.float64)
    product, first, second, share = (
        ndimage.uniform_filter(weight * values, BLOCK_PX)
        for values in (residual * detail, residual**2, detail**2, np.ones_like(weight))
    )
    scale = np.sqrt(np.maximum(first * second, 0))
    measured = (share * BLOCK_PX**2 > BLOCK_PX) & (scale > 1e-6) & body
    return np.where(measured, product / np.maximum(scale, 1e-6), 0.0)


def _find_lesion_changes(
    sums: _Accumulator, before: Image, after: Image, body: Mask, spacing: tuple[float, float], number: int
) -> None:
    found = lesion_change_map(before, after, body, spacing)
    sums.changes += [replace(change, slice_number=number) for change in found.changes(LISTED_Z, LISTED_CHANGES)]
    searched = int(np.count_nonzero(found.measured)), int(np.count_nonzero(body)), found.area_cm2
    sums.searched.append(searched)


def _add_slice(
    sums: _Accumulator, before: Image, after: Image, body: Mask, spacing: tuple[float, float], offset_mm: float
) -> None:
    if not body.any():
        return
    noise_before, noise_after = noise_map(before, spacing), noise_map(after, spacing)
    # Tissues are found on the output: found on the input, its own noise would decide what counts as tissue.
    for tissue, mask in tissue_masks(after, TISSUES, spacing, body).items():
        if mask.sum() < MIN_TISSUE_PX:
            continue
        level = global_noise_level(noise_before, mask), global_noise_level(noise_after, mask)
        sums.levels.setdefault(tissue, []).append(level)
        sums.shifts.setdefault(tissue, []).append(float(np.mean((after - before)[mask])))
    rois = stack_rois({BEFORE: before, AFTER: after}, BEFORE, body, spacing)
    if rois:
        sums.rois.append(rois)
    sums.gradients.append(edge_gradient_sums(before, after, body))
    sums.residuals.append(residual_edge_sums(before, after, body))
    for flicker, image in zip(sums.flicker, (before, after), strict=True):
        flicker.add(image, body, offset_mm)


def _residual_and_detail(before: Image, after: Image, body: Mask) -> tuple[Image, Image, Mask]:
    inner = ndimage.binary_erosion(body, iterations=6)
    strength = np.hypot(*np.gradient(ndimage.gaussian_filter(before, DETAIL_SIGMA_PX[0])))
    edges = inner & (strength >= np.percentile(strength[inner], DETAIL_EDGE_PERCENTILE)) if inner.any() else inner
    return _detail(before - after), _detail(before), edges


def _detail(image: Image) -> Image:
    fine, coarse = (ndimage.gaussian_filter(image, sigma) for sigma in DETAIL_SIGMA_PX)
    difference: Image = fine - coarse
    return difference


def _gradients(image: Image) -> tuple[Image, Image]:
    return tuple(ndimage.gaussian_filter(image, EDGE_SIGMA_PX, order=order) for order in ((1, 0), (0, 1)))  # type: ignore[return-value]


def _noise_levels(sums: _Accumulator, factors: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """Global noise level by tissue before and after, corrected for coarse noise."""
    means = {tissue: _mean_pair(levels) for tissue, levels in sums.levels.items()}
    return {tissue: (before * factors[0], after * factors[1]) for tissue, (before, after) in means.items()}


def _mean_pair(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(np.array(pairs), axis=0)
    return float(first), float(second)

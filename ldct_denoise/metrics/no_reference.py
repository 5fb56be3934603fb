"""What can be said of a denoised series without a reference: input against output alone.

Every item gets a colour and its reason in words. The limits are this project's own judgement, calibrated as
``docs/measurements.md`` tells; they warn, they do not certify.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.metrics.contrast import Flicker
from ldct_denoise.metrics.noise import (
    RadialSpectrum,
    global_noise_level,
    noise_map,
    noise_power_spectrum,
    noise_reduction_profile,
)
from ldct_denoise.metrics.series_noise import RING_PER_MM, uniform_soft_tissue_rois
from ldct_denoise.regions.body import body_mask
from ldct_denoise.regions.tissues import TISSUES, tissue_masks

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

EDGE_SIGMA_PX = 1.0
DETAIL_SIGMA_PX = (2.0, 4.0)
MAX_HU_SHIFT = (1.0, 3.0)  # amber, red
MIN_EDGE_SHARPNESS = (0.95, 0.85)
MAX_STRUCTURE = (0.2, 0.4)
MAX_FLICKER_RISE = (0.10, 0.30)
BLOCK_PX = 32
CHECKED_TISSUES = (
    "fat",
    "soft-tissue",
)  # bone and lung are never flat: their shift depends on where the mask ends


@dataclass(frozen=True)
class Item:
    """One judged line: ``colour`` is green, amber or red."""

    name: str
    colour: str
    reason: str
    value: float


@dataclass(frozen=True)
class NoReferenceReport:
    """Numbers of a series before and after, and what they mean.

    Parameters
    ----------
    items : tuple of Item
    noise_hu : mapping from tissue to (before, after)
        Global noise level.
    shift_hu : mapping from tissue to float
        Mean of after − before.
    before, after, profile : RadialSpectrum or None
        Noise power spectra in uniform regions, and their ratio in dB; None where no uniform region was found.
    slices : int
        How many slices were measured.
    """

    items: tuple[Item, ...]
    noise_hu: Mapping[str, tuple[float, float]]
    shift_hu: Mapping[str, float]
    before: RadialSpectrum | None
    after: RadialSpectrum | None
    profile: RadialSpectrum | None
    slices: int


@dataclass
class _Sums:
    """What is gathered slice by slice."""

    flicker: tuple[Flicker, Flicker]
    levels: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    shifts: dict[str, list[float]] = field(default_factory=dict)
    rois: list[tuple[Image, Image]] = field(default_factory=list)
    edges: list[tuple[float, float]] = field(default_factory=list)
    structure: list[tuple[float, float, float]] = field(default_factory=list)


def no_reference_report(
    slices: Iterable[tuple[Image, Image]],
    pixel_spacing_mm: tuple[float, float],
    progress: Callable[[int], None] | None = None,
    *,
    offsets_mm: Sequence[float] = (),
    slice_spacing_mm: float = 1.0,
) -> NoReferenceReport:
    """Measure pairs of slices before and after denoising, in order along the patient.

    Parameters
    ----------
    slices : iterable of (before, after)
        HU; read one after the other.
    pixel_spacing_mm : tuple of 2 floats
    progress : callable, optional
        Called with the number of slices done.
    offsets_mm : sequence of float
        Where each slice lies along the normal; each is the next one's neighbour if this is not given.
    slice_spacing_mm : float
        Distance of neighbours, between which flicker is measured.
    """
    sums, done = _Sums((Flicker(slice_spacing_mm), Flicker(slice_spacing_mm))), 0
    offsets = offsets_mm or count(step=slice_spacing_mm)
    for (before, after), offset in zip(slices, offsets, strict=bool(offsets_mm)):
        _gather(sums, np.asarray(before, np.float64), np.asarray(after, np.float64), pixel_spacing_mm, offset)
        done += 1
        if progress:
            progress(done)
    noise_hu = {tissue: _mean_pair(levels) for tissue, levels in sums.levels.items()}
    shift_hu = {tissue: float(np.mean(values)) for tissue, values in sums.shifts.items()}
    before_nps, after_nps, profile = _spectra(sums.rois, pixel_spacing_mm)
    items = [_noise_item(noise_hu), _shift_item(shift_hu), _edge_item(sums.edges), _structure_item(sums.structure)]
    items += [_flicker_item(*sums.flicker), _texture_item(before_nps, after_nps)]
    kept = tuple(item for item in items if item is not None)
    return NoReferenceReport(kept, noise_hu, shift_hu, before_nps, after_nps, profile, done)


def residual_edge_correlation(before: Image, after: Image, body: Mask) -> float:
    """Correlation of the removed signal with the detail of the input, at the input's edges (−1 to 1).

    ``Σ r·d / √(Σ r² · Σ d²)`` over the strongest 5 % of the edges inside the body. ``r`` is the band-passed
    residual (before − after) and ``d`` the band-passed input; the band is a difference of Gaussians (σ = 2 and 4
    pixels), in which noise is weak against anatomy. If only noise was removed the correlation is near 0. A blurred
    edge or a removed lesion leaves its own detail in the residual: 0.6 and more for a blur
    (``docs/measurements.md``).

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
    """``product / √(first · second)``; NaN where one of the two powers is 0."""
    return product / float(np.sqrt(first * second)) if first > 0 and second > 0 else float("nan")


def edge_sharpness(before: Image, after: Image, body: Mask) -> tuple[float, float]:
    """Sums for the ratio of edge gradients after/before: (Σ g_after·g_before, Σ g_before·g_before).

    Over the strongest edges of the smoothed input (the top 2 % of the body), where noise hardly counts.
    """
    first, second = _gradients(before), _gradients(after)
    strength = np.hypot(*_gradients(ndimage.gaussian_filter(before, 1.5)))
    wide = ndimage.binary_dilation(body, iterations=3)
    strong = wide & (strength >= np.percentile(strength[wide], 98)) if wide.any() else wide
    product = sum((a * b)[strong].sum() for a, b in zip(first, second, strict=True))
    square = sum((a * a)[strong].sum() for a in first)
    return float(product), float(square)


def _gather(sums: _Sums, before: Image, after: Image, spacing: tuple[float, float], offset_mm: float) -> None:
    body = body_mask(before, spacing)
    if not body.any():
        return
    noise_before, noise_after = noise_map(before, spacing), noise_map(after, spacing)
    # Found on the output: chosen on the input, its own noise would decide what counts as tissue.
    for tissue, mask in tissue_masks(after, TISSUES, spacing, body).items():
        if mask.sum() < 400:
            continue
        level = global_noise_level(noise_before, mask), global_noise_level(noise_after, mask)
        sums.levels.setdefault(tissue, []).append(level)
        sums.shifts.setdefault(tissue, []).append(float(np.mean((after - before)[mask])))
    for place in uniform_soft_tissue_rois(before, body, spacing):
        sums.rois.append((before[place], after[place]))
    sums.edges.append(edge_sharpness(before, after, body))
    sums.structure.append(residual_edge_sums(before, after, body))
    for flicker, image in zip(sums.flicker, (before, after), strict=True):
        flicker.add(image, body, offset_mm)


def _residual_and_detail(before: Image, after: Image, body: Mask) -> tuple[Image, Image, Mask]:
    inner = ndimage.binary_erosion(body, iterations=6)
    strength = np.hypot(*np.gradient(ndimage.gaussian_filter(before, DETAIL_SIGMA_PX[0])))
    edges = inner & (strength >= np.percentile(strength[inner], 95)) if inner.any() else inner
    return _detail(before - after), _detail(before), edges


def _detail(image: Image) -> Image:
    fine, coarse = (ndimage.gaussian_filter(image, sigma) for sigma in DETAIL_SIGMA_PX)
    difference: Image = fine - coarse
    return difference


def structure_map(before: Image, after: Image, body: Mask) -> NDArray[np.float64]:
    """:func:`residual_edge_correlation` place by place: the correlation at the edges within 32×32 pixels.

    0 where fewer than 32 pixels of an edge are near: noise alone would decide there.

    Parameters
    ----------
    before, after : ndarray, shape (rows, columns)
        HU.
    body : ndarray of bool
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    residual, detail, edges = _residual_and_detail(before, after, body)
    weight = edges.astype(np.float64)
    product, first, second, count = (
        ndimage.uniform_filter(weight * values, BLOCK_PX)
        for values in (residual * detail, residual**2, detail**2, np.ones_like(weight))
    )
    scale = np.sqrt(np.maximum(first * second, 0))
    near = (count * BLOCK_PX**2 > BLOCK_PX) & (scale > 1e-6) & body
    return np.where(near, product / np.maximum(scale, 1e-6), 0.0)


def _gradients(image: Image) -> tuple[Image, Image]:
    return tuple(ndimage.gaussian_filter(image, EDGE_SIGMA_PX, order=order) for order in ((1, 0), (0, 1)))  # type: ignore[return-value]


def _spectra(
    rois: list[tuple[Image, Image]], spacing: tuple[float, float]
) -> tuple[RadialSpectrum | None, RadialSpectrum | None, RadialSpectrum | None]:
    if not rois:
        return None, None, None
    before, after = (
        noise_power_spectrum(np.array(stack), spacing).radial(RING_PER_MM) for stack in zip(*rois, strict=True)
    )
    return before, after, noise_reduction_profile(before, after)


def _colour(value: float, limits: tuple[float, float], above_is_bad: bool = True) -> str:
    sign = 1 if above_is_bad else -1
    amber, red = limits
    if sign * value > sign * red:
        return "red"
    return "amber" if sign * value > sign * amber else "green"


def _noise_item(noise_hu: Mapping[str, tuple[float, float]]) -> Item | None:
    if not noise_hu:
        return None
    tissue = "soft-tissue" if "soft-tissue" in noise_hu else next(iter(noise_hu))
    before, after = noise_hu[tissue]
    change = after / before - 1 if before > 0 else 0.0
    words = f"global noise level in {tissue}: {before:.1f} HU before, {after:.1f} HU after ({100 * change:+.0f} %)"
    if change > 0.02:
        return Item("noise", "red", f"{words}; the output is noisier", change)
    if change < -0.9:
        return Item("noise", "amber", f"{words}; so little noise is left that texture may be gone with it", change)
    return Item("noise", "green", words, change)


def _shift_item(shift_hu: Mapping[str, float]) -> Item | None:
    if not shift_hu:
        return None
    judged = [tissue for tissue in CHECKED_TISSUES if tissue in shift_hu] or list(shift_hu)
    worst = max(judged, key=lambda tissue: abs(shift_hu[tissue]))
    words = ", ".join(f"{tissue} {value:+.2f} HU" for tissue, value in shift_hu.items())
    colour = _colour(abs(shift_hu[worst]), MAX_HU_SHIFT)
    tail = "" if colour == "green" else f"; {worst} moved by more than {MAX_HU_SHIFT[0]:g} HU"
    return Item("mean HU", colour, f"mean HU after − before: {words}{tail}", shift_hu[worst])


def _edge_item(edges: list[tuple[float, float]]) -> Item | None:
    square = sum(item[1] for item in edges)
    if square <= 0:
        return None
    ratio = sum(item[0] for item in edges) / square
    colour = _colour(ratio, MIN_EDGE_SHARPNESS, above_is_bad=False)
    tail = "" if colour == "green" else "; strong edges are flatter than in the input"
    return Item("edge sharpness", colour, f"strong edges keep {100 * ratio:.1f} % of their gradient{tail}", ratio)


def _structure_item(structure: list[tuple[float, float, float]]) -> Item | None:
    product, first, second = (sum(item[part] for item in structure) for part in range(3))
    value = correlation_of_sums(product, first, second)
    if np.isnan(value):
        return None
    colour = _colour(abs(value), MAX_STRUCTURE)
    tail = "; little of the anatomy's edges is in it"
    if colour != "green":
        tail = "; anatomy may have been removed with the noise: look at the difference image"
    reason = f"what was removed correlates with the image's detail at edges by {value:+.2f}{tail}"
    return Item("structure in the removed noise", colour, reason, float(value))


def _flicker_item(before: Flicker, after: Flicker) -> Item | None:
    if not np.isfinite(before.value_hu) or before.value_hu <= 0:
        return None
    rise = after.value_hu / before.value_hu - 1
    colour = _colour(rise, MAX_FLICKER_RISE)
    words = f"neighbouring slices differ by {before.value_hu:.1f} HU before and {after.value_hu:.1f} HU after"
    tail = "" if colour == "green" else "; the output jumps more from slice to slice than the input"
    return Item("flicker", colour, f"{words} (block means, rms){tail}", rise)


def _texture_item(before: RadialSpectrum | None, after: RadialSpectrum | None) -> Item | None:
    if before is None or after is None or not after.power.sum() > 0:
        return None
    change = after.mean_frequency / before.mean_frequency - 1
    colour = "amber" if change < -0.4 else "green"
    words = f"mean noise frequency {before.mean_frequency:.2f} /mm before, {after.mean_frequency:.2f} /mm after"
    tail = "; the remaining noise is much coarser (blotchy)" if colour == "amber" else ""
    return Item("noise texture", colour, words + tail, change)


def _mean_pair(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(np.array(pairs), axis=0)
    return float(first), float(second)

"""Shift between the images of a pair whose headers state the same position.

In a public quarter-dose series the slices are 0.07 to 0.10 of an increment away from those of full dose. Such a
shift adds anatomy to every difference of the pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.volume import SeriesView, SliceSource, spread_indices

Image = NDArray[np.floating]

#: Shifts above this are reported: share of the slice increment, or pixels.
REPORTED_SHIFT = 0.03
#: Slices of a pair on which the shift is estimated, evenly spread.
ESTIMATED_SLICES = 6
#: σ of the Gaussian that removes most of the noise first, pixels, and the HU range of the anatomy that is matched.
SMOOTHING_PX, MATCHED_HU = 1.5, (-300.0, 400.0)
#: Width of the border that is left out, at least, and smallest side of what remains, pixels.
BORDER_PX, MIN_INNER_PX = 4, 4
#: Neighbours farther away than this do not show the same anatomy, mm.
MAX_INCREMENT_MM = 5.0
#: A shift is known if its standard error is below this (increments or pixels).
MAX_ERROR = 0.0075
#: The fit is repeated until it changes by less, at most so many times.
CONVERGED, MAX_ITERATIONS = 0.002, 5


class Shift(NamedTuple):
    """Position of the content of an image relative to that of the reference.

    Parameters
    ----------
    slices : float
        Towards higher slice indices of the reference, as a share of its increment; NaN if it cannot be known.
    rows, columns : float
        Pixels, towards higher indices; NaN if they cannot be known.
    """

    slices: float
    rows: float
    columns: float

    @property
    def is_notable(self) -> bool:
        """Whether any known component is above 0.03."""
        return any(abs(value) > REPORTED_SHIFT for value in self if np.isfinite(value))

    def __str__(self) -> str:
        """The known components in words."""
        units = (
            f"{self.slices:+.2f} of a slice increment",
            f"{self.rows:+.2f} rows",
            f"{self.columns:+.2f} columns",
        )
        return ", ".join(text for text, value in zip(units, self, strict=True) if np.isfinite(value))


def estimate_shift(reference: SliceSource, image: SliceSource, indices: Sequence[tuple[int, int]]) -> Shift:
    """Estimate the shift of an image against its reference.

    In-plane, whole pixels come from phase correlation. The rest is a least-squares fit of the image by the
    reference, its in-plane gradient, and the difference of its neighbouring slices, repeated until it is stable.

    Parameters
    ----------
    reference : SliceSource
        Normal-dose series, with its neighbouring slices.
    image : SliceSource
        Series with slices of the same size.
    indices : sequence of (int, int)
        Paired slices: (index in ``reference``, index in ``image``).

    Returns
    -------
    Shift
        Median over at most 6 slices; components with a standard error above 0.0075 are NaN.
    """
    with_neighbours = [pair for pair in indices if has_neighbours(reference, pair[0])]
    chosen = with_neighbours or list(indices)
    fits = []
    for number in spread_indices(len(chosen), ESTIMATED_SLICES):
        at, other = chosen[number]
        around = [reference.read_hu(index) for index in (at - 1, at, at + 1)] if with_neighbours else []
        fits.append(fit_shift(around or [reference.read_hu(at)], image.read_hu(other)))
    if not fits:
        return Shift(np.nan, np.nan, np.nan)
    shifts, errors = (np.array(values) for values in zip(*fits, strict=True))
    known = np.array([_weighted_median(shifts[:, part], errors[:, part]) for part in range(3)])
    with np.errstate(divide="ignore"):
        error = 1 / np.sqrt((1 / np.maximum(errors, 1e-9) ** 2).sum(axis=0))
    return Shift(*(float(value) for value in np.where(error < MAX_ERROR, known, np.nan)))


def fit_shift(reference: Sequence[Image], image: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the shift of one slice.

    Parameters
    ----------
    reference : sequence of ndarray, shape (rows, columns)
        The slice before, at and after the position, HU; or that at the position alone.
    image : ndarray, shape (rows, columns)
        HU.

    Returns
    -------
    shift : ndarray, shape (3,)
        Slices, rows, columns.
    error : ndarray, shape (3,)
        Standard errors; infinite where nothing was fitted.
    """
    # The border is left out: there the shifted image is extrapolated.
    inner = tuple(slice(margin, -margin) for margin in (max(BORDER_PX, side // 32) for side in image.shape))
    if min(image[inner].shape) < MIN_INNER_PX:
        return np.zeros(3), np.full(3, np.inf)
    slices = [_smooth(values) for values in reference]
    target, middle = _smooth(image), slices[len(slices) // 2]
    shift, error = np.array([0.0, *_whole_pixels(middle, target)]), np.full(3, np.inf)
    for _ in range(MAX_ITERATIONS):
        moved = _moved(_interpolate(slices, -shift[0]), shift[1:])
        slopes = {part + 1: -slope for part, slope in enumerate(np.gradient(moved))}
        if len(slices) == 3:
            step = (slices[2] - slices[0]) / 2 - shift[0] * (slices[2] - 2 * slices[1] + slices[0])
            slopes[0] = -_moved(step, shift[1:])
        parts = [part for part, slope in slopes.items() if slope[inner].std() > 1e-3]  # HU; others are flat
        if not parts:
            break
        design = np.stack([slopes[part][inner].ravel() for part in parts], axis=1)
        residual = (target - moved)[inner].ravel()
        inverse = np.linalg.pinv(design.T @ design)
        update = inverse @ (design.T @ residual)
        shift[parts] += update
        # Smoothing correlates the noise of neighbouring pixels: fewer of them are independent.
        correlated = 4 * np.pi * SMOOTHING_PX**2
        error[parts] = np.sqrt(np.diag(inverse) * (residual - design @ update).var() * correlated)
        if np.abs(update).max() < CONVERGED:
            break
    return shift, np.maximum(error, 1e-9)


@dataclass(frozen=True)
class ShiftedSeries(SeriesView):
    """A series whose slices are interpolated at shifted positions, under the positions of the headers.

    Parameters
    ----------
    source : SliceSource
    shift : Shift
        Unknown components count as 0. Along z by a parabola through three slices, in-plane by cubic splines.
    """

    shift: Shift

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one interpolated slice in HU; without neighbours it is shifted in-plane only."""
        along, *plane = (value if np.isfinite(value) else 0.0 for value in self.shift)
        numbers = [index - 1, index, index + 1] if along and has_neighbours(self.source, index) else [index]
        values = _interpolate([self.source.read_hu(number).astype(np.float64) for number in numbers], -along)
        return _moved(values, np.array(plane)).astype(np.float32)


def check_registration(
    reference: SliceSource, images: Mapping[str, tuple[SliceSource, Sequence[tuple[int, int]]]], register: bool
) -> tuple[SliceSource, list[dict[str, object]], list[str]]:
    """Estimate the shift of every image of a series, and interpolate the reference if asked for.

    Parameters
    ----------
    reference : SliceSource
    images : mapping from model to (SliceSource, pairs of indices)
        The pairs are (index in ``reference``, index in the image). The first image decides how the reference is
        shifted.
    register : bool
        Shift the reference.

    Returns
    -------
    reference : SliceSource
        Interpolated where ``register`` is given and a shift is known.
    entries : list of dict
        ``model``, ``slices``, ``rows``, ``columns`` (None: not known) and ``registered``.
    notes : list of str
        On shifts above 0.03 of an increment or pixel.
    """
    shifts = {model: estimate_shift(reference, *found) for model, found in images.items()}
    first = next(iter(shifts.values()))
    registered = register and any(np.isfinite(first))
    entries: list[dict[str, object]] = [
        {
            "model": model,
            **{axis: float(value) if np.isfinite(value) else None for axis, value in shift._asdict().items()},
            "registered": registered,
        }
        for model, shift in shifts.items()
    ]
    notes = []
    for model, shift in shifts.items():
        if shift.is_notable:
            remedy = (
                "the reference was interpolated there" if registered else "--register interpolates the reference"
            )
            name = images[model][0].name or images[model][0].uid
            notes.append(f"the {model} of {name} is shifted against the reference by {shift}; {remedy}")
    return (ShiftedSeries(reference, first) if registered else reference), entries, notes


def has_neighbours(source: SliceSource, index: int) -> bool:
    """Whether a slice has a neighbour on both sides, equally far away and not beyond 5 mm."""
    offsets = source.geometry.offsets_mm
    if not 0 < index < len(offsets) - 1:
        return False
    before, after = np.abs(np.diff(offsets[index - 1 : index + 2]))
    return bool(max(before, after) <= MAX_INCREMENT_MM and abs(before - after) < 0.1 * max(before, after))


def _interpolate(slices: Sequence[Image], share: float) -> Image:
    """Value at a share of the increment beyond the middle slice, by a parabola; a single slice is returned."""
    if len(slices) == 1:
        return slices[0]
    before, at, after = slices
    return at + share * (after - before) / 2 + share**2 * (after - 2 * at + before) / 2


def _moved(values: Image, pixels: NDArray[np.float64]) -> Image:
    """Shift in-plane by cubic splines."""
    if not np.any(pixels):
        return values
    moved: Image = ndimage.shift(values, pixels, order=3, mode="nearest")
    return moved


def _smooth(hu: Image) -> Image:
    clipped = np.clip(np.asarray(hu, np.float64), *MATCHED_HU)
    smooth: Image = ndimage.gaussian_filter(clipped, SMOOTHING_PX)
    return smooth


def _whole_pixels(reference: Image, image: Image) -> NDArray[np.float64]:
    """In-plane shift in whole pixels by phase correlation."""
    from skimage.registration import phase_cross_correlation

    if not reference.std() or not image.std():
        return np.zeros(2)
    found = phase_cross_correlation(reference, image, normalization=None)[0]
    return -np.asarray(found, np.float64)


def _weighted_median(values: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """Median with weights 1/error²."""
    order = np.argsort(values)
    weight = 1 / np.maximum(errors[order], 1e-9) ** 2
    total = np.cumsum(weight)
    return float(values[order][np.searchsorted(total, total[-1] / 2)]) if total[-1] > 0 else float("nan")

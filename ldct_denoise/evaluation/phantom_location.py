"""Locating a phantom in its scan: axis, kind, roll, and the module with the inserts.

The outline of every slice gives the axis. The mean HU in discs on the circle of the inserts, as a function of
angle, is compared with that of the phantom's nominal layout: the best correlation over all slices and rolls gives
kind, roll, and the slices with the inserts. A mirrored layout means that the phantom was scanned from its other
end, so that its modules follow in the opposite order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.phantoms.qa_phantoms import Module, PhantomInsert, QaPhantom, draw_inserts, polar_mm
from ldct_denoise.regions.body import body_mask
from ldct_denoise.volume import SliceSource

Image = NDArray[np.floating]

#: An outline's radius may differ from the phantom's by this fraction.
RADIUS_TOLERANCE = 0.12
#: Largest roll, degrees: a phantom that is mounted with a level. Catphan 504 and 600 differ by half a turn.
MAX_ROLL_DEG = 30
#: The best correlation of a scan of the phantom is at least this, and slices within this of it show the inserts.
MIN_CORRELATION, CORRELATION_DROP = 0.85, 0.1
#: Correlations that differ by less are equal; then the uniform module decides.
EQUAL_CORRELATION = 0.03
#: Half the side of the square that is averaged at every angle, mm.
SAMPLE_MM = 3.0
#: Points of the outline that are further from the fitted circle than this are not used, mm.
OUTLIER_MM = 1.5
ANGLES_DEG = np.arange(360)
#: The border is searched so far around a first circle, where HU fall below the middle between plastic and air.
BORDER_REACH_MM, BORDER_STEP_MM, BORDER_HU = 12.0, 0.25, -450.0
MIN_BORDER_POINTS = 60
#: HU are limited before they are compared, so that metal in a wire ramp does not count.
COMPARED_HU = (-1000.0, 1200.0)


@dataclass(frozen=True)
class PhantomLocation:
    """Position of a phantom in a scan.

    Parameters
    ----------
    phantom : QaPhantom
    axis : ndarray, shape (2, 2)
        Row and column of the axis, pixels: offset and change per mm along the normal.
    origin_mm : float
        Middle of the module with the inserts, along the normal.
    roll_deg : float
    is_mirrored : bool
        The layout is mirrored, and the modules follow in the opposite order.
    correlation : float
        Of the layout with the nominal one.
    """

    phantom: QaPhantom
    axis: NDArray[np.float64]
    origin_mm: float
    roll_deg: float
    is_mirrored: bool
    correlation: float

    def centre_px(self, offset_mm: float) -> tuple[float, float]:
        """Row and column of the axis at a position along the normal."""
        row, column = self.axis[0] + self.axis[1] * offset_mm
        return float(row), float(column)

    def module_slices(self, source: SliceSource, module: Module) -> list[int]:
        """Slices of a module, in order."""
        middle = self.origin_mm + (-module.offset_mm if self.is_mirrored else module.offset_mm)
        return np.flatnonzero(np.abs(source.geometry.offsets_mm - middle) <= module.half_length_mm).tolist()

    def point_px(
        self, source: SliceSource, slices: Sequence[int], angle_deg: float, distance_mm: float
    ) -> tuple[float, float]:
        """Row and column of a point of the layout, in the middle of some slices.

        Parameters
        ----------
        source : SliceSource
        slices : sequence of int
        angle_deg, distance_mm : float
            In the layout of the phantom.

        Returns
        -------
        tuple of 2 floats
        """
        row, column = self.centre_px(float(source.geometry.offsets_mm[list(slices)].mean()))
        down, along = polar_mm(angle_deg, distance_mm, self.roll_deg, is_mirrored=self.is_mirrored)
        row_mm, column_mm = source.geometry.pixel_spacing_mm
        return row + down / row_mm, column + along / column_mm

    def insert_px(self, source: SliceSource, slices: Sequence[int], insert: PhantomInsert) -> tuple[float, float]:
        """Row and column of an insert.

        Parameters
        ----------
        source : SliceSource
        slices : sequence of int
        insert : PhantomInsert

        Returns
        -------
        tuple of 2 floats
        """
        return self.point_px(source, slices, insert.angle_deg, insert.distance_mm)


@dataclass(frozen=True)
class _Match:
    """Best match of one phantom: correlation and roll of every slice, for the layout or its mirror image."""

    phantom: QaPhantom
    axis: NDArray[np.float64]
    correlation: NDArray[np.float64]
    roll_deg: NDArray[np.float64]
    is_mirrored: bool

    @property
    def best(self) -> float:
        return float(self.correlation.max())

    def location(self, offsets_mm: NDArray[np.float64]) -> PhantomLocation:
        near = self.correlation >= self.best - CORRELATION_DROP
        peak = int(self.correlation.argmax())
        # The slices around the best one, without interruption.
        parts, _ = ndimage.label(near)
        inside = parts == parts[peak]
        return PhantomLocation(
            self.phantom,
            self.axis,
            float(offsets_mm[inside].mean()),
            float(np.median(self.roll_deg[inside])),
            self.is_mirrored,
            self.best,
        )


class _Outlines:
    """Circles around the phantom in every slice, read once."""

    def __init__(self, source: SliceSource) -> None:
        self.source = source
        self._profiles: dict[tuple[bytes, float], NDArray[np.float64]] = {}
        self.circles = np.full((len(source), 3), np.nan)
        for index in range(len(source)):
            self.circles[index] = _circle(source.read_hu(index), source.geometry.pixel_spacing_mm)

    def axis(self, radius_mm: float) -> NDArray[np.float64] | None:
        """Straight line through the centres of circles of about this radius; None without three."""
        fits = np.abs(self.circles[:, 2] / radius_mm - 1) < RADIUS_TOLERANCE
        if fits.sum() < 3:
            return None
        offsets, centres = self.source.geometry.offsets_mm[fits], self.circles[fits, :2]
        line = np.polyfit(offsets, centres, 1)
        error = np.hypot(*(centres - np.outer(offsets, line[0]) - line[1]).T)
        kept = error <= max(2 * float(np.median(error)), 0.2)
        if kept.sum() >= 3:
            line = np.polyfit(offsets[kept], centres[kept], 1)
        return np.array([line[1], line[0]])

    def ring_profiles(self, axis: NDArray[np.float64], distance_mm: float) -> NDArray[np.float64]:
        """Ring profile of every slice; several phantoms have inserts at the same distance."""
        key = axis.tobytes(), distance_mm
        if key not in self._profiles:
            geometry = self.source.geometry
            centres = axis[0] + np.outer(geometry.offsets_mm, axis[1])
            self._profiles[key] = np.stack(
                [
                    _ring_profile(self.source.read_hu(index), centre, distance_mm, geometry.pixel_spacing_mm)
                    for index, centre in enumerate(centres)
                ]
            )
        return self._profiles[key]

    @property
    def radius_mm(self) -> float:
        """Median radius."""
        return float(np.nanmedian(self.circles[:, 2])) if np.isfinite(self.circles[:, 2]).any() else float("nan")


def locate_phantom(source: SliceSource, phantoms: Sequence[QaPhantom]) -> PhantomLocation:
    """Find a phantom in its scan.

    Parameters
    ----------
    source : SliceSource
    phantoms : sequence of QaPhantom
        The phantoms that it may be.

    Returns
    -------
    PhantomLocation

    Raises
    ------
    InputError
        If the scan does not look like any of them.
    """
    outlines = _Outlines(source)
    matches = [match for phantom in phantoms if (match := _match(outlines, phantom)) is not None]
    best = max((match.best for match in matches), default=float("nan"))
    if not best >= MIN_CORRELATION:
        names = ", ".join(phantom.title for phantom in phantoms)
        found = (
            f"the inserts of the best slice correlate with the layout by {best:.2f} (at least {MIN_CORRELATION:g})"
            if matches
            else f"its outline has a radius of {outlines.radius_mm:.0f} mm"
        )
        raise InputError(
            f"{source.name}: not a scan of {names}: {found}. Scan the module with the inserts and all around it, "
            "mount the phantom upright, or give another --phantom"
        )
    equal = [match for match in matches if match.best >= best - EQUAL_CORRELATION]
    return min(
        (match.location(source.geometry.offsets_mm) for match in equal),
        key=lambda location: _spread_of_uniform_module(source, location),
    )


def _match(outlines: _Outlines, phantom: QaPhantom) -> _Match | None:
    axis = outlines.axis(phantom.radius_mm)
    if axis is None:
        return None
    distance_mm = phantom.inserts[0].distance_mm
    side = int(2.4 * phantom.radius_mm)
    middle = ((side - 1) / 2,) * 2
    drawn = draw_inserts(phantom.inserts, (1, 1), (side, side), centre_px=middle, radius_mm=phantom.radius_mm)
    pattern = _ring_profile(drawn, middle, distance_mm, (1.0, 1.0))
    profiles = outlines.ring_profiles(axis, distance_mm)
    # Mirrored left to right, what was at the angle a is at 180° − a.
    candidates = []
    for is_mirrored in (False, True):
        layout = pattern[(180 - ANGLES_DEG) % 360] if is_mirrored else pattern
        correlation, roll = _best_roll(profiles, layout)
        candidates.append(_Match(phantom, axis, correlation, roll, is_mirrored))
    return max(candidates, key=lambda match: match.best)


def _best_roll(
    profiles: NDArray[np.float64], layout: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Highest correlation of every profile with the layout over the rolls, and that roll, degrees."""
    rolls = np.arange(-MAX_ROLL_DEG, MAX_ROLL_DEG + 1)
    turned = np.stack([np.roll(layout, roll) for roll in rolls])
    turned = turned - turned.mean(axis=1, keepdims=True)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    norm = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    correlation = centred / norm @ turned.T
    peak = correlation.argmax(axis=1)
    inner = np.clip(peak, 1, len(rolls) - 2)
    before, at, after = (correlation[np.arange(len(peak)), inner + step] for step in (-1, 0, 1))
    curvature = before - 2 * at + after
    shift = np.where(curvature < 0, np.clip((before - after) / (2 * np.minimum(curvature, -1e-12)), -1, 1), 0.0)
    return correlation.max(axis=1), rolls[inner] + shift


def _ring_profile(
    hu: Image,
    centre_px: Sequence[float] | NDArray[np.float64],
    distance_mm: float,
    spacing_mm: tuple[float, float],
) -> NDArray[np.float64]:
    """Mean HU in small squares on a circle, at every degree."""
    size = [2 * round(SAMPLE_MM / mm) + 1 for mm in spacing_mm]  # odd: an even one shifts by half a pixel
    smooth = ndimage.uniform_filter(np.clip(np.asarray(hu, np.float64), *COMPARED_HU), size)
    angles = np.radians(ANGLES_DEG)
    rows = centre_px[0] + distance_mm * np.sin(angles) / spacing_mm[0]
    columns = centre_px[1] + distance_mm * np.cos(angles) / spacing_mm[1]
    return np.asarray(ndimage.map_coordinates(smooth, [rows, columns], order=1, mode="nearest"))


def _circle(hu: Image, spacing_mm: tuple[float, float]) -> tuple[float, float, float]:
    """Row and column, pixels, and radius, mm, of the circle around the largest object; NaN without one."""
    parts, count = ndimage.label(body_mask(hu, spacing_mm))
    if not count:
        return (float("nan"),) * 3
    mask = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    centre = np.array(ndimage.center_of_mass(mask)) * spacing_mm
    radius = float(np.sqrt(mask.sum() * spacing_mm[0] * spacing_mm[1] / np.pi))
    for _ in range(2):
        points = _border_points(hu, spacing_mm, centre, radius)
        if len(points) < MIN_BORDER_POINTS:
            return (float("nan"),) * 3
        centre, radius = _fit_circle(points)
    return float(centre[0] / spacing_mm[0]), float(centre[1] / spacing_mm[1]), radius


def _border_points(
    hu: Image, spacing_mm: tuple[float, float], centre: NDArray[np.float64], radius: float
) -> NDArray[np.float64]:
    """Where rays from the centre leave the object, mm: the outermost fall of HU near a circle."""
    angles = np.radians(ANGLES_DEG[::2])[:, None]
    along = radius + np.arange(-BORDER_REACH_MM, BORDER_REACH_MM, BORDER_STEP_MM)
    rows, columns = centre[0] + along * np.sin(angles), centre[1] + along * np.cos(angles)
    profiles = ndimage.map_coordinates(
        np.asarray(hu, np.float64), [rows / spacing_mm[0], columns / spacing_mm[1]], order=1, mode="nearest"
    )
    falls = (profiles[:, :-1] >= BORDER_HU) & (profiles[:, 1:] < BORDER_HU)
    last = falls.shape[1] - 1 - falls[:, ::-1].argmax(axis=1)
    rays = np.flatnonzero(falls.any(axis=1))
    before, after = profiles[rays, last[rays]], profiles[rays, last[rays] + 1]
    at = along[last[rays]] + BORDER_STEP_MM * (before - BORDER_HU) / (before - after)
    angle = angles[rays, 0]
    return np.stack([centre[0] + at * np.sin(angle), centre[1] + at * np.cos(angle)], axis=1)


def _fit_circle(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Centre and radius by least squares, without the points that are far from the circle."""
    kept = np.ones(len(points), dtype=bool)
    for _ in range(5):
        # |p|² = 2·c·p + r² − |c|² is linear in the centre c.
        system = np.column_stack([2 * points[kept], np.ones(kept.sum())])
        solution = np.linalg.lstsq(system, (points[kept] ** 2).sum(axis=1), rcond=None)[0]
        centre = solution[:2]
        radius = float(np.sqrt(max(solution[2] + centre @ centre, 0.0)))
        error = np.abs(np.hypot(*(points - centre).T) - radius)
        kept = error <= max(OUTLIER_MM, float(np.median(error)))
    return centre, radius


def _spread_of_uniform_module(source: SliceSource, location: PhantomLocation) -> float:
    """Spread of block means where the uniform module should be; infinite if half of it was not scanned."""
    module = location.phantom.uniform_module
    slices = location.module_slices(source, module)
    if len(slices) * source.geometry.slice_spacing_mm < module.half_length_mm:
        return float("inf")
    spacing_mm = source.geometry.pixel_spacing_mm
    row, column = location.centre_px(float(source.geometry.offsets_mm[slices].mean()))
    reach = 0.75 * location.phantom.radius_mm
    y = (np.arange(source.geometry.rows) - row)[:, None] * spacing_mm[0]
    x = (np.arange(source.geometry.columns) - column)[None, :] * spacing_mm[1]
    inside = np.hypot(y, x) < reach
    ends = slices[:: max(1, len(slices) - 1)]
    return max(
        float(np.ptp(np.percentile(ndimage.uniform_filter(source.read_hu(index), 5)[inside], (1, 99))))
        for index in ends
    )

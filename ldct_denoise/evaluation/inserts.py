"""Inserts of a phantom: resolution at their contrast, mean HU, and HU linearity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.measure import REFERENCE, SliceSample
from ldct_denoise.evaluation.tables import Entry, finite_or_none
from ldct_denoise.metrics.contrast import hu_linearity
from ldct_denoise.metrics.sharpness import TaskTransfer, find_disk_centre, ttf_of_disk
from ldct_denoise.regions.regions import in_plane_mm
from ldct_denoise.volume import Geometry

#: Slices up to this distance from the given centre are averaged, mm: inserts are rods along the table.
HALF_LENGTH_MM = 10.0
#: Share of the insert's radius in which mean HU and noise are measured.
CORE_FRACTION = 0.6
#: Half the side of the square around an insert that is kept, in radii; beyond what the profile reaches.
SURROUNDINGS = 2.2
#: Fewest inserts with nominal HU for a line.
MIN_LINEARITY_INSERTS = 3


@dataclass(frozen=True)
class Insert:
    """A cylindrical insert of a phantom, parallel to the table.

    Parameters
    ----------
    centre_mm : tuple of 3 floats
        Patient coordinates (LPS), mm.
    radius_mm : float
    nominal_hu : float, optional
        HU of the material.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    nominal_hu: float | None = None

    @property
    def name(self) -> str:
        """Name in the tables."""
        x, y, z = self.centre_mm
        nominal = "" if self.nominal_hu is None else f", {self.nominal_hu:g} HU"
        return f"insert({x:g} {y:g} {z:g} r{self.radius_mm:g}{nominal})"

    @classmethod
    def parse(cls, text: str) -> Insert:
        """Parse ``X,Y,Z,RADIUS`` or ``X,Y,Z,RADIUS,NOMINAL_HU`` (LPS mm, HU).

        Raises
        ------
        ConfigError
            If the text is neither.
        """
        try:
            x, y, z, radius, *nominal = (float(part) for part in text.split(","))
        except ValueError:
            x = y = z = radius = np.nan
            nominal = []
        if not (np.isfinite([x, y, z, radius, *nominal]).all() and radius > 0 and len(nominal) < 2):
            raise ConfigError(f"insert {text!r}: give X,Y,Z,RADIUS or X,Y,Z,RADIUS,NOMINAL_HU (LPS mm, HU)")
        return cls((x, y, z), radius, nominal[0] if nominal else None)


@dataclass(frozen=True)
class InsertMeasurement:
    """Measurements of one insert in one image.

    Parameters
    ----------
    mean_hu : float
        Mean HU of the insert's core.
    noise_hu : float
        Mean over the slices of the standard deviation in the core, HU.
    transfer : TaskTransfer
        From the insert's border, with an interval over the slices.
    shift_mm : float
        Distance of the insert's centre, as found, from the given one.
    slices : int
        Number of slices that were averaged.
    """

    mean_hu: float
    noise_hu: float
    transfer: TaskTransfer
    shift_mm: float
    slices: int


@dataclass(frozen=True)
class _InsertSlices:
    """Slices of one series near one insert: the surroundings of the insert and the noise values of every image."""

    geometry: Geometry
    index: int
    images: dict[str, list[NDArray[np.floating]]] = field(default_factory=dict)
    noise_hu: dict[str, list[float]] = field(default_factory=dict)

    def add(self, sample: SliceSample, insert: Insert) -> None:
        core = _core_mask(sample.geometry, sample.index, insert)
        for model, hu in {**sample.images, REFERENCE: sample.reference}.items():
            self.images.setdefault(model, []).append(hu[_surroundings(sample.geometry, sample.index, insert)])
            self.noise_hu.setdefault(model, []).append(float(np.std(hu[core])))

    def measure(self, model: str, insert: Insert) -> InsertMeasurement:
        stack = np.stack(self.images[model])
        noise_hu = float(np.mean(self.noise_hu[model]))
        rows, columns = _surroundings(self.geometry, self.index, insert)
        core = _core_mask(self.geometry, self.index, insert)[rows, columns]
        given, found = self._centres(insert)
        spacing_mm = self.geometry.pixel_spacing_mm
        try:
            transfer = ttf_of_disk(stack, found, insert.radius_mm, spacing_mm)
        except InputError as error:
            raise InputError(f"{insert.name}: {error}") from error
        shift_mm = float(np.hypot(*((np.array(found) - given) * spacing_mm)))
        core_hu = float(stack.mean(axis=0, dtype=np.float64)[core].mean())
        return InsertMeasurement(core_hu, noise_hu, transfer, shift_mm, len(stack))

    def _centres(self, insert: Insert) -> tuple[tuple[float, float], tuple[float, float]]:
        """The given centre in the surroundings, and the one found in the mean of all images, in pixels."""
        along, down, _ = in_plane_mm(self.geometry, self.index, insert.centre_mm)
        row_mm, column_mm = self.geometry.pixel_spacing_mm
        rows, columns = _surroundings(self.geometry, self.index, insert)
        given = down / row_mm - rows.start, along / column_mm - columns.start
        mean = np.mean([np.mean(images, axis=0) for images in self.images.values()], axis=0)
        return given, find_disk_centre(mean, given, insert.radius_mm, (row_mm, column_mm))


def measure_inserts(samples: Iterable[SliceSample], inserts: Sequence[Insert]) -> list[Entry]:
    """Measure every insert in every image of every series, averaged over the slices near its centre.

    Parameters
    ----------
    samples : iterable of SliceSample
    inserts : sequence of Insert

    Returns
    -------
    list of dict
        ``series``, ``insert``, ``model``, ``nominal_hu``, ``mean_hu``, ``noise_hu``, ``contrast_hu``,
        ``f50_per_mm`` with the 95 % interval ``f50_low_per_mm`` and ``f50_high_per_mm`` (three slices or more),
        ``f10_per_mm``, ``centre_shift_mm``, ``slices``, and the curve as ``frequency_per_mm`` and ``ttf``.

    Raises
    ------
    InputError
        If no slice is near an insert, or an insert is outside the image.
    """
    found: dict[tuple[str, int], _InsertSlices] = {}
    for sample in samples:
        for number, insert in enumerate(inserts):
            if is_near_insert(sample.geometry, sample.index, [insert]):
                slices = _InsertSlices(sample.geometry, sample.index)
                found.setdefault((sample.series, number), slices).add(sample, insert)
    for number, insert in enumerate(inserts):
        if not any(key[1] == number for key in found):
            raise InputError(f"{insert.name}: no slice within {HALF_LENGTH_MM:g} mm of it; check its z")
    return [
        _entry(series, insert, model, slices.measure(model, insert))
        for number, insert in enumerate(inserts)
        for (series, found_number), slices in found.items()
        if found_number == number
        for model in slices.images
    ]


def is_near_insert(geometry: Geometry, index: int, inserts: Sequence[Insert]) -> bool:
    """Whether a slice is close enough to any of the inserts to be averaged.

    Parameters
    ----------
    geometry : Geometry
    index : int
        Slice.
    inserts : sequence of Insert

    Returns
    -------
    bool
    """
    return any(abs(in_plane_mm(geometry, index, insert.centre_mm)[2]) <= HALF_LENGTH_MM for insert in inserts)


def linearity_entries(entries: Sequence[Entry]) -> list[Entry]:
    """HU linearity of every image: slope, intercept and largest deviation, from at least 3 inserts.

    Parameters
    ----------
    entries : sequence of dict
        From :func:`measure_inserts`.

    Returns
    -------
    list of dict
        ``series``, ``model``, ``slope``, ``intercept_hu``, ``largest_deviation_hu`` and number of ``inserts``.
    """
    found: list[Entry] = []
    for series, model in dict.fromkeys((entry["series"], entry["model"]) for entry in entries):
        of_image = [entry for entry in entries if (entry["series"], entry["model"]) == (series, model)]
        points = [(entry["nominal_hu"], entry["mean_hu"]) for entry in of_image if entry["nominal_hu"] is not None]
        if len(points) >= MIN_LINEARITY_INSERTS:
            line = hu_linearity(*np.array(points, dtype=np.float64).T)
            found.append(
                {
                    "series": series,
                    "model": model,
                    "slope": line.slope,
                    "intercept_hu": line.intercept_hu,
                    "largest_deviation_hu": line.largest_deviation_hu,
                    "inserts": len(points),
                }
            )
    return found


def _core_mask(geometry: Geometry, index: int, insert: Insert) -> NDArray[np.bool_]:
    along, down, _ = in_plane_mm(geometry, index, insert.centre_mm)
    rows = (np.arange(geometry.rows) * geometry.pixel_spacing_mm[0] - down)[:, None]
    columns = (np.arange(geometry.columns) * geometry.pixel_spacing_mm[1] - along)[None, :]
    mask: NDArray[np.bool_] = np.hypot(rows, columns) < CORE_FRACTION * insert.radius_mm
    if not mask.any():
        raise InputError(f"{insert.name}: lies outside the image; give LPS millimetres")
    return mask


def _surroundings(geometry: Geometry, index: int, insert: Insert) -> tuple[slice, slice]:
    """Rows and columns of the square around an insert that its profile reaches, as far as it is in the image."""
    along, down, _ = in_plane_mm(geometry, index, insert.centre_mm)
    half_mm = SURROUNDINGS * insert.radius_mm
    rows, columns = (
        slice(max(0, int((middle - half_mm) / mm)), max(0, min(count, int((middle + half_mm) / mm) + 2)))
        for middle, mm, count in zip(
            (down, along), geometry.pixel_spacing_mm, (geometry.rows, geometry.columns), strict=True
        )
    )
    return rows, columns


def _entry(series: str, insert: Insert, model: str, measured: InsertMeasurement) -> Entry:
    transfer = measured.transfer
    low, high = transfer.frequency_interval(0.5)
    return {
        "series": series,
        "insert": insert.name,
        "model": model,
        "nominal_hu": insert.nominal_hu,
        "mean_hu": measured.mean_hu,
        "noise_hu": measured.noise_hu,
        "contrast_hu": transfer.contrast_hu,
        "f50_per_mm": finite_or_none(transfer.frequency_at(0.5)),
        "f50_low_per_mm": finite_or_none(low),
        "f50_high_per_mm": finite_or_none(high),
        "f10_per_mm": finite_or_none(transfer.frequency_at(0.1)),
        "centre_shift_mm": measured.shift_mm,
        "slices": measured.slices,
        "frequency_per_mm": [float(value) for value in transfer.frequency],
        "ttf": [finite_or_none(value) for value in transfer.value],
    }

"""Circular inserts of a phantom: resolution at their contrast, mean HU, and how HU follow the nominal ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.measure import REFERENCE, Place
from ldct_denoise.evaluation.tables import Entry, finite
from ldct_denoise.metrics.contrast import hu_linearity
from ldct_denoise.metrics.sharpness import TaskTransfer, ttf_of_disk
from ldct_denoise.regions.regions import in_plane_mm
from ldct_denoise.volume import Geometry

#: Slices this far from the given centre are averaged: a phantom's rods stand along the table.
HALF_LENGTH_MM = 10.0
CORE = 0.6  # share of the radius in which the mean HU is taken


@dataclass(frozen=True)
class Insert:
    """A rod of a phantom that stands along the table.

    Parameters
    ----------
    centre_mm : tuple of 3 floats
        LPS.
    radius_mm : float
    nominal_hu : float, optional
        What it should measure.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    nominal_hu: float | None = None

    @property
    def name(self) -> str:
        """As it stands in the tables."""
        x, y, z = self.centre_mm
        nominal = "" if self.nominal_hu is None else f", {self.nominal_hu:g} HU"
        return f"insert({x:g} {y:g} {z:g} r{self.radius_mm:g}{nominal})"

    @classmethod
    def parse(cls, text: str) -> Insert:
        """An insert from ``X,Y,Z,RADIUS`` or ``X,Y,Z,RADIUS,NOMINAL_HU`` (LPS mm).

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
class InsertNumbers:
    """One insert in one image: mean HU in its middle, noise (the mean of the slices' standard deviations), TTF."""

    mean_hu: float
    noise_hu: float
    transfer: TaskTransfer
    slices: int


@dataclass(frozen=True)
class _Gathered:
    """The slices of one series near one insert: by image their sum, and the noise of each."""

    geometry: Geometry
    index: int
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    noise_hu: dict[str, list[float]] = field(default_factory=dict)

    def add(self, place: Place, insert: Insert) -> None:
        core = _core(place.geometry, place.index, insert)
        for model, hu in {**place.images, REFERENCE: place.reference}.items():
            self.sums[model] = self.sums.get(model, 0.0) + np.asarray(hu, dtype=np.float64)
            self.noise_hu.setdefault(model, []).append(float(np.std(hu[core])))

    def numbers(self, model: str, insert: Insert) -> InsertNumbers:
        slices = len(self.noise_hu[model])
        mean, noise = self.sums[model] / slices, float(np.mean(self.noise_hu[model]))
        return _numbers(mean, self.geometry, self.index, insert, noise, slices)


def measure_inserts(places: Iterable[Place], inserts: Sequence[Insert]) -> list[Entry]:
    """Every insert in every image of every series, averaged over the series' slices near its centre.

    Returns
    -------
    list of dict
        ``series``, ``insert``, ``model``, ``nominal_hu``, ``mean_hu``, ``noise_hu``, ``contrast_hu``,
        ``f50_per_mm``, ``f10_per_mm``, ``slices``, and the curve as ``frequency_per_mm`` and ``ttf``.

    Raises
    ------
    InputError
        If no slice lies near an insert, or it does not lie in the image.
    """
    found: dict[tuple[str, int], _Gathered] = {}
    for place in places:
        for number, insert in enumerate(inserts):
            if near(place.geometry, place.index, [insert]):
                here = _Gathered(place.geometry, place.index)
                found.setdefault((place.series, number), here).add(place, insert)
    for number, insert in enumerate(inserts):
        if not any(at == number for _, at in found):
            raise InputError(f"{insert.name}: no slice within {HALF_LENGTH_MM:g} mm of it; check its z")
    return [
        _entry(series, insert, model, gathered.numbers(model, insert))
        for number, insert in enumerate(inserts)
        for (series, at), gathered in found.items()
        if at == number
        for model in gathered.sums
    ]


def near(geometry: Geometry, index: int, inserts: Sequence[Insert]) -> bool:
    """Whether a slice counts for any of the inserts."""
    return any(abs(in_plane_mm(geometry, index, insert.centre_mm)[2]) <= HALF_LENGTH_MM for insert in inserts)


def linearity(entries: Sequence[Entry]) -> list[Entry]:
    """How each image of a series follows the nominal HU: slope, intercept, largest deviation; from 3 inserts."""
    found: list[Entry] = []
    for series, model in dict.fromkeys((entry["series"], entry["model"]) for entry in entries):
        here = [e for e in entries if (e["series"], e["model"]) == (series, model)]
        points = [(e["nominal_hu"], e["mean_hu"]) for e in here if e["nominal_hu"] is not None]
        if len(points) >= 3:
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


def _core(geometry: Geometry, index: int, insert: Insert) -> NDArray[np.bool_]:
    along, down, _ = in_plane_mm(geometry, index, insert.centre_mm)
    rows = (np.arange(geometry.rows) * geometry.pixel_spacing_mm[0] - down)[:, None]
    columns = (np.arange(geometry.columns) * geometry.pixel_spacing_mm[1] - along)[None, :]
    mask: NDArray[np.bool_] = np.hypot(rows, columns) < CORE * insert.radius_mm
    if not mask.any():
        raise InputError(f"{insert.name}: lies outside the image; give LPS millimetres")
    return mask


def _numbers(
    hu: NDArray[np.float64], geometry: Geometry, index: int, insert: Insert, noise_hu: float, slices: int
) -> InsertNumbers:
    along, down, _ = in_plane_mm(geometry, index, insert.centre_mm)
    row_mm, column_mm = geometry.pixel_spacing_mm
    try:
        transfer = ttf_of_disk(hu, (down / row_mm, along / column_mm), insert.radius_mm, (row_mm, column_mm))
    except InputError as error:
        raise InputError(f"{insert.name}: {error}") from error
    return InsertNumbers(float(hu[_core(geometry, index, insert)].mean()), noise_hu, transfer, slices)


def _entry(series: str, insert: Insert, model: str, numbers: InsertNumbers) -> Entry:
    transfer = numbers.transfer
    return {
        "series": series,
        "insert": insert.name,
        "model": model,
        "nominal_hu": insert.nominal_hu,
        "mean_hu": numbers.mean_hu,
        "noise_hu": numbers.noise_hu,
        "contrast_hu": transfer.contrast_hu,
        "f50_per_mm": finite(transfer.frequency_at(0.5)),
        "f10_per_mm": finite(transfer.frequency_at(0.1)),
        "slices": numbers.slices,
        "frequency_per_mm": [float(value) for value in transfer.frequency],
        "ttf": [finite(value) for value in transfer.value],
    }

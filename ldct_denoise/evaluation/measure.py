"""Every number of one slice: images against their reference, by window and region.

Slices are read, measured and forgotten one after the other, so memory stays flat for any length of series.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.evaluation.tables import Measurement
from ldct_denoise.intensity import Window, distinct_windows
from ldct_denoise.metrics import fidelity, perceptual, protocols
from ldct_denoise.metrics.contrast import cnr
from ldct_denoise.metrics.series_noise import SeriesNoise, SliceNoise, measure_slice
from ldct_denoise.regions.parse import named_apart
from ldct_denoise.regions.regions import Body, Region, Tissue, WholeImage, region_masks
from ldct_denoise.volume import Geometry

UNCLIPPED = "none"  # the window column of statistics that no window touches
PERCENTILES = (5, 50, 95)
REFERENCE = "reference"

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Place:
    """One slice of the reference and the images that are measured against it, in HU.

    Parameters
    ----------
    series, patient : str
        Whose slice it is; ``series`` stands in the table.
    geometry, index : Geometry, int
        Of the reference.
    reference : ndarray, shape (rows, columns)
    images : mapping from model to ndarray of the same shape
    slice_spacing_mm : float
        Distance of neighbouring slices, between which flicker is measured.
    spectra : bool
        Also noise power spectra, for which a few slices of a series are enough.
    """

    series: str
    patient: str
    geometry: Geometry
    index: int
    reference: Image
    images: Mapping[str, Image]
    slice_spacing_mm: float
    spectra: bool = False

    @property
    def position_mm(self) -> float:
        """Distance of the slice plane from the patient origin along its normal."""
        return float(self.geometry.offsets_mm[self.index])


@dataclass(frozen=True)
class What:
    """What is measured in every slice; what is given twice counts once.

    Parameters
    ----------
    windows : sequence of Window
    regions : sequence of Region
        Where different ones, also of the contrasts, share a name, the later gets a number.
    contrasts : sequence of (Region, Region)
        Contrast-to-noise ratio of the first against the second.
    extended : bool
        Also MS-SSIM, VIF and GMSD of the whole image.
    noise : bool
        Also noise power spectra and flicker; off for images that are not CT.

    Raises
    ------
    ConfigError
        If two different windows have one name.
    """

    windows: Sequence[Window]
    regions: Sequence[Region]
    contrasts: Sequence[tuple[Region, Region]] = ()
    extended: bool = False
    noise: bool = True

    def __post_init__(self) -> None:
        reserved: list[Region] = [WholeImage(), Body()]  # their names say in every table what is measured
        pairs = [region for pair in self.contrasts for region in pair]
        named = named_apart([*reserved, *self.regions, *pairs])[len(reserved) :]
        regions, sides = named[: len(self.regions)], named[len(self.regions) :]
        contrasts = zip(sides[::2], sides[1::2], strict=True)
        object.__setattr__(self, "windows", distinct_windows(self.windows))
        object.__setattr__(self, "regions", tuple({region.name: region for region in regions}.values()))
        object.__setattr__(self, "contrasts", tuple({contrast_name(pair): pair for pair in contrasts}.values()))


class Measured(NamedTuple):
    """What one place gave."""

    series: str
    slice_spacing_mm: float
    rows: list[Measurement]
    noise: SliceNoise | None


def measure_places(
    places: Iterable[Place],
    what: What,
    *,
    progress: Progress | None = None,
    total: int = 0,
    workers: int | None = None,
) -> tuple[tuple[Measurement, ...], dict[str, SeriesNoise]]:
    """Measure place by place; a few threads work ahead (NumPy and SciPy release the lock).

    Returns
    -------
    tuple of Measurement
    dict from series to SeriesNoise
    """
    rows: list[Measurement] = []
    noise: dict[str, SeriesNoise] = {}
    for done, found in enumerate(_in_order(places, what, workers or min(4, os.cpu_count() or 1)), start=1):
        rows += found.rows
        if found.noise is not None:
            noise.setdefault(found.series, SeriesNoise(found.slice_spacing_mm)).add(found.noise)
        if progress:
            progress(done, total)
    return tuple(rows), noise


def _in_order(places: Iterable[Place], what: What, workers: int) -> Iterator[Measured]:
    waiting: deque[Future[Measured]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for place in places:
            waiting.append(pool.submit(measure_place, place, what))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def measure_place(place: Place, what: What) -> Measured:
    """Every number of one place: fidelity by window, HU statistics and contrasts without one, noise."""
    pairs = [region for pair in what.contrasts for region in pair]
    found = region_masks([Body(), *what.regions, *pairs], place.geometry, place.index, place.reference)
    masks = {region.name: found[region.name] for region in what.regions if region.name in found}
    rows: list[Measurement] = []

    def add(model: str, window: str, values: Mapping[tuple[str, str], float]) -> None:
        for (region, metric), value in values.items():
            rows.append(Measurement(place.series, place.position_mm, model, window, region, metric, value))

    means: dict[tuple[str, fidelity.SsimForm], fidelity.LocalMean] = {}
    for model, image in place.images.items():
        for window in what.windows:
            form = protocols.ssim_form(window)
            add(model, window.name, fidelity.measure(image, place.reference, window, masks, form, means))
            if what.extended:
                values = perceptual.measure(image, place.reference, window)
                add(model, window.name, {("image", metric): value for metric, value in values.items()})
    everything = {**place.images, REFERENCE: place.reference}
    for model, image in everything.items():
        add(model, UNCLIPPED, hu_statistics(image, masks))
        add(model, UNCLIPPED, contrasts(image, what.contrasts, found))
    body = found.get(Body().name)
    noise = _noise(place, everything, body) if what.noise and body is not None else None
    return Measured(place.series, place.slice_spacing_mm, rows, noise)


def _noise(place: Place, images: Mapping[str, Image], body: Mask) -> SliceNoise:
    spacing = place.geometry.pixel_spacing_mm
    return measure_slice(images, place.reference, body, spacing, place.position_mm, place.spectra)


def contrast_name(pair: tuple[Region, Region]) -> str:
    """What stands in the region column of a contrast."""
    return f"{pair[0].name} | {pair[1].name}"


def unmeasured(what: What, rows: Iterable[Measurement]) -> list[str]:
    """Notes on regions and contrasts without a number; the usual cause is coordinates of another kind."""
    measured = {row.region for row in rows}
    missing = [region for region in what.regions if region.name not in measured]
    by_hu = [region.name for region in missing if isinstance(region, Body | Tissue)]
    placed = [region.name for region in missing if region.name not in by_hu]
    pairs = [name for name in map(contrast_name, what.contrasts) if name not in measured]
    hint = "are the coordinates LPS mm (x to the left, y to the back)?"
    found = (
        (by_hu, "no measured slice has HU of region {}"),
        (placed, f"in no measured slice: region {{}}; {hint}"),
        (pairs, f"no measured slice holds both regions, with noise in them, of cnr {{}}; {hint}"),
    )
    return [text.format(", ".join(names)) for names, text in found if names]


def hu_statistics(image: Image, masks: Mapping[str, Mask | None]) -> dict[tuple[str, str], float]:
    """Mean, standard deviation and percentiles of the HU of each region (no window)."""
    values: dict[tuple[str, str], float] = {}
    for name, mask in masks.items():
        inside = image if mask is None else image[mask]
        values[name, "hu_mean"] = float(np.mean(inside, dtype=np.float64))
        values[name, "hu_std"] = float(np.std(inside, dtype=np.float64))
        for percent, value in zip(PERCENTILES, np.percentile(inside, PERCENTILES), strict=True):
            values[name, f"hu_p{percent:02d}"] = float(value)
    return values


def contrasts(
    image: Image, pairs: Sequence[tuple[Region, Region]], masks: Mapping[str, Mask | None]
) -> dict[tuple[str, str], float]:
    """Contrast-to-noise ratio of each pair of regions of which the slice has both."""
    values: dict[tuple[str, str], float] = {}
    for first, second in pairs:
        inside, outside = masks.get(first.name), masks.get(second.name)
        if inside is not None and outside is not None:
            ratio = cnr(image, inside, outside)
            if np.isfinite(ratio):  # a synthetic truth has no noise
                values[contrast_name((first, second)), "cnr"] = ratio
    return values

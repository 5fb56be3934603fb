"""Measurements of one slice: images against their reference, by window and region.

Slices are read, measured and released one after the other, so memory use does not grow with the series.
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

from ldct_denoise.evaluation.plan import MeasurementPlan, contrast_name
from ldct_denoise.evaluation.tables import Measurement
from ldct_denoise.metrics import fidelity, perceptual, protocols
from ldct_denoise.metrics.contrast import cnr
from ldct_denoise.metrics.series_noise import SeriesNoise, SliceNoise, measure_slice_noise
from ldct_denoise.metrics.ssim import LocalMean, SsimForm
from ldct_denoise.regions.regions import Body, Region, region_masks
from ldct_denoise.volume import Geometry

#: Entry of the window column for statistics of the unclipped HU.
UNCLIPPED = "none"
#: Name of the reference in the model column.
REFERENCE = "reference"
PERCENTILES = (5, 50, 95)

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SliceSample:
    """One slice of the reference and the images that are measured against it.

    Parameters
    ----------
    series, patient : str
        Identifiers; ``series`` is the first column of the tables.
    geometry : Geometry
        Geometry of the reference series.
    index : int
        Slice of the reference series.
    reference : ndarray, shape (rows, columns)
        HU.
    images : mapping from model to ndarray of the same shape
        HU.
    slice_spacing_mm : float
        Distance of neighbouring slices; flicker is measured between those.
    spectra : bool
        Also measure noise power spectra. A few slices of a series are enough.
    neighbours : ndarray, shape (rows, columns), optional
        Mean of the neighbouring slices of the reference, HU. Uniform ROIs are chosen in it, because an image that
        chooses its own ROIs loses noise power.
    """

    series: str
    patient: str
    geometry: Geometry
    index: int
    reference: Image
    images: Mapping[str, Image]
    slice_spacing_mm: float
    spectra: bool = False
    neighbours: Image | None = None

    @property
    def position_mm(self) -> float:
        """Distance of the slice plane from the patient origin along its normal, mm."""
        return float(self.geometry.offsets_mm[self.index])


class SliceResult(NamedTuple):
    """Measurements of one slice.

    Parameters
    ----------
    series : str
        UID of the measured series.
    slice_spacing_mm : float
    rows : list of Measurement
    noise : SliceNoise or None
        Noise spectra; None where the slice is not chosen for them.
    """

    series: str
    slice_spacing_mm: float
    rows: list[Measurement]
    noise: SliceNoise | None


def measure_slices(
    samples: Iterable[SliceSample],
    plan: MeasurementPlan,
    *,
    progress: Progress | None = None,
    total: int = 0,
    workers: int | None = None,
) -> tuple[tuple[Measurement, ...], dict[str, SeriesNoise]]:
    """Measure slice by slice in a small thread pool (NumPy and SciPy release the GIL), in order.

    Parameters
    ----------
    samples : iterable of SliceSample
        Read one after the other; only a few are in memory at a time.
    plan : MeasurementPlan
    progress : callable, optional
        Called with (slices done, ``total``).
    total : int
        Number of slices, for ``progress``.
    workers : int, optional
        Threads; by default one for each CPU core, at most 4.

    Returns
    -------
    rows : tuple of Measurement
    noise : dict from series to SeriesNoise
        Empty where the plan measures no noise.
    """
    rows: list[Measurement] = []
    noise: dict[str, SeriesNoise] = {}
    for done, found in enumerate(_in_order(samples, plan, workers or min(4, os.cpu_count() or 1)), start=1):
        rows += found.rows
        if found.noise is not None:
            noise.setdefault(found.series, SeriesNoise(found.slice_spacing_mm)).add(found.noise)
        if progress:
            progress(done, total)
    return tuple(rows), noise


def _in_order(samples: Iterable[SliceSample], plan: MeasurementPlan, workers: int) -> Iterator[SliceResult]:
    waiting: deque[Future[SliceResult]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for sample in samples:
            waiting.append(pool.submit(measure_slice, sample, plan))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def measure_slice(sample: SliceSample, plan: MeasurementPlan) -> SliceResult:
    """Measure one slice: fidelity in every window, unclipped HU statistics and contrasts, and noise."""
    sides = [region for pair in plan.contrasts for region in pair]
    found = region_masks([Body(), *plan.regions, *sides], sample.geometry, sample.index, sample.reference)
    masks = {region.name: found[region.name] for region in plan.regions if region.name in found}
    rows: list[Measurement] = []

    def add(model: str, window: str, values: Mapping[tuple[str, str], float]) -> None:
        for (region, metric), value in values.items():
            rows.append(Measurement(sample.series, sample.position_mm, model, window, region, metric, value))

    means: dict[tuple[str, SsimForm], LocalMean] = {}
    for model, image in sample.images.items():
        for window in plan.windows:
            form = protocols.ssim_form(window)
            add(model, window.name, fidelity.measure(image, sample.reference, window, masks, form, means))
            values = perceptual.measure(image, sample.reference, window, plan.metrics)
            add(model, window.name, {("image", metric): value for metric, value in values.items()})
    images = {**sample.images, REFERENCE: sample.reference}
    for model, image in images.items():
        add(model, UNCLIPPED, hu_statistics(image, masks))
        add(model, UNCLIPPED, contrast_to_noise(image, plan.contrasts, found))
    body = found.get(Body().name)
    noise = _noise(sample, images, body) if plan.noise and body is not None else None
    return SliceResult(sample.series, sample.slice_spacing_mm, rows, noise)


def _noise(sample: SliceSample, images: Mapping[str, Image], body: Mask) -> SliceNoise:
    spacing = sample.geometry.pixel_spacing_mm
    guide = sample.reference if sample.neighbours is None else sample.neighbours
    return measure_slice_noise(images, guide, body, spacing, sample.position_mm, sample.spectra)


def hu_statistics(image: Image, masks: Mapping[str, Mask | None]) -> dict[tuple[str, str], float]:
    """Mean, standard deviation and percentiles of the unclipped HU of every region.

    Returns
    -------
    dict from (region, metric) to float
        ``hu_mean``, ``hu_std``, ``hu_p05``, ``hu_p50``, ``hu_p95``, HU.
    """
    values: dict[tuple[str, str], float] = {}
    for name, mask in masks.items():
        inside = image if mask is None else image[mask]
        values[name, "hu_mean"] = float(np.mean(inside, dtype=np.float64))
        values[name, "hu_std"] = float(np.std(inside, dtype=np.float64))
        for percent, value in zip(PERCENTILES, np.percentile(inside, PERCENTILES), strict=True):
            values[name, f"hu_p{percent:02d}"] = float(value)
    return values


def contrast_to_noise(
    image: Image, pairs: Sequence[tuple[Region, Region]], masks: Mapping[str, Mask | None]
) -> dict[tuple[str, str], float]:
    """Contrast-to-noise ratio of every pair of regions that the slice holds.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        HU.
    pairs : sequence of (Region, Region)
    masks : mapping from region name to mask
        Regions outside the slice are absent. The whole image (None) has no contrast.

    Returns
    -------
    dict from (contrast name, "cnr") to float
        Pairs without any noise, as in a synthetic truth, are left out.
    """
    values: dict[tuple[str, str], float] = {}
    for first, second in pairs:
        inside, outside = masks.get(first.name), masks.get(second.name)
        if inside is not None and outside is not None:
            ratio = cnr(image, inside, outside)
            if np.isfinite(ratio):
                values[contrast_name((first, second)), "cnr"] = ratio
    return values

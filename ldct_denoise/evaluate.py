"""Which numbers, for which regions and windows: images against their reference, slice by slice.

Slices are read, measured and forgotten one after the other, so memory stays flat for any length of series.
"""

from __future__ import annotations

import csv
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldct_denoise import __version__
from ldct_denoise.errors import InputError
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.metrics import fidelity, perceptual, protocols
from ldct_denoise.metrics.statistics import Bootstrap
from ldct_denoise.output import prepare_folder, write_whole
from ldct_denoise.pairing import Match, best_match
from ldct_denoise.regions import Body, Region, WholeImage
from ldct_denoise.volume import Geometry, SliceSource

DEFAULT_WINDOWS = (WINDOWS["full"], WINDOWS["abdomen"])
DEFAULT_REGIONS: tuple[Region, ...] = (WholeImage(), Body())
UNCLIPPED = "none"  # the window column of statistics that no window touches
COLUMNS = ("series", "position_mm", "model", "window", "region", "metric", "value")
PERCENTILES = (5, 50, 95)

Image = NDArray[np.floating]
Progress = Callable[[int, int], None]


class Measurement(NamedTuple):
    """One row of ``metrics.csv``."""

    series: str
    position_mm: float
    model: str
    window: str
    region: str
    metric: str
    value: float


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
    """

    series: str
    patient: str
    geometry: Geometry
    index: int
    reference: Image
    images: Mapping[str, Image]

    @property
    def position_mm(self) -> float:
        """Distance of the slice plane from the patient origin along its normal."""
        return float(self.geometry.offsets_mm[self.index])


@dataclass(frozen=True)
class SeriesImages:
    """A measured series and where its slices can be read again, for the report.

    Parameters
    ----------
    series, patient : str
    reference : SliceSource
    images : mapping from model to SliceSource
    indices : tuple of dict
        For each place the slice index of ``reference`` and of every model (keys: ``reference`` and the models).
    """

    series: str
    patient: str
    reference: SliceSource
    images: Mapping[str, SliceSource]
    indices: tuple[Mapping[str, int], ...]

    def places(self) -> Iterator[Place]:
        """Read the slices, one place after the other."""
        for at in self.indices:
            yield self.place(at)

    def place(self, at: Mapping[str, int]) -> Place:
        """Read the slices of one place."""
        images = {model: source.read_hu(at[model]) for model, source in self.images.items() if model in at}
        reference = self.reference.read_hu(at["reference"])
        return Place(self.series, self.patient, self.reference.geometry, at["reference"], reference, images)


@dataclass(frozen=True)
class Evaluation:
    """All measurements of a run.

    Parameters
    ----------
    rows : tuple of Measurement
    patients : mapping from series to patient
        So that patients weigh alike.
    windows, regions : tuples
        What was measured.
    cases : tuple of SeriesImages
        Where the images can be read again.
    notes : tuple of str
        What the reader of the numbers must know: slices without partner, the protocol's name.
    """

    rows: tuple[Measurement, ...]
    patients: Mapping[str, str]
    windows: tuple[Window, ...]
    regions: tuple[Region, ...]
    cases: tuple[SeriesImages, ...] = ()
    notes: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The models in the order of the table."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    def values(self, model: str, window: str, region: str, metric: str) -> dict[tuple[str, float], float]:
        """One metric by (series, position)."""
        key = (model, window, region, metric)
        return {(row.series, row.position_mm): row.value for row in self.rows if row[2:6] == key}

    def summary(self) -> list[dict[str, object]]:
        """Mean, spread and interval of every model × window × region × metric; see :func:`summarise`."""
        return summarise(self.rows, self.patients)

    def lines(self, metrics: Sequence[str] = ("psnr", "ssim", "rmse", "hu_bias")) -> list[str]:
        """The means as a plain table: one line for every window, region and model."""
        means = {(e["window"], e["region"], e["model"], e["metric"]): e["mean"] for e in self.summary()}
        lines = [f"{'window':22}{'region':20}{'model':20}" + "".join(f"{metric:>10}" for metric in metrics)]
        for window, region, model in product(self.windows, self.regions, self.models):
            keys = [(window.name, region.name, model, metric) for metric in metrics]
            if keys[0] in means:
                cells = "".join(
                    f"{'inf' if means[key] is None else format(means[key], '.4f'):>10}" for key in keys
                )
                lines.append(f"{window.name:22}{region.name:20}{model:20}{cells}")
        return lines


def evaluate(
    candidate: SliceSource | Sequence[SliceSource],
    reference: SliceSource | Sequence[SliceSource],
    input: SliceSource | Sequence[SliceSource] | None = None,
    windows: Sequence[Window] = DEFAULT_WINDOWS,
    regions: Sequence[Region] = DEFAULT_REGIONS,
    *,
    extended: bool = False,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure images against their reference.

    Parameters
    ----------
    candidate, reference, input : one or more series
        Paired by the position and orientation of their slices. ``input`` is the low-dose image; its rows have
        the model ``input``, those of the candidate ``candidate``.
    windows : sequence of Window
    regions : sequence of Region
    extended : bool
        Also MS-SSIM, VIF and GMSD of the whole image (some ten times slower).
    notes : sequence of str
        Kept with the numbers, as a protocol's name.
    progress : callable, optional
        Called with (slices done, slices in all).

    Raises
    ------
    InputError
        If no slice has a partner, or several series fit equally well.
    """
    cases, found = [], list(notes)
    alone: list[InputError] = []
    for series in _several(candidate):
        try:
            match = best_match(series, _several(reference), "reference")
            low = best_match(series, _several(input), "input") if input is not None else None
        except InputError as error:
            alone.append(error)
            continue
        case = _case(match, low)
        cases.append(case)
        missing = len(series) - len(case.indices)
        if missing:
            found.append(f"{missing} of {len(series)} slices of {series.name or series.uid} have no partner")
    if not cases:
        raise alone[0] if alone else InputError("no series to measure; give images")
    found += [f"not measured: {error}" for error in alone]
    total = sum(len(case.indices) for case in cases)
    places = (place for case in cases for place in case.places())
    rows = tuple(measure_places(places, windows, regions, extended=extended, progress=progress, total=total))
    patients = {case.series: case.patient for case in cases}
    return Evaluation(rows, patients, tuple(windows), tuple(regions), tuple(cases), tuple(found))


def _case(match: Match, low: Match | None) -> SeriesImages:
    images = {"candidate": match.first}
    low_of = dict(low.indices) if low else {}
    if low:
        images = {"input": low.second, **images}
    indices = []
    for index, partner in match.indices:
        at = {"reference": partner, "candidate": index}
        if index in low_of:
            at["input"] = low_of[index]
        indices.append(at)
    patient = match.second.patient or match.first.patient or match.first.uid
    return SeriesImages(match.first.uid, patient, match.second, images, tuple(indices))


def _several(sources: SliceSource | Sequence[SliceSource]) -> Sequence[SliceSource]:
    return [sources] if isinstance(sources, SliceSource) else sources


def measure_places(
    places: Iterable[Place],
    windows: Sequence[Window],
    regions: Sequence[Region],
    *,
    extended: bool = False,
    progress: Progress | None = None,
    total: int = 0,
    workers: int | None = None,
) -> Iterator[Measurement]:
    """Measure place by place, in order; a few threads work ahead (NumPy and SciPy release the lock)."""
    workers = workers or min(4, os.cpu_count() or 1)
    waiting: deque[Future[list[Measurement]]] = deque()
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for place in places:
            waiting.append(pool.submit(measure_place, place, windows, regions, extended))
            if len(waiting) <= workers:
                continue
            yield from waiting.popleft().result()
            done += 1
            if progress:
                progress(done, total)
        while waiting:
            yield from waiting.popleft().result()
            done += 1
            if progress:
                progress(done, total)


def measure_place(
    place: Place, windows: Sequence[Window], regions: Sequence[Region], extended: bool = False
) -> list[Measurement]:
    """Every number of one place: fidelity by window, HU statistics without one."""
    masks = {region.name: region.mask(place.geometry, place.index, place.reference) for region in regions}
    masks = {name: mask for name, mask in masks.items() if mask is None or mask.any()}
    rows = []

    def add(model: str, window: str, values: Mapping[tuple[str, str], float]) -> None:
        for (region, metric), value in values.items():
            rows.append(Measurement(place.series, place.position_mm, model, window, region, metric, value))

    for model, image in place.images.items():
        for window in windows:
            add(
                model,
                window.name,
                fidelity.measure(image, place.reference, window, masks, protocols.ssim_form(window)),
            )
            if extended:
                values = perceptual.measure(image, place.reference, window)
                add(model, window.name, {("image", metric): value for metric, value in values.items()})
    for model, image in {**place.images, "reference": place.reference}.items():
        add(model, UNCLIPPED, hu_statistics(image, masks))
    return rows


def hu_statistics(image: Image, masks: Mapping[str, NDArray[np.bool_] | None]) -> dict[tuple[str, str], float]:
    """Mean, standard deviation and percentiles of the HU of each region (no window)."""
    values: dict[tuple[str, str], float] = {}
    for name, mask in masks.items():
        inside = image if mask is None else image[mask]
        values[name, "hu_mean"] = float(np.mean(inside, dtype=np.float64))
        values[name, "hu_std"] = float(np.std(inside, dtype=np.float64))
        for percent, value in zip(PERCENTILES, np.percentile(inside, PERCENTILES), strict=True):
            values[name, f"hu_p{percent:02d}"] = float(value)
    return values


def summarise(rows: Iterable[Measurement], patients: Mapping[str, str]) -> list[dict[str, object]]:
    """One entry for every model × window × region × metric.

    ``mean``, ``std`` (population) and ``n`` are over all slices; ``patient_mean`` gives every patient the same
    weight and has the 95 % bootstrap interval ``ci95_low``…``ci95_high`` over slices within patients.
    """
    table: dict[tuple[str, str, str, str], list[tuple[str, float]]] = {}
    for row in rows:
        table.setdefault((row.model, row.window, row.region, row.metric), []).append((row.series, row.value))
    bootstraps: dict[tuple[str, ...], Bootstrap] = {}
    entries: list[dict[str, object]] = []
    for (model, window, region, metric), measured in table.items():
        who = tuple(patients.get(series, series) for series, _ in measured)
        if who not in bootstraps:
            bootstraps[who] = Bootstrap(who)
        bootstrap = bootstraps[who]
        values = np.array([value for _, value in measured])
        interval = bootstrap.interval(values)
        with np.errstate(invalid="ignore"):
            spread = float(np.std(values))
        entries.append(
            {
                "model": model,
                "window": window,
                "region": region,
                "metric": metric,
                "mean": _finite(float(np.mean(values))),
                "std": _finite(spread),
                "n": len(values),
                "patients": bootstrap.n_patients,
                "patient_mean": _finite(interval.mean),
                "ci95_low": _finite(interval.low),
                "ci95_high": _finite(interval.high),
            }
        )
    return entries


def _finite(value: float) -> float | None:
    """JSON has no infinity: PSNR of equal images becomes null."""
    return value if np.isfinite(value) else None


def write_evaluation(
    evaluation: Evaluation,
    output: Path,
    *,
    overwrite: bool = False,
    show_patients: bool = False,
    pdf: bool = False,
) -> None:
    """Write ``metrics.csv``, ``summary.json`` and ``report.html`` into a folder, each whole or not at all.

    Parameters
    ----------
    evaluation : Evaluation
    output : Path
        Made if it is not there.
    overwrite : bool
        Write into a folder that holds something.
    show_patients : bool
        Name the patients in the report.
    pdf : bool
        Also ``summary.pdf``, one page.

    Raises
    ------
    OutputError
        If the folder holds something and must not be overwritten.
    """
    from ldct_denoise.report import write_report
    from ldct_denoise.report.pdf import write_summary_pdf

    prepare_folder(output, overwrite)
    write_tables(evaluation, output)
    write_report(evaluation, output / "report.html", show_patients=show_patients)
    if pdf:
        write_summary_pdf(evaluation, output / "summary.pdf")


def write_tables(evaluation: Evaluation, output: Path) -> None:
    """Write ``metrics.csv`` and ``summary.json`` into a folder that is there."""
    write_whole(output / "metrics.csv", lambda path: _write_csv(evaluation.rows, path))
    summary = {
        "software": f"ldct-denoise {__version__}",
        "notes": list(evaluation.notes),
        "windows": {w.name: {"low_hu": w.low_hu, "high_hu": w.high_hu} for w in evaluation.windows},
        "regions": [region.name for region in evaluation.regions],
        "series": len(evaluation.patients),
        "patients": len(set(evaluation.patients.values())),
        "summary": evaluation.summary(),
        **evaluation.extra,
    }
    text = json.dumps(summary, indent=1, allow_nan=False)
    write_whole(output / "summary.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))


def _write_csv(rows: Iterable[Measurement], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([row.series, f"{row.position_mm:.3f}", *row[2:6], f"{row.value:.7g}"])

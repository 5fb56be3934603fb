"""The report of measurements against a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldct_denoise.evaluation.measure import REFERENCE, UNCLIPPED
from ldct_denoise.evaluation.tables import pseudonyms, summarise_patients
from ldct_denoise.metrics.statistics import Bootstrap
from ldct_denoise.regions.regions import region_masks
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.noise_resolution import insert_charts, insert_tables, noise_charts, noise_tables
from ldct_denoise.report.page import PICTURE_BUDGET, ChartSection, Page, Table, write_page
from ldct_denoise.report.pictures import slide

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation, SeriesImages

#: One metric by (series, position).
Values = Mapping[tuple[str, float], float]

MAX_PLACES = 24
MAX_SLICE_ROWS = 2000
PATIENT_METRICS = ("psnr", "ssim", "rmse", "hu_bias")


def write_report(
    evaluation: Evaluation,
    path: Path,
    *,
    title: str = "Image quality report",
    include_patient_ids: bool = False,
    first_tables: Sequence[Table] = (),
    tables: Sequence[Table] = (),
) -> None:
    """Write ``report.html``.

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        Replaced, whole or not at all.
    title : str
    include_patient_ids : bool
        Name the patients; otherwise series are pseudonyms.
    first_tables, tables : sequences
        What stands before the images, and before the usual tables.
    """
    names = _series_names(evaluation, include_patient_ids)
    slides = key_slice_views(evaluation, names)
    total = len({row[:2] for row in evaluation.rows})
    sections = [*noise_charts(evaluation, names), *insert_charts(evaluation, names), _along_z(evaluation, names)]
    page = Page(
        title=title,
        sentences=sentences(evaluation),
        notes=evaluation.notes,
        slides=slides,
        picture_note=f"{len(slides)} of {total} slices are shown (spread along z, cropped to the body) so that "
        "the file stays below 10 MB; every slice is in the tables.",
        first_tables=first_tables,
        charts=[section for section in sections if section.charts],
        tables=[
            *tables,
            *noise_tables(evaluation, names),
            *insert_tables(evaluation, names),
            *_paired_table(evaluation),
            _summary_table(evaluation),
            *_patient_table(evaluation, include_patient_ids),
            _slice_table(evaluation, names),
        ],
    )
    write_page(page, path)


def sentences(evaluation: Evaluation) -> list[str]:
    """What the numbers say, in words: each model against the input where there is one."""
    window, region = evaluation.windows[-1].name, evaluation.headline_region
    said = [
        f"{len(set(evaluation.patients.values()))} patient(s), {len(evaluation.patients)} series, "
        f"{len({row[:2] for row in evaluation.rows})} slices. The figures below: window {window}, region {region}"
        ", patients weighing alike."
    ]
    baseline = evaluation.values("input", window, region, "rmse")
    for model in evaluation.models:
        if model in ("input", "reference"):
            continue
        said.append(_sentence(evaluation, model, window, region, baseline))
    return said


def _sentence(evaluation: Evaluation, model: str, window: str, region: str, baseline: Values) -> str:
    error, ssim = (evaluation.values(model, window, region, metric) for metric in ("rmse", "ssim"))
    text = (
        f"{model}: rmse {_mean(evaluation, error):.2f} HU, "
        f"{_psnr_words(evaluation, evaluation.values(model, window, region, 'psnr'))}, "
        f"SSIM {_mean(evaluation, ssim):.4f}; without a window, mean HU differs from the reference by "
        f"{mean_hu_offset(evaluation, model, region):+.2f} HU."
    )
    shared = sorted(error.keys() & baseline.keys())
    if not shared or not any(baseline[key] for key in shared):
        return text
    bootstrap = Bootstrap([evaluation.patients[series] for series, _ in shared])
    before = [baseline[key] for key in shared]
    change = bootstrap.paired([error[key] for key in shared], before).difference
    better = sum(error[key] < baseline[key] for key in shared)
    return (
        f"{text} Against the input the rmse changes by {change.mean:+.2f} HU "
        f"({100 * change.mean / bootstrap.interval(before).mean:+.0f} %, 95 % interval {change.low:+.2f} to "
        f"{change.high:+.2f} HU); {better} of {len(shared)} slices are closer to the reference."
    )


def _psnr_words(evaluation: Evaluation, values: Values) -> str:
    """The PSNR of the slices that have one, and how many are equal to the reference in the window."""
    known = {key: value for key, value in values.items() if np.isfinite(value)}
    if values and not known:
        return "PSNR infinite"
    text = f"PSNR {_mean(evaluation, known):.2f} dB"
    infinite = len(values) - len(known)
    return f"{text} (without {infinite} of {len(values)} slices, where it is infinite)" if infinite else text


def mean_hu_offset(evaluation: Evaluation, model: str, region: str) -> float:
    """Mean HU of a model's images − that of the reference, patients weighing alike; NaN where there is none.

    No window clips it: of images that are clipped, what lies outside the window would not count.
    """
    ours, theirs = (evaluation.values(who, UNCLIPPED, region, "hu_mean") for who in (model, REFERENCE))
    return _mean(evaluation, {key: ours[key] - theirs[key] for key in ours.keys() & theirs.keys()})


def key_slice_views(evaluation: Evaluation, names: Mapping[str, str]) -> list[dict[str, object]]:
    """Slices for the viewer, spread evenly along every series, as many as the budget holds."""
    chosen: list[tuple[tuple[int, float], dict[str, object]]] = []
    spent = 0
    for case_number, case, at in _spread(evaluation.cases):
        place = case.sample(at)
        found = region_masks(evaluation.regions, place.geometry, place.index, place.reference)
        masks = {name: mask for name, mask in found.items() if mask is not None}
        label = f"{names[case.series]}, z = {place.position_mm:.1f} mm"
        panels = {**place.images, "reference": place.reference}
        entry = slide(label, panels, masks, place.geometry.pixel_spacing_mm)
        spent += sum(len(text) for text in entry["panels"].values())  # type: ignore[attr-defined, misc]
        if chosen and spent > PICTURE_BUDGET:
            break
        chosen.append(((case_number, place.position_mm), entry))
    return [entry for _, entry in sorted(chosen, key=lambda item: item[0])]


def _spread(cases: Sequence[SeriesImages]) -> Iterator[tuple[int, SeriesImages, Mapping[str, int]]]:
    """Places in an order in which any first few are spread over all series and along each."""
    per_case = max(1, MAX_PLACES // max(1, len(cases)))
    queues = []
    for case in cases:
        count = min(per_case, len(case.indices))
        every = np.arange(len(case.indices))
        inner = np.unique(np.linspace(0, len(every) - 1, count + 2).round().astype(int)[1:-1])
        picks = every if count == len(every) else inner
        queues.append([int(pick) for pick in _halving(list(picks))])
    for turn in range(per_case):
        for number, case in enumerate(cases):
            if turn < len(queues[number]):
                yield number, case, case.indices[queues[number][turn]]


def _halving(items: list[int]) -> list[int]:
    """The middle first, then the middles of the halves, and so on."""
    if not items:
        return []
    middle = len(items) // 2
    left, right = _halving(items[:middle]), _halving(items[middle + 1 :])
    mixed = [item for pair in zip(left, right, strict=False) for item in pair]
    return [items[middle], *mixed, *left[len(right) :], *right[len(left) :]]


def _along_z(evaluation: Evaluation, names: Mapping[str, str]) -> ChartSection:
    """PSNR along z, a chart for each series (the first six)."""
    window, region = evaluation.windows[-1].name, evaluation.regions[0].name
    charts = []
    for series, name in list(names.items())[:6]:
        curves = {}
        for model in evaluation.models:
            values = evaluation.values(model, window, region, "psnr")
            points = sorted((z, value) for (uid, z), value in values.items() if uid == series)
            if points:
                curves[model] = ([z for z, _ in points], [value for _, value in points])
        charts.append(line_chart(curves, "z, mm", "PSNR, dB", name, dots=True))
    return ChartSection(
        "Along z", f"PSNR of every slice, window {window}, region {region}.", [chart for chart in charts if chart]
    )


def _summary_table(evaluation: Evaluation) -> Table:
    columns = ("model", "window", "region", "metric", "mean", "std", "n", "patient_mean", "ci95_low", "ci95_high")
    rows = [[entry[column] for column in columns] for entry in evaluation.summary()]
    return Table("All numbers", "Click a heading to sort.", columns, rows)


def _paired_table(evaluation: Evaluation) -> list[Table]:
    paired = evaluation.extra.get("paired")
    if not isinstance(paired, list) or not paired:
        return []
    text = (
        "Model − against, on the same slices, patients weighing alike; 95 % bootstrap interval over slices within "
        "patients; two-sided Wilcoxon p, which is too small where its unit is the slice. Slices whose value is "
        "infinite (the PSNR of equal images) are left out and counted."
    )
    return [Table("Paired differences", text, list(paired[0]), [list(entry.values()) for entry in paired])]


def _patient_table(evaluation: Evaluation, include_patient_ids: bool) -> list[Table]:
    """Means of each patient in the last window; nothing where there is only one."""
    names = pseudonyms(evaluation.patients, include_patient_ids)
    if len(names) < 2:
        return []
    window = evaluation.windows[-1].name
    rows = [row for row in evaluation.rows if row.window == window and row.metric in PATIENT_METRICS]
    columns = ("patient", "model", "region", "metric", "mean", "ci95_low", "ci95_high", "n")
    entries = summarise_patients(rows, evaluation.patients)
    cells = [[names[str(entry["patient"])], *(entry[column] for column in columns[1:])] for entry in entries]
    text = f"Window {window}; 95 % bootstrap interval over the patient's slices. All windows are in summary.json."
    return [Table("Patient by patient", text, columns, cells)]


def _slice_table(evaluation: Evaluation, names: Mapping[str, str]) -> Table:
    window = evaluation.windows[-1].name
    metrics = ("psnr", "ssim", "rmse", "mae", "hu_bias", "noise_std")
    cells: dict[tuple[str, float, str, str], dict[str, float]] = {}
    for row in evaluation.rows:
        if row.window == window and row.metric in metrics:
            cells.setdefault((names[row.series], row.position_mm, row.model, row.region), {})[row.metric] = (
                row.value
            )
    rows = [[*key, *(values.get(metric) for metric in metrics)] for key, values in cells.items()]
    shown = rows[:MAX_SLICE_ROWS]
    text = f"Window {window}; the other windows are in metrics.csv."
    if len(shown) < len(rows):
        text += f" The first {len(shown)} of {len(rows)} rows."
    return Table("Slice by slice", text, ("series", "z, mm", "model", "region", *metrics), shown)


def _series_names(evaluation: Evaluation, include_patient_ids: bool) -> dict[str, str]:
    names = {}
    for number, (series, patient) in enumerate(evaluation.patients.items(), start=1):
        names[series] = f"{patient} (series {number})" if include_patient_ids else f"series {number}"
    return names


def _mean(evaluation: Evaluation, values: Values) -> float:
    """With patients weighing alike; NaN of nothing."""
    if not values:
        return float("nan")
    patients = [evaluation.patients[series] for series, _ in values]
    return float(Bootstrap(patients, repeats=0).patient_means(list(values.values())).mean())

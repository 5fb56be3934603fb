"""Report of an evaluation against a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldct_denoise.evaluation.measure import REFERENCE, UNCLIPPED
from ldct_denoise.evaluation.tables import pseudonyms, summarise_patients
from ldct_denoise.metrics.statistics import Interval, PatientStatistics
from ldct_denoise.regions.regions import region_masks
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.noise_resolution import insert_charts, insert_tables, noise_charts, noise_tables
from ldct_denoise.report.page import PICTURE_BUDGET, ChartSection, Page, Table, write_page
from ldct_denoise.report.pictures import slice_view
from ldct_denoise.volume import spread_indices

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation, SeriesImages

#: Which intervals are empty, and of whom the others speak.
TOO_FEW_SLICES = "empty where the slices are too few for their correlation (at least 30)"
INTERVAL_TEXT = (
    "95 % confidence intervals: with three patients or more for the mean of patients like these, otherwise for "
    f"the measured patients only; {TOO_FEW_SLICES}."
)
#: One metric by (series, position).
Values = Mapping[tuple[str, float], float]

#: Largest number of slices in the viewer, of series with a chart, and of rows in the slice table.
MAX_VIEWS, MAX_CHARTS, MAX_SLICE_ROWS = 24, 6, 2000
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
        Replaced atomically.
    title : str
    include_patient_ids : bool
        Show patient IDs; otherwise series are numbered.
    first_tables : sequence of Table
        Tables above the images.
    tables : sequence of Table
        Tables before the standard ones.
    """
    names = _series_names(evaluation, include_patient_ids)
    views = key_slice_views(evaluation, names)
    total = len({row[:2] for row in evaluation.rows})
    sections = [*noise_charts(evaluation, names), *insert_charts(evaluation, names), _along_z(evaluation, names)]
    page = Page(
        title=title,
        sentences=sentences(evaluation),
        notes=evaluation.notes,
        slice_views=views,
        picture_note=f"{len(views)} of {total} slices are shown (spread along z, cropped to the body) so that "
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
    """Summary in words: each model against the input, if there is one."""
    window, region = evaluation.windows[-1].name, evaluation.headline_region
    summary = [
        f"{len(set(evaluation.patients.values()))} patient(s), {len(evaluation.patients)} series, "
        f"{len({row[:2] for row in evaluation.rows})} slices. Numbers below: window {window}, region {region}, "
        "each patient weighted equally."
    ]
    baseline = evaluation.values("input", window, region, "rmse")
    for model in evaluation.models:
        if model not in ("input", "reference"):
            summary.append(_sentence(evaluation, model, window, region, baseline))
    return summary


def _sentence(evaluation: Evaluation, model: str, window: str, region: str, baseline: Values) -> str:
    error, ssim = (evaluation.values(model, window, region, metric) for metric in ("rmse", "ssim"))
    text = (
        f"{_psnr_words(evaluation, evaluation.values(model, window, region, 'psnr'))}, "
        f"SSIM {_mean(evaluation, ssim):.4f}; without a window, mean HU differs from the reference by "
        f"{mean_hu_offset(evaluation, model, region):+.2f} HU."
    )
    shared = sorted(error.keys() & baseline.keys())
    if not shared or not any(baseline[key] for key in shared):
        return f"{model}: RMSE {_mean(evaluation, error):.2f} HU, {text}"
    statistics = PatientStatistics([evaluation.patients[series] for series, _ in shared])
    before, after = ([values[key] for key in shared] for values in (baseline, error))
    change = statistics.paired(after, before).difference
    before_hu, after_hu = (float(statistics.patient_means(values).mean()) for values in (before, after))
    closer = sum(error[key] < baseline[key] for key in shared)
    return (
        f"{model}: error against the reference {100 * change.mean / before_hu:+.0f} % (RMSE {before_hu:.2f} → "
        f"{after_hu:.2f} HU{_interval_words(change)}); {closer} of "
        f"{len(shared)} slices are closer to the reference than the input. {text}"
    )


def _interval_words(change: Interval) -> str:
    """The interval of a change and whom it describes; nothing where there is none."""
    if not change.describes:
        return ""
    whom = {"patients": "for patients like these", "these patients": "for the measured patients only"}
    limits = f"{change.low:+.2f} to {change.high:+.2f} HU"
    return f"; 95 % interval of the change {limits}, {whom[change.describes]}"


def _psnr_words(evaluation: Evaluation, values: Values) -> str:
    """Mean of the finite PSNR values, and how many slices equal the reference in the window."""
    known = {key: value for key, value in values.items() if np.isfinite(value)}
    if values and not known:
        return "PSNR infinite"
    text = f"PSNR {_mean(evaluation, known):.2f} dB"
    infinite = len(values) - len(known)
    return f"{text} (without {infinite} of {len(values)} slices, where it is infinite)" if infinite else text


def mean_hu_offset(evaluation: Evaluation, model: str, region: str) -> float:
    """Mean HU of a model's images minus that of the reference, with equal weight of patients; NaN without any.

    The images are not clipped to a window, because clipping would hide shifts outside it.

    Parameters
    ----------
    evaluation : Evaluation
    model, region : str
        Entries of the columns of ``metrics.csv``.

    Returns
    -------
    float
        HU.
    """
    ours, theirs = (evaluation.values(who, UNCLIPPED, region, "hu_mean") for who in (model, REFERENCE))
    return _mean(evaluation, {key: ours[key] - theirs[key] for key in ours.keys() & theirs.keys()})


def key_slice_views(evaluation: Evaluation, names: Mapping[str, str]) -> list[dict[str, object]]:
    """Slices for the viewer, evenly spread along every series, as many as fit into the size limit."""
    chosen: list[tuple[tuple[int, float], dict[str, object]]] = []
    spent = 0
    for case_number, case, indices in _spread(evaluation.cases):
        sample = case.sample(indices)
        found = region_masks(evaluation.regions, sample.geometry, sample.index, sample.reference)
        masks = {name: mask for name, mask in found.items() if mask is not None}
        label = f"{names[case.series]}, z = {sample.position_mm:.1f} mm"
        panels = {**sample.images, "reference": sample.reference}
        entry = slice_view(label, panels, masks, sample.geometry.pixel_spacing_mm)
        spent += sum(len(text) for text in entry["panels"].values())  # type: ignore[attr-defined, misc]
        if chosen and spent > PICTURE_BUDGET:
            break
        chosen.append(((case_number, sample.position_mm), entry))
    return [entry for _, entry in sorted(chosen, key=lambda item: item[0])]


def _spread(cases: Sequence[SeriesImages]) -> Iterator[tuple[int, SeriesImages, Mapping[str, int]]]:
    """Slices in an order in which any first few are spread over all series and along each."""
    per_case = max(1, MAX_VIEWS // max(1, len(cases)))
    queues = []
    for case in cases:
        count = min(per_case, len(case.indices))
        total = len(case.indices)
        picks = list(range(total)) if count == total else spread_indices(total, count + 2)[1:-1]
        queues.append(_halving(picks))
    for turn in range(per_case):
        for number, case in enumerate(cases):
            if turn < len(queues[number]):
                yield number, case, case.indices[queues[number][turn]]


def _halving(items: list[int]) -> list[int]:
    """The middle element first, then the middles of the halves, and so on."""
    if not items:
        return []
    middle = len(items) // 2
    left, right = _halving(items[:middle]), _halving(items[middle + 1 :])
    mixed = [item for pair in zip(left, right, strict=False) for item in pair]
    return [items[middle], *mixed, *left[len(right) :], *right[len(left) :]]


def _along_z(evaluation: Evaluation, names: Mapping[str, str]) -> ChartSection:
    """PSNR along z, one chart for each of the first series."""
    window, region = evaluation.windows[-1].name, evaluation.regions[0].name
    charts = []
    for series, name in list(names.items())[:MAX_CHARTS]:
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
    columns = ["model", "window", "region", "metric", "mean", "std", "n", "patient_mean"]
    columns += ["ci95_low", "ci95_high", "ci95_describes"]
    rows = [[entry[column] for column in columns] for entry in evaluation.summary()]
    return Table("All numbers", f"{INTERVAL_TEXT} Click a heading to sort.", columns, rows)


def _paired_table(evaluation: Evaluation) -> list[Table]:
    paired = evaluation.extra.get("paired")
    if not isinstance(paired, list) or not paired:
        return []
    text = (
        f"Model − against on the same slices, each patient weighted equally. {INTERVAL_TEXT} Wilcoxon's two-sided "
        "p compares patients and needs six of them. Slices with an infinite value (PSNR of equal images) are left "
        "out and counted."
    )
    return [Table("Paired differences", text, list(paired[0]), [list(entry.values()) for entry in paired])]


def _patient_table(evaluation: Evaluation, include_patient_ids: bool) -> list[Table]:
    """Means of each patient in the last window; no table for a single patient."""
    names = pseudonyms(evaluation.patients, include_patient_ids)
    if len(names) < 2:
        return []
    window = evaluation.windows[-1].name
    rows = [row for row in evaluation.rows if row.window == window and row.metric in PATIENT_METRICS]
    columns = ("patient", "model", "region", "metric", "mean", "ci95_low", "ci95_high", "n")
    entries = summarise_patients(rows, evaluation.patients)
    cells = [[names[str(entry["patient"])], *(entry[column] for column in columns[1:])] for entry in entries]
    text = f"Window {window}; 95 % interval of this patient's mean: {TOO_FEW_SLICES}. "
    text += "All windows are in summary.json."
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
    """Mean with equal weight of patients; NaN of no values."""
    if not values:
        return float("nan")
    patients = [evaluation.patients[series] for series, _ in values]
    return float(PatientStatistics(patients).patient_means(list(values.values())).mean())

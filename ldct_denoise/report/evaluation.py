"""Report of an evaluation against a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldct_denoise.evaluation.tables import pseudonyms, summarise_patients
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.curve_styles import curve_styles
from ldct_denoise.report.identity import NO_SIGNATURE, Signature, evaluation_identity
from ldct_denoise.report.key_slices import attention_slice, key_slice_views
from ldct_denoise.report.noise_resolution import insert_charts, insert_tables, noise_charts, noise_tables
from ldct_denoise.report.page import ChartSection, Page, Table, write_page
from ldct_denoise.report.sentences import sentences
from ldct_denoise.report.verdict import evaluation_answer, evaluation_models

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation

#: Which intervals are empty, and of whom the others speak.
TOO_FEW_SLICES = "empty where the slices are too few for their correlation (at least 30)"
INTERVAL_TEXT = (
    "95 % confidence intervals: with three patients or more for the mean of patients like these, otherwise for "
    f"the measured patients only; {TOO_FEW_SLICES}."
)
#: Largest number of series with a chart, and of rows in the slice table.
MAX_CHARTS, MAX_SLICE_ROWS = 6, 2000
PATIENT_METRICS = ("psnr", "ssim", "rmse", "hu_bias")


def write_report(
    evaluation: Evaluation,
    path: Path,
    *,
    kind: str = "Image quality report",
    include_patient_ids: bool = False,
    signature: Signature = NO_SIGNATURE,
    first_tables: Sequence[Table] = (),
    tables: Sequence[Table] = (),
) -> None:
    """Write ``report.html``.

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        Replaced atomically.
    kind : str
        First words of the title.
    include_patient_ids : bool
        Show patient IDs; otherwise series are numbered.
    signature : Signature
        Author and site.
    first_tables : sequence of Table
        Tables above the images.
    tables : sequence of Table
        Tables before the standard ones.
    """
    names = series_names(evaluation, include_patient_ids)
    identity = evaluation_identity(evaluation, kind, names, signature)
    first_sentence, checks = evaluation_answer(evaluation)
    models = evaluation_models(evaluation)
    attention = attention_slice(evaluation)
    views, first_view = key_slice_views(evaluation, names, attention)
    total = len({row[:2] for row in evaluation.rows})
    sections = [*noise_charts(evaluation, names), *insert_charts(evaluation, names), _along_z(evaluation, names)]
    page = Page(
        title=identity.title,
        identity=identity.rows,
        sentences=[first_sentence, *sentences(evaluation)],
        checks=checks,
        checks_caption=f"Checks of {models[0]}" if len(models) > 1 else "",
        notes=evaluation.notes,
        slice_views=views,
        first_view=first_view,
        picture_note=f"{len(views)} of {total} slices are shown (spread along z, cropped to the body) so that "
        f"the file stays below 10 MB; every slice is in the tables. {attention.words if attention else ''}",
        view_command="ldct-denoise view INPUT OUTPUT REFERENCE",
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


def _along_z(evaluation: Evaluation, names: Mapping[str, str]) -> ChartSection:
    """PSNR along z, one chart for each of the first series."""
    window, region = evaluation.windows[-1].name, evaluation.regions[0].name
    styles = curve_styles(evaluation.models)
    charts = []
    for series, name in list(names.items())[:MAX_CHARTS]:
        curves = {}
        for model in evaluation.models:
            values = evaluation.values(model, window, region, "psnr")
            points = sorted((z, value) for (uid, z), value in values.items() if uid == series)
            if points:
                curves[model] = ([z for z, _ in points], [value for _, value in points])
        charts.append(line_chart(curves, "z, mm", "PSNR, dB", name, dots=True, styles=styles))
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


def series_names(evaluation: Evaluation, include_patient_ids: bool) -> dict[str, str]:
    """Names of the series in a report: numbers, and patient IDs if asked for."""
    names = {}
    for number, (series, patient) in enumerate(evaluation.patients.items(), start=1):
        names[series] = f"{patient} (series {number})" if include_patient_ids else f"series {number}"
    return names

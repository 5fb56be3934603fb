"""``ldct-denoise evaluate``: measure images against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options, terminal


@click.command(short_help="Measure images against a reference.")
@click.argument("candidates", nargs=-1, required=True, metavar="CANDIDATE...")
@click.option(
    "--reference", required=True, type=options.EXISTING, help="Normal-dose series, or a folder with several."
)
@click.option(
    "--input", "low", type=options.EXISTING, help="Low-dose series, or a folder with several; measured as well."
)
@options.output
@options.measurements
@options.dose_patterns
@options.assume_hu
@click.option(
    "--insert",
    "inserts",
    multiple=True,
    metavar="X,Y,Z,RADIUS[,HU]",
    help="Insert of a phantom (LPS mm). Measures resolution at its contrast, and HU linearity if three inserts "
    "have a nominal HU. Repeatable.",
)
@click.option("--pdf", is_flag=True, help="Also write summary.pdf.")
@click.option(
    "--sr",
    is_flag=True,
    help="Also write mean HU, standard deviation and area of every --roi as DICOM SR (TID 1500) into OUTPUT/sr.",
)
@click.option("--include-patient-ids", is_flag=True, help="Show patient IDs in the report.")
@options.signature
@options.open_report
@options.overwrite
def command(
    candidates: tuple[str, ...],
    reference: Path,
    low: Path | None,
    output: Path,
    inserts: tuple[str, ...],
    pdf: bool,
    sr: bool,
    include_patient_ids: bool,
    author: str,
    site: str,
    open_report: bool,
    overwrite: bool,
    low_patterns: tuple[str, ...],
    normal_patterns: tuple[str, ...],
    assume_hu: bool,
    **measurements: Any,
) -> None:
    """Measure CANDIDATE (a series, folder or volume) against its reference.

    Give each candidate as PATH or NAME=PATH; without NAME, the file or folder name is used. All candidates are
    measured on the slices of the first one. Slices are paired by position and orientation. Writes metrics.csv,
    summary.json and report.html.
    """
    from ldct_denoise.evaluation.evaluate import evaluate, images_under, named_paths
    from ldct_denoise.evaluation.inserts import Insert
    from ldct_denoise.io.dose_words import Dose, DosePatterns
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.identity import Signature
    from ldct_denoise.report.structured_report import reportable_regions, write_structured_reports
    from ldct_denoise.report.verdict import evaluation_answer
    from ldct_denoise.report.write import write_evaluation

    plan, parsed = options.measurement_plan(**measurements), [Insert.parse(text) for text in inserts]
    patterns, named = DosePatterns(low_patterns, normal_patterns), named_paths(candidates)
    if sr:
        reportable_regions(plan.regions)
    make_output_folder(output, overwrite)
    with terminal.progress_bar("reading headers") as bar:
        result = evaluate(
            {name: images_under(path, patterns=patterns, assume_hu=assume_hu) for name, path in named.items()},
            images_under(reference, Dose.NORMAL, patterns, assume_hu),
            images_under(low, Dose.LOW, patterns, assume_hu) if low else None,
            plan,
            inserts=parsed,
            progress=bar.counting("measuring"),
        )
        bar.stage("writing the report")
        write_evaluation(
            result,
            output,
            overwrite=True,
            include_patient_ids=include_patient_ids,
            signature=Signature(author, site),
            pdf=pdf,
        )
    structured: list[Path] = []
    notes = list(result.notes)
    if sr:
        structured, missing = write_structured_reports(result, output / "sr")
        notes += missing
    for note in notes:
        terminal.say(f"note: {note}")
    terminal.print_paragraph(evaluation_answer(result)[0])
    click.echo()
    click.echo("\n".join(result.lines()))
    for path in structured:
        click.echo(f"{path}")
    click.echo(f"{output / 'report.html'}")
    if open_report:
        options.open_in_browser(output / "report.html")

"""``ldct-denoise evaluate``: measure images against a reference."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("candidate", type=options.EXISTING)
@click.option(
    "--reference", required=True, type=options.EXISTING, help="Normal-dose series, or a tree that holds them."
)
@click.option(
    "--input", "low", type=options.EXISTING, help="Low-dose series, measured too, or a tree that holds them."
)
@options.output
@options.windows
@options.protocol
@options.rois
@options.contrasts
@click.option(
    "--insert",
    "inserts",
    multiple=True,
    metavar="X,Y,Z,RADIUS[,HU]",
    help="A phantom's rod (LPS mm): resolution at its contrast; HU linearity where three nominal HU are given. "
    "Repeatable.",
)
@options.extended
@click.option("--pdf", is_flag=True, help="Also summary.pdf: one page for the file.")
@click.option("--include-patient-ids", is_flag=True, help="Name the patients in the report.")
@options.overwrite
def command(
    candidate: Path,
    reference: Path,
    low: Path | None,
    output: Path,
    windows: tuple[str, ...],
    protocol: str | None,
    rois: tuple[str, ...],
    contrasts: tuple[tuple[str, str], ...],
    inserts: tuple[str, ...],
    extended: bool,
    pdf: bool,
    include_patient_ids: bool,
    overwrite: bool,
) -> None:
    """Measure CANDIDATE (a series, folder or volume) against its reference.

    Slices are paired by position and orientation. Writes metrics.csv, summary.json and report.html.
    """
    from ldct_denoise.evaluation.evaluate import evaluate, images_under
    from ldct_denoise.evaluation.inserts import Insert
    from ldct_denoise.io.dose_labels import Dose
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.write import write_evaluation

    what = options.measurement_options(windows, protocol, rois, contrasts, extended)
    rods = [Insert.parse(text) for text in inserts]
    make_output_folder(output, overwrite)
    with options.progress_bar("measuring") as bar:
        result = evaluate(
            images_under(candidate),
            images_under(reference, Dose.NORMAL),
            images_under(low, Dose.LOW) if low else None,
            inserts=rods,
            progress=lambda done, total: bar(done, total, ""),
            **what,
        )
    write_evaluation(result, output, overwrite=True, include_patient_ids=include_patient_ids, pdf=pdf)
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    click.echo("\n".join(result.lines()))
    click.echo(f"{output / 'report.html'}")

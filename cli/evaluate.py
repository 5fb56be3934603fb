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
@click.option(
    "--window",
    "windows",
    multiple=True,
    metavar="NAME|LEVEL,WIDTH",
    help="Window in HU: full, abdomen, mediastinum, lung, bone, brain, liver, or LEVEL,WIDTH. Repeatable; "
    "default: full and abdomen.",
)
@click.option(
    "--roi",
    "rois",
    multiple=True,
    metavar="FILE|X,Y,Z,RADIUS|TISSUE",
    help="Also measure here: a label volume, DICOM SEG or RTSTRUCT, a ball (LPS mm), or lung, fat, soft-tissue, "
    "bone. Repeatable.",
)
@click.option(
    "--cnr",
    "contrasts",
    nargs=2,
    multiple=True,
    metavar="REGION REGION",
    help="Contrast-to-noise ratio of two regions, each a ball or a tissue as for --roi. Repeatable.",
)
@click.option(
    "--insert",
    "inserts",
    multiple=True,
    metavar="X,Y,Z,RADIUS[,HU]",
    help="A phantom's rod (LPS mm): resolution at its contrast; HU linearity where three nominal HU are given. "
    "Repeatable.",
)
@click.option("--protocol", help="Windows of a published protocol: ldct-benchmark, red-cnn, du-gan, corediff.")
@click.option("--extended", is_flag=True, help="Also MS-SSIM, VIF and GMSD (slower).")
@click.option("--pdf", is_flag=True, help="Also summary.pdf: one page for the file.")
@click.option("--show-patients", is_flag=True, help="Name the patients in the report.")
@options.overwrite
def command(
    candidate: Path,
    reference: Path,
    low: Path | None,
    output: Path,
    windows: tuple[str, ...],
    rois: tuple[str, ...],
    contrasts: tuple[tuple[str, str], ...],
    inserts: tuple[str, ...],
    protocol: str | None,
    extended: bool,
    pdf: bool,
    show_patients: bool,
    overwrite: bool,
) -> None:
    """Measure CANDIDATE (a series, folder or volume) against its reference.

    Slices are paired by position and orientation. Writes metrics.csv, summary.json and report.html.
    """
    from ldct_denoise.evaluate import DEFAULT_REGIONS, DEFAULT_WINDOWS, evaluate, images_under, write_evaluation
    from ldct_denoise.inserts import Insert
    from ldct_denoise.intensity import Window
    from ldct_denoise.io.mayo import Dose
    from ldct_denoise.metrics.protocols import find_protocol
    from ldct_denoise.output import prepare_folder
    from ldct_denoise.regions import one_region, parse_regions

    chosen = [Window.parse(text) for text in windows]
    notes: list[str] = []
    if protocol:
        found = find_protocol(protocol)
        chosen += found.windows
        notes.append(found.note)
    regions = [*DEFAULT_REGIONS, *(region for text in rois for region in parse_regions(text))]
    pairs = [(one_region(first), one_region(second)) for first, second in contrasts]
    rods = [Insert.parse(text) for text in inserts]
    prepare_folder(output, overwrite)
    with options.progress_bar("measuring") as bar:
        result = evaluate(
            images_under(candidate),
            images_under(reference, Dose.NORMAL),
            images_under(low, Dose.LOW) if low else None,
            tuple(chosen) or DEFAULT_WINDOWS,
            regions,
            contrasts=pairs,
            inserts=rods,
            extended=extended,
            notes=notes,
            progress=lambda done, total: bar(done, total, ""),
        )
    write_evaluation(result, output, overwrite=True, show_patients=show_patients, pdf=pdf)
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    click.echo("\n".join(result.lines()))
    click.echo(f"{output / 'report.html'}")

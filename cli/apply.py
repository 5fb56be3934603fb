"""``ldct-denoise apply``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from ldct_denoise.io.write_settings import Compression, PrivateTags

from . import completion, options, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ldct_denoise.inference.series import WriteReport
    from ldct_denoise.inference.settings import ApplySettings
    from ldct_denoise.models.trained import TrainedModel
    from ldct_denoise.report.identity import Signature
    from ldct_denoise.volume import SliceSource


@click.command(short_help="Denoise a patient series; write a derived series.")
@click.argument("series", type=options.EXISTING)
@options.output
@click.option(
    "--model",
    shell_complete=completion.models,
    help="Shipped model, model file, run folder, network file (.onnx, .pt2, TorchScript), or a method without "
    "training (`models` lists them).  [default: lir-ct]",
)
@options.strength
@click.option(
    "--noise-reduction",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Instead of --strength: remove this percentage of the noise in uniform tissue; 50 leaves half.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse series with problems, and series unlike the training data of the model. Without it: warn.",
)
@options.device
@options.precision
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for methods that draw random numbers.")
@options.tta
@click.option("--report", is_flag=True, help="Also write OUTPUT-report.html, which compares input and output.")
@click.option("--open", "open_report", is_flag=True, help="Write the report and open it in the browser.")
@click.option(
    "--view",
    is_flag=True,
    help="Afterwards show input and output in the browser, as `view` does; one series only.",
)
@options.signature
@options.output_format
@click.option(
    "--compress", type=click.Choice(get_args(Compression)), help="Compress the pixel data without loss (DICOM)."
)
@click.option(
    "--private-tags",
    type=click.Choice(get_args(PrivateTags)),
    default="keep",
    show_default=True,
    help="Keep or remove private attributes (DICOM).",
)
@click.option("--keep-manufacturer", is_flag=True, help="Keep the scanner's Manufacturer attribute (DICOM).")
@click.option("--convert-enhanced", is_flag=True, help="Write Enhanced CT as classic CT images.")
@click.option("--deidentify", is_flag=True, help="Remove the patient's identity (DICOM PS3.15 basic profile).")
@options.assume_hu
@options.method_files
@options.overwrite
@click.option(
    "--verbose", "-v", is_flag=True, help="Also print the time for reading, network, blending and writing."
)
def command(
    series: Path,
    output: Path,
    model: str | None,
    strength: float | None,
    noise_reduction: float | None,
    strict: bool,
    device: str,
    precision: str,
    seed: int,
    tta: bool,
    report: bool,
    open_report: bool,
    view: bool,
    author: str,
    site: str,
    assume_hu: bool,
    verbose: bool,
    **writing: Any,
) -> None:
    """Denoise SERIES: a DICOM folder, file or tree with several series, or a NIfTI/NRRD/MHA volume.

    Writes a derived DICOM series, or a volume, to --output. A series appears there only when it is complete. The
    input is never changed. To resume an interrupted tree, repeat the command: OUTPUT-ledger.jsonl lists the
    finished series. Processes that torchrun or Slurm started share the series. Research use only.
    """
    from ldct_denoise.io.process_limits import let_waiting_threads_sleep

    let_waiting_threads_sleep()
    from ldct_denoise.inference.settings import ApplySettings
    from ldct_denoise.io.write_settings import WriteSettings
    from ldct_denoise.report.identity import Signature

    if verbose:
        terminal.log_to_stderr(verbose)
    settings = ApplySettings(
        strength,
        device,
        precision,  # type: ignore[arg-type]
        seed,
        tta=tta,
        noise_reduction=noise_reduction,
        strict=strict,
        assume_hu=assume_hu,
    )
    reports: list[tuple[Path, str]] = []
    on_result = None
    with terminal.progress_bar("loading the model") as bar:
        from ldct_denoise.inference.batch import apply
        from ldct_denoise.models.trained import DEFAULT_MODEL, load_model

        loaded = load_model(model or DEFAULT_MODEL)
        if report or open_report:
            on_result = _report_writer(loaded, settings, Signature(author, site), reports)
        bar.stage("reading headers")
        written = apply(
            series, loaded, output, settings, WriteSettings(**writing),
            write_report=on_result, progress=bar.counting("denoising"), notify=terminal.say,
        )  # fmt: skip
    for path in written:
        click.echo(path)
    for path, verdict in reports:
        terminal.print_paragraph(f"{path}: {verdict}")
        if open_report:
            options.open_in_browser(path)
    if view:
        _view(series, written, assume_hu)


def _report_writer(
    model: TrainedModel, settings: ApplySettings, signature: Signature, reports: list[tuple[Path, str]]
) -> WriteReport:
    """Writes reports, and notes the path and the verdict of each in ``reports``."""
    from ldct_denoise.report.apply import apply_report_writer, verdict

    write = apply_report_writer(model, settings, signature)

    def write_and_note(source: SliceSource, location: Path, path: Path) -> None:
        reports.append((path, verdict(write(source, location, path))))

    return write_and_note


def _view(series: Path, written: Sequence[Path], assume_hu: bool) -> None:
    from ldct_denoise.io.find import find_images
    from ldct_denoise.view import serve_view

    before = find_images(series, assume_hu=assume_hu).series
    if len(before) != 1 or len(written) != 1:
        raise click.UsageError("--view shows one series; use `ldct-denoise view` with --input-series")
    after = find_images(written[0], include_derived=True, assume_hu=assume_hu).series
    serve_view([before[0], after[0]], ["INPUT", "OUTPUT"], announce=options.announce_view)

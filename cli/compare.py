"""``ldct-denoise compare``: several models on all low/normal-dose pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import completion, options, terminal

if TYPE_CHECKING:
    from ldct_denoise.io.photos import NoiseLaw


@click.command(short_help="Compare several models and methods on low/normal-dose pairs.")
@click.option("--dicom-root", type=options.EXISTING, help="Folder with low- and normal-dose series.")
@click.option(
    "--low", type=options.EXISTING, multiple=True, help="Instead of --dicom-root: low-dose series. Repeatable."
)
@click.option("--normal", type=options.EXISTING, multiple=True, help="With --low: normal-dose series. Repeatable.")
@click.option(
    "--manifest",
    type=options.EXISTING,
    help="Instead of --dicom-root: CSV table of series (inspect --write-manifest). Uses its test rows, or all "
    "rows if none has a split.",
)
@click.option(
    "--images",
    type=options.EXISTING,
    help="Instead of --dicom-root: folder of grey images, to which noise is added.",
)
@click.option(
    "--noise",
    type=click.Choice(["gaussian", "poisson"]),
    default="gaussian",
    show_default=True,
    help="With --images: distribution of the noise.",
)
@click.option(
    "--noise-sigma", type=float, default=25.0, show_default=True, help="With --images: noise level, grey values."
)
@click.option("--seed", type=int, default=0, show_default=True, help="With --images: seed of the noise.")
@click.option(
    "--model",
    "models",
    shell_complete=completion.models,
    multiple=True,
    help="Shipped model, .safetensors file, run folder, network file (.onnx, .pt2, TorchScript), or untrained "
    "method (bm3d:sigma_factor=0.8). Repeatable.",
)
@click.option(
    "--series",
    "denoised",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Series that another program denoised, at the positions of the low-dose slices. Repeatable.",
)
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="Python function that takes and returns a slice in HU; also FILE.py:FUNCTION. Repeatable.",
)
@click.option(
    "--cross-validation",
    "folds",
    multiple=True,
    metavar="NAME=RUN,RUN,…",
    help="Runs of a cross-validation: each patient is denoised by a model that was not trained on this patient. "
    "Repeatable.",
)
@options.output
@options.measurements
@options.split
@click.option(
    "--fold", type=click.IntRange(min=0), default=0, help="With a file for --split: index of the fold, from 0."
)
@options.dose_patterns
@click.option(
    "--slice-thickness",
    "slice_thickness_mm",
    type=float,
    multiple=True,
    metavar="MM",
    help="Measure only series of this slice thickness. Repeatable.",
)
@click.option("--kernel", "kernels", multiple=True, help="Measure only series with this kernel. Repeatable.")
@click.option(
    "--include-training-patients",
    is_flag=True,
    help="Include patients that a model was trained on; their rows are marked.",
)
@click.option(
    "--num-seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of seeds for stochastic methods.",
)
@click.option("--include-patient-ids", is_flag=True, help="Show patient IDs in the report.")
@options.assume_hu
@options.strength
@options.tta
@options.device
@options.precision
@options.method_files
@options.signature
@options.open_report
@options.overwrite
def command(
    dicom_root: Path | None,
    low: tuple[Path, ...],
    normal: tuple[Path, ...],
    manifest: Path | None,
    images: Path | None,
    noise: NoiseLaw,
    noise_sigma: float,
    seed: int,
    models: tuple[str, ...],
    denoised: tuple[str, ...],
    functions: tuple[str, ...],
    folds: tuple[str, ...],
    output: Path,
    split: str | None,
    fold: int,
    low_patterns: tuple[str, ...],
    normal_patterns: tuple[str, ...],
    slice_thickness_mm: tuple[float, ...],
    kernels: tuple[str, ...],
    include_training_patients: bool,
    num_seeds: int,
    include_patient_ids: bool,
    assume_hu: bool,
    strength: float | None,
    tta: bool,
    device: str,
    precision: str,
    author: str,
    site: str,
    open_report: bool,
    overwrite: bool,
    **measurements: Any,
) -> None:
    """Compare several models and methods on all low/normal-dose pairs of a folder.

    All are measured on the same slices. Patients in a model's training data are left out by default. They are
    recognised by name, UIDs and pixels. If a model does not record its training data, its rows are marked.
    Writes metrics.csv, summary.json (with paired statistics) and report.html.
    """
    from ldct_denoise.evaluation.compare import compare_on_images, compare_pairs, find_pairs_for, pairs_of_split
    from ldct_denoise.evaluation.competitors import Competitor, load_folds, load_function, open_denoised
    from ldct_denoise.inference.settings import ApplySettings
    from ldct_denoise.io.dose_words import DosePatterns
    from ldct_denoise.models.trained import load_model
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.identity import Signature
    from ldct_denoise.report.verdict import evaluation_answer
    from ldct_denoise.report.write import write_comparison

    if sum((dicom_root is not None, bool(low or normal), manifest is not None, images is not None)) != 1:
        raise click.UsageError("give one of --dicom-root, --low and --normal, --manifest, and --images")
    if not (models or denoised or functions or folds):
        raise click.UsageError("give at least one --model, --series, --function or --cross-validation")
    if images and any(measurements.values()):
        raise click.UsageError("--images are measured whole, over 0…255; windows and regions are for CT")
    if images and (denoised or functions or folds):
        raise click.UsageError("--images are compared with --model only")
    plan = options.measurement_plan(**measurements)
    make_output_folder(output, overwrite)
    settings = ApplySettings(strength, device, precision, tta=tta, assume_hu=assume_hu)  # type: ignore[arg-type]
    with terminal.progress_bar("loading the models") as bar:
        loaded = [load_model(name) for name in models]
        bar.stage("reading headers")
        if images is not None:
            result = compare_on_images(
                images,
                loaded,
                noise=noise,
                noise_sigma=noise_sigma,
                seed=seed,
                num_seeds=num_seeds,
                settings=settings,
                progress=bar.counting("comparing"),
            )
        else:
            others: list[Competitor] = [open_denoised(text, assume_hu) for text in denoised]
            others += map(load_function, functions)
            others += [load_folds(text, load_model) for text in folds]
            patterns = DosePatterns(low_patterns, normal_patterns)
            pairs = find_pairs_for(dicom_root, low, normal, manifest, patterns=patterns, assume_hu=assume_hu)
            result = compare_pairs(
                pairs if split is None else pairs_of_split(pairs, split, fold),
                [*loaded, *others],
                plan,
                include_training_patients=include_training_patients,
                slice_thickness_mm=slice_thickness_mm,
                kernels=kernels,
                num_seeds=num_seeds,
                settings=settings,
                progress=bar.counting("comparing"),
            )
        bar.stage("writing the report")
        write_comparison(
            result,
            output,
            overwrite=True,
            include_patient_ids=include_patient_ids,
            signature=Signature(author, site),
        )
    for note in result.notes:
        terminal.say(f"note: {note}")
    terminal.print_paragraph(evaluation_answer(result)[0])
    click.echo()
    click.echo("\n".join(result.lines()))
    click.echo(f"{output / 'report.html'}")
    if open_report:
        options.open_in_browser(output / "report.html")

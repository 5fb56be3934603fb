"""End-to-end demo on synthetic patients: training, a denoised series, its evaluation, a picture."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ldct_denoise.config import load_config
from ldct_denoise.data.pools import pools_from_root
from ldct_denoise.errors import OutputError
from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.evaluation.results import Evaluation
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.dose_labels import label_series
from ldct_denoise.io.dose_words import Dose
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_files import open_volume_file
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.models.trained import DEFAULT_MODEL, TrainedModel, load_model
from ldct_denoise.output import make_output_folder
from ldct_denoise.phantoms.folder import PARTIAL_PREFIX
from ldct_denoise.phantoms.patients import write_patients
from ldct_denoise.report.pictures import save_comparison
from ldct_denoise.report.write import write_evaluation
from ldct_denoise.training.loop import train
from ldct_denoise.training.progress import Progress
from ldct_denoise.volume import SliceSource

PATIENTS = ("L001", "L002", "L003")
#: Patient who is not trained on.
TEST_PATIENT = PATIENTS[-1]
#: Everything that a demo writes into its folder.
RESULTS = ("patients", "run", "denoised", "denoised-lir-ct", "evaluation", "comparison.png")


@dataclass(frozen=True)
class Demo:
    """Result of the demo.

    Parameters
    ----------
    output : Path
        Folder of all results.
    picture : Path
        Input, outputs of the model trained here and of the shipped one, reference and ground truth in the abdomen
        window.
    evaluation : Evaluation
        The test patient's series, denoised by the model trained here, compared with normal dose.
    report : Path
        Report of that evaluation, HTML.
    verdict : str
        What the picture shows, in a sentence.
    """

    output: Path
    picture: Path
    evaluation: Evaluation
    report: Path
    verdict: str


def run_demo(
    output: Path,
    *,
    overwrite: bool = False,
    iterations: int = 240,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Demo:
    """Create synthetic patients, train on two of them, denoise, evaluate and draw the third.

    Parameters
    ----------
    output : Path
        Gets ``patients/``, ``run/``, ``denoised/``, ``denoised-lir-ct/``, ``evaluation/`` and ``comparison.png``.
    overwrite : bool
        Replace the results of an earlier demo.
    iterations : int
        Training steps.
    say : callable
        Receives a line at the start of each part.
    progress : callable
        Receives the progress of the training.

    Returns
    -------
    Demo

    Raises
    ------
    OutputError
        If ``output`` holds files and ``overwrite`` is not given, or files that no demo writes.
    """
    make_output_folder(output, overwrite)
    _remove_earlier(output)
    say("making three synthetic patients at normal and quarter dose")
    patients = output / "patients"
    write_patients(patients, patients=len(PATIENTS), slices=6, size=256, seed=1, dose=0.25)
    config = load_config(
        "lir-quick",
        [f"data.test_patients=[{TEST_PATIENT}]", f"training.iterations={iterations}", "settings.base_channels=16",
         f"training.validate_every={iterations // 2}"],
    )  # fmt: skip
    say("training on two of them, unpaired")
    pools = pools_from_root(patients, config.data)
    train(config, pools, output / "run", report=progress)
    low, normal = _series_of(patients, TEST_PATIENT)
    say(f"denoising the quarter-dose series of {TEST_PATIENT}, who was in neither pool")
    model = load_model(output / "run")
    restored = _denoise(low, model, output / "denoised")
    say(f"denoising it with the shipped model {DEFAULT_MODEL}")
    shipped = _denoise(low, load_model(DEFAULT_MODEL), output / f"denoised-{DEFAULT_MODEL}")
    say("measuring")
    plan = MeasurementPlan(windows=(WINDOWS["abdomen"], WINDOWS["full"]))
    evaluation = evaluate(restored, normal, low, plan)
    write_evaluation(evaluation, output / "evaluation", overwrite=True)
    truth = open_volume_file(next(patients.glob(f"{TEST_PATIENT}/*/truth.nii.gz")))
    picture = output / "comparison.png"
    middle = len(low) // 2
    images = {
        "quarter dose (input)": low,
        f"trained here, {iterations} steps": restored,
        f"shipped {DEFAULT_MODEL}": shipped,
        "normal dose": normal,
        "truth": truth,
    }
    save_comparison(picture, {name: source.read_hu(middle) for name, source in images.items()}, WINDOWS["abdomen"])
    verdict = (
        f"A model of {iterations} steps blurs: it shows that everything runs. {DEFAULT_MODEL}, next to it in the "
        "picture, shows what a full training gives."
    )
    return Demo(output, picture, evaluation, output / "evaluation" / "report.html", verdict)


def _denoise(low: SliceSource, model: TrainedModel, output: Path) -> SliceSource:
    apply_series(low, model, output, ApplySettings(), WriteSettings())
    return find_images(output, include_derived=True).series[0]


def _remove_earlier(output: Path) -> None:
    """Remove the results of an earlier demo; refuse if there are other files."""
    patients = output / RESULTS[0]
    unknown = [item for item in output.iterdir() if item.name not in RESULTS or item.is_symlink()]
    inside = patients.iterdir() if patients.is_dir() else ()
    unknown += [item for item in inside if item.name not in PATIENTS and not item.name.startswith(PARTIAL_PREFIX)]
    if unknown:
        raise OutputError(f"{output}: holds {unknown[0].name}, which no demo writes; give another folder")
    for item in output.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()


def _series_of(root: Path, patient: str) -> tuple[SliceSource, SliceSource]:
    """A patient's low- and normal-dose series."""
    found = {
        item.dose: item.series for item in label_series(find_images(root).series, root) if item.patient == patient
    }
    return found[Dose.LOW], found[Dose.NORMAL]

"""Apply to many series: a second run does nothing, failures are listed, two processes do what one does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
import pytest
import torch
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless, RLELossless
from torch import Tensor

from ldct_denoise import methods
from ldct_denoise.distributed import WorkerInfo, worker_from_environment
from ldct_denoise.errors import ConfigError, InputError, ModelError, OutputError, PartialError
from ldct_denoise.inference.batch import apply
from ldct_denoise.inference.ledger import Entry, Ledger
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import Scale
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.derived.deidentify import public_uid
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.methods import base
from ldct_denoise.methods.base import Method
from ldct_denoise.models.trained import DEFAULT_MODEL, TrainedModel, load_model
from ldct_denoise.report.apply import apply_report_writer
from tests.synthetic import random_volume, run_ranks

SHAPE = (3, 40, 36)


class Counting(Method[base.Settings]):
    """Adds 3 HU, and counts what it is given."""

    Settings = base.Settings

    def __init__(self) -> None:
        super().__init__(base.Settings(), Scale())
        self.slices = 0

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        self.slices += len(image)
        return image + 3 / self.scale.width_hu


def model(method: Method | None = None, checksum: str = "0" * 64) -> TrainedModel:
    return TrainedModel("counting", method or Counting(), "counting", Scale(), {}, checksum)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four series of three slices."""
    for number in range(1, 5):
        write_series(
            random_volume(SHAPE, -1000, seed=number),
            tmp_path / "in" / str(number),
            SeriesAttributes(
                patient_id="SECRET^NAME",
                study_uid="1.2.3",
                series_uid=f"1.2.3.{number}",
                series_number=number,
                description="t",
            ),
        )
    return tmp_path / "in"


def pixels(folder: Path) -> dict[str, bytes]:
    """By place and UID."""
    read = {file.relative_to(folder): pydicom.dcmread(file) for file in sorted(folder.rglob("*.dcm"))}
    return {f"{place} {image.SOPInstanceUID}": image.PixelData for place, image in read.items()}


def break_series(folder: Path) -> Path:
    """Give one image compressed pixels that no decoder reads; its header is as good as ever."""
    broken = sorted(folder.iterdir())[0]
    dataset = pydicom.dcmread(broken)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([b"no image" * 64])
    dataset.save_as(broken)
    return broken


def test_a_second_run_does_nothing_and_tells_so(tree: Path, tmp_path: Path) -> None:
    first, again, told = Counting(), Counting(), []
    written = apply(tree, model(first), tmp_path / "out")
    before = pixels(tmp_path / "out")
    assert (first.slices, len(written), len(before)) == (12, 4, 12)
    repeated = apply(tree, model(again), tmp_path / "out", notify=told.append)
    assert again.slices == 0
    assert sorted(repeated) == sorted(written)
    assert told == ["4 of 4 series are done already; --overwrite repeats them"]
    lines = [json.loads(line) for line in (tmp_path / "out-ledger.jsonl").read_text().splitlines()]
    assert sorted(line["series"] for line in lines) == [f"1.2.3.{n}" for n in range(1, 5)]
    assert {line["output"] for line in lines} == {f"out/1.2.3.{n}" for n in range(1, 5)}
    assert "SECRET" not in (tmp_path / "out-ledger.jsonl").read_text()
    apply(tree, model(again), tmp_path / "out", writing=WriteSettings(overwrite=True))
    assert again.slices == 12
    assert pixels(tmp_path / "out") == before


def test_a_report_that_is_missing_is_written_without_denoising_again(tree: Path, tmp_path: Path) -> None:
    for number in (3, 4):
        shutil.rmtree(tree / str(number))
    apply(tree, model(), tmp_path / "out")
    again = Counting()
    apply(tree, model(again), tmp_path / "out", write_report=apply_report_writer(model(), ApplySettings()))
    assert again.slices == 0
    assert len(list((tmp_path / "out").glob("*-report.html"))) == 2


def test_a_lost_or_torn_ledger_is_made_again_from_the_series(tree: Path, tmp_path: Path) -> None:
    apply(tree, model(), tmp_path / "out")
    ledger = tmp_path / "out-ledger.jsonl"
    lines = ledger.read_text().splitlines()
    ledger.write_text("\n".join([*lines[:2], lines[2][:40]]))  # killed while it wrote the third
    again = Counting()
    apply(tree, model(again), tmp_path / "out")
    assert again.slices == 0
    whole = [line for line in ledger.read_text().splitlines() if line in lines or line.endswith("}")]
    assert len(whole) == 4
    ledger.unlink()
    apply(tree, model(again), tmp_path / "out")
    assert again.slices == 0


def test_other_settings_or_another_model_are_not_done(tree: Path, tmp_path: Path) -> None:
    apply(tree, model(), tmp_path / "out")
    for changed, settings in ((model(checksum="1" * 64), ApplySettings()), (model(), ApplySettings(0.5))):
        with pytest.raises(InputError, match="none of 4 series") as told:
            apply(tree, changed, tmp_path / "out", settings)
        assert len(told.value.failures) == 4
        assert "already exists" in told.value.failures[0]
    (sorted((tmp_path / "out" / "1.2.3.1").iterdir())[0]).unlink()
    with pytest.raises(PartialError, match="3 of 4 series"):  # not whole any more, and not ours to replace
        apply(tree, model(), tmp_path / "out")


def test_the_ledger_tells_what_lies_there_last(tree: Path, tmp_path: Path) -> None:
    """Model A, then B over it: A's entries are still in the ledger, but its images are gone."""
    for checksum, overwrite in (("0" * 64, False), ("1" * 64, True)):
        apply(tree, model(checksum=checksum), tmp_path / "out", writing=WriteSettings(overwrite=overwrite))
    with pytest.raises(InputError, match="none of 4 series") as told:
        apply(tree, model(), tmp_path / "out")
    assert "already exists" in told.value.failures[0]
    again = Counting()
    apply(tree, model(again, "1" * 64), tmp_path / "out")
    assert again.slices == 0


@pytest.mark.parametrize("changed", [{"private_tags": "remove"}, {"keep_manufacturer": True}])
def test_what_a_series_does_not_tell_is_not_taken_for_done(
    tree: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    apply(tree, model(), tmp_path / "out")
    for _ in range(2):  # with a ledger that knows other settings, and without one
        with pytest.raises(InputError, match="none of 4 series"):
            apply(tree, model(), tmp_path / "out", writing=WriteSettings(**changed))
        (tmp_path / "out-ledger.jsonl").unlink(missing_ok=True)
    writing = WriteSettings(overwrite=True, **changed)
    apply(tree, model(), tmp_path / "out", writing=writing)
    with pytest.raises(InputError, match="none of 4 series"):  # nor the other way round
        apply(tree, model(), tmp_path / "out")


def test_an_output_that_is_told_from_where_one_stands(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert len(apply(tree, model(), Path("../sibling/out"))) == 4
    lines = (tmp_path / "sibling" / "out-ledger.jsonl").read_text().splitlines()
    assert {json.loads(line)["output"] for line in lines} == {f"out/1.2.3.{n}" for n in range(1, 5)}
    again = Counting()
    apply(tree, model(again), tmp_path / "sibling" / "out")
    assert again.slices == 0


@pytest.mark.parametrize("format", ["dicom", "nifti"])
def test_no_original_uid_names_what_is_deidentified(
    tree: Path, tmp_path: Path, format: Literal["dicom", "nifti"]
) -> None:
    pytest.importorskip("dicomanonymizer")
    writing = WriteSettings(format=format, deidentify=True)
    written = apply(tree, model(), tmp_path / "out", writing=writing)
    places = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_relative_to(tree)]
    assert [place for place in places if "1.2.3." in place] == []
    assert "1.2.3." not in (tmp_path / "out-ledger.jsonl").read_text()
    names = {public_uid(f"1.2.3.{n}") for n in range(1, 5)}
    assert {path.name if format == "dicom" else path.parent.name for path in written} == names
    again = Counting()
    apply(tree, model(again), tmp_path / "out", writing=writing)
    assert again.slices == 0


def test_reports_that_fail_do_not_make_the_series_undone(tree: Path, tmp_path: Path) -> None:
    def nothing(*arguments: object) -> None:
        raise ValueError("nothing to measure")

    with pytest.raises(PartialError, match="4 of 4 series denoised") as told:
        apply(tree, model(), tmp_path / "out", write_report=nothing)
    assert all("not its report (nothing to measure)" in line for line in told.value.failures)
    again = Counting()
    apply(tree, model(again), tmp_path / "out", write_report=apply_report_writer(model(), ApplySettings()))
    assert again.slices == 0
    assert len(list((tmp_path / "out").glob("*-report.html"))) == 4


def test_several_series_do_not_go_into_one_file(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="4 series; give a folder"):
        apply(tree, model(), tmp_path / "out.nii.gz")


@pytest.mark.parametrize(
    "told",
    [{"compress": "rle"}, {"private_tags": "remove"}, {"convert_enhanced": True}, {"keep_manufacturer": True}],
)
def test_settings_of_dicom_are_for_the_dicom_of_a_tree(tree: Path, tmp_path: Path, told: dict[str, Any]) -> None:
    """As `phantom` writes it: the truth lies beside the series, as a volume."""
    write_volume(tree / "truth.nii", random_volume(SHAPE, -1000), random_volume(SHAPE, -1000).geometry)
    writing = WriteSettings(**told)
    assert len(apply(tree, model(), tmp_path / "out", writing=writing)) == 5
    images = [pydicom.dcmread(file) for file in (tmp_path / "out").rglob("*.dcm")]
    assert len(images) == 12
    assert {image.file_meta.TransferSyntaxUID == RLELossless for image in images} == {"compress" in told}
    again = Counting()
    apply(tree, model(again), tmp_path / "out", writing=writing)
    assert again.slices == 0
    with pytest.raises(ConfigError, match=f"{re.escape(str(tree))}: --.*: for DICOM output only"):
        apply(tree, model(again), tmp_path / "none", writing=replace(writing, format="nifti"))
    assert (again.slices, (tmp_path / "none").exists()) == (0, False)


def test_a_deidentified_tree_leaves_its_volumes_out(tree: Path, tmp_path: Path) -> None:
    write_volume(tree / "truth.nii", random_volume(SHAPE, -1000), random_volume(SHAPE, -1000).geometry)
    with pytest.raises(PartialError, match="4 of 5 series denoised") as told:
        apply(tree, model(), tmp_path / "out", writing=WriteSettings(compress="rle", deidentify=True))
    assert [line.count("--deidentify") for line in told.value.failures] == [1]


def test_failures_are_listed_and_the_rest_is_done(tree: Path, tmp_path: Path) -> None:
    broken = break_series(tree / "2")

    class Weak(Counting):
        def restore(self, image: Tensor, seed: int = 0) -> Tensor:
            if self.slices == 3:  # first slice of the next series
                self.slices += 1
                raise RuntimeError("out of memory somewhere\nat length")
            return super().restore(image, seed)

    with pytest.raises(PartialError, match="2 of 4 series denoised") as told:
        apply(tree, model(Weak()), tmp_path / "out")
    assert len(told.value.failures) == 2
    assert sorted(told.value.written) == sorted(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert any(broken.name in line for line in told.value.failures)
    assert any(line.endswith("RuntimeError out of memory somewhere") for line in told.value.failures)
    again = Counting()
    with pytest.raises(PartialError, match="3 of 4") as partly:
        apply(tree, model(again), tmp_path / "out")
    assert again.slices == 3  # the one that failed by chance
    assert {path.name for path in partly.value.written} == {f"1.2.3.{number}" for number in (1, 3, 4)}


def test_progress_counts_the_slices_still_to_do(tree: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    apply(tree, model(), tmp_path / "out", progress=lambda *step: told.append(step))
    restored = [step for step in told if step[2] != "files looked at"]
    assert [step[:2] for step in restored] == [(done, 12) for done in range(1, 13)]
    assert restored[-1][2].startswith("series 4/4")


def run(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**known, "OMP_NUM_THREADS": "1", **(environment or {})}, capture_output=True, text=True, check=False,
    )  # fmt: skip


APPLY = ("-m", "ldct_denoise.cli", "apply")


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tree: Path, tmp_path: Path) -> None:
    apply(tree, load_model("bilateral"), tmp_path / "one")
    run_ranks(*APPLY, tree, "--output", tmp_path / "two", "--model", "bilateral")
    assert pixels(tmp_path / "two") == pixels(tmp_path / "one")
    for rank in (1, 0):
        place = {"SLURM_PROCID": str(rank), "SLURM_NTASKS": "2"}
        done = run(*APPLY, tree, "--output", tmp_path / "srun", "--model", "bilateral", environment=place)
        assert len(done.stdout.splitlines()) == 2, done.stderr
    assert pixels(tmp_path / "srun") == pixels(tmp_path / "one")
    assert len((tmp_path / "srun-ledger.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_failure_in_one_process_of_two_does_not_stop_the_other(tree: Path, tmp_path: Path) -> None:
    break_series(tree / "2")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    two = run(*torchrun, *APPLY, tree, "--output", tmp_path / "two", "--model", "bilateral")
    assert two.returncode == 1
    assert "error: " in two.stderr
    assert "3 of 4 series denoised" in two.stderr
    assert len(list((tmp_path / "two").iterdir())) == 3


def test_the_share_is_told_by_torchrun_or_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", *(key for key in os.environ if key.startswith("SLURM"))):
        monkeypatch.delenv(name, raising=False)
    assert worker_from_environment() == WorkerInfo(0, 1, 0)
    for name, value in (("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_JOB_ID", "77")):
        monkeypatch.setenv(name, value)
    assert worker_from_environment() == WorkerInfo(0, 1, 0)  # the body of a batch script runs once
    for name, value in (("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "5"), ("SLURM_LOCALID", "1")):
        monkeypatch.setenv(name, value)
    assert worker_from_environment() == WorkerInfo(5, 8, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "6")  # srun -n 6 in a job of 8
    assert worker_from_environment() == WorkerInfo(5, 6, 1)
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    assert worker_from_environment() == WorkerInfo(2, 3, 2)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ConfigError, match="RANK=3"):
        worker_from_environment()


def test_several_writers_leave_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ldct_denoise.inference.ledger import Entry, Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "for n in range(50): ledger.add(Entry(f'{sys.argv[2]}-{n}', '1.2', 'm', 'c', {'long': 'x' * 3000}, 'o', 1))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "l"), str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = (tmp_path / "l").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 150
    Ledger(tmp_path / "l").add(Entry("k", "1.2", "m", "c", {}, "l", 1))
    assert Ledger(tmp_path / "l").is_done("k", tmp_path / "l")


def test_a_fit_to_each_slice_tells_how_far_it_is(tmp_path: Path) -> None:
    write_series(
        random_volume((2, 40, 36), -1000),
        tmp_path / "in",
        SeriesAttributes(
            patient_id="P", study_uid="1.2.3", series_uid="1.2.3.9", series_number=1, description="t"
        ),
    )
    source = scan(tmp_path / "in").series[0]
    assert isinstance(source, Series)
    method = methods.build(
        "dip", {"iterations": 3, "stop": "never", "base_channels": 4, "num_levels": 1}, Scale()
    ).eval()
    told: list[tuple[int, int, str]] = []
    apply_series(source, model(method), tmp_path / "out", progress=lambda *step: told.append(step))
    assert [(done, note.split(": ")[-1]) for done, _, note in told if "fit" in note] == [
        (done, f"fit {n}/3") for done in (0, 1) for n in (1, 2, 3)
    ]


def test_bf16_is_refused_where_it_changes_too_much() -> None:
    class Steep(Counting):
        """Loses 8 bits on the way: bf16 keeps 8 of them."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, 1, 1, 1))

        def restore(self, image: Tensor, seed: int = 0) -> Tensor:
            return torch.nn.functional.conv2d(image, self.weight)

    with pytest.raises(ModelError, match=r"bf16: changes .* HU on average"):
        next(iter(restore_slices(random_volume(SHAPE, -1000), model(Steep()), ApplySettings(precision="bf16"))))
    source = random_volume(SHAPE, -1000)
    exact = dict(restore_slices(source, model(Steep())))
    np.testing.assert_allclose(exact[1], source.read_hu(1), atol=0.01)


def test_bf16_of_the_shipped_model_stays_close() -> None:
    """Its first convolution sees HU in float32; without that the difference is five times as large."""
    shipped, source = load_model(DEFAULT_MODEL), random_volume((1, 40, 36), -1000)
    source = source.with_hu(np.random.default_rng(0).normal(-700, 40, source.hu.shape))  # lung and its noise
    exact, fast = (
        next(iter(restore_slices(source, shipped, ApplySettings(precision=precision))))[1]
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.abs(fast - exact).mean() < 0.3

"""The benchmarks: networks of the published sizes, results that mean what they say, a pipeline that overlaps."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from ldct_denoise.cli.main import cli
from torch import Tensor

from ldct_denoise import methods
from ldct_denoise.benchmark import apply as bench_apply
from ldct_denoise.benchmark import evaluate as bench_evaluate
from ldct_denoise.benchmark import synthetic
from ldct_denoise.benchmark import train as bench_train
from ldct_denoise.benchmark.engines import engine_results
from ldct_denoise.benchmark.loading import loading_results
from ldct_denoise.benchmark.memory import peak_memory
from ldct_denoise.benchmark.peers import PEERS, parameter_count
from ldct_denoise.benchmark.results import Benchmark, Result, describe_machine, fastest
from ldct_denoise.errors import InputError, ModelError, OutputError
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.intensity import Scale
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.methods import base
from ldct_denoise.methods.base import Method
from ldct_denoise.models.trained import TrainedModel, load_model, save_model
from tests import measured_work
from tests.synthetic import run_cli, run_program

CPU = torch.device("cpu")


def test_the_peers_have_their_published_sizes() -> None:
    sizes = {name: parameter_count(build()) for name, build in PEERS.items()}
    assert sizes["RED-CNN, 96 channels"] == 1_848_865
    assert sizes["LIR's E_X + G_Y, 64 channels"] == pytest.approx(11.1e6, rel=0.01)
    assert sizes["CNN-10"] == 24_513
    for build in PEERS.values():
        with torch.inference_mode():
            assert build().eval()(torch.rand(1, 1, 64, 64)).shape == (1, 1, 64, 64)


def test_json_names_results_and_machine_and_has_null_for_nan() -> None:
    values = [float("nan"), float("inf"), 1.0]
    content = Benchmark("x", [Result("a", value, "HU") for value in values], describe_machine(CPU)).as_json()
    assert content["name"] == "x"
    assert [result["value"] for result in content["results"]] == [None, None, 1.0]
    assert content["machine"]["cores"] >= 1
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("command", ["apply", "train", "simulate", "evaluate"])
def test_the_place_of_the_json_is_checked_before_anything_is_measured(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*arguments: Any, progress: Callable[[str], None], **how: Any) -> Benchmark:
        return Benchmark(command, [Result("a", float("nan"), "s")], {})

    name = f"ldct_denoise.benchmark.{command}.benchmark_{command}"
    monkeypatch.setattr(name, lambda *arguments, **how: pytest.fail("measured"))
    (tmp_path / "kept.json").write_text("{}")
    for path, message in (
        ("kept.json", "exists"),
        (".", "is a folder"),
        ("kept.json/new.json", "is not writable"),
    ):
        done = CliRunner().invoke(cli, ["benchmark", command, "--json", str(tmp_path / path)])
        assert isinstance(done.exception, OutputError)
        assert message in str(done.exception)
    assert (tmp_path / "kept.json").read_text() == "{}"
    monkeypatch.setattr(name, measured)
    done = CliRunner().invoke(cli, ["benchmark", command, "--json", str(tmp_path / "kept.json"), "--overwrite"])
    assert done.exit_code == 0
    assert json.loads((tmp_path / "kept.json").read_text())["results"][0]["value"] is None


def test_runs_take_turns_and_the_fastest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []
    lasts = {"a": iter([0.001, 0.05, 0.02]), "b": iter([0.001, 0.03, 0.09])}
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run(name: str) -> Callable[[], None]:
        def once() -> None:
            order.append(name)
            clock[0] += next(lasts[name])

        return once

    seconds = fastest({"a": run("a"), "b": run("b")}, 2, CPU)
    assert order == ["a", "b"] * 3
    assert seconds == {"a": pytest.approx(0.02), "b": pytest.approx(0.03)}  # not the unmeasured first


@pytest.mark.slow
def test_peak_memory_is_that_of_the_work() -> None:
    result, rise = peak_memory(measured_work.allocate, 256)
    assert result == 256 * 2**17
    assert rise == pytest.approx(0.25, abs=0.05)
    with pytest.raises(InputError, match="nothing here"):
        peak_memory(measured_work.fail)


class Waiting(Method[base.Settings]):
    """A network that goes on with a slice only when two more have been read and the one before last is written."""

    Settings = base.Settings
    slices = 12

    def watch(self) -> Waiting:
        self.restored, self.read, self.written = 0, threading.Semaphore(0), threading.Semaphore(0)
        return self

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        if self.restored == 0:
            assert self.read.acquire(timeout=60)
            assert self.read.acquire(timeout=60)
        if self.restored < self.slices - 2:
            assert self.read.acquire(timeout=60), "nothing is read while the network works"
        if self.restored > 1:
            assert self.written.acquire(timeout=60), "nothing is written while the network works"
        self.restored += 1
        return image + 0.001


def test_reading_and_writing_go_on_beside_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Waiting(base.Settings(), Scale()).watch()
    series = synthetic.write_patient(tmp_path / "in", synthetic.patient(Waiting.slices))
    read, write = Series.read_hu, DerivedWriter.write

    def reading(self: Series, index: int) -> Any:
        hu = read(self, index)
        method.read.release()
        return hu

    def writing(self: DerivedWriter, index: int, hu: Any) -> None:
        write(self, index, hu)
        method.written.release()

    monkeypatch.setattr(Series, "read_hu", reading)
    monkeypatch.setattr(DerivedWriter, "write", writing)
    apply_series(
        series,
        TrainedModel("w", method, "w", Scale(), {}, "0" * 64),
        tmp_path / "out",
        ApplySettings(device="cpu"),
    )
    assert method.restored == Waiting.slices
    assert len(list((tmp_path / "out").glob("*.dcm"))) == Waiting.slices


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "MATRIX", 128)
    monkeypatch.setattr(bench_apply, "LONG", 30)


@pytest.mark.slow
def test_apply_measures_all_that_is_promised(small_slices: None, tmp_path: Path) -> None:
    method = methods.build("dncnn", {"channels": 8, "num_layers": 3}, Scale())
    save_model(tmp_path / "small.safetensors", "dncnn", method, {})
    steps: list[str] = []
    measured = bench_apply.benchmark_apply(
        str(tmp_path / "small.safetensors"), slices=3, rounds=1, device="cpu", progress=steps.append
    )
    results = {result.name: result for result in measured.results}
    assert steps == ["networks", "bf16", "DICOM to DICOM", "memory"]
    assert results["small against RED-CNN, 96 channels"].value > 5  # a thousandth of its parameters
    speeds = {name: result.value for name, result in results.items() if name.startswith("speed of")}
    assert len(speeds) == 4
    assert results["small against CNN-10"].value == pytest.approx(
        speeds["speed of small"] / speeds["speed of CNN-10"], rel=1e-6
    )
    assert 0 < results["fraction of the fp32 matrix rate"].value < 1
    assert 0 < results["bf16: mean absolute difference from fp32"].value < 0.5
    assert 0 < results["peak memory above the model, 30 slices"].value < 0.5
    with pytest.raises(ModelError, match="no network"):
        bench_apply.benchmark_apply("bm3d")


@pytest.mark.slow
def test_engines_say_how_long_they_take_to_start() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    method = methods.build("dncnn", {"channels": 8, "num_layers": 3}, Scale()).eval()
    model = TrainedModel("small", method, "dncnn", Scale(), {}, "0" * 64)
    results = {each.name.split(":")[0]: each for each in engine_results(model, torch.rand(1, 1, 64, 64), 1, CPU)}
    assert {"channels-last", "torch.compile", "ONNX Runtime"} == results.keys()
    assert results["ONNX Runtime"].value > 0
    assert "s to start" in results["ONNX Runtime"].note


@pytest.mark.slow
def test_patches_come_from_dicom_the_cache_and_memory() -> None:
    results = loading_results(slices=4, patches=32)
    assert [result.name for result in results] == [
        "patches from DICOM",
        "patches from the cache",
        "patches from memory",
        "patches with the noise of lir-quick",
    ]
    assert all(result.value > 1 for result in results)


@pytest.mark.slow
def test_the_command_line_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results.json"
    code, printed, error = run_cli(capsys, "benchmark", "simulate", "--slices", 2, "--json", output)
    assert code == 0, error
    assert "simulation of a 512×512 slice" in printed
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["name"] == "simulate"
    assert content["results"][0]["value"] > 0
    assert content["machine"]["cpu"]


def test_evaluation_is_stated_for_300_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_evaluate, "peak_memory", lambda prepare, slices: (prepare(slices)(), 0.1))
    monkeypatch.setattr(synthetic, "MATRIX", 128)
    start = time.perf_counter()
    result = bench_evaluate.benchmark_evaluate(slices=2).results[0]
    assert result.name == "a pair of 300 slices in 4 windows and 5 regions"
    assert 0 < result.value <= 150 * (time.perf_counter() - start)


@pytest.mark.slow
@pytest.mark.parametrize("emulated", [False, True])
def test_training_compares_both_loops(monkeypatch: pytest.MonkeyPatch, emulated: bool) -> None:
    monkeypatch.setattr(bench_train, "emulates_bf16", lambda device: emulated)
    monkeypatch.setattr(bench_train, "peak_memory", lambda prepare, *arguments: (prepare(*arguments)(), 0.2))
    loaded = [Result("patches with the noise of lir-quick", 1000.0, "patches/s")]
    monkeypatch.setattr(bench_train, "loading_results", lambda recipe: loaded)
    measured = bench_train.benchmark_train(channels=4, batch_size=1, steps=1).results
    results = {result.name: result for result in measured}
    speeds = [results[f"{name} loop, fp32"].value for name in ("our", "published")]
    assert results["our loop against the published one"].value == pytest.approx(speeds[0] / speeds[1])
    assert results["our peak memory against the published loop's"].value == 1
    # Counted, not timed: the generators run again, and the encoders three times.
    assert results["operations of the published loop against ours"].value > 1.1
    needed = results["patches that a GPU would take"].value
    assert results["loader processes that feed it"].value == pytest.approx(needed / 1000)
    assert ("the same with bf16" in results) is not emulated
    assert results["patches that training needs"].note == f"both pools, {'fp32' if emulated else 'bf16'}"


def test_benchmark_lists_what_it_measures() -> None:
    done = run_program("benchmark", "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("apply", "train", "simulate", "evaluate"))


def test_the_shipped_model_is_measured_by_default() -> None:
    """Its operations a slice are what its speed rests on: a fifth of RED-CNN's at the most."""
    from torch.utils.flop_counter import FlopCounterMode

    def work(network: Callable[[Tensor], Tensor]) -> int:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(torch.rand(1, 1, 64, 64))
        return counter.get_total_flops()

    assert 5 * work(load_model("lir-ct").method.restore) < work(PEERS["RED-CNN, 96 channels"]())

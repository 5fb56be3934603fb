"""What is prepared for a GPU, as far as a CPU can show it: names of devices, counted operations, the script."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ldct_denoise.config import load_config
from ldct_denoise.distributed import choose_device
from ldct_denoise.errors import ConfigError
from ldct_denoise.training.duration import counted_operations
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "mps:1", "cuda:0:1"])
def test_a_device_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="give auto, cpu, cuda, cuda:NUMBER or mps"):
        choose_device(name)


def test_one_gpu_of_several_is_chosen_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cuda", 3) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="2 GPUs"):
        choose_device("cuda:2")
    with pytest.raises(ConfigError, match="a GPU of its own"):
        choose_device("cuda:0", 1)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without an Apple GPU")
def test_a_missing_gpu_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no Apple GPU"):
        choose_device("mps")


def test_operations_are_those_of_the_convolutions() -> None:
    """DnCNN of 3 layers of 8 channels, 3×3: forward and both gradients; the first layer needs none of its input."""
    changes = ["settings.channels=8", "settings.num_layers=3", "data.patch_size=32", "training.batch_size=6"]
    weights = 9 * (1 * 8 + 8 * 8 + 8 * 1)
    per_pixel = 2 * (3 * weights - 9 * 8)
    assert counted_operations(load_config("dncnn", changes), False) == pytest.approx(
        per_pixel * 32 * 32 * 6, rel=0.01
    )


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_figures", ROOT / "docs" / "figures" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_measures_on_a_cpu_at_a_small_size(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "cpu.json"
    script.main(["--device", "cpu", "--quick", "--only", "recipes", "--output", str(output)])
    (found,) = json.loads(output.read_text())
    hours, rate = (result["value"] for result in found["results"])
    steps, exa = script.counted(
        "redcnn-gpu", ["settings.channels=4", "training.batch_size=4", "training.precision=fp32"]
    )
    assert steps == 100_000
    assert hours * 3600 * rate == pytest.approx(exa * 1e6, rel=1e-6)
    assert "| redcnn-gpu, whole run |" in capsys.readouterr().out


def test_recipes_for_a_gpu_differ_from_their_base_in_size_only() -> None:
    ours, gpu = load_config("lir-ct"), load_config("lir-ct-gpu")
    assert gpu.settings["base_channels"] == 2 * ours.settings["base_channels"]
    assert (gpu.method, gpu.data.noise_model, gpu.range_hu) == (ours.method, ours.data.noise_model, ours.range_hu)
    first = gpu.pretraining_config()
    assert first is not None
    assert (first.training.iterations, gpu.training.iterations) == (80_000, 20_000)
    assert load_config("redcnn-gpu").settings == load_config("redcnn").settings

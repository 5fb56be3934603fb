"""Every file of ldct_denoise/methods goes through the same trials."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.config import load_config, recipes
from ldct_denoise.errors import ConfigError, ModelError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import Batch
from ldct_denoise.training.check_method import check_method
from tests.conftest import ROOT

GAN = {"base_channels": 4, "blocks_per_level": 2, "discriminator_channels": 4}
#: Settings that make a method small; those that are not here are quick as they are.
SMALL: dict[str, dict[str, Any]] = {
    "anscombe-bm3d": {"search_window": 9, "sigma_hu": 40},
    "bm3d": {"search_window": 9},
    "cnn10": {"channels": 4},
    "ctformer": {"channels": 4, "num_heads": 2},
    "cyclegan": GAN,
    "dip": {"iterations": 3, "base_channels": 8, "num_levels": 2},
    "dncnn": {"channels": 8, "num_layers": 4},
    "drnet": GAN,
    "dugan": {"channels": 4, "discriminator_channels": 4, "discriminator_levels": 2},
    "edcnn": {"channels": 4},
    "invdn": {"blocks_per_level": 1, "growth_channels": 4, "num_samples": 2},
    "lir": GAN,
    "noise2noise": {"base_channels": 4},
    "noise2sim": {"base_channels": 4},
    "noise2void": {"base_channels": 4},
    "qae": {"channels": 4},
    "redcnn": {"channels": 8},
    "unet": {"base_channels": 4, "blocks_per_level": 1},
    "rednet": {"channels": 8, "num_layers": 6},
    "resnet": {"channels": 8, "num_blocks": 1},
    "unit": GAN,
    "wganvgg": {"channels": 8, "critic_channels": 4, "critic_features": 16, "critic_steps": 2},
    "zsn2n": {"iterations": 3, "channels": 4},
}
#: Other forms of a method, which the same trials must pass.
FORMS = [
    ("bm3d", {"search_window": 9, "stages": 1, "sigma_hu": 30}),
    ("cyclegan", GAN | {"architecture": "unet"}),
    ("dncnn", {"channels": 8, "num_layers": 4, "batch_norm": False, "noise_level_factors": (0.5, 2.0)}),
    ("drnet", GAN | {"architecture": "unet", "norm": "none"}),
    ("invdn", {"blocks_per_level": 1, "growth_channels": 4, "num_levels": 1, "temperature": 0.0}),
    ("lir", GAN | {"architecture": "unet", "norm": "none"}),
    ("noise2void", {"base_channels": 4, "struct_mask_axis": "both", "loss": "l1"}),
    ("unit", GAN | {"architecture": "unet", "adversarial_loss": "bce"}),
]
CASES = [(name, SMALL.get(name, {})) for name in methods.names()] + FORMS
TRAINED = [name for name in methods.names() if methods.describe(name).supervision is not Supervision.NONE]


@pytest.fixture
def documented_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example of docs/tutorials/add-a-method.md as a file of its own."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/tutorials/add-a-method.md").read_text(encoding="utf-8"), re.S
    )
    (tmp_path / "my_method.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield "my-method"
    sys.modules.pop("ldct_denoise.methods.my_method", None)


def test_the_documented_example_is_a_method(documented_method: str) -> None:
    info = methods.describe(documented_method)
    expected = ("Three convolutions", Supervision.SUPERVISED, "nobody, nowhere")
    assert (info.title, info.supervision, info.reference) == expected
    method = methods.build(documented_method, {"channels": 4}, Scale(), for_training=True)
    image = torch.zeros(1, 1, 37, 50)
    (phase,) = method.phases(1e-3)
    assert phase.loss(Batch(image, image, None, torch.Generator())).keys() == {"mse"}
    assert method.restore(image).shape == (1, 1, 37, 50)


def test_a_docstring_without_supervision_is_refused(documented_method: str) -> None:
    path = Path(methods.__path__[-1]) / "my_method.py"
    path.write_text(path.read_text(encoding="utf-8").replace("Supervision: supervised", "Supervision: magic"))
    with pytest.raises(ModelError, match=r"my_method\.py: the docstring needs 'Supervision: none \| self"):
        methods.describe(documented_method)


#: Changes to the documented example, and the trial that each of them must fail.
FAULTS = {
    "an unknown setting is refused": ("(TrainableSettings):", "(TrainableSettings, extra='ignore'):"),
    "restore keeps the shape and the type of images of any size, and is finite": (
        "return image - self.network(image)",
        "return (image - self.network(image))[..., :20]",
    ),
    "restore keeps the shape of images of few pixels, and is finite": (
        "return image - self.network(image)",
        "return image - self.network(image) / image.std((2, 3), keepdim=True)",
    ),
    "restore gives the same image for the same seed, and leaves its input unchanged": (
        "return image - self.network(image)",
        "return image.mul_(0.5)",
    ),
    "restore of several slices at once equals restore of each": (
        "return image - self.network(image)",
        "return image - self.network(image).mean(0, keepdim=True)",
    ),
    "only a method with is_random heeds the seed": (
        "return image - self.network(image)",
        "return image - self.network(image) + seed",
    ),
    "PyTorch's global random numbers are left alone": (
        'return {"mse"',
        'torch.rand(1)\n        return {"mse"',
    ),
    "training changes the weights, and losses and weights stay finite": (
        "self.network = nn.Sequential(",
        "self.unused = nn.Parameter(torch.ones(1))\n        self.network = nn.Sequential(",
    ),
    "a phase trains its own parameters and no others": (
        'return {"mse"',
        'self.network[0].weight.data += 1; self.network[0].requires_grad_(False)\n        return {"mse"',
    ),
    "training repeats itself to the bit": (
        'return {"mse"',
        'import time; self.network[0].bias.data += time.perf_counter()\n        return {"mse"',
    ),
    "restoration_parameters are all that restore needs": (
        "    def phases(",
        "    def restoration_parameters(self):\n        return {}\n\n    def phases(",
    ),
    "summary_images are single slices of the batch's size": (
        "    def phases(",
        "    def summary_images(self, batch):\n        return {'low': batch.low[0]}\n\n    def phases(",
    ),
}


@pytest.mark.parametrize("trial", FAULTS)
def test_a_faulty_method_fails_the_trial(trial: str, documented_method: str) -> None:
    path = Path(methods.__path__[-1]) / "my_method.py"
    right, wrong = FAULTS[trial]
    code = path.read_text(encoding="utf-8")
    assert right in code
    path.write_text(code.replace(right, wrong), encoding="utf-8")
    assert trial in [each.name for each in check_method(documented_method, {"channels": 4}) if each.problem]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_passes_every_trial(name: str, settings: dict[str, Any]) -> None:
    trials = check_method(name, settings)
    assert [trial for trial in trials if trial.problem] == []
    assert len(trials) == (12 if name in TRAINED else 7)


@pytest.mark.parametrize("wavelet", ["db99", "db0", "coif", "mexh"])
def test_wavelets_that_there_are_not_are_refused(wavelet: str) -> None:
    with pytest.raises(ConfigError, match=f"settings.wavelet: PyWavelets has no '{wavelet}'"):
        methods.build("wavelet", {"wavelet": wavelet}, Scale())


@pytest.mark.parametrize("name", methods.names())
def test_says_what_it_is_and_refuses_unknown_settings(name: str) -> None:
    info = methods.describe(name)
    assert info.name == name
    assert info.title
    assert info.reference
    assert isinstance(info.supervision, Supervision)
    with pytest.raises(ConfigError, match="no_such_setting"):
        methods.build(name, {"no_such_setting": 1}, Scale())


@pytest.mark.parametrize("name", TRAINED)
def test_has_a_recipe_that_builds_it(name: str) -> None:
    using = [load_config(recipe) for recipe in recipes()]
    configs = [config for config in using if config.method == name]
    assert configs
    for config in configs:
        methods.build(name, config.settings, config.scale)

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
from ldct_denoise.methods.base import Batch, Method
from tests.conftest import ROOT

GAN = {"base_channels": 4, "blocks_per_level": 2, "discriminator_channels": 4}
#: Settings that make a method small; those that are not here are quick as they are.
SMALL: dict[str, dict[str, Any]] = {
    "anscombe-bm3d": {"search_window": 9, "sigma_hu": 40},
    "bm3d": {"search_window": 9},
    "cyclegan": GAN,
    "dip": {"iterations": 3, "base_channels": 8, "num_levels": 2},
    "dncnn": {"channels": 8, "num_layers": 4},
    "drnet": GAN,
    "invdn": {"blocks_per_level": 1, "growth_channels": 4, "num_samples": 2},
    "lir": GAN,
    "noise2noise": {"base_channels": 4},
    "noise2void": {"base_channels": 4},
    "redcnn": {"channels": 8},
    "unet": {"base_channels": 4, "blocks_per_level": 1},
    "rednet": {"channels": 8, "num_layers": 6},
    "unit": GAN,
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
TRAINED = [case for case in CASES if methods.describe(case[0]).supervision is not Supervision.NONE]


def build(name: str, settings: dict[str, Any], for_training: bool = False) -> Method[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return methods.build(name, settings, Scale(), for_training=for_training)


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth anatomy around 0 HU with noise of 40 HU, network units."""
    y, x = torch.meshgrid(torch.arange(shape[-2]), torch.arange(shape[-1]), indexing="ij")
    clean = 0.25 + 0.02 * torch.sin(x / 9.0) * torch.cos(y / 7.0)
    return clean + 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(supervision: Supervision, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(100 + step)
    normal = None if supervision is Supervision.SELF else image(2, 1, 64, 64, seed=2 * step + 1)
    return Batch(image(2, 1, 64, 64, seed=2 * step), normal, None, generator)


def train(name: str, method: Method[Any], steps: int) -> dict[str, float]:
    """The loop, without its house-keeping; checks that a phase trains its own parameters and no others."""
    phases = method.phases(1e-3)
    method.train()
    shown: dict[str, float] = {}
    for step in range(steps):
        one = batch(methods.describe(name).supervision, step)
        for phase in phases:
            own = [p for group in phase.optimizer.param_groups for p in group["params"]]
            others = [p for p in method.parameters() if all(p is not q for q in own)]
            before = [p.detach().clone() for p in others]
            losses = phase.loss(one)
            if not losses:
                continue
            assert all(loss.ndim == 0 for loss in losses.values())
            gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), own, allow_unused=True)
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient
            phase.optimizer.step()
            assert all(torch.equal(p, q) for p, q in zip(others, before, strict=True))
            shown |= {name: float(loss.detach()) for name, loss in losses.items()}
    return shown


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
    method = build(documented_method, {"channels": 4}, for_training=True)
    assert train(documented_method, method, 2).keys() == {"mse"}
    assert method.restore(image(1, 1, 37, 50)).shape == (1, 1, 37, 50)


def test_a_docstring_without_supervision_is_refused(documented_method: str) -> None:
    path = Path(methods.__path__[-1]) / "my_method.py"
    path.write_text(path.read_text(encoding="utf-8").replace("Supervision: supervised", "Supervision: magic"))
    with pytest.raises(ModelError, match=r"my_method\.py: the docstring needs 'Supervision: none \| self"):
        methods.describe(documented_method)


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("shape", [(1, 1, 37, 50), (2, 1, 24, 19)])
def test_restores_any_size_and_repeats_itself(name: str, settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    method, noisy = build(name, settings).eval(), image(*shape)
    kept = noisy.clone()
    with torch.inference_mode():
        first, second = method.restore(noisy, seed=3), method.restore(noisy, seed=3)
    assert first.shape == noisy.shape
    assert first.dtype == noisy.dtype
    assert bool(torch.isfinite(first).all())
    assert torch.equal(first, second)
    assert torch.equal(noisy, kept)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_restores_slices_of_few_pixels(name: str, settings: dict[str, Any]) -> None:
    known = (
        {"sigma_hu": 60} if "sigma_hu" in methods.find(name).Settings.model_fields else {}
    )  # too few to estimate
    method = build(name, settings | known).eval()
    for shape in ((1, 1, 1, 1), (2, 1, 1, 7), (1, 1, 4, 3), (1, 1, 10, 10)):
        noisy = image(*shape)
        with torch.inference_mode():
            restored = method.restore(noisy)
        assert restored.shape == noisy.shape
        assert bool(torch.isfinite(restored).all())


@pytest.mark.parametrize("wavelet", ["db99", "db0", "coif", "mexh"])
def test_wavelets_that_there_are_not_are_refused(wavelet: str) -> None:
    with pytest.raises(ConfigError, match=f"settings.wavelet: PyWavelets has no '{wavelet}'"):
        methods.build("wavelet", {"wavelet": wavelet}, Scale())


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_does_not_touch_the_global_generator(name: str, settings: dict[str, Any]) -> None:
    method = build(name, settings, for_training=True).eval()
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        method.restore(image(1, 1, 24, 24))
    if (name, settings) in TRAINED:
        train(name, method, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_only_random_methods_heed_the_seed(name: str, settings: dict[str, Any]) -> None:
    method, noisy = build(name, settings).eval(), image(1, 1, 24, 24)
    with torch.inference_mode():
        same = torch.equal(method.restore(noisy, seed=1), method.restore(noisy, seed=2))
    assert same or method.is_random


@pytest.mark.parametrize("name", methods.names())
def test_says_what_it_is_and_refuses_unknown_settings(name: str) -> None:
    info = methods.describe(name)
    assert info.name == name
    assert info.title
    assert info.reference
    assert isinstance(info.supervision, Supervision)
    with pytest.raises(ConfigError, match="no_such_setting"):
        methods.build(name, {"no_such_setting": 1}, Scale())


@pytest.mark.parametrize("name", [name for name, _ in TRAINED])
def test_has_a_recipe_that_builds_it(name: str) -> None:
    using = [load_config(recipe) for recipe in recipes()]
    configs = [config for config in using if config.method == name]
    assert configs
    for config in configs:
        methods.build(name, config.settings, config.scale)


@pytest.mark.parametrize(("name", "settings"), TRAINED)
def test_training_changes_all_weights_and_stays_finite(name: str, settings: dict[str, Any]) -> None:
    method = build(name, settings, for_training=True)
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    losses = train(name, method, 3)
    assert losses
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    optimised = {
        id(p) for phase in method.phases(1e-3) for group in phase.optimizer.param_groups for p in group["params"]
    }
    for key, parameter in method.named_parameters():
        assert bool(torch.isfinite(parameter).all()), key
        assert id(parameter) in optimised or not parameter.requires_grad, key
    changed = sum(not torch.equal(p, before[key]) for key, p in method.named_parameters())
    assert changed >= 0.9 * len(before)


@pytest.mark.parametrize(("name", "settings"), TRAINED)
def test_training_repeats_itself(name: str, settings: dict[str, Any]) -> None:
    first, second = (train(name, build(name, settings, for_training=True), 2) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("name", "settings"), TRAINED)
def test_what_is_kept_is_all_that_restoration_needs(name: str, settings: dict[str, Any]) -> None:
    method, fresh = build(name, settings, for_training=True), methods.build(name, settings, Scale())
    train(name, method, 2)
    kept = method.restoration_parameters()
    assert len({value.data_ptr() for value in kept.values()}) == len(kept)  # as safetensors asks
    fresh.load_state_dict(kept)  # strict: without training, a method has these networks alone
    with torch.inference_mode():
        restored = method.eval().restore(image(1, 1, 24, 24)), fresh.eval().restore(image(1, 1, 24, 24))
    assert torch.equal(*restored)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_summary_pictures_have_the_shape_of_images(name: str, settings: dict[str, Any]) -> None:
    method = build(name, settings, for_training=True).eval()
    with torch.no_grad():
        pictures = method.summary_images(batch(methods.describe(name).supervision))
    assert all(picture.shape == (2, 1, 64, 64) for picture in pictures.values())

"""Every file of ldct_denoise/methods goes through the same trials."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.config import load_config, recipes
from ldct_denoise.errors import ConfigError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch, Method, Supervision

GAN = {"width": 4, "blocks": 2, "critic_width": 4}
#: Settings that make a method small; those that are not here are quick as they are.
SMALL: dict[str, dict[str, Any]] = {
    "anscombe-bm3d": {"search": 9, "sigma_hu": 40},
    "bm3d": {"search": 9},
    "cyclegan": GAN,
    "dip": {"iterations": 3, "width": 8, "scales": 2},
    "dncnn": {"channels": 8, "layers": 4},
    "drnet": GAN,
    "invdn": {"couplings": 1, "growth": 4, "samples": 2},
    "lir": GAN,
    "noise2noise": {"width": 4},
    "noise2void": {"width": 4},
    "redcnn": {"channels": 8},
    "unet": {"width": 4, "blocks": 1},
    "rednet": {"channels": 8, "layers": 6},
    "unit": GAN,
}
#: Other forms of a method, which the same trials must pass.
FORMS = [
    ("bm3d", {"search": 9, "steps": 1, "sigma_hu": 30}),
    ("cyclegan", GAN | {"form": "multiscale"}),
    ("dncnn", {"channels": 8, "layers": 4, "batch_norm": False, "blind_levels": (0.5, 2.0)}),
    ("drnet", GAN | {"form": "multiscale", "norm": "none"}),
    ("invdn", {"couplings": 1, "growth": 4, "halvings": 1, "temperature": 0.0}),
    ("lir", GAN | {"form": "multiscale", "norm": "none"}),
    ("noise2void", {"width": 4, "mask": "cross", "loss": "l1"}),
    ("unit", GAN | {"form": "multiscale", "adversarial": "log"}),
]
CASES = [(name, SMALL.get(name, {})) for name in methods.names()] + FORMS
TRAINED = [case for case in CASES if methods.find(case[0]).supervision is not Supervision.NONE]


def build(name: str, settings: dict[str, Any]) -> Method[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return methods.build(name, settings, Scale())


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth anatomy around 0 HU with noise of 40 HU, network units."""
    y, x = torch.meshgrid(torch.arange(shape[-2]), torch.arange(shape[-1]), indexing="ij")
    clean = 0.25 + 0.02 * torch.sin(x / 9.0) * torch.cos(y / 7.0)
    return clean + 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(supervision: Supervision, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(100 + step)
    normal = None if supervision is Supervision.SELF else image(2, 1, 64, 64, seed=2 * step + 1)
    return Batch(image(2, 1, 64, 64, seed=2 * step), normal, None, generator)


def train(method: Method[Any], steps: int) -> dict[str, float]:
    """The loop, without its house-keeping; checks that a phase trains its own parameters and no others."""
    phases = method.phases(1e-3)
    method.train()
    shown: dict[str, float] = {}
    for step in range(steps):
        one = batch(method.supervision, step)
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
    method = build(name, settings).eval()
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        method.restore(image(1, 1, 24, 24))
    if method.supervision is not Supervision.NONE:
        train(method, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_only_random_methods_heed_the_seed(name: str, settings: dict[str, Any]) -> None:
    method, noisy = build(name, settings).eval(), image(1, 1, 24, 24)
    with torch.inference_mode():
        same = torch.equal(method.restore(noisy, seed=1), method.restore(noisy, seed=2))
    assert same or method.is_random


@pytest.mark.parametrize("name", methods.names())
def test_says_what_it_is_and_refuses_unknown_settings(name: str) -> None:
    cls = methods.find(name)
    assert cls.title
    assert cls.reference
    assert isinstance(cls.supervision, Supervision)
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
    method = build(name, settings)
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    losses = train(method, 3)
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
    assert train(build(name, settings), 2) == train(build(name, settings), 2)


@pytest.mark.parametrize(("name", "settings"), TRAINED)
def test_what_is_kept_is_all_that_restoration_needs(name: str, settings: dict[str, Any]) -> None:
    method, fresh = build(name, settings), methods.build(name, settings, Scale())
    train(method, 2)
    kept = method.restoration_parameters()
    assert len({value.data_ptr() for value in kept.values()}) == len(kept)  # as safetensors asks
    fresh.load_state_dict(kept, strict=False)
    with torch.inference_mode():
        restored = method.eval().restore(image(1, 1, 24, 24)), fresh.eval().restore(image(1, 1, 24, 24))
    assert torch.equal(*restored)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_summary_pictures_have_the_shape_of_images(name: str, settings: dict[str, Any]) -> None:
    method = build(name, settings).eval()
    with torch.no_grad():
        pictures = method.summary_images(batch(method.supervision))
    assert all(picture.shape == (2, 1, 64, 64) for picture in pictures.values())

"""LIR: each loss against its equation computed independently, which networks each loss moves, sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from ldct_denoise import methods
from ldct_denoise.benchmark.training import steps_config
from ldct_denoise.distributed import World
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch
from ldct_denoise.methods.lir import Lir
from ldct_denoise.networks.blocks import JoinConv2d, Padding, UpConv2d
from ldct_denoise.networks.losses import background_consistency, background_kernels, judge, tissue_bias
from ldct_denoise.networks.translation import CodeCritic
from ldct_denoise.training.step import Stepper, begin_run

SMALL = {"width": 4, "critic_width": 4, "norm": "none", "up_norm": "none", "code_noise": 0.0}
MULTISCALE = {"form": "multiscale", "width": 4, "blocks": 1, "norm": "none", "critic_width": 4, "code_noise": 0.0}


def lir(**settings: object) -> Lir:
    torch.manual_seed(0)
    return methods.build("lir", settings, Scale())


def batch(noise: bool = False, side: int = 32, **more: object) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 2, 1, side, side, generator=generator)
    return Batch(images[0], images[1], 0.01 * images[2] if noise else None, generator, **more)


def count(*networks: torch.nn.Module) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def test_published_restoration_networks_have_11_1_million_parameters() -> None:
    method = lir()
    assert count(method.e_x, method.g_y) == 11_137_025
    assert round(count(method.e_x, method.g_y) / 1e6, 1) == 11.1


def test_translations_and_reconstructions_follow_equations_3_to_8() -> None:
    method, images = lir(**SMALL), batch()
    x, y = images.low, images.normal
    z_x, z_y, n_x = method.e_x(x)[0], method.e_y(y)[0], method.e_noise(x)[0]
    x_to_y = method.g_y([z_x], x)
    y_to_x = method.g_x([torch.cat([z_y, n_x], 1)], y)
    x_hat = method.g_x([torch.cat([method.e_y(x_to_y)[0], method.e_noise(y_to_x)[0]], 1)], x)
    y_hat = method.g_y(method.e_x(y_to_x), y)
    made = method._pass(images)
    torch.testing.assert_close(made.x_to_y, x_to_y)
    torch.testing.assert_close(made.y_to_x, y_to_x)
    losses = method.generator_losses(images)
    torch.testing.assert_close(losses["cross_cycle"], 10 * ((x_hat - x).abs().mean() + (y_hat - y).abs().mean()))
    x_self = method.g_x([torch.cat([z_x, n_x], 1)], x)
    y_self = method.g_y([z_y], y)
    expected = 10 * ((x_self - x).abs().mean() + (y_self - y).abs().mean())
    torch.testing.assert_close(losses["self_reconstruction"], expected)
    torch.testing.assert_close(method.restore(x), x_to_y)


def test_adversarial_and_representation_losses_follow_equations_9_12_13() -> None:
    method, images = lir(**SMALL, adversarial="log"), batch()
    made = method._pass(images)
    losses = method.generator_losses(images)
    for z in (made.z_x, made.z_y):
        assert torch.sigmoid(method.d_r(z)).shape == (2, 1, 1, 1)
    p_x, p_y = torch.sigmoid(method.d_r(made.z_x)), torch.sigmoid(method.d_r(made.z_y))
    eq9 = sum((0.5 * p.log() + 0.5 * (1 - p).log()).mean() for p in (p_x, p_y))
    torch.testing.assert_close(losses["representation"], -eq9)
    fooled = [-(torch.sigmoid(part).log()).mean() for part in method.d_y(made.x_to_y)]
    torch.testing.assert_close(losses["adversarial_y"], torch.stack(fooled).mean())
    critic = method.image_critic_losses(images)["critic_y"]
    real = torch.stack([torch.sigmoid(part).log().mean() for part in method.d_y(images.normal)]).mean()
    fake = torch.stack([(1 - torch.sigmoid(part)).log().mean() for part in method.d_y(made.x_to_y)]).mean()
    torch.testing.assert_close(critic, -0.5 * (real + fake))


def test_least_squares_judgement() -> None:
    maps = [torch.tensor([0.0, 1.0]), torch.tensor([0.5])]
    assert judge(maps, 0.5, "least_squares") == pytest.approx((0.25 + 0.0) / 2)


def test_background_loss_follows_equation_10_with_scipys_gaussian() -> None:
    before, after = np.random.default_rng(0).random((2, 1, 1, 80, 80)).astype(np.float32)
    expected = 0.0
    for sigma, weight in ((5, 0.25), (9, 0.5), (15, 1.0)):
        blurred = [
            ndimage.gaussian_filter(a[0, 0], sigma, mode="mirror", radius=2 * sigma) for a in (before, after)
        ]
        expected += weight * np.abs(blurred[0] - blurred[1]).mean()
    got = background_consistency(torch.from_numpy(before), torch.from_numpy(after), background_kernels("sigma"))
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_published_blur_is_of_size_5_9_15_with_sigma_25() -> None:
    kernels = background_kernels("size")
    assert [(weight, len(kernel)) for weight, kernel in kernels] == [(0.25, 5), (0.5, 9), (1.0, 15)]
    place = np.arange(-7, 8)
    expected = np.exp(-0.5 * (place / 25) ** 2)
    np.testing.assert_allclose(kernels[2][1].numpy(), expected / expected.sum(), rtol=1e-5)


def test_kl_is_the_mean_square_of_the_codes() -> None:
    images = batch()
    for kl_on in ("noise", "all"):
        method = lir(**SMALL, kl_on=kl_on)
        made = method._pass(images)
        codes = made.n_x + (made.z_x + made.z_y if kl_on == "all" else [])
        expected = 0.01 * sum(code.square().mean() for code in codes)
        torch.testing.assert_close(method.generator_losses(images)["kl"], expected)


def test_semantic_loss_follows_equation_11(shared_data) -> None:
    weights = str(next((shared_data / "vgg19").glob("*.pt")))
    method = lir(**SMALL, vgg_weights=weights, semantic_layer="conv3_1", semantic_norm=False)
    images = batch()
    made = method._pass(images)
    expected = F.mse_loss(method.vgg(images.low), method.vgg(made.x_to_y))
    expected = expected + F.mse_loss(method.vgg(images.normal), method.vgg(made.y_to_x))
    torch.testing.assert_close(method.generator_losses(images)["semantic"], expected)
    assert not any(key.startswith("vgg") for key in method.restoration_parameters())


def test_vgg_weights_must_exist_and_reach_the_layer(shared_data, tmp_path) -> None:
    weights = str(next((shared_data / "vgg19").glob("*.pt")))
    with pytest.raises(InputError, match=r"features\.12"):
        lir(**SMALL, vgg_weights=weights, semantic_layer="conv3_2")
    with pytest.raises(InputError, match="no such file"):
        lir(**SMALL, vgg_weights=str(tmp_path / "none.pth"))
    with pytest.raises(ConfigError, match="conv9_1"):
        lir(**SMALL, vgg_weights=weights, semantic_layer="conv9_1")


@pytest.mark.parametrize("form", [SMALL, MULTISCALE], ids=["paper", "multiscale"])
def test_which_networks_each_loss_moves(form: dict[str, object]) -> None:
    def moved(loss: torch.Tensor, method: Lir) -> set[str]:
        method.zero_grad()
        loss.backward(retain_graph=True)
        return {
            name
            for name, network in method.named_children()
            if any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        }

    method, images = lir(**form, weights={"restoration": 1.0}), batch(noise=True)
    losses = method.generator_losses(images)
    assert moved(losses["restoration"], method) == {"e_x", "g_y"}
    assert moved(losses["representation"], method) == {"e_x", "e_y", "d_r"}
    assert moved(losses["adversarial_y"], method) == {"e_x", "g_y", "d_y"}
    assert moved(losses["adversarial_x"], method) == {"e_y", "e_noise", "g_x", "d_x"}
    assert moved(losses["cross_cycle"], method) == {"e_x", "e_y", "e_noise", "g_x", "g_y"}
    assert moved(method.code_critic_losses(images)["critic_r"], method) == {"d_r"}
    assert moved(sum(method.image_critic_losses(images).values()), method) == {"d_x", "d_y"}
    published = lir(**form, schedule="published")
    assert moved(published.code_critic_losses(images)["critic_r"], published) == {"d_r", "e_x", "e_y"}


def test_each_phase_trains_its_own_networks() -> None:
    method = lir(**SMALL)
    owners = {id(p): name for name, network in method.named_children() for p in network.parameters()}
    trained = {
        phase.name: {owners[id(p)] for group in phase.optimizer.param_groups for p in group["params"]}
        for phase in method.phases(1e-4)
    }
    assert trained == {
        "generators": {"e_x", "e_y", "e_noise", "g_x", "g_y"},
        "representation critic": {"d_r"},
        "image critics": {"d_x", "d_y"},
    }


def test_published_schedule_gives_the_critics_the_same_losses() -> None:
    shared, published = lir(**SMALL), lir(**SMALL, schedule="published")
    published.load_state_dict(shared.state_dict())
    images = batch()
    shared.generator_losses(images)
    fresh = batch()
    for loss in ("image_critic_losses", "code_critic_losses"):
        ours, theirs = getattr(shared, loss)(images), getattr(published, loss)(fresh)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name])
    assert [phase.name for phase in published.phases(1e-4)][-1] == "generators"


def test_what_the_published_schedule_works_out_and_throws_away_moves_nothing() -> None:
    config = steps_config("published", "fp32", width=4, batch=2)
    images = {name: torch.rand(2, 1, 64, 64) for name in ("low", "normal")}
    world = World(0, 1, torch.device("cpu"))
    frugal, wasteful = begin_run(config, world), begin_run(config, world)
    assert all(phase.discarded for phase in wasteful.phases)
    frugal.phases = [replace(phase, discarded=()) for phase in frugal.phases]
    for run in (frugal, wasteful):
        Stepper(config, world).step(run, images, done=0.5)
    torch.testing.assert_close(frugal.method.state_dict(), wasteful.method.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("shape", [(2, 6, 9, 12), (1, 6, 2, 3)])
def test_folded_up_convolution_equals_repeating_first(padding: Padding, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    folded, plain = (UpConv2d(6, 4, padding, literal).double() for literal in (False, True))
    plain.load_state_dict(folded.state_dict())
    images = [torch.ones(shape).double().cumsum(-1).cumsum(-2).sin().requires_grad_() for _ in range(2)]
    made, wanted = folded(images[0]), plain(images[1])
    torch.testing.assert_close(made, wanted)
    for output in (made, wanted):
        output.square().sum().backward()
    torch.testing.assert_close(images[0].grad, images[1].grad)
    torch.testing.assert_close(folded.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 1, 1)])
def test_join_convolution_equals_repeating_and_putting_beside(shape: tuple[int, int, int]) -> None:
    """Also as it is recorded for export."""
    torch.manual_seed(0)
    count, height, width = shape
    convolution = JoinConv2d(3, 4, 2).double()
    fine = torch.randn(count, 3, 2 * height, 2 * width).double().requires_grad_()
    coarse = torch.randn(count, 4, height, width).double().requires_grad_()
    repeated = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    wanted = F.conv2d(torch.cat([fine, repeated], 1), convolution.weight, convolution.bias, padding=1)
    made = convolution((fine, coarse))
    torch.testing.assert_close(made, wanted)
    learned = [fine, coarse, *convolution.parameters()]
    gradients = [torch.autograd.grad(output.square().sum(), learned) for output in (made, wanted)]
    torch.testing.assert_close(*gradients)
    recorded = torch.jit.trace(convolution, ((fine.detach(), coarse.detach()),))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(recorded((fine, coarse)), wanted)


def test_ablations_leave_their_parts_out() -> None:
    images = batch()
    assert lir(**SMALL, noise_encoder=False).e_noise is None
    no_code_critic = lir(**SMALL, weights={"representation": 0.0})
    assert no_code_critic.d_r is None
    assert "representation" not in no_code_critic.generator_losses(images)
    assert "background" not in lir(**SMALL, weights={"background": 0.0}).generator_losses(images)
    lir(**SMALL, noise_encoder=False).generator_losses(images)


def test_multiscale_form_starts_as_identity_and_keeps_any_size() -> None:
    method = lir(**MULTISCALE).eval()
    image = 0.25 + 0.02 * torch.randn(1, 1, 37, 50)
    with torch.inference_mode():
        restored = method.restore(image)
    assert restored.shape == image.shape
    assert (restored - image).abs().max() < 0.01


def test_holding_low_frequencies_keeps_the_mean() -> None:
    method = lir(**MULTISCALE, hold_sigma_px=6.0).eval()
    with torch.no_grad():
        method.g_y.last.bias.fill_(1.6)  # a network that has drifted by 0.1
    image = torch.full((1, 1, 64, 64), 0.25)
    with torch.inference_mode():
        assert (method.restore(image) - image).abs().max() < 1e-3


def test_the_representation_critic_learns_from_small_patches_in_bf16_too() -> None:
    """Where its last convolution sees one pixel, torch's bf16 gradient on a CPU is whatever the memory held."""
    critic = CodeCritic(8, 16)
    code = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        gradients = torch.autograd.grad(critic([code]).float().sum(), list(critic.parameters()))
    for ours, plain in zip(
        gradients, torch.autograd.grad(critic([code]).sum(), list(critic.parameters())), strict=True
    ):
        torch.testing.assert_close(ours, plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic([torch.randn(2, 8, 16, 16)]).dtype == torch.bfloat16


def test_air_is_not_held_where_the_floor_falsified_it() -> None:
    method = lir(**MULTISCALE, hold_sigma_px=2.0, hold_above_hu=-950.0).eval()
    with torch.no_grad():
        method.g_y.last.weight.zero_()
        method.g_y.last.bias.fill_(0.04)  # the network adds 0.0025: 10.24 HU
    air, lung, tissue = (torch.full((1, 1, 32, 32), float(method.scale.to_unit(hu))) for hu in (-985, -925, 40))
    with torch.inference_mode():
        added = [
            float(method.scale.width_hu * (method.restore(part) - part).mean()) for part in (air, lung, tissue)
        ]
    assert added == pytest.approx([10.24, 5.12, 0.0], abs=0.01)


def test_terms_on_low_dose_images_begin_when_asked() -> None:
    method = lir(**MULTISCALE, adapt_from=0.5, weights={"restoration": 1.0})
    assert set(method.generator_losses(batch(noise=True, progress=0.2))) == {"restoration"}
    assert method.image_critic_losses(batch(progress=0.2)) == {}
    assert "cross_cycle" in method.generator_losses(batch(noise=True, progress=0.6))


def test_tissue_bias_is_the_squared_mean_error_of_each_tissue() -> None:
    image = torch.tensor([1.0, 1.0, 1.0, 5.0, 5.0, 9.0]).reshape(1, 1, 2, 3)
    error = torch.tensor([3.0, -1.0, 1.0, 2.0, -4.0, 100.0]).reshape(1, 1, 2, 3)
    assert tissue_bias(error, image, [(0, 2), (4, 6)]) == pytest.approx(1.0**2 + 1.0**2)
    assert tissue_bias(error, image, [(20, 30)]) == 0  # none of it in the batch


def test_tissue_term_sees_a_shift_of_fat_and_not_noise_about_the_mean() -> None:
    method = lir(**MULTISCALE, adapt_from=1.0, weights={"restoration": 1.0, "tissue": 2.0})
    fat = torch.full((2, 1, 32, 32), float(method.scale.to_unit(-100.0)))
    method._restore = lambda image: image  # so that the error is what is added
    shift = torch.full_like(fat, 4.0 / method.scale.width_hu)
    checked = torch.cat([shift, -shift], dim=0)
    losses = method.generator_losses(Batch(fat, fat, shift, torch.Generator()))
    expected = 2.0 * (4.0 / method.scale.width_hu * method.settings.gain) ** 2
    assert losses["tissue"].item() == pytest.approx(expected, rel=1e-3)
    losses = method.generator_losses(Batch(fat, torch.cat([fat, fat]), checked, torch.Generator()))
    assert losses["tissue"].item() == pytest.approx(0.0, abs=1e-9)

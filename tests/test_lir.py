"""LIR: each loss against its equation computed independently, which networks each loss moves, sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from ldct_denoise import methods
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch
from ldct_denoise.methods.lir import Lir
from ldct_denoise.networks.blocks import UpsampleConcatConv2d, gaussian_kernel
from ldct_denoise.networks.discriminators import CodeDiscriminator
from ldct_denoise.networks.losses import (
    adversarial_loss,
    background_consistency,
    background_kernels,
    tissue_bias,
)

SMALL = {"base_channels": 4, "discriminator_channels": 4, "norm": "none", "latent_noise_std": 0.0}
UNET = {
    "architecture": "unet",
    "base_channels": 4,
    "blocks_per_level": 1,
    "norm": "none",
    "discriminator_channels": 4,
    "latent_noise_std": 0.0,
}


def lir(**settings: object) -> Lir:
    torch.manual_seed(0)
    return methods.build("lir", settings, Scale(), for_training=True)


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
    made = method.translate(images)
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
    method, images = lir(**SMALL, adversarial_loss="bce"), batch()
    made = method.translate(images)
    losses = method.generator_losses(images)
    for z in (made.z_x, made.z_y):
        assert torch.sigmoid(method.d_r(z)).shape == (2, 1, 1, 1)
    p_x, p_y = torch.sigmoid(method.d_r(made.z_x)), torch.sigmoid(method.d_r(made.z_y))
    eq9 = sum((0.5 * p.log() + 0.5 * (1 - p).log()).mean() for p in (p_x, p_y))
    torch.testing.assert_close(losses["representation"], -eq9)
    fooled = [-(torch.sigmoid(part).log()).mean() for part in method.d_y(made.x_to_y)]
    torch.testing.assert_close(losses["adversarial_y"], torch.stack(fooled).mean())
    found = method.image_discriminator_losses(images)["discriminator_y"]
    real = torch.stack([torch.sigmoid(part).log().mean() for part in method.d_y(images.normal)]).mean()
    fake = torch.stack([(1 - torch.sigmoid(part)).log().mean() for part in method.d_y(made.x_to_y)]).mean()
    torch.testing.assert_close(found, -0.5 * (real + fake))


def test_least_squares_adversarial_loss() -> None:
    maps = [torch.tensor([0.0, 1.0]), torch.tensor([0.5])]
    assert adversarial_loss(maps, 0.5, "least_squares") == pytest.approx((0.25 + 0.0) / 2)


def test_background_loss_follows_equation_10_with_scipys_gaussian() -> None:
    before, after = np.random.default_rng(0).random((2, 1, 1, 80, 80)).astype(np.float32)
    expected = 0.0
    for sigma, weight in ((5, 0.25), (9, 0.5), (15, 1.0)):
        blurred = [
            ndimage.gaussian_filter(a[0, 0], sigma, mode="mirror", radius=2 * sigma) for a in (before, after)
        ]
        expected += weight * np.abs(blurred[0] - blurred[1]).mean()
    kernels = [(weight, gaussian_kernel(sigma, 2 * sigma)) for sigma, weight in ((5, 0.25), (9, 0.5), (15, 1.0))]
    got = background_consistency(torch.from_numpy(before), torch.from_numpy(after), kernels)
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_published_blur_is_of_size_5_9_15_with_sigma_25() -> None:
    kernels = background_kernels()
    assert [(weight, len(kernel)) for weight, kernel in kernels] == [(0.25, 5), (0.5, 9), (1.0, 15)]
    place = np.arange(-7, 8)
    expected = np.exp(-0.5 * (place / 25) ** 2)
    np.testing.assert_allclose(kernels[2][1].numpy(), expected / expected.sum(), rtol=1e-5)


def test_kl_is_the_mean_square_of_the_codes() -> None:
    """Of all codes in the published form, of the noise code in the U-Net."""
    images = batch()
    for settings, all_codes in ((SMALL, True), (UNET, False)):
        method = lir(**settings)
        made = method.translate(images)
        codes = made.n_x + (made.z_x + made.z_y if all_codes else [])
        expected = 0.01 * sum(code.square().mean() for code in codes)
        torch.testing.assert_close(method.generator_losses(images)["kl"], expected)


def test_semantic_loss_follows_equation_11(shared_data) -> None:
    weights = str(next((shared_data / "vgg19").glob("*.pt")))
    method = lir(**SMALL, vgg_weights=weights, semantic_layer="conv3_1")
    images = batch()
    made = method.translate(images)
    pairs = ((images.low, made.x_to_y), (images.normal, made.y_to_x))
    expected = sum(F.mse_loss(*(F.instance_norm(method.vgg(one)) for one in pair)) for pair in pairs)
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


@pytest.mark.parametrize("architecture", [SMALL, UNET], ids=["lir", "unet"])
def test_which_networks_each_loss_moves(architecture: dict[str, object]) -> None:
    def moved(loss: torch.Tensor, method: Lir) -> set[str]:
        method.zero_grad()
        loss.backward(retain_graph=True)
        return {
            name
            for name, network in method.named_children()
            if any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        }

    method, images = lir(**architecture, loss_weights={"restoration": 1.0}), batch(noise=True)
    losses = method.generator_losses(images)
    assert moved(losses["restoration"], method) == {"e_x", "g_y"}
    assert moved(losses["representation"], method) == {"e_x", "e_y", "d_r"}
    assert moved(losses["adversarial_y"], method) == {"e_x", "g_y", "d_y"}
    assert moved(losses["adversarial_x"], method) == {"e_y", "e_noise", "g_x", "d_x"}
    assert moved(losses["cross_cycle"], method) == {"e_x", "e_y", "e_noise", "g_x", "g_y"}
    assert moved(method.representation_discriminator_losses(images)["discriminator_r"], method) == {"d_r"}
    assert moved(sum(method.image_discriminator_losses(images).values()), method) == {"d_x", "d_y"}


def test_each_phase_trains_its_own_networks() -> None:
    method = lir(**SMALL)
    owners = {id(p): name for name, network in method.named_children() for p in network.parameters()}
    trained = {
        phase.name: {owners[id(p)] for group in phase.optimizer.param_groups for p in group["params"]}
        for phase in method.phases(1e-4)
    }
    assert trained == {
        "generators": {"e_x", "e_y", "e_noise", "g_x", "g_y"},
        "representation discriminator": {"d_r"},
        "image discriminators": {"d_x", "d_y"},
    }


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 1, 1)])
def test_fused_convolution_equals_up_sampling_and_concatenating(shape: tuple[int, int, int]) -> None:
    """Also when it is traced for export."""
    torch.manual_seed(0)
    count, height, width = shape
    convolution = UpsampleConcatConv2d(3, 4, 2).double()
    fine = torch.randn(count, 3, 2 * height, 2 * width).double().requires_grad_()
    coarse = torch.randn(count, 4, height, width).double().requires_grad_()
    repeated = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    wanted = F.conv2d(torch.cat([fine, repeated], 1), convolution.weight, convolution.bias, padding=1)
    made = convolution((fine, coarse))
    torch.testing.assert_close(made, wanted)
    learned = [fine, coarse, *convolution.parameters()]
    gradients = [torch.autograd.grad(output.square().sum(), learned) for output in (made, wanted)]
    torch.testing.assert_close(*gradients)
    traced = torch.jit.trace(convolution, ((fine.detach(), coarse.detach()),))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced((fine, coarse)), wanted)


def test_ablations_leave_their_parts_out() -> None:
    images = batch()
    assert lir(**SMALL, noise_encoder=False).e_noise is None
    without = lir(**SMALL, loss_weights={"representation": 0.0})
    assert without.d_r is None
    assert "representation" not in without.generator_losses(images)
    assert "background" not in lir(**SMALL, loss_weights={"background": 0.0}).generator_losses(images)
    lir(**SMALL, noise_encoder=False).generator_losses(images)


def test_the_unet_starts_as_identity_and_keeps_any_size() -> None:
    method = lir(**UNET).eval()
    image = 0.25 + 0.02 * torch.randn(1, 1, 37, 50)
    with torch.inference_mode():
        restored = method.restore(image)
    assert restored.shape == image.shape
    assert (restored - image).abs().max() < 0.01


def test_low_frequency_passthrough_keeps_the_mean() -> None:
    method = lir(**UNET, lowpass_sigma_mm=4.5).eval()
    with torch.no_grad():
        method.g_y.last.bias.fill_(1.6)  # a network that has drifted by 0.1
    image = torch.full((1, 1, 64, 64), 0.25)
    with torch.inference_mode():
        assert (method.restore(image) - image).abs().max() < 1e-3


def test_the_passthrough_has_its_width_in_mm() -> None:
    """A drift as wide as a lesion of 8 mm is corrected alike on fine, coarse and oblong pixels."""
    method = lir(**UNET, lowpass_sigma_mm=2.25).eval()
    kept = []
    for row_mm, column_mm in [(0.4, 0.4), (0.8, 0.8), (1.2, 1.2), (0.4, 1.2)]:
        row, column = torch.meshgrid(
            torch.arange(-24.0, 24, row_mm), torch.arange(-24.0, 24, column_mm), indexing="ij"
        )
        drift = 0.01 * torch.exp(-(row**2 + column**2) / 32)[None, None]
        image = torch.full_like(drift, 0.25)
        passthrough = method.for_spacing((row_mm, column_mm))._passthrough
        kept.append(float((passthrough(image + drift, image) - image).max()))
    assert kept == pytest.approx([kept[1]] * 4, rel=0.02)
    assert 0.1 < kept[1] / 0.01 < 0.4
    assert method.for_spacing((0.8, 0.8)).g_y is method.g_y  # the networks are shared


def test_the_representation_discriminator_learns_from_small_patches_in_bf16_too() -> None:
    """Where its last convolution sees one pixel, torch's bf16 gradient on a CPU is not initialised."""
    network = CodeDiscriminator(8, 16)
    code = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        gradients = torch.autograd.grad(network([code]).float().sum(), list(network.parameters()))
    for ours, plain in zip(
        gradients, torch.autograd.grad(network([code]).sum(), list(network.parameters())), strict=True
    ):
        torch.testing.assert_close(ours, plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert network([torch.randn(2, 8, 16, 16)]).dtype == torch.bfloat16


def test_low_frequencies_of_air_are_not_kept_below_lowpass_min_hu() -> None:
    method = lir(**UNET, lowpass_sigma_mm=1.5, lowpass_min_hu=-950.0).eval()
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
    method = lir(**UNET, adversarial_start=0.5, loss_weights={"restoration": 1.0})
    assert set(method.generator_losses(batch(noise=True, progress=0.2))) == {"restoration"}
    assert method.image_discriminator_losses(batch(progress=0.2)) == {}
    assert "cross_cycle" in method.generator_losses(batch(noise=True, progress=0.6))


def test_terms_on_low_dose_images_are_computed_every_nth_step_on_a_part_of_the_batch() -> None:
    method = lir(**UNET, adversarial_interval=4, adversarial_batch_fraction=0.3, loss_weights={"restoration": 1.0})
    whole = batch(noise=True)
    for step in (1, 2, 3, 5):
        assert set(method.generator_losses(replace(whole, step=step))) == {"restoration"}
        assert method.image_discriminator_losses(replace(whole, step=step)) == {}
        assert method.representation_discriminator_losses(replace(whole, step=step)) == {}
    fourth = replace(whole, step=4, memo={})
    losses = method.generator_losses(fourth)
    assert fourth.memo["translation"].x_to_y.shape[0] == 1  # a third of two patches, rounded up
    first = replace(whole, low=whole.low[:1], normal=whole.normal[:1], step=4, memo={})
    torch.testing.assert_close(losses["cross_cycle"], method.generator_losses(first)["cross_cycle"])
    assert method.image_discriminator_losses(fourth)
    assert method.representation_discriminator_losses(fourth)


def test_tissue_bias_is_the_squared_mean_error_of_each_tissue() -> None:
    image = torch.tensor([1.0, 1.0, 1.0, 5.0, 5.0, 9.0]).reshape(1, 1, 2, 3)
    error = torch.tensor([3.0, -1.0, 1.0, 2.0, -4.0, 100.0]).reshape(1, 1, 2, 3)
    assert tissue_bias(error, image, [(0, 2), (4, 6)]) == pytest.approx(1.0**2 + 1.0**2)
    assert tissue_bias(error, image, [(20, 30)]) == 0  # none of it in the batch


def test_tissue_term_sees_a_shift_of_fat_and_not_noise_about_the_mean() -> None:
    method = lir(**UNET, adversarial_start=1.0, loss_weights={"restoration": 1.0, "tissue": 2.0})
    fat = torch.full((2, 1, 32, 32), float(method.scale.to_unit(-100.0)))
    method._restore = lambda image: image  # so that the error is what is added
    shift = torch.full_like(fat, 4.0 / method.scale.width_hu)
    checked = torch.cat([shift, -shift], dim=0)
    losses = method.generator_losses(Batch(fat, fat, shift, torch.Generator()))
    expected = 2.0 * (4.0 / method.scale.width_hu * method.settings.input_scale) ** 2
    assert losses["tissue"].item() == pytest.approx(expected, rel=1e-3)
    losses = method.generator_losses(Batch(fat, torch.cat([fat, fat]), checked, torch.Generator()))
    assert losses["tissue"].item() == pytest.approx(0.0, abs=1e-9)

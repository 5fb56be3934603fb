"""What is particular to each trained method."""

from __future__ import annotations

import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch
from ldct_denoise.networks.discriminators import ImageDiscriminator
from ldct_denoise.networks.encoder_decoder import UNetGenerator
from ldct_denoise.networks.invertible import HaarDownsampling, InvertibleNetwork
from ldct_denoise.networks.residual import DnCnn, RedCnn, RedNet


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_networks_have_the_published_number_of_parameters() -> None:
    # RED-CNN, 96 channels: 8 hidden 5×5 layers, one in, one out.
    assert count(RedCnn(96, True)) == 8 * (25 * 96 * 96 + 96) + (25 * 96 + 96) + (25 * 96 + 1)
    # DnCNN: 17 layers of 64; each batch norm has scale and shift.
    assert count(DnCnn(17, 64, True)) == (9 * 64 + 64) + 15 * (9 * 64 * 64 + 64 + 128) + (9 * 64 + 1)
    # RED-30, 64 channels.
    assert count(RedNet(30, 64)) == 28 * (9 * 64 * 64 + 64) + (9 * 64 + 64) + (9 * 64 + 1)


@pytest.mark.parametrize("name", ["cyclegan", "unit", "drnet"])
def test_translation_methods_keep_low_frequencies_where_asked(name: str) -> None:
    settings = {
        "base_channels": 4,
        "discriminator_channels": 4,
        "architecture": "unet",
        "blocks_per_level": 2,
        "norm": "none",
    }
    passthrough = {"lowpass_sigma_mm": 2.25, "lowpass_min_hu": -950.0}
    free = methods.build(name, settings, Scale()).eval()
    with torch.no_grad():
        for part in free.modules():
            if isinstance(part, UNetGenerator):
                part.last.weight.zero_()
                part.last.bias.fill_(0.16)  # it has drifted by 0.01: 41 HU
    method = methods.build(name, settings | passthrough, Scale()).eval()
    method.load_state_dict(free.state_dict())
    tissue = 0.25 + 0.005 * random(1, 1, 64, 64)
    with torch.inference_mode():
        drift, left = (float((each.restore(tissue) - tissue).mean()) for each in (free, method))
    assert drift == pytest.approx(0.01, rel=1e-3)
    assert left == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["redcnn", "rednet", "dncnn", "noise2noise"])
def test_residual_networks_begin_near_the_identity(name: str) -> None:
    image = 0.25 + 0.01 * random(1, 1, 40, 44)
    with torch.no_grad():
        change = methods.build(name, {}, Scale()).eval().restore(image) - image
    assert float(change.abs().mean()) < 0.003


def test_rednet_skips_join_layers_of_the_same_depth() -> None:
    network = RedNet(8, 4)
    assert RedNet(30, 4)(random(1, 1, 9, 9)).shape == (1, 1, 9, 9)
    assert network(random(1, 1, 9, 9)).shape == (1, 1, 9, 9)


def test_blind_dncnn_sees_noise_of_other_levels() -> None:
    settings = {"channels": 4, "num_layers": 3, "batch_norm": False}
    clean, noise = torch.full((8, 1, 16, 16), 0.25), 0.01 * random(8, 1, 16, 16)
    blind = methods.build("dncnn", settings | {"noise_level_factors": (2.0, 2.0)}, Scale())
    plain = methods.build("dncnn", settings, Scale())
    plain.load_state_dict(blind.state_dict())
    doubled = Batch(clean + 2 * noise, clean, None, torch.Generator())
    single = Batch(clean + noise, clean, None, torch.Generator())
    torch.testing.assert_close(blind.losses(single), plain.losses(doubled), rtol=1e-4, atol=0)


def test_noise2noise_target_noise_moves_the_loss_not_its_gradient() -> None:
    """The zero-mean argument: a noisy target adds its variance to the squared error, and nothing else on average."""
    method = methods.build(
        "noise2noise", {"base_channels": 4, "num_levels": 1, "blocks_per_level": 1, "symmetric": False}, Scale()
    )
    clean = 0.25 + 0.01 * random(1, 1, 16, 16, seed=1).expand(4096, -1, -1, -1)
    low = clean[:1] + 0.01 * random(1, 1, 16, 16, seed=2)
    noisy = clean + 0.01 * random(4096, 1, 16, 16, seed=3)
    weights = list(method.parameters())

    def gradient(target: torch.Tensor) -> torch.Tensor:
        loss = method._distance(method._estimate(low).expand_as(target), target)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    with_noise, without = gradient(noisy), gradient(clean)
    assert float((with_noise - without).norm() / without.norm()) < 0.05


@pytest.mark.parametrize("axis", ["none", "horizontal", "vertical", "both"])
def test_noise2void_does_not_see_what_it_predicts(axis: str) -> None:
    mask = {"struct_mask_axis": axis, "struct_mask_span": 5}
    method = methods.build("noise2void", {"base_channels": 4, **mask}, Scale())
    image = random(3, 1, 32, 32)
    predicted, replaced = method.masks(image, torch.Generator().manual_seed(0))
    assert bool(predicted.any(dim=-1).any(dim=-1).all())
    assert bool((replaced | ~predicted).all())
    row, column = (int(value) for value in predicted[0, 0].nonzero()[0])
    right = bool(replaced[0, 0, row, min(column + 2, 31)])
    below = bool(replaced[0, 0, min(row + 2, 31), column])
    if axis in ("horizontal", "both"):
        assert right
    if axis in ("vertical", "both"):
        assert below
    values = method._replacements(image, torch.Generator().manual_seed(0))
    assert not bool((values == image).any())


def test_haar_downsampling_is_inverted_and_begins_with_the_mean() -> None:
    haar, image = HaarDownsampling(), random(2, 3, 8, 12)
    torch.testing.assert_close(haar(image)[:, :3], torch.nn.functional.avg_pool2d(image, 2))
    torch.testing.assert_close(haar.inverse(haar(image)), image)


def test_invertible_network_is_exactly_invertible_with_any_weights() -> None:
    network = InvertibleNetwork(num_levels=2, blocks_per_level=3, growth_channels=8).double()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(0.1 * random(*parameter.shape, seed=number))
    image = random(2, 1, 16, 24).double()
    small, latent = network(image)
    assert small.shape == (2, 1, 4, 6)
    assert latent.shape == (2, 15, 4, 6)
    torch.testing.assert_close(network.inverse(small, latent), image, atol=1e-10, rtol=0)
    other = random(*latent.shape, seed=7).double()
    again = network(network.inverse(small, other))
    torch.testing.assert_close(again, (small, other), atol=1e-10, rtol=0)


def test_invdn_ensemble_is_the_mean_of_its_draws_and_calmer_than_one() -> None:
    image = 0.25 + 0.01 * random(1, 1, 32, 32)
    one = methods.build("invdn", {"blocks_per_level": 1, "growth_channels": 4, "num_samples": 1}, Scale()).eval()
    many = methods.build("invdn", {"blocks_per_level": 1, "growth_channels": 4, "num_samples": 16}, Scale()).eval()
    many.load_state_dict(one.state_dict())
    with torch.no_grad():
        spread = [
            torch.stack([method.restore(image, seed) for seed in range(6)]).std(dim=0).mean()
            for method in (one, many)
        ]
    assert float(spread[1]) == pytest.approx(float(spread[0]) / 4, rel=0.2)


@pytest.mark.parametrize(("optimizer", "bf16"), [("adam", False), ("muon", False), ("muon", True)])
def test_dip_stops_at_the_noise_level_and_reports_each_iteration(optimizer: str, bf16: bool) -> None:
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    clean = 0.25 + 0.05 * torch.sin((x + y) / 6.0)
    noisy = (clean + 0.01 * random(32, 32))[None, None]
    fit = {"optimizer": optimizer, "iterations": 600, "ema_decay": 0.8}
    method = methods.build("dip", {"base_channels": 16, "num_levels": 2, "sigma_hu": 0.01 * 4096} | fit, Scale())
    seen: list[int] = []
    method.on_iteration = lambda iteration, iterations: seen.append(iteration)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        restored = method.restore(noisy, seed=1)
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) < (600 if optimizer == "adam" else 300)
    assert float((restored[0, 0] - clean).square().mean()) < 0.5 * float((noisy[0, 0] - clean).square().mean())


def test_unit_shares_its_latent_space() -> None:
    method = methods.build("unit", {"base_channels": 4, "discriminator_channels": 4}, Scale(), for_training=True)
    keys = method.restoration_parameters().keys()
    assert any(key.startswith("shared_encoder.") for key in keys)
    assert not any(key.startswith(("e_y.", "g_x.", "d_x.", "d_y.")) for key in keys)


def test_a_highpass_discriminator_sees_noise_and_not_what_is_smooth() -> None:
    torch.manual_seed(0)
    highpass = ImageDiscriminator(4, 2, sees="highpass", input_scale=16.0)
    whole = ImageDiscriminator(4, 2)
    whole.load_state_dict(highpass.state_dict())
    plain = torch.full((1, 1, 64, 64), 0.25)
    noisy = plain + 0.01 * random(1, 1, 64, 64)  # 40 HU
    shift = plain + 0.1
    for far, near in zip(highpass(shift), highpass(plain), strict=True):
        torch.testing.assert_close(far, near, rtol=0, atol=1e-6)
    assert difference(highpass, noisy, plain) > 5 * difference(whole, noisy, plain)


@torch.no_grad()
def difference(discriminator: ImageDiscriminator, image: torch.Tensor, other: torch.Tensor) -> float:
    return max(
        float((a - b).abs().mean()) for a, b in zip(discriminator(image), discriminator(other), strict=True)
    )

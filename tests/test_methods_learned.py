"""What is particular to each trained method."""

from __future__ import annotations

import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch
from ldct_denoise.networks.invertible import HaarSqueeze, InvertibleNetwork
from ldct_denoise.networks.residual import DnCnn, RedCnn, RedNet
from ldct_denoise.networks.translation import ImageCritic, MultiscaleGenerator


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
def test_translators_hold_the_mean_where_asked(name: str) -> None:
    settings = {"width": 4, "critic_width": 4, "form": "multiscale", "blocks": 2, "norm": "none"}
    held = {"hold_sigma_px": 3.0, "hold_above_hu": -950.0}
    free = methods.build(name, settings, Scale()).eval()
    with torch.no_grad():
        for part in free.modules():
            if isinstance(part, MultiscaleGenerator):
                part.last.weight.zero_()
                part.last.bias.fill_(0.16)  # it has drifted by 0.01: 41 HU
    method = methods.build(name, settings | held, Scale()).eval()
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


def test_rednet_shortcuts_join_layers_of_the_same_depth() -> None:
    network = RedNet(8, 4)
    assert RedNet(30, 4)(random(1, 1, 9, 9)).shape == (1, 1, 9, 9)
    assert network(random(1, 1, 9, 9)).shape == (1, 1, 9, 9)


def test_blind_dncnn_sees_noise_of_other_levels() -> None:
    settings = {"channels": 4, "layers": 3, "batch_norm": False}
    clean, noise = torch.full((8, 1, 16, 16), 0.25), 0.01 * random(8, 1, 16, 16)
    blind = methods.build("dncnn", settings | {"blind_levels": (2.0, 2.0)}, Scale())
    plain = methods.build("dncnn", settings, Scale())
    plain.load_state_dict(blind.state_dict())
    doubled = Batch(clean + 2 * noise, clean, None, torch.Generator())
    single = Batch(clean + noise, clean, None, torch.Generator())
    torch.testing.assert_close(blind.losses(single), plain.losses(doubled), rtol=1e-4, atol=0)


def test_noise2noise_target_noise_moves_the_loss_not_its_gradient() -> None:
    """The zero-mean argument: a noisy target adds its variance to the squared error, and nothing else on average."""
    method = methods.build("noise2noise", {"width": 4, "scales": 1, "blocks": 1, "both_ways": False}, Scale())
    clean = 0.25 + 0.01 * random(1, 1, 16, 16, seed=1).expand(4096, -1, -1, -1)
    low = clean[:1] + 0.01 * random(1, 1, 16, 16, seed=2)
    noisy = clean + 0.01 * random(4096, 1, 16, 16, seed=3)
    weights = list(method.parameters())

    def gradient(target: torch.Tensor) -> torch.Tensor:
        loss = method._distance(method._estimate(low).expand_as(target), target)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    with_noise, without = gradient(noisy), gradient(clean)
    assert float((with_noise - without).norm() / without.norm()) < 0.05


@pytest.mark.parametrize("mask", ["pixel", "horizontal", "vertical", "cross"])
def test_noise2void_does_not_see_what_it_predicts(mask: str) -> None:
    method = methods.build("noise2void", {"width": 4, "mask": mask, "mask_reach": 2}, Scale())
    image = random(3, 1, 32, 32)
    chosen, hidden = method.masks(image, torch.Generator().manual_seed(0))
    assert bool(chosen.any(dim=-1).any(dim=-1).all())
    assert bool((hidden | ~chosen).all())
    row, column = (int(value) for value in chosen[0, 0].nonzero()[0])
    beside = bool(hidden[0, 0, row, min(column + 2, 31)])
    below = bool(hidden[0, 0, min(row + 2, 31), column])
    if mask in ("horizontal", "cross"):
        assert beside
    if mask in ("vertical", "cross"):
        assert below
    replaced = method._replacements(image, torch.Generator().manual_seed(0))
    assert not bool((replaced == image).any())


def test_haar_squeeze_is_inverted_and_begins_with_the_mean() -> None:
    squeeze, image = HaarSqueeze(), random(2, 3, 8, 12)
    torch.testing.assert_close(squeeze(image)[:, :3], torch.nn.functional.avg_pool2d(image, 2))
    torch.testing.assert_close(squeeze.inverse(squeeze(image)), image)


def test_invertible_network_is_exactly_invertible_with_any_weights() -> None:
    network = InvertibleNetwork(halvings=2, couplings=3, growth=8).double()
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
    one = methods.build("invdn", {"couplings": 1, "growth": 4, "samples": 1}, Scale()).eval()
    many = methods.build("invdn", {"couplings": 1, "growth": 4, "samples": 16}, Scale()).eval()
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
    fit = {"optimizer": optimizer, "iterations": 600, "average": 0.8}
    method = methods.build("dip", {"width": 16, "scales": 2, "sigma_hu": 0.01 * 4096} | fit, Scale())
    told: list[int] = []
    method.on_iteration = lambda iteration, iterations: told.append(iteration)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        restored = method.restore(noisy, seed=1)
    assert told == list(range(1, len(told) + 1))
    assert len(told) < (600 if optimizer == "adam" else 300)
    assert float((restored[0, 0] - clean).square().mean()) < 0.5 * float((noisy[0, 0] - clean).square().mean())


def test_unit_shares_its_latent_space() -> None:
    method = methods.build("unit", {"width": 4, "critic_width": 4}, Scale())
    keys = method.restoration_parameters().keys()
    assert any(key.startswith("shared_encoder.") for key in keys)
    assert not any(key.startswith(("e_y.", "g_x.", "d_x.", "d_y.")) for key in keys)


def test_a_critic_of_texture_sees_noise_and_not_what_is_smooth() -> None:
    torch.manual_seed(0)
    texture, whole = ImageCritic(4, 2, looks_at="texture", gain=16.0), ImageCritic(4, 2)
    whole.load_state_dict(texture.state_dict())
    plain = torch.full((1, 1, 64, 64), 0.25)
    noisy = plain + 0.01 * random(1, 1, 64, 64)  # 40 HU
    shift = plain + 0.1
    for far, near in zip(texture(shift), texture(plain), strict=True):
        torch.testing.assert_close(far, near, rtol=0, atol=1e-6)
    assert difference(texture, noisy, plain) > 5 * difference(whole, noisy, plain)


@torch.no_grad()
def difference(critic: ImageCritic, image: torch.Tensor, other: torch.Tensor) -> float:
    return max(float((a - b).abs().mean()) for a, b in zip(critic(image), critic(other), strict=True))

"""What is particular to each trained method."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.errors import InputError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch
from ldct_denoise.methods.ctformer import OverlappedInference, TokenTransformer
from ldct_denoise.methods.dugan import cutmix_mask
from ldct_denoise.methods.edcnn import EdgeEnhancement
from ldct_denoise.methods.zsn2n import downsample_pair
from ldct_denoise.networks import resnet50
from ldct_denoise.networks.discriminators import ImageDiscriminator
from ldct_denoise.networks.encoder_decoder import UNetGenerator
from ldct_denoise.networks.invertible import HaarDownsampling, InvertibleNetwork
from ldct_denoise.networks.residual import DnCnn, RedCnn, RedNet
from ldct_denoise.networks.resnet50 import ResNet50Features


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


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cnn10", 24_513),  # 64 × 9² + 64, 32 × 64 × 3² + 32, 32 × 5² + 1
        ("resnet", 1_843_329),  # ldct-benchmark
        ("qae", 49_818),  # ldct-benchmark: three convolutions in each of ten layers
        ("edcnn", 80_961),  # authors' code
        ("wganvgg", 56_097),  # 7 layers of 32 filters, one of 1
        ("dugan", 206_689),  # RED-CNN with 32 filters
        ("ctformer", 1_447_477 - 64 - 65 * 1000),  # authors' code (1.45 M), without class token and classifier
    ],
)
def test_methods_have_the_published_number_of_weights(name: str, published: int) -> None:
    method = methods.build(name, {}, Scale())
    assert count(method) == published
    assert method.restoration_parameters().keys() == method.state_dict().keys()


def test_critics_have_the_published_size() -> None:
    method = methods.build("wganvgg", {}, Scale(), for_training=True)
    convolutions = sum(9 * a * b + b for a, b in pairwise([1, 64, 64, 128, 128, 256, 256]))
    assert count(method.critic) == convolutions + (8 * 8 * 256 * 1024 + 1024) + (1024 + 1)
    assert count(methods.find("zsn2n")(methods.find("zsn2n").Settings(), Scale()).make_network()) == 21_313  # 22 k


def test_a_quadratic_network_begins_as_a_conventional_one() -> None:
    method, image = methods.build("qae", {"channels": 4}, Scale()), random(1, 1, 12, 13)
    first, by_parts = method.network.layers[0], method.network.layers[0].r
    torch.testing.assert_close(first(image), by_parts(image))
    with torch.no_grad():
        first.b.weight.fill_(1.0)
    summed = torch.nn.functional.conv2d(image.square(), torch.ones(4, 1, 3, 3), padding=1)
    torch.testing.assert_close(first(image), by_parts(image) + summed)


def test_edge_enhancement_is_blind_to_constants_and_sees_four_directions() -> None:
    edges = EdgeEnhancement(8)(torch.ones(1, 1, 9, 9))[0, 1:, 1:-1, 1:-1]
    torch.testing.assert_close(edges, torch.zeros_like(edges))
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    responses = [EdgeEnhancement(4)(ramp[None, None])[0, 1:, 4, 4].tolist() for ramp in (y, x, x + y, x - y)]
    assert responses == [[8, 0, 6, -6], [0, 8, 6, 6], [8, 8, 12, 0], [-8, 8, 0, 12]]


def test_gradient_penalty_of_a_linear_critic() -> None:
    method = methods.build("wganvgg", {"channels": 4, "gradient_penalty_weight": 10.0}, Scale(), for_training=True)
    images = Batch(random(2, 1, 8, 8), random(2, 1, 8, 8, seed=1), None, torch.Generator())
    method.critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1, bias=False))
    with torch.no_grad():
        method.critic[1].weight.fill_(3 / 8)  # norm 3, everywhere
    losses = {name: loss.detach() for name, loss in method.critic_losses(images).items()}
    assert float(losses["gradient_penalty"]) == pytest.approx(10 * (3 - 1) ** 2, rel=1e-5)
    difference = 16 * (method._estimate(images.low) - images.normal).sum(dim=(1, 2, 3)).mean() * 3 / 8
    assert float(losses["wasserstein"]) == pytest.approx(float(difference.detach()), rel=1e-4)
    assert not any("perceptual" in name for name in method.losses(images))
    assert "WGAN-MSE" in method.notes()[0]


def test_wganvgg_measures_features_where_weights_are_given(shared_data: Path) -> None:
    weights = str(next((shared_data / "vgg19").glob("*.pt")))
    given = {"channels": 4, "critic_channels": 2, "perceptual_layer": "conv2_1", "vgg_weights": weights}
    method = methods.build("wganvgg", given, Scale(), for_training=True)
    losses = method.losses(Batch(random(1, 1, 16, 16), random(1, 1, 16, 16, seed=1), None, torch.Generator()))
    assert losses.keys() == {"adversarial", "perceptual"}
    assert not any(key.startswith("vgg") for key in method.restoration_parameters())
    assert not method.notes()


def test_resnet50_has_the_names_of_torchvision_and_never_changes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="no such file"):
        ResNet50Features(str(tmp_path / "resnet50.pth"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet50.pth")
    with pytest.raises(InputError, match=r"bn1\.weight does not fit"):
        ResNet50Features(str(tmp_path / "resnet50.pth"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet50, "load_weights", lambda weights, url, wanted, name: dict(wanted))
        network = ResNet50Features("any").train()
    state = network.state_dict()
    assert sum(state[key].numel() for key in state if key.endswith(("weight", "bias"))) == 23_508_032  # without fc
    assert {"bn1.running_var", "layer1.0.downsample.1.bias", "layer3.5.conv2.weight", "layer4.2.bn3.bias"} <= {
        *state
    }
    assert "layer1.1.downsample.0.weight" not in state
    torch.save(state | {"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "resnet50.pth")
    method = methods.build(
        "edcnn", {"channels": 4, "resnet50_weights": str(tmp_path / "resnet50.pth")}, Scale(), for_training=True
    )
    method.train()
    losses = method.losses(Batch(random(1, 1, 32, 32), random(1, 1, 32, 32, seed=1), None, torch.Generator()))
    assert losses.keys() == {"l2", "perceptual"}
    for key, value in method.resnet50.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert [one.shape[1:] for one in network(random(1, 1, 32, 32))] == [
        (256, 8, 8), (512, 4, 4), (1024, 2, 2), (2048, 1, 1),
    ]  # fmt: skip


def test_cutmix_needs_warm_up_and_mixes_the_scores() -> None:
    mask = cutmix_mask(20, 30, torch.Generator().manual_seed(1))
    inside = (mask == 0).nonzero()
    top, left = inside.amin(dim=0)
    bottom, right = inside.amax(dim=0) + 1
    assert float(mask[top:bottom, left:right].sum()) == 0
    assert float((1 - mask).sum()) == (bottom - top) * (right - left) > 0
    small = {"channels": 4, "discriminator_channels": 4, "discriminator_levels": 2, "cutmix_prob": 1.0}
    method = methods.build("dugan", small, Scale(), for_training=True)
    images = random(2, 1, 18, 21), random(2, 1, 18, 21, seed=1)  # sides that 4 does not divide
    early, late = (Batch(*images, None, torch.Generator().manual_seed(0), step=step) for step in (0, 1000))
    assert method.image_discriminator_losses(early).keys() == {"discriminator_image"}
    losses = method.image_discriminator_losses(late)
    assert losses.keys() == {"discriminator_image", "cutmix_image"}
    assert method.gradient_discriminator_losses(late).keys() == {"discriminator_gradient", "cutmix_gradient"}
    scores = method.d_image(images[0])
    assert (scores.image.shape, scores.pixels.shape) == ((2, 1), images[0].shape)


def test_ctformer_keeps_the_center_of_each_window() -> None:
    class Center(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            seen.append(len(windows))
            return torch.nn.functional.pad(windows[..., 16:-16, 16:-16], (16,) * 4, value=9.0)

    seen: list[int] = []
    image = random(2, 1, 70, 101)
    assert torch.equal(OverlappedInference(Center())(image), image)
    assert seen == [24]
    network = TokenTransformer(8, 2, 1)
    window = random(1, 1, 64, 64)
    with torch.no_grad():
        assert float((network(window) - window).abs().mean()) < 0.1 * float(window.abs().mean())


def test_noise2sim_learns_from_similar_pixels_of_other_slices_only() -> None:
    method = methods.build("noise2sim", {"base_channels": 4}, Scale())
    center = 0.25 + 0.002 * random(1, 1, 32, 32)
    next_one = 0.25 + 0.002 * random(1, 1, 32, 32, seed=1)
    next_one[..., 16:, :] += 0.05  # 200 HU: other anatomy
    similar = method.similar_pixels(center, torch.cat([center, next_one], dim=1))
    assert not bool(similar[:, 0].any())  # a copy, at the end of a series
    assert bool(similar[:, 1, :12].all())
    assert not bool(similar[:, 1, 20:].any())
    copies = Batch(center.expand(-1, 3, -1, -1), None, None, torch.Generator())
    assert float(method.losses(copies)["l2"].detach()) == 0.0
    assert (method.context_slices, method.training_context_slices) == (0, 1)
    stack = torch.cat([next_one, center, next_one], dim=1)
    assert torch.equal(method.restore(stack), method.restore(center))


def test_zero_shot_pair_is_of_the_diagonals_and_the_fit_removes_white_noise() -> None:
    first, second = downsample_pair(torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]]))
    assert (float(first), float(second)) == (2.5, 3.0)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    clean = 0.25 + 0.05 * torch.sin((x + y) / 8.0)
    noisy = (clean + 0.02 * random(48, 48))[None, None]
    method, seen = methods.build("zsn2n", {"iterations": 150, "channels": 16}, Scale()), []
    method.on_iteration = lambda iteration, iterations: seen.append((iteration, iterations))
    with torch.inference_mode():
        restored = method.restore(noisy)
    assert seen[-1] == (150, 150)
    assert float((restored[0, 0] - clean).square().mean()) < 0.5 * float((noisy[0, 0] - clean).square().mean())


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


@pytest.mark.parametrize(
    "name", ["redcnn", "rednet", "dncnn", "noise2noise", "resnet", "qae", "edcnn", "noise2sim"]
)
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

"""Muon against singular value decomposition and torch's own optimizers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ldct_denoise.networks.optimizers import Muon, OptimizerName, create_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(32, 288), (128, 64), (16, 16)])
def test_orthogonalised_is_near_the_orthogonal_factor(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    singular = torch.linalg.svdvals(found)
    assert singular.max() < 1.25
    assert singular.median() > 0.65
    cosine = (found * (left @ right)).sum() / found.norm() / (left @ right).norm()
    assert cosine > 0.97
    assert not orthogonalize(torch.zeros(16, 32)).any()


def test_a_filter_moves_by_adams_root_mean_square_whatever_its_gradient() -> None:
    for scale in (1e-4, 1.0, 1e4):
        filters = nn.Parameter(torch.zeros(64, 32, 3, 3))
        muon = Muon([filters], lr=1e-3)
        filters.grad = scale * torch.randn(filters.shape, generator=torch.Generator().manual_seed(1))
        muon.step()
        rms = filters.detach().square().mean().sqrt() / 1e-3
        assert 0.15 < rms < 0.25  # of a full-rank gradient Adam's is 0.2 to 0.4 (Liu et al. 2025, section 2.2)


def test_nesterov_momentum_of_the_first_steps() -> None:
    gradients = torch.randn(2, 16, 20, generator=torch.Generator().manual_seed(2))
    weight = nn.Parameter(torch.zeros(16, 20))
    muon = Muon([weight], lr=0.5, momentum=0.9)
    expected, mean = torch.zeros(16, 20), torch.zeros(16, 20)
    for gradient in gradients:
        weight.grad = gradient.clone()
        muon.step()
        mean = 0.9 * mean + 0.1 * gradient
        expected -= 0.5 * 0.2 * math.sqrt(20) * orthogonalize(0.1 * gradient + 0.9 * mean)
    torch.testing.assert_close(weight.detach(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("decades", [0.0, 3.0, 8.0])
def test_iterations_on_the_small_square_are_those_on_the_matrix(decades: float) -> None:
    generator = torch.Generator().manual_seed(4)
    left, _, right = torch.linalg.svd(torch.randn(32, 96, generator=generator), full_matrices=False)
    matrix = left @ torch.diag(10 ** torch.linspace(0, -decades, 32)) @ right
    expected = matrix.double() / matrix.double().norm()
    for _ in range(5):
        square = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * square + 2.0315 * square @ square) @ expected
    difference = orthogonalize(matrix) - expected
    assert difference.norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("muon", (64,)), ("muon", (1, 32, 3, 3)), ("muon", (32, 1, 3, 3)), ("adam", (32, 32, 3, 3))],
)
def test_adam_is_adam_and_muon_too_in_first_and_last_layers_and_biases(
    name: OptimizerName, shape: tuple[int, ...]
) -> None:
    network, theirs = nn.ParameterList([torch.ones(shape)]), nn.Parameter(torch.ones(shape))
    (ours,) = network.parameters()
    found, adam = (
        create_optimizer(name, [network], 1e-2, (0.9, 0.99)),
        torch.optim.Adam([theirs], 1e-2, (0.9, 0.99)),
    )
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        found.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_weight_decay_is_decoupled() -> None:
    weight, bias = nn.Parameter(torch.ones(16, 16)), nn.Parameter(torch.ones(4))
    muon = Muon([weight, bias], lr=0.1, weight_decay=0.5)
    weight.grad, bias.grad = torch.zeros(16, 16), torch.zeros(4)
    muon.step()
    assert torch.equal(weight.detach(), torch.full((16, 16), 0.95))
    assert torch.equal(bias.detach(), torch.full((4,), 0.95))


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_goes_on_from_its_state_to_the_same_weights(name: OptimizerName) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 1, 3))

    def steps(net: nn.Module, muon: torch.optim.Optimizer, first: int, last: int) -> None:
        for number in range(first, last):
            image = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(number))
            muon.zero_grad()
            net(image).square().mean().backward()
            muon.step()

    whole = network()
    steps(whole, create_optimizer(name, [whole], 1e-2, (0.9, 0.99)), 0, 6)
    broken = network()
    first = create_optimizer(name, [broken], 1e-2, (0.9, 0.99))
    steps(broken, first, 0, 3)
    second = create_optimizer(name, [broken], 1e-2, (0.9, 0.99))
    second.load_state_dict(first.state_dict())
    steps(broken, second, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters(), strict=True))

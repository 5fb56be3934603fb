"""Convolutions with fewer products: the same images and gradients as the plain ones, and only where they pay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldct_denoise.networks import winograd
from ldct_denoise.networks.blocks import Conv3x3, Padding, ResidualBlock


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (16, 4)])
def test_the_result_is_that_of_a_plain_convolution(height: int, width: int) -> None:
    padded, weight, bias = random(2, 3, height + 2, width + 2), random(5, 3, 3, 3), random(5)
    torch.testing.assert_close(winograd.convolve(padded, weight, bias), F.conv2d(padded, weight, bias))


def test_gradients_are_the_derivatives_of_what_it_computes() -> None:
    inputs = [part.requires_grad_() for part in (random(1, 2, 10, 6), random(3, 2, 3, 3), random(3))]
    assert torch.autograd.gradcheck(winograd.convolve, inputs)


def test_float32_loses_no_more_than_rounding() -> None:
    channels = 256
    padded, weight = random(2, channels, 18, 18), random(channels, channels, 3, 3) / 48
    exact = F.conv2d(padded, weight)
    made = winograd.convolve(padded.float(), weight.float(), torch.zeros(channels))
    assert float((made - exact).abs().max() / exact.std()) < 1e-4  # 4e-5 to 6e-5, by the order of its sums


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_a_layer_gives_the_same_with_and_without(padding: Padding) -> None:
    wide = winograd.LEAST_CHANNELS
    quick, plain = Conv3x3(wide, wide, padding), Conv3x3(wide, wide, padding, literal=True)
    plain.load_state_dict(quick.state_dict())
    images = [random(1, wide, 8, 12, dtype=torch.float32).requires_grad_() for _ in range(2)]
    made, wanted = quick(images[0]), plain(images[1])
    assert "_Convolution" in _names(made.grad_fn)
    assert "_Convolution" not in _names(wanted.grad_fn)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
    made.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(images[0].grad, images[1].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quick.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-3)


def _names(node: object) -> str:
    """The names of everything that a result's gradient goes through."""
    found, left = [], [node]
    while left:
        each = left.pop()
        found.append(type(each).__name__)
        left += [before for before, _ in getattr(each, "next_functions", ()) if before is not None]
    return " ".join(found)


def test_it_is_left_alone_where_it_would_not_pay() -> None:
    wide = winograd.LEAST_CHANNELS
    image, weight = torch.zeros(1, wide, 8, 8), torch.zeros(wide, wide, 3, 3)
    assert winograd.pays(image, weight)
    assert not winograd.pays(image[..., :7], weight)  # no whole tiles
    assert not winograd.pays(image, weight[: wide // 2])  # few channels
    assert not winograd.pays(image.bfloat16(), weight)  # rounding would be multiplied
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.pays(image, weight)
    with torch.no_grad():  # in use
        assert not winograd.pays(image, weight)


def test_a_recorded_network_is_made_of_plain_convolutions() -> None:
    block = ResidualBlock(winograd.LEAST_CHANNELS)
    recorded = torch.jit.trace(block, torch.zeros(1, winograd.LEAST_CHANNELS, 8, 8))  # type: ignore[no-untyped-call]
    image = random(2, winograd.LEAST_CHANNELS, 12, 16, dtype=torch.float32)  # and takes any size
    torch.testing.assert_close(recorded(image), block(image), rtol=1e-4, atol=1e-5)


def test_a_residual_block_keeps_the_names_of_its_weights() -> None:
    assert list(ResidualBlock(8).state_dict()) == [
        "body.0.0.weight",
        "body.0.0.bias",
        "body.1.0.weight",
        "body.1.0.bias",
    ]

"""Losses that several methods share; each returns a scalar mean, so that two half batches average to a whole.

(:func:`tissue_bias` alone is not the same over halves: it says why.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ldct_denoise.networks.blocks import blur, gaussian_kernel

Adversarial = Literal["least_squares", "log"]


def judge(judgements: Sequence[Tensor], target: float, form: Adversarial) -> Tensor:
    """How far a critic's judgements are from ``target`` (1 real, 0 made, ½ undecided), averaged over its maps.

    ``least_squares`` (Mao et al. 2017): mean squared distance; ``log``: cross entropy of the logits, the log loss
    of Goodfellow et al. 2014 and of eq. 9, 12 and 13 of Du et al. 2020.
    """
    terms = []
    for map_ in judgements:
        goal = torch.full_like(map_, target)
        terms.append(
            F.mse_loss(map_, goal) if form == "least_squares" else F.binary_cross_entropy_with_logits(map_, goal)
        )
    return torch.stack(terms).mean()


def tell_apart(real: Sequence[Tensor], made: Sequence[Tensor], form: Adversarial) -> Tensor:
    """A critic's own loss, of its judgements: 1 for the real, 0 for the made."""
    return 0.5 * (judge(real, 1.0, form) + judge(made, 0.0, form))


def background_kernels(form: Literal["sigma", "size"]) -> tuple[tuple[float, Tensor], ...]:
    """(λ_σ, blur kernel) for σ = 5, 9, 15 of the background consistency loss, eq. 10.

    ``sigma``: Gaussians of that standard deviation in pixels, as the paper says. ``size``: kernels of that many
    pixels with standard deviation 25, nearly a box filter, as the published code has it.
    """
    weights = {5: 0.25, 9: 0.5, 15: 1.0}
    if form == "size":
        return tuple((weight, gaussian_kernel(25.0, size // 2)) for size, weight in weights.items())
    return tuple((weight, gaussian_kernel(float(sigma), 2 * sigma)) for sigma, weight in weights.items())


def background_consistency(before: Tensor, after: Tensor, kernels: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Σ λ_σ · L1(B_σ(before), B_σ(after)), eq. 10; the blur is linear, so that of the difference is taken."""
    difference = after - before
    return torch.stack([weight * blur(difference, kernel).abs().mean() for weight, kernel in kernels]).sum()


def tissue_bias(error: Tensor, image: Tensor, ranges: Sequence[tuple[float, float]]) -> Tensor:
    """Sum over tissues of the squared mean error: what drifts is the mean, which a squared error hardly feels.

    The mean is over what one process sees at once: the square of a smaller part's mean holds more chance, so that
    a batch worked through in parts, or by several processes, has a larger sum than as a whole.

    Parameters
    ----------
    error : Tensor
        Restored less true, over the batch, or one process's or part's share of it.
    image : Tensor
        Smooth image of the same shape, which says where each tissue is.
    ranges : sequence of (low, high)
        Of ``image``, one for each tissue.
    """
    means = []
    for low, high in ranges:
        inside = ((image > low) & (image < high)).to(error.dtype)
        means.append((error * inside).sum() / inside.sum().clamp(min=1))
    return torch.stack(means).square().sum()

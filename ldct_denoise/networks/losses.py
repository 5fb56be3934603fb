"""Losses that several methods share. Each is a mean, so that two half batches average to a whole one.

:func:`tissue_bias` is the exception; its docstring says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ldct_denoise.networks.blocks import blur, gaussian_kernel

AdversarialForm = Literal["least_squares", "bce"]


def adversarial_loss(scores: Sequence[Tensor], target: float, form: AdversarialForm) -> Tensor:
    """Distance of a discriminator's scores from a target, averaged over its maps.

    Parameters
    ----------
    scores : sequence of Tensor
        Maps of scores, one for each scale of the discriminator.
    target : float
        1 for real, 0 for generated, ½ for undecided.
    form : {"least_squares", "bce"}
        Mean squared distance (Mao et al. 2017), or binary cross-entropy of logits: the log loss of Goodfellow et
        al. 2014 and of eq. 9, 12 and 13 of Du et al. 2020.

    Returns
    -------
    Tensor
        Scalar loss.
    """
    terms = []
    for score in scores:
        goal = torch.full_like(score, target)
        least_squares = form == "least_squares"
        terms.append(F.mse_loss(score, goal) if least_squares else F.binary_cross_entropy_with_logits(score, goal))
    return torch.stack(terms).mean()


def discriminator_loss(real: Sequence[Tensor], generated: Sequence[Tensor], form: AdversarialForm) -> Tensor:
    """Loss of a discriminator that should score real images 1 and generated images 0.

    Parameters
    ----------
    real, generated : sequence of Tensor
        Maps of scores of each.
    form : {"least_squares", "bce"}
        As for :func:`adversarial_loss`.

    Returns
    -------
    Tensor
        Scalar loss.
    """
    return 0.5 * (adversarial_loss(real, 1.0, form) + adversarial_loss(generated, 0.0, form))


def background_kernels() -> tuple[tuple[float, Tensor], ...]:
    """Return (λ, blur kernel) of the background consistency loss, eq. 10 of Du et al. 2020.

    The paper states Gaussians of σ = 5, 9 and 15 pixels. These are the kernels of the published code: 5, 9 and 15
    pixels wide with σ = 25 pixels, nearly box filters.
    """
    return tuple((weight, gaussian_kernel(25.0, size // 2)) for size, weight in ((5, 0.25), (9, 0.5), (15, 1.0)))


def background_consistency(before: Tensor, after: Tensor, kernels: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Background consistency, Σ λ · L1(B(before), B(after)) over blurs B: eq. 10 of Du et al. 2020.

    Parameters
    ----------
    before, after : Tensor, shape (n, 1, height, width)
        An image and its translation.
    kernels : sequence of (λ, kernel)
        Weight and separable kernel of each blur.

    Returns
    -------
    Tensor
        Scalar loss.
    """
    difference = after - before  # blurring is linear
    return torch.stack([weight * blur(difference, kernel).abs().mean() for weight, kernel in kernels]).sum()


def tissue_bias(error: Tensor, image: Tensor, ranges: Sequence[tuple[float, float]]) -> Tensor:
    """Sum over tissues of the squared mean error: a pixelwise loss hardly penalises a shift of the mean.

    The mean is taken over the images of one call. The square of a mean over fewer pixels contains more noise, so
    the loss is larger where a batch is split into micro-batches or over processes.

    Parameters
    ----------
    error : Tensor
        Restored minus true values.
    image : Tensor
        Smooth image of the same shape, by which pixels are assigned to tissues.
    ranges : sequence of (low, high)
        Values of ``image`` that belong to each tissue.

    Returns
    -------
    Tensor
        Scalar loss.
    """
    means = []
    for low, high in ranges:
        inside = ((image > low) & (image < high)).to(error.dtype)
        means.append((error * inside).sum() / inside.sum().clamp(min=1))
    return torch.stack(means).square().sum()

"""Error of a denoiser on real low-dose images, estimated without normal-dose partners.

Stein's unbiased risk estimate (Stein 1981), with the divergence found by Monte Carlo (Ramani, Blu, Unser 2008) and
the measured noise in place of white noise. For x = y + n and a denoiser f, ::

    E|f(x) − y|² = E|f(x) − x|² + 2·E⟨n, f(x)⟩ − E|n|²,    E⟨n, f(x)⟩ = E⟨m, (f(x + ε·m) − f(x)) / ε⟩

where m is another realisation of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldct_denoise.data.noise import NoiseSampler, random_nps_noise
from ldct_denoise.data.slices import PoolSlice, decode
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Method
from ldct_denoise.physics.noise import uniform_roi_spectra
from ldct_denoise.regions.body import body_mask
from ldct_denoise.training.validation import restore_hu
from ldct_denoise.volume import Image, SliceSource

#: Side of the center crop that is measured, pixels.
CROP_SIDE = 320
#: Noise m is added times this factor.
EPSILON = 0.2


@dataclass(frozen=True)
class RiskCase:
    """A slice, and noise to measure a denoiser with.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        The slice, HU.
    noise_hu : ndarray, same shape
        A realisation of noise, HU.
    body : ndarray of bool, same shape
        Pixels that count.
    source : SliceSource
        Series of the slice.
    """

    hu: Image
    noise_hu: Image
    body: NDArray[np.bool_]
    source: SliceSource


def low_dose_cases(
    slices: Sequence[PoolSlice], noise: NoiseSampler, target_noise_fraction: float
) -> list[RiskCase]:
    """Low-dose slices, each with another realisation of the noise that low dose adds.

    Parameters
    ----------
    slices : sequence of PoolSlice
        Low-dose slices; those without uniform tissue or without noise by content are left out.
    noise : NoiseSampler
        Measured noise.
    target_noise_fraction : float
        Noise of normal dose as a fraction of that of low dose.
    """
    models = {model.kernel: model for model in noise.models}
    cases = []
    for number, item in enumerate(slices):
        hu, spacing_mm = decode(item).hu, item.source.geometry.pixel_spacing_mm
        content, rois = noise.content_noise.get(item.source.metadata.kernel), uniform_roi_spectra(hu, spacing_mm)
        if content is None or not len(rois):
            continue
        added_hu = math.sqrt(float(rois.mean()) * (1 - target_noise_fraction**2))
        hu = _center(hu)
        field = models[item.source.metadata.kernel].draw_fields(
            1, len(hu), len(hu), spacing_mm, np.random.default_rng(number)
        )
        noise_hu = np.float32(added_hu) * content.apply(field, hu, spacing_mm)[0]
        cases.append(RiskCase(hu, noise_hu, body_mask(hu, spacing_mm), item.source))
    return cases


def other_kernel_cases(slices: Sequence[PoolSlice], level_hu: float) -> list[RiskCase]:
    """Normal-dose slices, each with noise of a random spectrum, for the noise of other kernels.

    Parameters
    ----------
    slices : sequence of PoolSlice
        Normal-dose slices.
    level_hu : float
        Standard deviation of the noise, HU.
    """
    cases = []
    for number, item in enumerate(slices):
        hu, spacing_mm = _center(decode(item).hu), item.source.geometry.pixel_spacing_mm
        field = random_nps_noise(1, max(hu.shape), spacing_mm[0], np.random.default_rng(number))[0]
        cases.append(
            RiskCase(hu, level_hu * field[: hu.shape[0], : hu.shape[1]], body_mask(hu, spacing_mm), item.source)
        )
    return cases


def estimated_rmse_hu(method: Method[Any], scale: Scale, cases: Sequence[RiskCase], device: torch.device) -> float:
    """RMSE of restored low-dose slices against normal dose, by Stein's estimate, HU.

    Parameters
    ----------
    method : Method
        On ``device``.
    scale : Scale
        HU range of the method.
    cases : sequence of RiskCase
        From :func:`low_dose_cases`.
    device : torch.device

    Returns
    -------
    float
        0 where the estimate of the mean square is negative.
    """
    squares = []
    for case in cases:
        restored = _restore(method, scale, case, case.hu, device)
        moved = _restore(method, scale, case, case.hu + np.float32(EPSILON) * case.noise_hu, device)
        residual = np.square(restored - case.hu, dtype=np.float64)
        divergence = case.noise_hu * (moved - restored) / EPSILON
        risk = residual + 2 * divergence - np.square(case.noise_hu)
        squares.append(float(risk[case.body].mean()))
    return math.sqrt(max(0.0, float(np.mean(squares))))


def rmse_hu(method: Method[Any], scale: Scale, cases: Sequence[RiskCase], device: torch.device) -> float:
    """RMSE of slices with their noise added and restored, HU.

    Parameters
    ----------
    method : Method
        On ``device``.
    scale : Scale
        HU range of the method.
    cases : sequence of RiskCase
        From :func:`other_kernel_cases`.
    device : torch.device
    """
    squares = []
    for case in cases:
        error = _restore(method, scale, case, case.hu + case.noise_hu, device) - case.hu
        squares.append(float(np.square(error, dtype=np.float64)[case.body].mean()))
    return math.sqrt(float(np.mean(squares)))


def _restore(method: Method[Any], scale: Scale, case: RiskCase, hu: Image, device: torch.device) -> Image:
    here = method.for_spacing(case.source.geometry.pixel_spacing_mm)
    stack = np.repeat(hu[None].astype(np.float32), method.in_channels, axis=0)
    return restore_hu(here, scale, stack, device)


def _center(hu: Image) -> Image:
    """The center crop of a slice, shape (side, side)."""
    side = min(CROP_SIDE, *hu.shape)
    row, column = ((length - side) // 2 for length in hu.shape)
    return hu[row : row + side, column : column + side]

"""Noise of a series before and after denoising, between limits, because ROIs of a patient also hold anatomy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ldct_denoise.metrics.noise import RadialSpectrum, coarse_noise_factor, detrended, noise_reduction_profile
from ldct_denoise.metrics.noise_by_scale import SCALES_MM, noise_transfer
from ldct_denoise.metrics.texture import texture_shift
from ldct_denoise.metrics.unpaired_noise import RING_PER_MM, NoiseLimits, RoiStack, merge_stacks, noise_limits

#: Names of the images in the stacks of ROIs.
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class NoiseChange:
    """Noise of a series before and after denoising, in the ROIs with the least anatomy.

    Parameters
    ----------
    before, after : NoiseLimits
        Noise power spectra.
    profile : RadialSpectrum
        Noise reduction profile of the upper limits, dB, from the frequency on above which the input's is stated.
    texture : tuple of 2 floats
        See :func:`~ldct_denoise.metrics.texture.texture_shift`.
    coarse_factors : tuple of 2 floats
        Before and after; see :func:`~ldct_denoise.metrics.noise.coarse_noise_factor`.
    blurred_hu : mapping from float to (before, after)
        Limits of the noise after a Gaussian of each σ (mm), HU.
    transfer_hu : list of (float, float)
        Noise in and out; see :func:`~ldct_denoise.metrics.noise_by_scale.noise_transfer`.
    """

    before: NoiseLimits
    after: NoiseLimits
    profile: RadialSpectrum
    texture: tuple[float, float]
    coarse_factors: tuple[float, float]
    blurred_hu: Mapping[float, tuple[tuple[float, float], tuple[float, float]]]
    transfer_hu: list[tuple[float, float]]


def noise_change(stacks: Sequence[RoiStack], pixel_spacing_mm: tuple[float, float]) -> NoiseChange | None:
    """Measure the noise of a series before and after denoising.

    Parameters
    ----------
    stacks : sequence of RoiStack
        ROIs of the slices, with the images ``before`` and ``after``.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    NoiseChange or None
        None without an ROI.
    """
    stack = merge_stacks(stacks)
    if stack is None:
        return None
    before, after = (noise_limits(stack, name, pixel_spacing_mm) for name in (BEFORE, AFTER))
    rois = [stack.quiet_pixels(name) for name in (BEFORE, AFTER)]
    profile = noise_reduction_profile(before.upper.radial(RING_PER_MM), after.upper.radial(RING_PER_MM))
    stated = profile.frequency >= before.stated_from_per_mm
    return NoiseChange(
        before,
        after,
        RadialSpectrum(profile.frequency[stated], profile.power[stated]),
        texture_shift(rois[0], rois[1], pixel_spacing_mm),
        (coarse_noise_factor(rois[0], pixel_spacing_mm), coarse_noise_factor(rois[1], pixel_spacing_mm)),
        {sigma: (before.blurred_hu(sigma), after.blurred_hu(sigma)) for sigma in SCALES_MM},
        noise_transfer(*(detrended(stack).std(axis=(1, 2)).tolist() for stack in rois)),
    )

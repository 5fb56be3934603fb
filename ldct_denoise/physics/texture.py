"""Noise texture of a reconstruction kernel, from normal-dose images that still contain anatomy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ldct_denoise.physics.noise import ROI_SIDE_PX, NoiseModel, radial_nps

#: Spectra are measured above this frequency and extrapolated below it, 1/mm.
TRUSTED_PER_MM = 0.09
#: Iterations that undo aliasing; the fourth changes the result by less than 1 %.
ALIASING_ITERATIONS = 4
#: Residual anatomy in the most uniform ROIs is ∝ f to minus this; of 1 … 4 it fits the Mayo slices best.
ANATOMY_EXPONENT = 1.5


@dataclass(frozen=True)
class Texture:
    """Noise texture of a reconstruction kernel.

    Parameters
    ----------
    model : NoiseModel
        Radial NPS of the pixels, without anatomy.
    continuous : NoiseModel
        Radial NPS before sampling by pixels, which aliases power above their Nyquist frequency.
    gain : float
        1/mm. NPS / |f| → ``1 / gain`` at low frequencies, where a reconstruction preserves HU: ``gain · nps``
        equals |f| · (transfer function of the kernel)².
    """

    model: NoiseModel
    continuous: NoiseModel
    gain: float

    @classmethod
    def of(cls, model: NoiseModel, spacing_mm: tuple[float, float], gain: float | None = None) -> Texture:
        """The texture with this spectrum of the pixels.

        Parameters
        ----------
        model : NoiseModel
            Radial NPS of the pixels, without anatomy.
        spacing_mm : tuple of 2 floats
            Row and column spacing, mm.
        gain : float, optional
            1/mm; by default from the lowest trusted frequency.

        Returns
        -------
        Texture
        """
        first = int(np.argmax(model.frequencies_per_mm > TRUSTED_PER_MM))
        kept = float(model.frequencies_per_mm[first] / max(model.nps[first], 1e-6))
        return cls(model, undo_aliasing(model, spacing_mm), kept if gain is None else gain)

    def response(self, frequency_per_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Amplitude of the reconstruction filter, 1/mm; white noise of the rays becomes NPS ∝ filter² / |f|."""
        return np.sqrt(self.gain * self.continuous.power(frequency_per_mm) * np.abs(frequency_per_mm))

    def noise_gain(self, channel_mm: float) -> float:
        """Variance of a filtered channel for unit variance before the filter: Σ h² over the filter's taps."""
        frequency = np.linspace(0, 0.5 / channel_mm, 2001)
        return float(2 * channel_mm * np.trapezoid(self.response(frequency) ** 2, frequency))


def undo_aliasing(model: NoiseModel, spacing_mm: tuple[float, float]) -> NoiseModel:
    """The isotropic spectrum whose radial mean, after sampling by pixels of this spacing, is ``model``."""
    frequency = model.frequencies_per_mm
    sampling = [1 / spacing for spacing in spacing_mm]
    down, along = (np.fft.fftfreq(ROI_SIDE_PX, spacing) for spacing in spacing_mm)
    shifts = [
        np.hypot(down[:, None] + i * sampling[0], along[None] + j * sampling[1])
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    found = model
    for _ in range(ALIASING_ITERATIONS):
        folded = np.sum([found.power(radius) for radius in shifts], axis=0)
        sampled = np.interp(frequency, *radial_nps(folded, spacing_mm))
        nps = found.nps * np.where(sampled > 0, model.nps / np.maximum(sampled, 1e-12), 0)
        found = replace(found, nps=nps)
    return found


def noise_texture(model: NoiseModel, spacing_mm: tuple[float, float]) -> Texture:
    """Noise texture of a kernel, from a spectrum that was measured in normal-dose images and contains anatomy.

    A smooth kernel f·exp(c₀ − c₁f² − c₂f⁴) and residual anatomy ∝ f⁻¹·⁵ (edges and vessels) are fitted together to
    the logarithm of the measured spectrum. Each frequency then keeps the kernel's share of the measured power.

    Parameters
    ----------
    model : NoiseModel
        From :func:`~ldct_denoise.physics.noise.estimate_noise`.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm. Nothing is fitted near and above the Nyquist frequency, because there an ROI
        covers only some directions.

    Returns
    -------
    Texture
    """
    frequency, nps = model.frequencies_per_mm, model.nps
    used = (frequency > TRUSTED_PER_MM) & (frequency < 0.45 / max(spacing_mm)) & (nps > 1e-3)
    if used.sum() < 5:
        return Texture.of(model, spacing_mm)

    def log_power(c: NDArray[np.float64]) -> NDArray[np.float64]:
        f = frequency[used]
        return np.logaddexp(
            np.log(f) + c[0] - c[1] * f**2 - c[2] * f**4, c[3] - ANATOMY_EXPONENT * np.log(f)
        ) - np.log(nps[used])

    fitted = optimize.least_squares(
        log_power, [0, 1, 1, -6], bounds=([-9, -20, 0, -16], [9, 60, 60, 3]), loss="soft_l1", f_scale=0.05
    ).x
    kernel = frequency * np.exp(fitted[0] - fitted[1] * frequency**2 - fitted[2] * frequency**4)
    anatomy = np.exp(fitted[3]) * frequency**-ANATOMY_EXPONENT
    share = kernel / (kernel + anatomy)
    top = int(np.argmax(kernel))
    # Above its peak the kernel also attenuates anatomy, so there is less than the power law predicts.
    share[top:] = np.maximum(share[top:], share[top])
    cleaned = np.where(frequency > TRUSTED_PER_MM, nps * share, kernel)
    peak = cleaned.max()
    return Texture.of(replace(model, nps=cleaned / peak), spacing_mm, float(peak * np.exp(-fitted[0])))

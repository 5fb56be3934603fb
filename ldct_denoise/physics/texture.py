"""The noise texture of a reconstruction kernel, from normal-dose images in which anatomy still shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ldct_denoise.physics.noise import SIDE, NoiseModel, radial

#: Spectra are measured from above this frequency on; below it they are continued.
TRUSTED_PER_MM = 0.09
#: Steps in which folding is undone; the fourth changes nothing by 1 %.
UNFOLDING_STEPS = 4
#: Anatomy left in the quietest squares goes as f to minus this; of 1 … 4 it fits the Mayo slices best.
ANATOMY_EXPONENT = 1.5


@dataclass(frozen=True)
class Texture:
    """How the kernel shapes noise.

    Parameters
    ----------
    model : NoiseModel
        The radial NPS in pixels, free of anatomy.
    continuous : NoiseModel
        The radial NPS before sampling by pixels, which folds what lies above their Nyquist frequency back.
    gain : float
        1/mm. NPS / |f| → ``1 / gain`` at low frequency, where a
        reconstruction keeps HU as they are: ``gain · nps`` is |f| · (the kernel's transfer function)².
    """

    model: NoiseModel
    continuous: NoiseModel
    gain: float

    @classmethod
    def of(cls, model: NoiseModel, spacing_mm: tuple[float, float], gain: float | None = None) -> Texture:
        """The texture that has this spectrum in pixels; HU are kept where it is first trusted, or by ``gain``."""
        first = int(np.argmax(model.frequencies_per_mm > TRUSTED_PER_MM))
        kept = float(model.frequencies_per_mm[first] / max(model.nps[first], 1e-6))
        return cls(model, unfolded(model, spacing_mm), kept if gain is None else gain)

    def response(self, frequency_per_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Amplitude of the filter of filtered back-projection, 1/mm: white rays f → NPS ∝ filter² / |f|."""
        return np.sqrt(self.gain * self.continuous.power(frequency_per_mm) * np.abs(frequency_per_mm))

    def noise_gain(self, channel_mm: float) -> float:
        """Σ h² of the filter's taps: variance of a filtered channel for unit variance before."""
        frequency = np.linspace(0, 0.5 / channel_mm, 2001)
        return float(2 * channel_mm * np.trapezoid(self.response(frequency) ** 2, frequency))


def unfolded(model: NoiseModel, spacing_mm: tuple[float, float]) -> NoiseModel:
    """The isotropic spectrum that, sampled by pixels of this spacing, has the radial mean of ``model``."""
    frequency = model.frequencies_per_mm
    turns = [1 / spacing for spacing in spacing_mm]
    down, along = (np.fft.fftfreq(SIDE, spacing) for spacing in spacing_mm)
    shifts = [
        np.hypot(down[:, None] + i * turns[0], along[None] + j * turns[1]) for i in (-1, 0, 1) for j in (-1, 0, 1)
    ]
    found = model
    for _ in range(UNFOLDING_STEPS):
        folded = np.sum([found.power(radius) for radius in shifts], axis=0)
        sampled = np.interp(frequency, *radial(folded, spacing_mm))
        nps = found.nps * np.where(sampled > 0, model.nps / np.maximum(sampled, 1e-12), 0)
        found = replace(found, nps=nps)
    return found


def noise_texture(model: NoiseModel, spacing_mm: tuple[float, float]) -> Texture:
    """The kernel's noise spectrum from one measured in normal-dose images, where anatomy still shows.

    A smooth kernel, f·exp(c₀ − c₁f² − c₂f⁴), and anatomy ∝ f⁻¹·⁵ (edges and vessels, in squares chosen for having
    little of them) are fitted together to the logarithm of the measured spectrum; each frequency then keeps the
    kernel's share of the measured power.

    Parameters
    ----------
    model : NoiseModel
        As :func:`~ldct_denoise.physics.noise.estimate_noise` measures it.
    spacing_mm : tuple of 2 floats
        Of the pixels: above their Nyquist frequency a square holds only part of the directions, so nothing is
        fitted there.
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
    # Above the kernel's peak there is less anatomy than the power law says: the kernel passes less of it too.
    share[top:] = np.maximum(share[top:], share[top])
    cleaned = np.where(frequency > TRUSTED_PER_MM, nps * share, kernel)
    peak = cleaned.max()
    return Texture.of(replace(model, nps=cleaned / peak), spacing_mm, float(peak * np.exp(-fitted[0])))

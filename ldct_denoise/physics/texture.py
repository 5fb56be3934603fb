"""Noise texture of a reconstruction kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.physics.noise import ROI_SIDE_PX, NoiseModel, radial_nps

#: Spectra are measured above this frequency and extrapolated below it, 1/mm.
TRUSTED_PER_MM = 0.09
#: Iterations that undo aliasing; the fourth changes the result by less than 1 %.
ALIASING_ITERATIONS = 4


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

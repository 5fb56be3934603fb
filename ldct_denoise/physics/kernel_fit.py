"""Noise texture of a kernel from normal-dose images, whose soft tissue still contains anatomy.

Filtered back-projection turns white noise of the rays into a spectrum ∝ f · T(f)², where T is the transfer
function of the kernel and T(0) = 1. Anatomy is seen through the same kernel: its spectrum is ∝ f⁻³·⁵ · T(f)², so
relative to the noise it falls as f⁻⁴·⁵. Both are fitted to groups of ROIs with different amounts of anatomy.
Images alone do not separate the two at low frequencies. There the quanta decide: the slope of the noise at f → 0
is one over the quanta, and all scanners emit about the same number per mAs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ldct_denoise.physics.noise import NoiseModel
from ldct_denoise.physics.roi_spectra import (
    PEAK_FROM_PER_MM,
    SliceSpectra,
    anatomy_index,
    band_mean,
    measurable_rings,
    ring_matrix,
)
from ldct_denoise.physics.texture import Texture

#: ROIs are divided into this many groups by their anatomy, of which those with the most are not used.
GROUPS, UNUSED_GROUPS = 6, 2
#: Anatomy relative to noise is ∝ f to minus this, and is expressed at this frequency, 1/mm.
ANATOMY_EXPONENT, ANATOMY_PER_MM = 4.5, 0.3
#: Relative error of a fitted group's power without anatomy, and what a share of anatomy of 1 adds.
POWER_ERROR, ANATOMY_ERROR = 0.2, 0.6
#: The fit has several minima; it starts from each of these amounts of anatomy in the quietest group (log).
STARTS = (-6.0, -3.0, -1.0)
#: Below this frequency (1/mm) the spectrum is the fitted curve, above this one it is measured.
FITTED_BELOW_PER_MM, MEASURED_ABOVE_PER_MM = 0.22, 0.4


@dataclass(frozen=True)
class ExpectedQuanta:
    """Quanta of a scan, as expected from its exposure.

    Parameters
    ----------
    per_ma : float
        Quanta per mm, radian and mA.
    log_error : float
        Standard deviation of its logarithm.
    """

    per_ma: float
    log_error: float


def fit_texture(
    slices: Sequence[SliceSpectra],
    band: NDArray[np.bool_],
    spacing_mm: tuple[float, float],
    expected: ExpectedQuanta,
    kernel: str = "",
) -> Texture:
    """Noise texture of a kernel, without anatomy.

    Parameters
    ----------
    slices : sequence of SliceSpectra
        Slices with at least one ROI.
    band : ndarray of bool, shape (bins,)
        Bins of noise alone; see :func:`~ldct_denoise.physics.roi_spectra.noise_band`.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    expected : ExpectedQuanta
    kernel : str
        Name of the kernel.

    Returns
    -------
    Texture
    """
    frequency, _, cells = ring_matrix(spacing_mm)
    groups, level = _groups(slices, band, spacing_mm)
    used = measurable_rings(spacing_mm) & (frequency > PEAK_FROM_PER_MM) & (groups.min(axis=0) > 0)
    weight = np.sqrt(cells[used] / cells[used].mean())
    prior = -math.log(expected.per_ma * level), expected.log_error
    curve, anatomy = _fit(frequency[used], groups[:, used], weight, prior)
    fitted = frequency * np.exp(curve[0] - curve[1] * frequency**2 - curve[2] * frequency**4)
    relative = np.exp(anatomy)[:, None] * (frequency / ANATOMY_PER_MM) ** -ANATOMY_EXPONENT
    trust = 1 / (POWER_ERROR + ANATOMY_ERROR * relative / (1 + relative)) ** 2
    measured = np.exp(
        np.sum(trust * np.log(np.maximum(groups, 1e-30) / (1 + relative)), axis=0) / trust.sum(axis=0)
    )
    share = np.interp(frequency, [FITTED_BELOW_PER_MM, MEASURED_ABOVE_PER_MM], [0.0, 1.0])
    nps = np.where(cells > 0, fitted ** (1 - share) * np.maximum(measured, 1e-30) ** share, 0)
    peak = float(nps.max())
    model = NoiseModel(kernel, frequency, nps / peak, np.ones(1))
    return Texture.of(model, spacing_mm, peak * math.exp(-curve[0]))


def _groups(
    slices: Sequence[SliceSpectra], band: NDArray[np.bool_], spacing_mm: tuple[float, float]
) -> tuple[NDArray[np.float64], float]:
    """Mean spectra of groups of ROIs with rising anatomy, relative to the slice's level, and the mean level."""
    levels = np.array([np.median(band_mean(one.rings, band, spacing_mm)) for one in slices])
    rings = np.concatenate([one.rings / level for one, level in zip(slices, levels, strict=True)])
    ranked = rings[np.argsort(anatomy_index(rings, band, spacing_mm), kind="stable")]
    parts = [part for part in np.array_split(ranked, GROUPS)[: GROUPS - UNUSED_GROUPS] if len(part)]
    return np.array([part.mean(axis=0) for part in parts or [ranked]]), float(np.exp(np.log(levels).mean()))


def _fit(
    frequency: NDArray[np.float64],
    groups: NDArray[np.float64],
    weight: NDArray[np.float64],
    prior: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit noise f · exp(c₀ − c₁f² − c₂f⁴) and the anatomy of each group to the logarithm of their spectra.

    Parameters
    ----------
    frequency : ndarray, shape (bins,)
        1/mm.
    groups : ndarray, shape (groups, bins)
        Mean spectra.
    weight : ndarray, shape (bins,)
        Relative weight of each bin.
    prior : tuple of 2 floats
        Expected value of c₀, and its standard deviation.

    Returns
    -------
    curve : ndarray, shape (3,)
        c₀, c₁, c₂.
    anatomy : ndarray, shape (groups,)
        Logarithm of each group's anatomy over noise at ``ANATOMY_PER_MM``.
    """
    count, log_groups = len(groups), np.log(groups)
    slope = ANATOMY_EXPONENT * np.log(frequency / ANATOMY_PER_MM)

    def misfit(c: NDArray[np.float64]) -> NDArray[np.float64]:
        noise = np.log(frequency) + c[0] - c[1] * frequency**2 - c[2] * frequency**4
        anatomy = np.exp(c[3:, None] - slope)
        error = POWER_ERROR + ANATOMY_ERROR * anatomy / (1 + anatomy)
        data = (noise + np.log1p(anatomy) - log_groups) * weight / error
        away = (c[0] - prior[0]) / prior[1]
        # Images that contradict the expectation, as those of iterative reconstruction do, outweigh it.
        return np.append(data.ravel(), np.sign(away) * math.sqrt(2 * (math.sqrt(1 + away**2) - 1)))

    low = np.concatenate([[prior[0] - 5, -3.0, -20.0], np.full(count, -7.0)])
    high = np.concatenate([[prior[0] + 5, 60.0, 80.0], np.full(count, 4.0)])
    starts = [np.concatenate([[prior[0], 5.0, 0.0], np.linspace(least, 0, count)]) for least in STARTS]
    found = min(
        (optimize.least_squares(misfit, start, bounds=(low, high)) for start in starts), key=lambda fit: fit.cost
    )
    return found.x[:3], found.x[3:]

"""Correlation of the noise of neighbouring slices.

Thick slices and helical interpolation share detector readings, so the noise of neighbouring slices correlates. The
noise of a slice is a weighted sum of independent fields on a grid along z; neighbouring slices share fields.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.physics.projection import Image

#: Distance of two slices relative to their thickness, and the correlation of their noise. Measured above 0.33 /mm,
#: where anatomy is weak, in nine series of eight scanner models (``docs/explanation/simulation.md``).
DISTANCES = (0.0, 0.65, 0.82, 1.0, 1.3, 1.7, 2.0, 2.5)
CORRELATIONS = (1.0, 0.50, 0.42, 0.28, 0.08, 0.03, 0.01, 0.0)
#: Slices on each side of a slice that can share noise with it.
MAX_REACH = 6


def noise_correlations(
    spacing_mm: float, thickness_mm: float, neighbour: float | None = None
) -> NDArray[np.float64]:
    """Correlation of the noise of slices 0, 1, 2 … apart.

    Parameters
    ----------
    spacing_mm : float
        Distance of neighbouring slices, mm.
    thickness_mm : float
        Slice thickness, mm.
    neighbour : float, optional
        Correlation of neighbouring slices, 0 ≤ neighbour < 1; by default from spacing and thickness.

    Returns
    -------
    ndarray, shape (MAX_REACH + 1,)
        1 first.
    """
    distance = spacing_mm / thickness_mm if thickness_mm > 0 else 1.0
    if neighbour is not None:
        distance = float(np.interp(neighbour, CORRELATIONS[::-1], DISTANCES[::-1]))
    if distance <= 0 or not np.isfinite(distance):
        distance = 1.0
    return np.interp(np.arange(MAX_REACH + 1) * distance, DISTANCES, CORRELATIONS)


def correlation_weights(correlations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric weights of independent fields whose sums have given correlations.

    Parameters
    ----------
    correlations : ndarray, shape (reach + 1,)
        Correlation of slices 0, 1, 2 … apart.

    Returns
    -------
    ndarray, shape (2·reach + 1,)
        The sum of their squares is 1.
    """
    reach = len(correlations) - 1
    cyclic = np.zeros(64)
    cyclic[: reach + 1] = correlations
    cyclic[-reach:] = correlations[:0:-1]
    spectrum = np.fft.fft(cyclic).real
    weights = np.fft.ifft(np.sqrt(np.clip(spectrum, 0, None))).real
    weights = np.roll(weights, reach)[: 2 * reach + 1]
    weights[np.abs(weights) < 0.01] = 0  # a field that hardly contributes need not be drawn
    return np.asarray(weights / np.sqrt(np.sum(weights**2)))


class CorrelatedFields:
    """Noise fields of slices, correlated along z; a function of the seed and the slice alone.

    Parameters
    ----------
    offsets_mm : ndarray, shape (slices,)
        Position of each slice along the normal, mm.
    spacing_mm : float
        Distance of neighbouring slices, mm.
    correlations : ndarray, shape (reach + 1,)
        Correlation of slices 0, 1, 2 … apart.
    draw : callable
        Takes a random generator and returns a field of unit variance.
    """

    def __init__(
        self,
        offsets_mm: NDArray[np.floating],
        spacing_mm: float,
        correlations: NDArray[np.float64],
        draw: Callable[[np.random.Generator], Image],
    ) -> None:
        cells = np.rint((np.asarray(offsets_mm) - np.min(offsets_mm)) / spacing_mm) if spacing_mm > 0 else None
        if cells is None or len(np.unique(cells)) < len(cells):  # two slices at one position: count them instead
            cells = np.arange(len(offsets_mm))
        self._cells = np.asarray(cells, int)
        self._weights = correlation_weights(correlations)

        @lru_cache(maxsize=int(np.count_nonzero(self._weights)))
        def field(seed: int, cell: int) -> Image:
            return draw(np.random.default_rng([17, seed, cell]))

        self._field = field

    def of_slice(self, index: int, seed: int) -> Image:
        """Field of one slice, of unit variance.

        Parameters
        ----------
        index : int
        seed : int

        Returns
        -------
        ndarray, float32
            In the shape of the independent fields.
        """
        used = np.flatnonzero(self._weights)
        first = int(self._cells[index])
        total = np.float32(self._weights[used[0]]) * self._field(seed, first + int(used[0]))
        for number in used[1:]:
            total = total + np.float32(self._weights[number]) * self._field(seed, first + int(number))
        return total

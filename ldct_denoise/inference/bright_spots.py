"""Find small bright spots that stand out of the noise and that the network reduced, such as calcifications.

A spot is found by differences of Gaussians, normalised by the local noise: it must stand out of the input, a part
of it must be in the residual, and it must be round. Faint soft-tissue lesions cannot be found in this way: their
z-score is that of noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.inference.smoothing import fade, gaussian_mm

#: Sigma of the inner Gaussian of the difference, mm, and sigma of the outer one relative to it.
INNER_MM, OUTER_RATIO = 1.3, 1.6
#: z-score of the spot in the input, z-score of its part in the residual, and roundness (smaller over larger
#: curvature); each fades in between two values.
INPUT_Z, RESIDUAL_Z, ROUNDNESS = (3.4, 4.4), (2.0, 2.8), (0.35, 0.55)
#: Sigma of the Gaussian over which noise is measured locally, mm; the binning that makes it quick, pixels.
NOISE_MM, NOISE_BINNING_PX = 20.0, 4
#: Radius that is given back around a spot, mm.
RADIUS_MM = 1.3
#: HU of the smoothed output above which tissue, not lung or air, determines the noise.
TISSUE_ABOVE_HU = -200.0


def bright_spot_map(
    noisy: NDArray[np.float32],
    residual: NDArray[np.float32],
    smooth: NDArray[np.float32],
    spacing_mm: tuple[float, float],
    transfer: float,
) -> NDArray[np.float32] | None:
    """Map of bright spots.

    Parameters
    ----------
    noisy : ndarray, shape (rows, columns)
        The input, HU.
    residual : ndarray, shape (rows, columns)
        Input minus the network's output, HU.
    smooth : ndarray, shape (rows, columns)
        The network's output, smoothed, HU.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    transfer : float
        Fraction of the noise amplitude that the network leaves at the scale of spots.

    Returns
    -------
    ndarray, shape (rows, columns), or None
        0…1: how much of the residual belongs to a spot. None if there is no spot.
    """
    body = (smooth > TISSUE_ABOVE_HU).astype(np.float32)
    if not body.any():
        return None
    seen, removed = (
        gaussian_mm(one, INNER_MM, spacing_mm) - gaussian_mm(one, OUTER_RATIO * INNER_MM, spacing_mm)
        for one in (noisy, residual)
    )
    # Edges and spots are limited to three standard deviations, so that they do not count as noise.
    limit = 3 * np.median(np.abs(removed[body > 0])) / 0.6745
    variance = (_wide_mean(np.clip(removed, -limit, limit) ** 2 * body, spacing_mm) + 1e-6) / (
        _wide_mean(body, spacing_mm) + 1e-6
    )
    sigma = np.sqrt(variance) + np.float32(1e-3)
    found = fade(seen * (1 - transfer) / sigma, *INPUT_Z) * fade(removed / sigma, *RESIDUAL_Z)
    if not found.any():
        return None
    found = found * fade(_roundness(noisy, spacing_mm), *ROUNDNESS)
    spread = ndimage.maximum_filter(found, footprint=_disc(spacing_mm))
    spots: NDArray[np.float32] = np.clip(gaussian_mm(spread, 0.5, spacing_mm), 0, 1)
    return spots


def _roundness(image: NDArray[np.float32], spacing_mm: tuple[float, float]) -> NDArray[np.float32]:
    """Smaller over larger curvature of bright structures: 1 for a disc, 0 for a line, below 0 for a saddle."""
    sigma = [INNER_MM / mm for mm in spacing_mm]
    orders = ((2, 0), (1, 1), (0, 2))
    yy, xy, xx = (ndimage.gaussian_filter(image, sigma, order=order, truncate=3) for order in orders)
    mean, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    roundness: NDArray[np.float32] = (-mean - spread) / (np.abs(mean) + spread + 1e-6)
    return roundness


def _disc(spacing_mm: tuple[float, float]) -> NDArray[np.bool_]:
    reach = [int(np.ceil(RADIUS_MM / mm)) for mm in spacing_mm]
    row, column = np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    disc: NDArray[np.bool_] = np.hypot(row * spacing_mm[0], column * spacing_mm[1]) <= RADIUS_MM
    return disc


def _wide_mean(image: NDArray[np.float32], spacing_mm: tuple[float, float]) -> NDArray[np.float32]:
    """Mean over a Gaussian of ``NOISE_MM``, computed on binned pixels."""
    n = NOISE_BINNING_PX
    rows, columns = image.shape
    padded = np.pad(image, ((0, -rows % n), (0, -columns % n)), "edge")
    binned = padded.reshape(padded.shape[0] // n, n, padded.shape[1] // n, n).mean(axis=(1, 3))
    binned = ndimage.gaussian_filter(binned, [NOISE_MM / n / mm for mm in spacing_mm], truncate=3)
    wide: NDArray[np.float32] = binned.repeat(n, 0).repeat(n, 1)[:rows, :columns]
    return wide

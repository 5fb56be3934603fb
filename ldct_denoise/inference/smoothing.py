"""Gaussian smoothing in mm and soft thresholds, for blending."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def gaussian_mm(
    image: NDArray[np.float32], sigma_mm: float, spacing_mm: tuple[float, float]
) -> NDArray[np.float32]:
    """Smooth by a Gaussian.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
    sigma_mm : float
        Standard deviation, mm.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (rows, columns)
    """
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(image, [sigma_mm / mm for mm in spacing_mm], truncate=3)
    return smooth


def fade(image: NDArray[np.floating], start: float, end: float) -> NDArray[np.float32]:
    """Rise linearly from 0 at ``start`` to 1 at ``end``, which may be the lower of the two.

    Parameters
    ----------
    image : ndarray
    start, end : float
        In the unit of ``image``.

    Returns
    -------
    ndarray of the same shape
        0…1.
    """
    faded: NDArray[np.float32] = np.clip((image - np.float32(start)) / np.float32(end - start), 0, 1)
    return faded

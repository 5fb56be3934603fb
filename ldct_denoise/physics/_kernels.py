"""Loops of :mod:`ldct_denoise.physics.projection` that numba compiles; they are never run as Python."""

# numba infers the types from the calls.
# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np

try:
    from numba import prange
except ImportError:
    prange = range


def project(image, angles, s, dy, dx, step):
    """Sum of bilinear samples along each ray; see :func:`ldct_denoise.physics.projection.project`.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
    angles : ndarray, shape (views,)
        rad.
    s : ndarray, shape (channels,)
        Positions of the channels, mm.
    dy, dx : float
        Row and column spacing, mm.
    step : float
        Distance of the samples, mm.

    Returns
    -------
    ndarray, shape (views, channels), float32
    """
    rows, columns = image.shape
    half = int(math.hypot(rows * dy, columns * dx) / 2 / step) + 1
    sinogram = np.empty((len(angles), len(s)), np.float32)
    for view in prange(len(angles)):
        cos, sin = math.cos(angles[view]), math.sin(angles[view])
        for channel in range(len(s)):
            total = 0.0
            for number in range(-half, half + 1):
                x = (s[channel] * cos - number * step * sin) / dx + (columns - 1) / 2
                y = (s[channel] * sin + number * step * cos) / dy + (rows - 1) / 2
                if x <= -1 or y <= -1 or x >= columns or y >= rows:
                    continue
                j, i = math.floor(x), math.floor(y)
                u, v = x - j, y - i
                for p in range(2):
                    for q in range(2):
                        if 0 <= i + p < rows and 0 <= j + q < columns:
                            weight = (v if p else 1 - v) * (u if q else 1 - u)
                            total += weight * image[i + p, j + q]
            sinogram[view, channel] = total * step
    return sinogram


def back_project(sinogram, angles, first_mm, channel_mm, rows, columns, dy, dx):
    """Sum over the views, interpolated between channels; see ``projection.back_project``.

    Parameters
    ----------
    sinogram : ndarray, shape (views, channels)
    angles : ndarray, shape (views,)
        rad.
    first_mm, channel_mm : float
        Position of the first channel, and distance of the channels, mm.
    rows, columns : int
    dy, dx : float
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (rows, columns), float32
    """
    total = np.empty((rows, columns), np.float32)
    cos, sin = np.cos(angles) / channel_mm, np.sin(angles) / channel_mm
    for row in prange(rows):
        line = np.zeros(columns)
        y = (row - (rows - 1) / 2) * dy
        for view in range(len(angles)):
            start = y * sin[view] - first_mm / channel_mm
            for column in range(columns):
                at = (column - (columns - 1) / 2) * dx * cos[view] + start
                left = int(at)
                line[column] += sinogram[view, left] + (at - left) * (
                    sinogram[view, left + 1] - sinogram[view, left]
                )
        total[row] = line
    return total

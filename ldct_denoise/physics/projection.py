"""Parallel-beam projection and back-projection of one slice, and fan-beam noise rebinned to parallel rays.

A ray of view θ and channel position s passes through ``s·(cos θ, sin θ) + t·(−sin θ, cos θ)``, with the origin in
the centre of the slice, x along a row and y down a column. Views are computed one by one, which bounds the memory;
every value is summed in a fixed order, so that results do not depend on the number of threads.

References
----------
Kak & Slaney, "Principles of computerized tomographic imaging", 1988, ch. 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

from ldct_denoise.physics.rays import ParallelGeometry

Image = NDArray[np.float32]


def project(image: Image, geometry: ParallelGeometry, device: str = "cpu") -> Image:
    """Line integrals of an image: the sum of bilinear samples along each ray, one pixel apart.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        For instance attenuation in 1/mm; 0 outside.
    geometry : ParallelGeometry
    device : str
        Torch device that computes the sums.

    Returns
    -------
    ndarray, shape (views, channels), float32
        Image units × mm.
    """
    rows, columns = image.shape
    dy, dx = geometry.spacing_mm
    step_mm = min(dy, dx)
    half = int(math.hypot(rows * dy, columns * dx) / 2 / step_mm) + 1
    pixels = torch.as_tensor(np.ascontiguousarray(image, np.float32), device=device)[None, None]
    # grid_sample's coordinates are −1 and 1 at the outer edges of the image.
    t = (torch.arange(-half, half + 1, dtype=torch.float64) * step_mm).to(device, torch.float32)
    s = torch.as_tensor(geometry.channels_mm, dtype=torch.float32, device=device)[:, None]
    views = []
    for angle in geometry.angles:
        cos, sin = math.cos(angle), math.sin(angle)
        x = (s * cos - t * sin) * (2 / (columns * dx))
        y = (s * sin + t * cos) * (2 / (rows * dy))
        sampled = grid_sample(pixels, torch.stack([x, y], dim=-1)[None], align_corners=False)
        views.append(sampled[0, 0].sum(dim=-1) * step_mm)
    sinogram: Image = torch.stack(views).cpu().numpy()
    return sinogram


def back_project(sinogram: Image, geometry: ParallelGeometry, device: str = "cpu") -> Image:
    """Back-project a sinogram: the sum over the views of the value on each pixel's ray, times π / views.

    Parameters
    ----------
    sinogram : ndarray, shape (views, channels)
        Interpolated linearly between channels.
    geometry : ParallelGeometry
    device : str
        Torch device that computes the sums.

    Returns
    -------
    ndarray, shape (rows, columns), float32
    """
    dy, dx = geometry.spacing_mm
    # Position of pixels among the channels, for a ray along an axis.
    x = (torch.arange(geometry.columns, device=device) - (geometry.columns - 1) / 2) * (dx / geometry.channel_mm)
    y = (torch.arange(geometry.rows, device=device) - (geometry.rows - 1) / 2) * (dy / geometry.channel_mm)
    first = float(geometry.channels_mm[0]) / geometry.channel_mm
    views = torch.as_tensor(np.ascontiguousarray(sinogram, np.float32), device=device)
    total = torch.zeros(geometry.rows * geometry.columns, device=device)
    for view, step, angle in zip(views, views.diff(dim=1), geometry.angles, strict=True):
        at = (x * math.cos(angle) + (y[:, None] * math.sin(angle) - first)).flatten()
        left = at.to(torch.int32)
        total += view.index_select(0, left)
        total += (at - left) * step.index_select(0, left)
    back: Image = (total * (math.pi / geometry.views)).view(geometry.rows, geometry.columns).cpu().numpy()
    return back


def filter_channels(
    sinogram: Image,
    geometry: ParallelGeometry,
    response: Callable[[NDArray[np.floating[Any]]], NDArray[np.floating[Any]]],
) -> Image:
    """Filter every view along its channels.

    Parameters
    ----------
    sinogram : ndarray, shape (views, channels)
    geometry : ParallelGeometry
    response : callable
        Takes frequencies in 1/mm and returns amplitude factors; the ramp |f| gives plain filtered back-projection.

    Returns
    -------
    ndarray, shape (views, channels), float32
    """
    from scipy import fft

    channels = sinogram.shape[1]
    length = fft.next_fast_len(2 * channels, real=True)
    factor = response(np.fft.rfftfreq(length, geometry.channel_mm)).astype(np.float32)
    spectrum = fft.rfft(sinogram, n=length, axis=1)
    filtered: Image = fft.irfft(spectrum * factor, n=length, axis=1)[:, :channels]
    return filtered


def resample(sinogram: Image, coarse: ParallelGeometry, fine: ParallelGeometry) -> Image:
    """Interpolate a smooth sinogram linearly at the rays of a finer geometry of the same slice.

    Parameters
    ----------
    sinogram : ndarray, shape (views, channels)
        At the rays of ``coarse``.
    coarse, fine : ParallelGeometry

    Returns
    -------
    ndarray, shape (views, channels), float32
        At the rays of ``fine``.
    """
    view = np.arange(fine.views) * coarse.views / fine.views
    # After half a turn the same rays follow mirrored, which closes the gap after the last view.
    closed = np.concatenate([sinogram, sinogram[:1, ::-1]])
    channel = np.clip(
        (fine.channels_mm - coarse.channels_mm[0]) / coarse.channel_mm, 0, len(coarse.channels_mm) - 1
    )
    first = np.minimum(channel.astype(int), len(coarse.channels_mm) - 2)
    share = (channel - first).astype(np.float32)
    across = closed[:, first] * (1 - share) + closed[:, first + 1] * share
    low = view.astype(int)
    weight = (view - low).astype(np.float32)[:, None]
    return across[low] * (1 - weight) + across[low + 1] * weight


def fan_noise(geometry: ParallelGeometry, source_to_centre_mm: float, rng: np.random.Generator) -> Image:
    """White noise of unit variance of a fan beam (full turn, equiangular channels), rebinned to parallel rays.

    The ray of source angle β and fan angle γ is the parallel ray θ = β + γ, s = D·sin γ. Each parallel ray takes
    the nearest reading, which keeps the noise white along the channels, and the two readings of each line are
    averaged.

    Parameters
    ----------
    geometry : ParallelGeometry
    source_to_centre_mm : float
        Distance D from the source to the isocenter, mm.
    rng : Generator

    Returns
    -------
    ndarray, shape (views, channels), float32

    References
    ----------
    Kak & Slaney, "Principles of computerized tomographic imaging", 1988, sec. 3.4.
    """
    s = geometry.channels_mm
    gamma = np.arcsin(np.clip(s / source_to_centre_mm, -0.99, 0.99))
    step = geometry.channel_mm / source_to_centre_mm
    half = math.ceil(gamma[-1] / step) + 1
    turn = 2 * geometry.views
    white = rng.standard_normal((turn, 2 * half + 1), dtype=np.float32)
    shift = np.rint(gamma * turn / (2 * math.pi)).astype(int)
    beta = (np.arange(turn)[:, None] - shift[None]) % turn
    channel = np.rint(gamma / step).astype(int) + half
    parallel = white[beta, channel[None]]
    twice = parallel[: geometry.views] + parallel[geometry.views :, ::-1]
    return twice / np.float32(math.sqrt(2))

"""Parallel-beam projection and back-projection of one slice, and fan-beam noise rebinned to parallel rays.

A ray of view θ and channel position s passes through ``s·(cos θ, sin θ) + t·(−sin θ, cos θ)``, with the origin in
the centre of the slice, x along a row and y down a column. With numba (extra ``sim``) the loops are compiled and
run on all cores; otherwise NumPy and SciPy compute the same sums, and on a GPU torch does (``torch_projection``).

References
----------
Kak & Slaney, "Principles of computerized tomographic imaging", 1988, ch. 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.physics.rays import ParallelGeometry

Image = NDArray[np.float32]


def project(
    image: Image, geometry: ParallelGeometry, *, compiled: bool | None = None, device: str = "cpu"
) -> Image:
    """Line integrals of an image along all rays.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        For instance attenuation in 1/mm; 0 outside.
    geometry : ParallelGeometry
    compiled : bool, optional
        Whether numba is used; by default if it is installed.
    device : str
        ``"cpu"``, or a torch device that computes the sums.

    Returns
    -------
    ndarray, shape (views, channels), float32
        Image units × mm.
    """
    if device != "cpu":
        from ldct_denoise.physics import torch_projection

        return torch_projection.project(image, geometry, device)
    run = _compiled()[0] if _use_numba(compiled) else _project_numpy
    step_mm = min(geometry.spacing_mm)
    return run(
        np.ascontiguousarray(image, np.float32),
        geometry.angles,
        geometry.channels_mm,
        *geometry.spacing_mm,
        step_mm,
    )


def back_project(
    sinogram: Image, geometry: ParallelGeometry, *, compiled: bool | None = None, device: str = "cpu"
) -> Image:
    """Back-project a sinogram: the sum over the views of the value on each pixel's ray, times π / views.

    Parameters
    ----------
    sinogram : ndarray, shape (views, channels)
    geometry : ParallelGeometry
    compiled : bool, optional
        Whether numba is used; by default if it is installed.
    device : str
        ``"cpu"``, or a torch device that computes the sums.

    Returns
    -------
    ndarray, shape (rows, columns), float32
    """
    if device != "cpu":
        from ldct_denoise.physics import torch_projection

        return torch_projection.back_project(sinogram, geometry, device)
    run = _compiled()[1] if _use_numba(compiled) else _back_project_numpy
    total = run(
        np.ascontiguousarray(sinogram, np.float32),
        geometry.angles,
        geometry.channels_mm[0],
        geometry.channel_mm,
        geometry.rows,
        geometry.columns,
        *geometry.spacing_mm,
    )
    return total * np.float32(math.pi / geometry.views)


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


def _use_numba(compiled: bool | None) -> bool:
    return _compiled() is not None if compiled is None else compiled


def _project_numpy(
    image: Image,
    angles: NDArray[np.floating[Any]],
    s: NDArray[np.floating[Any]],
    dy: float,
    dx: float,
    step: float,
) -> Image:
    rows, columns = image.shape
    half = int(math.hypot(rows * dy, columns * dx) / 2 / step) + 1
    t = np.arange(-half, half + 1) * step
    sinogram = np.empty((len(angles), len(s)), np.float32)
    for view, angle in enumerate(angles):
        x = s[:, None] * math.cos(angle) - t[None] * math.sin(angle)
        y = s[:, None] * math.sin(angle) + t[None] * math.cos(angle)
        at = np.stack([y / dy + (rows - 1) / 2, x / dx + (columns - 1) / 2])
        sinogram[view] = ndimage.map_coordinates(image, at, order=1, mode="grid-constant").sum(axis=1) * step
    return sinogram


def _back_project_numpy(
    sinogram: Image,
    angles: NDArray[np.floating[Any]],
    first_mm: float,
    channel_mm: float,
    rows: int,
    columns: int,
    dy: float,
    dx: float,
) -> Image:
    x = (np.arange(columns) - (columns - 1) / 2) * dx
    y = (np.arange(rows) - (rows - 1) / 2) * dy
    total = np.zeros((rows, columns), np.float64)
    for view, angle in zip(sinogram, angles, strict=True):
        at = (x[None] * math.cos(angle) + y[:, None] * math.sin(angle) - first_mm) / channel_mm
        left = at.astype(np.int32)
        total += view[left] + (at - left) * (view[left + 1] - view[left])
    return total.astype(np.float32)


@cache
def _compiled() -> Any:
    """The two loops compiled by numba, or None if it is not installed.

    Every output is summed by one thread in a fixed order, so results do not depend on the number of threads.
    """
    try:
        import numba
    except ImportError:
        return None
    from ldct_denoise.physics import _kernels

    compile_ = numba.njit(parallel=True, nogil=True, cache=True)
    return tuple(_preserve_torch_threads(compile_(loop)) for loop in (_kernels.project, _kernels.back_project))


def _preserve_torch_threads(loop: Callable[..., Image]) -> Callable[..., Image]:
    """Restore torch's number of threads after the loop: numba sets that of OpenMP, which torch shares."""
    import torch

    def run(*arguments: Any) -> Image:
        threads = torch.get_num_threads()
        try:
            return loop(*arguments)
        finally:
            torch.set_num_threads(threads)

    return run

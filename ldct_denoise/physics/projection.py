"""Parallel-beam projection and back-projection of one slice, and fan-beam noise rebinned to it.

A ray of view θ and channel position s runs through ``s·(cos θ, sin θ) + t·(−sin θ, cos θ)``, with the origin in
the middle of the slice, x along a row and y down a column (Kak and Slaney, *Principles of Computerized
Tomographic Imaging*, 1988, ch. 3). With numba (extra ``sim``) the loops are compiled and run on all cores; without
it numpy and scipy do the same sums, and on a GPU torch does (``torch_projection``).
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
    """Line integrals.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        For instance attenuation in 1/mm; 0 outside.
    geometry : ParallelGeometry
    compiled : bool, optional
        Whether numba is used; by default where it is installed.
    device : str
        Anything but ``"cpu"`` is a torch device that does the sums instead.

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
    """Sum over the views of what lies on each pixel's ray, times π / views.

    Parameters
    ----------
    sinogram : ndarray, shape (views, channels)
    geometry : ParallelGeometry
    compiled : bool, optional
        Whether numba is used; by default where it is installed.
    device : str
        Anything but ``"cpu"`` is a torch device that does the sums instead.

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
    """Each view through a filter.

    Parameters
    ----------
    sinogram : ndarray, shape (views, channels)
    geometry : ParallelGeometry
    response : callable
        Frequencies in 1/mm → factor of the amplitude; the ramp |f| gives plain filtered back-projection.
    """
    from scipy import fft

    channels = sinogram.shape[1]
    length = fft.next_fast_len(2 * channels, real=True)
    factor = response(np.fft.rfftfreq(length, geometry.channel_mm)).astype(np.float32)
    spectrum = fft.rfft(sinogram, n=length, axis=1)
    filtered: Image = fft.irfft(spectrum * factor, n=length, axis=1)[:, :channels]
    return filtered


def resample(sinogram: Image, coarse: ParallelGeometry, fine: ParallelGeometry) -> Image:
    """A smooth sinogram of fewer rays at the rays of another geometry of the same slice, linearly interpolated."""
    view = np.arange(fine.views) * coarse.views / fine.views
    # Half a turn on, the same rays come mirrored: that closes the last gap.
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
    """White unit-variance noise of a fan beam's rays (a full turn, equiangular channels), rebinned to parallel.

    The ray of source angle β and fan angle γ is the parallel ray θ = β + γ, s = D·sin γ (Kak and Slaney, sec.
    3.4). Each parallel ray takes the nearest reading, which keeps the noise white along it, and the two readings
    of each line are averaged.

    Returns
    -------
    ndarray, shape (views, channels), float32
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
    """The two loops compiled by numba, or None where it is not installed.

    Every output is summed by one thread in one order, so the number of threads does not change a bit.
    """
    try:
        import numba
    except ImportError:
        return None
    from ldct_denoise.physics import _kernels

    compile_ = numba.njit(parallel=True, nogil=True, cache=True)
    return tuple(_leaving_torch_its_threads(compile_(loop)) for loop in (_kernels.project, _kernels.back_project))


def _leaving_torch_its_threads(loop: Callable[..., Image]) -> Callable[..., Image]:
    """Numba sets OpenMP's number of threads, which is torch's too: a training would go on with all cores."""
    import torch

    def run(*arguments: Any) -> Image:
        threads = torch.get_num_threads()
        try:
            return loop(*arguments)
        finally:
            torch.set_num_threads(threads)

    return run

"""Torch implementation of :mod:`ldct_denoise.physics.projection`: the same sums on a GPU.

Views are processed in groups, so that memory use is bounded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

if TYPE_CHECKING:
    from ldct_denoise.physics.rays import ParallelGeometry

Image = NDArray[np.float32]
#: Number of samples that are processed at once.
SAMPLES = {"cpu": 2**22, "cuda": 2**27}


def project(image: Image, geometry: ParallelGeometry, device: str) -> Image:
    """Line integrals: the sum of bilinear samples along each ray, one pixel apart.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
    geometry : ParallelGeometry
    device : str
        Torch device.

    Returns
    -------
    ndarray, shape (views, channels), float32
    """
    rows, columns = image.shape
    dy, dx = geometry.spacing_mm
    step = min(dy, dx)
    half = int(math.hypot(rows * dy, columns * dx) / 2 / step) + 1
    t = (torch.arange(-half, half + 1, dtype=torch.float64) * step).to(device, torch.float32)
    s = torch.as_tensor(geometry.channels_mm, dtype=torch.float32, device=device)[:, None]
    pixels = torch.as_tensor(np.ascontiguousarray(image, np.float32), device=device)[None, None]
    found = []
    for angles in _groups(geometry, len(s) * len(t), device):
        cos, sin = torch.cos(angles)[:, None, None], torch.sin(angles)[:, None, None]
        # grid_sample's coordinates are −1 and 1 at the outer edges of the image.
        x = (s * cos - t * sin) * (2 / (columns * dx))
        y = (s * sin + t * cos) * (2 / (rows * dy))
        grid = torch.stack([x, y], dim=-1)
        sampled = grid_sample(pixels.expand(len(angles), -1, -1, -1), grid, align_corners=False)
        found.append(sampled[:, 0].sum(dim=-1) * step)
    return np.asarray(torch.cat(found).cpu().numpy())


def back_project(sinogram: Image, geometry: ParallelGeometry, device: str) -> Image:
    """Back-project a sinogram: the sum over the views of the interpolated value on each pixel's ray, times π /
    views.

    Parameters
    ----------
    sinogram : ndarray, shape (views, channels)
    geometry : ParallelGeometry
    device : str
        Torch device.

    Returns
    -------
    ndarray, shape (rows, columns), float32
    """
    dy, dx = geometry.spacing_mm
    x = (torch.arange(geometry.columns, device=device) - (geometry.columns - 1) / 2) * dx
    y = ((torch.arange(geometry.rows, device=device) - (geometry.rows - 1) / 2) * dy)[:, None]
    first, width = float(geometry.channels_mm[0]), geometry.channel_mm
    views = torch.as_tensor(np.ascontiguousarray(sinogram, np.float32), device=device)
    total = torch.zeros((geometry.rows, geometry.columns), dtype=torch.float32, device=device)
    done = 0
    for angles in _groups(geometry, geometry.rows * geometry.columns, device):
        at = (x * torch.cos(angles)[:, None, None] + y * torch.sin(angles)[:, None, None] - first) / width
        left = at.to(torch.int64)
        share = at - left
        group = views[done : done + len(angles)]
        index = left.flatten(1)
        low, high = group.gather(1, index), group.gather(1, index + 1)
        total += torch.lerp(low, high, share.flatten(1)).sum(dim=0).view_as(total)
        done += len(angles)
    return np.asarray((total * (math.pi / geometry.views)).cpu().numpy())


def _groups(geometry: ParallelGeometry, samples_per_view: int, device: str) -> tuple[Tensor, ...]:
    """Angles of the views in groups that fit into memory."""
    angles = torch.as_tensor(geometry.angles, dtype=torch.float32, device=device)
    at_once = max(1, SAMPLES["cuda" if device.startswith("cuda") else "cpu"] // samples_per_view)
    return angles.split(at_once)

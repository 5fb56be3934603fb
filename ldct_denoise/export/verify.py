"""Check that an exported file gives the same HU as the model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ldct_denoise.errors import ModelError
from ldct_denoise.export.network import SMALLEST_SIDE, HuModel
from ldct_denoise.models.network_file import Run

#: Sizes (images, rows, columns) on which an export is compared with its original: smallest, odd and even sides.
CHECKED = ((1, SMALLEST_SIDE, SMALLEST_SIDE), (1, 61, 83), (2, 64, 96), (1, 127, 40), (1, 512, 512))
#: Largest allowed difference, HU.
LIMIT_HU = 0.1


def sample_hu(shape: tuple[int, int, int], seed: int = 0, channels: int = 1) -> NDArray[np.float32]:
    """Make test slices: smooth tissue with noise, values outside the HU range of models, a NaN and an infinity.

    Parameters
    ----------
    shape : tuple of int
        Images, rows, columns.
    seed : int
        Seed of the noise.
    channels : int
        Channels of each image.

    Returns
    -------
    ndarray, shape (n, channels, rows, columns)
        HU.
    """
    rng = np.random.default_rng([seed, *shape])
    count, rows, columns = shape
    waves = np.sin(np.arange(rows)[:, None] / 9) * np.cos(np.arange(columns) / 7)
    hu = 300 * waves + rng.normal(0, 40, (count, channels, rows, columns))
    hu[..., :4, :4] = -2000
    hu[..., -4:, -4:] = 5000
    hu[..., rows // 2, columns // 2], hu[..., rows // 3, columns // 3] = np.nan, np.inf
    return hu.astype(np.float32)


def require_same(network: HuModel, run: Run, format: str) -> float:
    """Compare an export with its original on every checked size.

    Parameters
    ----------
    network : HuModel
        The original.
    run : callable
        The export, as a function of arrays.
    format : str
        Name of the format, for errors.

    Returns
    -------
    float
        Largest absolute difference, HU.

    Raises
    ------
    ModelError
        If it is above the limit, or the export fails on one of the sizes.
    """
    largest = 0.0
    for shape in CHECKED:
        hu = sample_hu(shape, seed=1, channels=network.method.in_channels)
        with torch.inference_mode():
            expected = network(torch.from_numpy(hu)).numpy()
        try:
            actual = run(hu)
        except Exception as error:  # each engine raises its own types
            size = f"{shape[1]}×{shape[2]}"
            raise ModelError(
                f"{format}: the export fails on slices of {size} pixels, so it is not written; use another model"
            ) from error
        largest = max(largest, _difference(actual, expected))
    if not largest <= LIMIT_HU:
        raise ModelError(
            f"{format}: the export differs from the original by {largest:.3g} HU (limit {LIMIT_HU} HU), so it is "
            "not written"
        )
    return largest


def _difference(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest absolute difference; infinite if only one is NaN, or the shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    difference = np.subtract(actual, expected, out=np.zeros_like(actual), where=~same)
    return float(np.nan_to_num(np.abs(difference), nan=np.inf, posinf=np.inf).max())

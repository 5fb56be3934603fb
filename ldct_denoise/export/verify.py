"""Check that an exported file gives the same HU as the model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ldct_denoise.errors import ModelError
from ldct_denoise.export.network import SMALLEST_SIDE, HuModel, Run

#: (images, rows, columns) on which an export is compared with its original: smallest, odd, even, one and two.
CHECKED = ((1, SMALLEST_SIDE, SMALLEST_SIDE), (1, 61, 83), (2, 64, 96), (1, 127, 40), (1, 512, 512))
#: Largest difference that an export may have, HU.
LIMIT_HU = 0.1


def sample_hu(shape: tuple[int, int, int], seed: int = 0, channels: int = 1) -> NDArray[np.float32]:
    """Smooth tissue with noise, some values outside any model's range and some no numbers.

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
    """Compare on every checked size; gives the largest absolute difference, HU.

    Raises
    ------
    ModelError
        If it is more than the limit, or the engine cannot run the export on one of the sizes.
    """
    largest = 0.0
    for shape in CHECKED:
        hu = sample_hu(shape, seed=1, channels=network.method.channels)
        with torch.inference_mode():
            expected = network(torch.from_numpy(hu)).numpy()
        try:
            given = run(hu)
        except Exception as error:  # each engine has its own
            size = f"{shape[1]}×{shape[2]}"
            raise ModelError(
                f"{format}: fails on slices of {size} pixels, so it is not written; give another model"
            ) from error
        largest = max(largest, _difference(given, expected))
    if not largest <= LIMIT_HU:
        raise ModelError(
            f"{format}: differs from the original by {largest:.3g} HU (limit {LIMIT_HU} HU), so it is not written"
        )
    return largest


def _difference(given: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest absolute difference, HU; infinite where only one has a number, or the shapes differ."""
    if given.shape != expected.shape:
        return float("inf")
    same = (given == expected) | (np.isnan(given) & np.isnan(expected))
    apart = np.subtract(given, expected, out=np.zeros_like(given), where=~same)
    return float(np.nan_to_num(np.abs(apart), nan=np.inf, posinf=np.inf).max())

"""Slices of a pool, decoded when they are needed.

Memory use is bounded: the most recently used slices stay in memory. Where a folder is given, MONAI's
``PersistentDataset`` also keeps every decoded slice on disk, so compressed files are decoded once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.volume import SliceSource

#: Side of a block of the coarse grid on which the body is found, pixels.
GRID = 8


@dataclass(frozen=True)
class PoolSlice:
    """One slice of a series in a pool."""

    source: SliceSource
    index: int

    @property
    def key(self) -> str:
        """Identifier of the slice among all pools."""
        return f"{self.source.uid}#{self.index}"


@dataclass(frozen=True)
class DecodedSlice:
    """HU of a slice and the blocks that lie in the body.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns), float32
    body_blocks : ndarray, shape (n, 2)
        Grid indices (row, column) of the blocks of ``GRID`` pixels that lie in the body.
    """

    hu: NDArray[np.float32]
    body_blocks: NDArray[np.int32]


def body_blocks(hu: NDArray[np.float32]) -> NDArray[np.int32]:
    """Blocks of the coarse grid inside the patient: the largest object above −300 HU with its holes filled.

    Patches are centred on these blocks, so that no training step is spent on air. This fast map on blocks decides
    only where patches are drawn; measurements use :func:`~ldct_denoise.regions.body.body_mask`.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)

    Returns
    -------
    ndarray, shape (n, 2)
        Row and column of each block; all blocks for a slice without a body.
    """
    rows, columns = (side // GRID for side in hu.shape)
    means = hu[: rows * GRID, : columns * GRID].reshape(rows, GRID, columns, GRID).mean(axis=(1, 3))
    objects, count = ndimage.label(means > -300)
    if count:
        sizes = np.bincount(objects.ravel())[1:]
        inside = ndimage.binary_fill_holes(objects == 1 + int(np.argmax(sizes)))
    else:
        inside = np.ones_like(means, dtype=bool)
    return np.argwhere(inside).astype(np.int32)


def decode(item: PoolSlice) -> DecodedSlice:
    """Read one slice and find its body.

    Raises
    ------
    InputError
        If the slice holds NaN or infinite values.
    """
    hu = item.source.read_hu(item.index)
    if not np.isfinite(hu).all():
        raise InputError(
            f"{item.source.name}: slice {item.index} holds values that are not finite (NaN or infinite); "
            "write air (-1000 HU) there, or leave the series out"
        )
    return DecodedSlice(hu, body_blocks(hu))


def cut(hu: NDArray[np.float32], corner: tuple[int, int], side: int) -> NDArray[np.float32]:
    """Cut a square patch; it is padded by reflection where the slice is too small.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
    corner : tuple of 2 ints
        First row and column of the patch.
    side : int
        Rows and columns of the patch.
    """
    patch = hu[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    if patch.shape != (side, side):
        patch = np.pad(patch, [(0, side - length) for length in patch.shape], mode="symmetric")
    return patch


class SliceStore:
    """Decoded slices by position in a pool; the most recently used stay in memory.

    Parameters
    ----------
    slices : sequence of PoolSlice
        The pool.
    cache_num : int
        Largest number of decoded slices in memory.
    cache_dir : Path, optional
        Folder that keeps decoded slices on disk.

    Raises
    ------
    OutputError
        If the folder cannot be made.
    """

    def __init__(self, slices: Sequence[PoolSlice], cache_num: int, cache_dir: Path | None = None) -> None:
        self.slices = tuple(slices)
        self._cached: OrderedDict[int, DecodedSlice] = OrderedDict()
        self._cache_num = cache_num
        self._disk = _disk_cache(self.slices, cache_dir) if cache_dir else None

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, position: int) -> DecodedSlice:
        if position in self._cached:
            self._cached.move_to_end(position)
            return self._cached[position]
        decoded = self._read(position)
        self._cached[position] = decoded
        if len(self._cached) > self._cache_num:
            self._cached.popitem(last=False)
        return decoded

    def _read(self, position: int) -> DecodedSlice:
        if self._disk is None:
            return decode(self.slices[position])
        stored: Mapping[str, Any] = self._disk[position]
        return DecodedSlice(np.asarray(stored["hu"]), np.asarray(stored["body_blocks"]))


def _disk_cache(slices: Sequence[PoolSlice], folder: Path) -> Any:
    from monai.data import PersistentDataset
    from monai.transforms import Transform

    class Decode(Transform):  # type: ignore[misc]  # MONAI caches only the results of a Transform
        """Decode a slice to tensors, which torch loads without executing code."""

        def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
            decoded = decode(slices[data["position"]])
            return {"hu": torch.tensor(decoded.hu), "body_blocks": torch.tensor(decoded.body_blocks)}

    items = [{"position": position, "key": _cache_key(item)} for position, item in enumerate(slices)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot store decoded slices ({error.strerror}); see data.cache_dir"
        ) from None
    return PersistentDataset(items, [Decode()], cache_dir=folder, hash_func=_slice_hash)


def _cache_key(item: PoolSlice) -> str:
    """Series, index and position of a slice: the index changes its meaning when a series grows."""
    return f"{item.key} {item.source.geometry.positions_mm[item.index].round(3).tolist()}"


def _slice_hash(item: Mapping[str, Any]) -> bytes:
    """Cache file of a slice, whatever its position in the pool; 3 is the version of the stored format."""
    return hashlib.sha256(f"3/{item['key']}".encode()).hexdigest()[:32].encode()


def pool_slices(sources: Sequence[SliceSource]) -> tuple[PoolSlice, ...]:
    """Every slice of every series."""
    return tuple(PoolSlice(source, index) for source in sources for index in range(len(source)))

"""Slices of a pool, decoded when they are needed.

Memory use is bounded: the most recently used slices stay in memory. Where a folder is given, every slice is
decoded once and stored there as float32. The stored slices are mapped into memory, so that all processes share one
copy of them in the page cache, and a patch costs a copy of its pixels.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.output import atomic_write
from ldct_denoise.volume import SliceSource

#: Side of a block of the coarse grid on which the body is found, pixels.
GRID = 8
#: Largest number of stored slices of a pool that are mapped at once; Linux allows a process 65,530 mappings.
MAX_MAPPED = 16_384


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
        Largest number of decoded slices in memory; without effect where ``cache_dir`` is given.
    cache_dir : Path, optional
        Folder that keeps decoded slices, from which they are mapped into memory.

    Raises
    ------
    OutputError
        If the folder cannot be made.
    """

    def __init__(self, slices: Sequence[PoolSlice], cache_num: int, cache_dir: Path | None = None) -> None:
        self.slices = tuple(slices)
        self._recent: OrderedDict[int, DecodedSlice] = OrderedDict()
        self._limit = MAX_MAPPED if cache_dir else cache_num
        self._folder = cache_dir
        if cache_dir:
            try:
                cache_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _cannot_store(cache_dir, error) from None

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, position: int) -> DecodedSlice:
        if position in self._recent:
            self._recent.move_to_end(position)
            return self._recent[position]
        item = self.slices[position]
        decoded = _mapped(item, self._folder) if self._folder else decode(item)
        self._recent[position] = decoded
        if len(self._recent) > self._limit:
            self._recent.popitem(last=False)
        return decoded


def _mapped(item: PoolSlice, folder: Path) -> DecodedSlice:
    """Map the stored copy of a slice into memory; decode and store the slice where there is no whole copy.

    The file holds, in 32-bit words: rows, columns, number of blocks; HU; blocks.
    """
    path = folder / _cache_name(item)
    words = _map_words(path)
    if words is None:
        decoded = decode(item)
        header = np.array([*decoded.hu.shape, len(decoded.body_blocks)], np.int32)
        parts = (header, decoded.hu.astype(np.float32), decoded.body_blocks.astype(np.int32))
        try:
            atomic_write(path, lambda part: part.write_bytes(b"".join(array.tobytes() for array in parts)))
        except OSError as error:
            raise _cannot_store(folder, error) from None
        words = _map_words(path)
        if words is None:
            return decoded
    rows, columns, _ = words[:3].tolist()
    pixels, blocks = words[3 : 3 + rows * columns], words[3 + rows * columns :]
    return DecodedSlice(pixels.view(np.float32).reshape(rows, columns), blocks.reshape(-1, 2))


def _map_words(path: Path) -> NDArray[np.int32] | None:
    """Map a file of 32-bit words; None where it is missing or not whole."""
    if not path.is_file() or (size := path.stat().st_size // 4) < 3:
        return None
    # Unlike np.memmap, torch closes the file once it is mapped.
    words: NDArray[np.int32] = torch.from_file(str(path), size=size, dtype=torch.int32).numpy()
    rows, columns, blocks = words[:3].tolist()
    return words if size == 3 + rows * columns + 2 * blocks else None


def _cannot_store(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder}: cannot store decoded slices ({error.strerror}); see data.cache_dir")


def _cache_name(item: PoolSlice) -> str:
    """Cache file of a slice: of its series, index and position, because the index changes when a series grows."""
    position = item.source.geometry.positions_mm[item.index].round(3).tolist()
    return f"{hashlib.sha256(f'4/{item.key} {position}'.encode()).hexdigest()[:32]}.slice"


def pool_slices(sources: Sequence[SliceSource]) -> tuple[PoolSlice, ...]:
    """Every slice of every series."""
    return tuple(PoolSlice(source, index) for source in sources for index in range(len(source)))

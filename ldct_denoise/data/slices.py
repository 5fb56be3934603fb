"""Decoded slices, held only while they are needed.

Memory stays flat however large the tree: a bounded number of slices is held, and where a folder is given
MONAI's ``PersistentDataset`` keeps every decoded slice on disk, so that a compressed tree is decoded once.
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

#: Block side of the coarse grid on which the body is found, pixels.
GRID = 8


@dataclass(frozen=True)
class PoolSlice:
    """One slice of a series of a pool."""

    source: SliceSource
    index: int

    @property
    def key(self) -> str:
        """What tells it from every other slice."""
        return f"{self.source.uid}#{self.index}"


@dataclass(frozen=True)
class DecodedSlice:
    """A slice's HU and where its body lies.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns), float32
    body_blocks : ndarray, shape (n, 2)
        Grid indices (row, column) of the blocks of ``GRID`` pixels that lie in the body.
    """

    hu: NDArray[np.float32]
    body_blocks: NDArray[np.int32]


def body_blocks(hu: NDArray[np.float32]) -> NDArray[np.int32]:
    """Blocks of the coarse grid inside the patient: the largest object denser than −300 HU, lungs filled in.

    Patches are centred on these, so that no step is spent on air. A slice without a body gives every block.
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
        If a value is no number: a loss would be none either, and say nothing of where.
    """
    hu = item.source.read_hu(item.index)
    if not np.isfinite(hu).all():
        raise InputError(
            f"{item.source.name}: slice {item.index} holds values that are no numbers (NaN or infinite); "
            "write air (-1000 HU) there, or leave the series out"
        )
    return DecodedSlice(hu, body_blocks(hu))


def cut(hu: NDArray[np.float32], corner: tuple[int, int], side: int) -> NDArray[np.float32]:
    """The square of a slice that begins at ``corner``; mirrored where the slice is too small for it."""
    patch = hu[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    if patch.shape != (side, side):
        patch = np.pad(patch, [(0, side - length) for length in patch.shape], mode="symmetric")
    return patch


class SliceStore:
    """Slices by position in a pool, the last used held in memory.

    Parameters
    ----------
    slices : sequence of PoolSlice
    cache_num : int
        How many decoded slices are held at the most.
    cache_dir : Path, optional
        Where decoded slices are kept on disk.
    """

    def __init__(self, slices: Sequence[PoolSlice], cache_num: int, cache_dir: Path | None = None) -> None:
        self.slices = tuple(slices)
        self._held: OrderedDict[int, DecodedSlice] = OrderedDict()
        self._cache_num = cache_num
        self._disk = _disk_cache(self.slices, cache_dir) if cache_dir else None

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, position: int) -> DecodedSlice:
        if position in self._held:
            self._held.move_to_end(position)
            return self._held[position]
        decoded = self._read(position)
        self._held[position] = decoded
        if len(self._held) > self._cache_num:
            self._held.popitem(last=False)
        return decoded

    def _read(self, position: int) -> DecodedSlice:
        if self._disk is None:
            return decode(self.slices[position])
        stored: Mapping[str, Any] = self._disk[position]
        return DecodedSlice(np.asarray(stored["hu"]), np.asarray(stored["body_blocks"]))


def _disk_cache(slices: Sequence[PoolSlice], folder: Path) -> Any:
    from monai.data import PersistentDataset
    from monai.transforms import Transform

    class Decode(Transform):  # type: ignore[misc]  # what is not a Transform, MONAI does anew at every reading
        """From a position in the pool to tensors, which torch reads back without running code."""

        def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
            decoded = decode(slices[data["position"]])
            return {"hu": torch.tensor(decoded.hu), "body_blocks": torch.tensor(decoded.body_blocks)}

    items = [{"position": position, "key": _kept_as(item)} for position, item in enumerate(slices)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot keep slices there ({error.strerror}); see data.cache_dir") from None
    return PersistentDataset(items, [Decode()], cache_dir=folder, hash_func=_slice_hash)


def _kept_as(item: PoolSlice) -> str:
    """A slice by its series and place in the patient: an index moves when a series grows."""
    return f"{item.key} {item.source.geometry.positions_mm[item.index].round(3).tolist()}"


def _slice_hash(item: Mapping[str, Any]) -> bytes:
    """Wherever the slice stands in the pool (3: the form of what is kept)."""
    return hashlib.sha256(f"3/{item['key']}".encode()).hexdigest()[:32].encode()


def pool_slices(sources: Sequence[SliceSource]) -> tuple[PoolSlice, ...]:
    """Every slice of every series."""
    return tuple(PoolSlice(source, index) for source in sources for index in range(len(source)))

"""A dataset of CT slices or patches for a PyTorch ``DataLoader`` of your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ldct_denoise.data.slices import GRID, DecodedSlice, PoolSlice, SliceStore, cut
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.intensity import Scale, Window
from ldct_denoise.io.dose_labels import find_pairs, label_series
from ldct_denoise.io.dose_words import Dose, DosePatterns
from ldct_denoise.io.find import find_images
from ldct_denoise.io.orientation import oriented_like
from ldct_denoise.io.slice_matching import match_slices
from ldct_denoise.volume import SliceSource

Transform = Callable[[dict[str, Any]], dict[str, Any]]


class SliceDataset(Dataset[dict[str, Any]]):
    """CT slices, or patches of them, as float32 tensors in a window.

    A sample is a dictionary with the keys of MONAI: ``image`` and, where ``labels`` are given, ``label``, each of
    shape (1, rows, columns). The length is finite, so ``DataLoader(dataset, shuffle=True, num_workers=2)`` works.

    Parameters
    ----------
    images : sequence of SliceSource
        Series as :func:`ldct_denoise.read_series` lists them, or volumes.
    labels : sequence of SliceSource, optional
        The normal-dose series of each of ``images``, in the same order. Slices are paired by position; slices
        without a partner are left out.
    window : Window, Scale or str
        A window (or its preset name, or ``LEVEL,WIDTH``) clips HU to its edges and maps them to 0…1. A
        :class:`~ldct_denoise.Scale` does the same with its range: the input of a network of this package.
    patch_size : int, optional
        Side of a square patch in pixels, centred at random inside the patient and mirrored at the border where the
        slice is too small. Default: whole slices.
    patches_per_slice : int
        How often each slice is drawn from in one epoch.
    transform : callable, optional
        Called with each sample, for example a ``monai.transforms.Compose`` of dictionary transforms.
    cache_num : int
        How many decoded slices each process keeps in memory.

    Raises
    ------
    ConfigError
        If ``patch_size`` or ``patches_per_slice`` is below 1.
    InputError
        If there is no slice, or no slice of a series has a partner in its label.

    Notes
    -----
    Patch positions come from PyTorch's random generator, so they differ between epochs and workers, and
    ``torch.manual_seed`` makes them reproducible.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> dataset = SliceDataset.from_folder(pairs, dose="paired", window="abdomen", patch_size=64)
    >>> batch = next(iter(DataLoader(dataset, batch_size=4, shuffle=True)))
    >>> batch["image"].shape, batch["label"].shape
    (torch.Size([4, 1, 64, 64]), torch.Size([4, 1, 64, 64]))
    >>> bool(batch["image"].min() >= 0), bool(batch["image"].max() <= 1)
    (True, True)
    """

    def __init__(
        self,
        images: Sequence[SliceSource],
        labels: Sequence[SliceSource] | None = None,
        *,
        window: Window | Scale | str = "full",
        patch_size: int | None = None,
        patches_per_slice: int = 1,
        transform: Transform | None = None,
        cache_num: int = 64,
    ) -> None:
        for name, value in (("patch_size", patch_size), ("patches_per_slice", patches_per_slice)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value}; give at least 1")
        pairs = _all_slices(images) if labels is None else _paired_slices(images, labels)
        if not pairs:
            raise InputError("no slice to read; give at least one series")
        self.window = Window.parse(window) if isinstance(window, str) else window
        self.patch_size, self.patches_per_slice, self.transform = patch_size, patches_per_slice, transform
        #: For each slice the slices behind its keys.
        self.slices: dict[str, tuple[PoolSlice, ...]] = {"image": tuple(image for image, _ in pairs)}
        if labels is not None:
            self.slices["label"] = tuple(label for _, label in pairs if label is not None)
        self._stores = {key: SliceStore(slices, cache_num) for key, slices in self.slices.items()}

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        dose: Literal["low", "normal", "paired"] | None = None,
        *,
        low_patterns: Sequence[str] = (),
        normal_patterns: Sequence[str] = (),
        assume_hu: bool = False,
        **options: Any,
    ) -> SliceDataset:
        """The dataset of every CT series under a path.

        Parameters
        ----------
        path : str or Path
            A folder, tree or file as for :func:`ldct_denoise.read_series`.
        dose : {"low", "normal", "paired"}, optional
            Only the low-dose or only the normal-dose series, or both with low dose as ``image`` and normal dose as
            ``label``. Doses come from descriptions, folder and file names, as ``ldct-denoise inspect`` shows.
            Default: every series, without labels.
        low_patterns, normal_patterns : sequence of str
            Your own words or regular expressions for the doses, as ``--low-pattern`` and ``--normal-pattern`` take
            them.
        assume_hu : bool
            Take values for HU where header or values speak against it.
        **options
            Further parameters of :class:`SliceDataset`.

        Returns
        -------
        SliceDataset
            With the series in the order in which ``inspect`` lists them.

        Raises
        ------
        InputError
            If the path holds no such series, or no pair.
        """
        patterns = DosePatterns(tuple(low_patterns), tuple(normal_patterns))
        found = find_images(Path(path), assume_hu=assume_hu)
        labelled = label_series(found.series, Path(path), patterns)
        if dose is None:
            return cls([item.series for item in labelled], **options)
        if dose == "paired":
            pairs = find_pairs(labelled)
            if not pairs:
                raise InputError(f"{path}: no pair of low- and normal-dose series; see `ldct-denoise inspect`")
            return cls([pair.low for pair in pairs], [pair.normal for pair in pairs], **options)
        if dose not in ("low", "normal"):
            raise ConfigError(f"dose: {dose!r}; give low, normal or paired")
        chosen = [item.series for item in labelled if item.dose is Dose(dose)]
        if not chosen:
            raise InputError(f"{path}: no series of {dose} dose; `ldct-denoise inspect` shows each dose")
        return cls(chosen, **options)

    def __len__(self) -> int:
        return len(self.slices["image"]) * self.patches_per_slice

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        position = index % len(self) // self.patches_per_slice
        decoded = {key: store[position] for key, store in self._stores.items()}
        corner = self._random_corner(decoded["image"])
        sample = {key: self._to_tensor(self._crop(one.hu, corner)) for key, one in decoded.items()}
        return sample if self.transform is None else self.transform(sample)

    def to_hu(self, values: Tensor) -> Tensor:
        """HU of values of this dataset; clipped values come back as the window's edges."""
        low_hu, width_hu = self.window.low_hu, self.window.width_hu
        return values * width_hu + low_hu

    def _to_tensor(self, hu: NDArray[np.float32]) -> Tensor:
        scaled = self.window.to_input(hu) if isinstance(self.window, Scale) else self.window.to_grey(hu)
        return torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))[None]

    def _random_corner(self, decoded: DecodedSlice) -> tuple[int, int]:
        """Top left of a patch whose centre lies in the patient, from torch's generator (seeded per worker)."""
        if self.patch_size is None:
            return 0, 0
        block = decoded.body_blocks[int(torch.randint(len(decoded.body_blocks), ()))]
        centre = block * GRID + torch.randint(GRID, (2,)).numpy()
        last = np.maximum(np.asarray(decoded.hu.shape) - self.patch_size, 0)
        row, column = np.clip(centre - self.patch_size // 2, 0, last)
        return int(row), int(column)

    def _crop(self, hu: NDArray[np.float32], corner: tuple[int, int]) -> NDArray[np.float32]:
        return hu if self.patch_size is None else cut(hu, corner, self.patch_size)


def _all_slices(series: Sequence[SliceSource]) -> list[tuple[PoolSlice, PoolSlice | None]]:
    return [(PoolSlice(source, index), None) for source in series for index in range(len(source))]


def _paired_slices(
    images: Sequence[SliceSource], labels: Sequence[SliceSource]
) -> list[tuple[PoolSlice, PoolSlice | None]]:
    if len(images) != len(labels):
        raise InputError(f"{len(images)} images and {len(labels)} labels; give one label series per image series")
    pairs: list[tuple[PoolSlice, PoolSlice | None]] = []
    for image, label in zip(images, labels, strict=True):
        label = oriented_like(label, image.geometry)
        indices = match_slices(image.geometry, label.geometry)
        if not indices:
            raise InputError(f"{image.name}: no slice of {label.name} has the same position and pixel grid")
        pairs += [(PoolSlice(image, first), PoolSlice(label, second)) for first, second in indices]
    return pairs

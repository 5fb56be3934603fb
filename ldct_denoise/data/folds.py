"""Cross-validation: patients divided into folds, the same for every run with the same patients and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.output import atomic_write

#: File of a run folder that holds the split.
SPLITS_FILE = "splits.json"
Split = dict[str, list[str]]


def divide(patients: Sequence[str], folds: int, seed: int) -> list[Split]:
    """Divide patients into folds of sizes that differ by one at most.

    Parameters
    ----------
    patients : sequence of str
        Their order has no effect.
    folds : int
    seed : int

    Returns
    -------
    list of dict
        For every fold ``train`` and ``val``, sorted, as in nnU-Net's ``splits_final.json``. Every patient is in
        ``val`` of one fold.

    Raises
    ------
    ConfigError
        If there are fewer patients than folds.

    Examples
    --------
    >>> divide(["L067", "L096", "L109", "L143"], 2, seed=0)[0]
    {'train': ['L067', 'L143'], 'val': ['L096', 'L109']}
    """
    everyone = sorted(set(patients))
    if len(everyone) < folds:
        raise ConfigError(f"data.folds: {folds} folds need as many patients; there are {len(everyone)}")
    order = np.random.default_rng(seed).permutation(len(everyone))
    parts = [sorted(everyone[int(index)] for index in part) for part in np.array_split(order, folds)]
    return [{"train": sorted({*everyone} - {*part}), "val": part} for part in parts]


def write_splits(splits: Sequence[Split], path: Path) -> None:
    """Write the split of all folds as JSON."""
    text = json.dumps(list(splits), indent=1) + "\n"
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_splits(path: Path) -> list[Split]:
    """Read a split that :func:`write_splits` or nnU-Net wrote.

    Raises
    ------
    InputError
        If the file cannot be read or has another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [{key: [str(name) for name in fold[key]] for key in ("train", "val")} for fold in content]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f'{path}: not a list of {{"train": […], "val": […]}}, one for each fold ({type(error).__name__})'
        ) from None

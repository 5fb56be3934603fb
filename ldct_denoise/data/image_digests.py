"""Digests that identify images wherever they are stored and whatever their patient is called.

A model's card holds those of its training images, so that ``compare`` recognises them. They reveal no name and no
UID.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from ldct_denoise.errors import InputError
from ldct_denoise.io.patients import study_uid
from ldct_denoise.volume import SeriesView, SliceSource, spread_indices

#: Slices of each training series whose pixels are recorded.
SLICES_PER_SERIES = 16
#: A slice with fewer different values, such as one of air, identifies nothing.
MIN_DISTINCT_VALUES = 100


def uid_digests(source: SliceSource) -> frozenset[str]:
    """Digests of the Study and Series Instance UIDs of a series; none for sources without a study."""
    base = _original(source)
    study = study_uid(base)
    return frozenset({_digest("study", study), _digest("series", base.uid)}) if study else frozenset()


def pixel_digests(source: SliceSource, indices: Iterable[int]) -> frozenset[str]:
    """Digests of the HU values of slices.

    The histogram of whole HU is hashed, so that the digest is the same in every format and orientation. Slices
    that cannot be read have none.
    """
    found = set()
    for index in indices:
        try:
            values, counts = np.unique(np.rint(source.read_hu(index)).astype(np.int32), return_counts=True)
        except InputError:
            continue
        if len(values) >= MIN_DISTINCT_VALUES:
            found.add(_digest("pixels", np.stack([values, counts]).astype("<i8").tobytes()))
    return frozenset(found)


def training_digests(sources: Iterable[SliceSource]) -> list[str]:
    """Digests of training series: UIDs, and the pixels of up to 16 slices of each; sorted.

    Simulated, averaged and resampled series are identified by the series that they were computed from.
    """
    originals = {id(base): base for base in map(_original, sources)}
    found: set[str] = set()
    for base in originals.values():
        found |= uid_digests(base) | pixel_digests(base, spread_indices(len(base), SLICES_PER_SERIES))
    return sorted(found)


def _original(source: SliceSource) -> SliceSource:
    while isinstance(source, SeriesView):
        source = source.source
    return source


def _digest(kind: str, content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(kind.encode() + b"\n" + raw).hexdigest()[:16]

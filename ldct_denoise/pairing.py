"""Which slices of two series show the same place: by position and orientation, never by file name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldct_denoise.errors import InputError
from ldct_denoise.volume import POSITION_TOLERANCE_MM, Geometry, SliceSource, kernel_of


@dataclass(frozen=True)
class Match:
    """Two series and the slices that lie at the same place.

    Parameters
    ----------
    first, second : SliceSource
    indices : tuple of (int, int)
        Slices of the first and of the second.
    """

    first: SliceSource
    second: SliceSource
    indices: tuple[tuple[int, int], ...]


def match_slices(first: Geometry, second: Geometry) -> tuple[tuple[int, int], ...]:
    """Pairs of slice indices whose every voxel lies at the same place (to 0.01 mm at the first voxel)."""
    same_grid = (
        (first.rows, first.columns) == (second.rows, second.columns)
        and np.allclose(first.pixel_spacing_mm, second.pixel_spacing_mm, rtol=1e-4)
        and np.allclose(first.row_direction, second.row_direction, atol=1e-4)
        and np.allclose(first.column_direction, second.column_direction, atol=1e-4)
    )
    if not same_grid:
        return ()
    order = np.argsort(second.offsets_mm, kind="stable")
    offsets = second.offsets_mm[order]
    pairs = []
    for index, offset in enumerate(first.offsets_mm):
        low, high = np.searchsorted(offsets, [offset - POSITION_TOLERANCE_MM, offset + POSITION_TOLERANCE_MM])
        for other in order[low:high]:
            if np.linalg.norm(first.positions_mm[index] - second.positions_mm[other]) < POSITION_TOLERANCE_MM:
                pairs.append((index, int(other)))
                break
    return tuple(pairs)


def best_match(series: SliceSource, others: Sequence[SliceSource], role: str) -> Match:
    """The one of ``others`` that shows most of the slices of ``series``.

    Where several show as many, the same patient and then the same kernel decide.

    Parameters
    ----------
    series : SliceSource
    others : sequence of SliceSource
    role : str
        What the others are ("reference", "input"), for the message.

    Raises
    ------
    InputError
        If none shows any of the slices, or several fit equally well.
    """
    matches = [Match(series, other, match_slices(series.geometry, other.geometry)) for other in others]
    matches = [match for match in matches if match.indices]
    if not matches:
        raise InputError(
            f"{_label(series)}: no slice of the {role} lies at the same place with the same orientation, "
            f"matrix and spacing; give the {role} of this very series"
        )
    ranked = sorted(matches, key=lambda match: _rank(match), reverse=True)
    if len(ranked) > 1 and _rank(ranked[0]) == _rank(ranked[1]):
        raise InputError(
            f"{_label(series)}: {role} series {_label(ranked[0].second)} and {_label(ranked[1].second)} "
            f"fit equally well; name the folder of one of them"
        )
    return ranked[0]


def _rank(match: Match) -> tuple[int, bool, bool]:
    kernels = [kernel_of(source) for source in (match.first, match.second)]
    return len(match.indices), match.first.patient == match.second.patient, kernels[0] == kernels[1]


def _label(source: SliceSource) -> str:
    return source.name or source.uid

"""Which slices of two series show the same place: by position and orientation; names only tell equals apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ldct_denoise.errors import InputError
from ldct_denoise.volume import POSITION_TOLERANCE_MM, Geometry, SliceSource

Alike = Callable[[SliceSource, SliceSource], bool]


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


def best_match(
    series: SliceSource, others: Sequence[SliceSource], role: str, are_alike: Alike = lambda first, second: False
) -> Match:
    """The one of ``others`` that shows most of the slices of ``series``.

    Where several show as many, the same patient, then the same kernel, then what ``are_alike`` says decide.

    Parameters
    ----------
    series : SliceSource
    others : sequence of SliceSource
    role : str
        What the others are ("reference", "input"), for the message.
    are_alike : callable, optional
        Whether two series are called alike.

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
    ranks = [_rank(match, are_alike) for match in matches]
    best = [match for match, rank in zip(matches, ranks, strict=True) if rank == max(ranks)]
    if len(best) > 1:
        raise InputError(
            f"{_label(series)}: {role} series {_label(best[0].second)} and {_label(best[1].second)} "
            f"fit equally well; name the file or folder of one of them"
        )
    return best[0]


def _rank(match: Match, are_alike: Alike) -> tuple[int, bool, bool, bool]:
    first, second = match.first, match.second
    same_patient, same_kernel = first.patient == second.patient, first.metadata.kernel == second.metadata.kernel
    return len(match.indices), same_patient, same_kernel, are_alike(first, second)


def _label(source: SliceSource) -> str:
    return source.name or source.uid

"""Match the slices of two series by position and orientation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ldct_denoise.errors import InputError
from ldct_denoise.io.orientation import oriented_like
from ldct_denoise.volume import POSITION_TOLERANCE_MM, Geometry, SliceSource, slice_thickness_mm

#: Slice thicknesses are equal within this ratio.
THICKNESS_TOLERANCE = 0.05
NamesMatch = Callable[[SliceSource, SliceSource], bool]


@dataclass(frozen=True)
class Match:
    """Two series and their slices at the same positions.

    Parameters
    ----------
    first, second : SliceSource
    indices : tuple of (int, int)
        Pairs of slice indices: in the first series, in the second.
    """

    first: SliceSource
    second: SliceSource
    indices: tuple[tuple[int, int], ...]


def match_slices(first: Geometry, second: Geometry) -> tuple[tuple[int, int], ...]:
    """Pairs of slices with the same pixel grid whose first pixels lie within 0.01 mm of each other."""
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


def same_thickness(first: SliceSource, second: SliceSource) -> bool:
    """Whether two series have the same slice thickness, to 5 %; a thickness that is not stated agrees with any."""
    one, other = first.metadata.slice_thickness_mm, second.metadata.slice_thickness_mm
    return one is None or other is None or math.isclose(one, other, rel_tol=THICKNESS_TOLERANCE)


def has_thickness(source: SliceSource, thicknesses_mm: Sequence[float]) -> bool:
    """Whether the slice thickness, or the spacing where none is stated, is one of ``thicknesses_mm``."""
    found = slice_thickness_mm(source)
    return any(math.isclose(found, wanted, rel_tol=THICKNESS_TOLERANCE) for wanted in thicknesses_mm)


def best_match(
    series: SliceSource,
    others: Sequence[SliceSource],
    role: str,
    names_match: NamesMatch = lambda first, second: False,
) -> Match:
    """Find the series among ``others`` that shows most of the slices of ``series``.

    A series with another stated slice thickness is chosen only where there is no other. Ties are decided by the
    same patient, then the same kernel, then ``names_match``.

    Parameters
    ----------
    series : SliceSource
    others : sequence of SliceSource
        Candidates.
    role : str
        Role of the candidates in messages: "reference" or "input".
    names_match : callable, optional
        Whether the names of two series suggest that they belong together.

    Returns
    -------
    Match
        The second series is presented with the axes of ``series``; see :func:`oriented_like`.

    Raises
    ------
    InputError
        If no candidate shares a slice with the series, or several fit equally well.
    """
    matches = [
        Match(series, other, match_slices(series.geometry, oriented_like(other, series.geometry).geometry))
        for other in others
    ]
    matches = [match for match in matches if match.indices]
    if not matches:
        raise InputError(
            f"{_label(series)}: no slice of the {role} has the same position, orientation, matrix and spacing; "
            f"give the {role} of the same series"
        )
    ranks = [_rank(match, names_match) for match in matches]
    best = [match for match, rank in zip(matches, ranks, strict=True) if rank == max(ranks)]
    if len(best) > 1:
        raise InputError(
            f"{_label(series)}: {role} series {_label(best[0].second)} and {_label(best[1].second)} "
            f"fit equally well; name the file or folder of one of them"
        )
    return replace(best[0], second=oriented_like(best[0].second, series.geometry))


def _rank(match: Match, names_match: NamesMatch) -> tuple[bool, int, bool, bool, bool]:
    first, second = match.first, match.second
    same_patient, same_kernel = first.patient == second.patient, first.metadata.kernel == second.metadata.kernel
    thickness = same_thickness(first, second)
    return thickness, len(match.indices), same_patient, same_kernel, names_match(first, second)


def _label(source: SliceSource) -> str:
    return source.name or source.uid

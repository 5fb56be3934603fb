"""Slices that the viewer of an evaluation's report shows, and the one at which it opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ldct_denoise.evaluation.measure import REFERENCE
from ldct_denoise.regions.regions import region_masks
from ldct_denoise.report.numbers import significant
from ldct_denoise.report.page import PICTURE_BUDGET
from ldct_denoise.report.pictures import slice_view
from ldct_denoise.report.verdict import evaluation_models
from ldct_denoise.volume import spread_indices

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation, SeriesImages

#: Largest number of slices in the viewer.
MAX_VIEWS = 24


class Attention(NamedTuple):
    """A slice that needs attention.

    Parameters
    ----------
    case : int
        Number of its series in ``Evaluation.cases``.
    slice : int
        Number of the slice in ``SeriesImages.indices``.
    words : str
        Why the viewer opens there.
    """

    case: int
    slice: int
    words: str


def attention_slice(evaluation: Evaluation) -> Attention | None:
    """Slice on which the model of the first paragraph raises the error most; None if it raises it on none."""
    models = evaluation_models(evaluation)
    if not models:
        return None
    window, region = evaluation.headline
    after, before = (evaluation.values(name, window, region, "rmse") for name in (models[0], "input"))
    worst: tuple[float, int, int, float] | None = None
    for case_number, case in enumerate(evaluation.cases):
        for number, indices in enumerate(case.indices):
            z_mm = float(case.reference.geometry.offsets_mm[indices[REFERENCE]])
            key = case.series, z_mm
            if before.get(key, 0.0) > 0 and key in after:
                ratio = after[key] / before[key]
                if ratio > 1 and (worst is None or ratio > worst[0]):
                    worst = ratio, case_number, number, z_mm
    if worst is None:
        return None
    ratio, case_number, number, z_mm = worst
    words = (
        f"The viewer opens at z = {z_mm:.1f} mm, where the error of {models[0]} is {significant(ratio)} times the "
        "input's."
    )
    return Attention(case_number, number, words)


def key_slice_views(
    evaluation: Evaluation, names: Mapping[str, str], attention: Attention | None = None
) -> tuple[list[dict[str, object]], int]:
    """Slices for the viewer, evenly spread along every series, as many as fit into the size limit.

    Parameters
    ----------
    evaluation : Evaluation
    names : mapping from series to str
        Names of the series in the report.
    attention : Attention, optional
        A slice that is always shown.

    Returns
    -------
    views : list of dict
        See :func:`~ldct_denoise.report.pictures.slice_view`.
    first_view : int
        Number of the view of ``attention``, otherwise of the middle slice of the first series.
    """
    chosen: dict[tuple[int, int], dict[str, object]] = {}
    spent = 0
    order = _spread(evaluation.cases)
    if attention:
        wanted = attention.case, attention.slice
        order = iter([wanted, *(one for one in order if one != wanted)])
    for case_number, number in order:
        case = evaluation.cases[case_number]
        sample = case.sample(case.indices[number])
        found = region_masks(evaluation.regions, sample.geometry, sample.index, sample.reference)
        masks = {name: mask for name, mask in found.items() if mask is not None}
        label = f"{names[case.series]}, z = {sample.position_mm:.1f} mm"
        panels = {**sample.images, "reference": sample.reference}
        entry = slice_view(label, panels, masks, sample.geometry.pixel_spacing_mm)
        spent += sum(len(text) for text in entry["panels"].values())  # type: ignore[attr-defined, misc]
        if chosen and spent > PICTURE_BUDGET:
            break
        chosen[case_number, number] = entry
    first = next(iter(chosen), None)
    ordered = sorted(chosen, key=lambda key: (key[0], _z_mm(evaluation.cases[key[0]], key[1])))
    return [chosen[key] for key in ordered], ordered.index(first) if first else 0


def _z_mm(case: SeriesImages, number: int) -> float:
    return float(case.reference.geometry.offsets_mm[case.indices[number][REFERENCE]])


def _spread(cases: Sequence[SeriesImages]) -> Iterator[tuple[int, int]]:
    """Slices in an order in which any first few are spread over all series and along each."""
    per_case = max(1, MAX_VIEWS // max(1, len(cases)))
    queues = []
    for case in cases:
        count = min(per_case, len(case.indices))
        total = len(case.indices)
        picks = list(range(total)) if count == total else spread_indices(total, count + 2)[1:-1]
        queues.append(_halving(picks))
    for turn in range(per_case):
        for number in range(len(cases)):
            if turn < len(queues[number]):
                yield number, queues[number][turn]


def _halving(items: list[int]) -> list[int]:
    """The middle element first, then the middles of the halves, and so on."""
    if not items:
        return []
    middle = len(items) // 2
    left, right = _halving(items[:middle]), _halving(items[middle + 1 :])
    mixed = [item for pair in zip(left, right, strict=False) for item in pair]
    return [items[middle], *mixed, *left[len(right) :], *right[len(left) :]]

"""An evaluation in sentences, and the numbers that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ldct_denoise.evaluation.measure import REFERENCE, UNCLIPPED
from ldct_denoise.metrics.checks import signed
from ldct_denoise.metrics.statistics import Interval, PatientStatistics

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation

#: One metric by (series, position).
Values = Mapping[tuple[str, float], float]
NO_INTERVAL = Interval(float("nan"), float("nan"), float("nan"), "")


def sentences(evaluation: Evaluation) -> list[str]:
    """Summary in words: each model against the input, if there is one."""
    window, region = evaluation.headline
    patients = len(set(evaluation.patients.values()))
    summary = [
        f"{patients} patient{'s' if patients > 1 else ''}, {len(evaluation.patients)} series, "
        f"{len({row[:2] for row in evaluation.rows})} slices. Numbers below: window {window}, region {region}, "
        "each patient weighted equally."
    ]
    for model in evaluation.models:
        if model not in ("input", "reference"):
            summary.append(_sentence(evaluation, model))
    return summary


def _sentence(evaluation: Evaluation, model: str) -> str:
    window, region = evaluation.headline
    ssim = evaluation.values(model, window, region, "ssim")
    offset_hu = mean_hu_offset(evaluation, model, region)
    ssim_words = f"SSIM {_mean(evaluation, ssim):.4f}" if ssim else "SSIM not measured"
    text = f"{_psnr_words(evaluation, evaluation.values(model, window, region, 'psnr'))}, {ssim_words}"
    if not np.isnan(offset_hu):
        text += f"; without a window, mean HU differs from the reference by {signed(offset_hu, 2)} HU"
    found = error_change(evaluation, model)
    if found is None or not found.before_hu:
        return f"{model}: RMSE {found.after_hu if found else float('nan'):.2f} HU, {text}."
    return (
        f"{model}: error against the reference {signed(100 * found.change.mean / found.before_hu)} % (RMSE "
        f"{found.before_hu:.2f} → {found.after_hu:.2f} HU{_interval_words(found.change)}); {found.closer} of "
        f"{found.slices} slices are closer to the reference than the input. {text}."
    )


class ErrorChange(NamedTuple):
    """RMSE of a model against that of the input, in the headline window and region.

    Parameters
    ----------
    before_hu, after_hu : float
        RMSE of the input, 0 where there is none, and of the model: means with equal weight of patients, HU.
    change : Interval
        Model − input, HU.
    closer, slices : int
        Slices with a smaller error than the input, and all slices.
    """

    before_hu: float
    after_hu: float
    change: Interval
    closer: int
    slices: int


def error_change(evaluation: Evaluation, model: str) -> ErrorChange | None:
    """RMSE of a model against that of the input; None where the model's was not measured."""
    window, region = evaluation.headline
    error, baseline = (evaluation.values(name, window, region, "rmse") for name in (model, "input"))
    if not error:
        return None
    shared = sorted(error.keys() & baseline.keys())
    if not any(baseline[key] for key in shared):
        return ErrorChange(0.0, _mean(evaluation, error), NO_INTERVAL, 0, len(error))
    statistics = PatientStatistics([evaluation.patients[series] for series, _ in shared])
    before, after = ([values[key] for key in shared] for values in (baseline, error))
    before_hu, after_hu = (float(statistics.patient_means(values).mean()) for values in (before, after))
    closer = sum(error[key] < baseline[key] for key in shared)
    return ErrorChange(before_hu, after_hu, statistics.paired(after, before).difference, closer, len(shared))


def _interval_words(change: Interval) -> str:
    """The interval of a change and whom it describes; nothing where there is none."""
    if not change.describes:
        return ""
    whom = {"patients": "for patients like these", "these patients": "for the measured patients only"}
    limits = f"{signed(change.low, 2)} to {signed(change.high, 2)} HU"
    return f"; 95 % interval of the change {limits}, {whom[change.describes]}"


def _psnr_words(evaluation: Evaluation, values: Values) -> str:
    """Mean of the finite PSNR values, and how many slices equal the reference in the window."""
    known = {key: value for key, value in values.items() if np.isfinite(value)}
    if values and not known:
        return "PSNR infinite"
    text = f"PSNR {_mean(evaluation, known):.2f} dB"
    infinite = len(values) - len(known)
    return f"{text} (without {infinite} of {len(values)} slices, where it is infinite)" if infinite else text


def mean_hu_offset(evaluation: Evaluation, model: str, region: str) -> float:
    """Mean HU of a model's images minus that of the reference, with equal weight of patients; NaN without any.

    The images are not clipped to a window, because clipping would hide shifts outside it.

    Parameters
    ----------
    evaluation : Evaluation
    model, region : str
        Entries of the columns of ``metrics.csv``.

    Returns
    -------
    float
        HU.
    """
    ours, theirs = (evaluation.values(who, UNCLIPPED, region, "hu_mean") for who in (model, REFERENCE))
    return _mean(evaluation, {key: ours[key] - theirs[key] for key in ours.keys() & theirs.keys()})


def _mean(evaluation: Evaluation, values: Values) -> float:
    """Mean with equal weight of patients; NaN of no values."""
    if not values:
        return float("nan")
    patients = [evaluation.patients[series] for series, _ in values]
    return float(PatientStatistics(patients).patient_means(list(values.values())).mean())

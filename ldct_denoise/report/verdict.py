"""The first paragraph of every report: the key numbers, the checks to review, and what to do about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ldct_denoise.evaluation.measure import REFERENCE
from ldct_denoise.metrics.checks import (
    MAX_FREQUENCY_DROP,
    MAX_HU_SHIFT,
    Check,
    mean_hu_words,
    signed,
    status_of,
)
from ldct_denoise.report.numbers import significant
from ldct_denoise.report.sentences import error_change, mean_hu_offset

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation

#: What to do about a check that is not green.
ACTIONS = {
    "noise": "Check that input and output were not swapped, and look at the output's texture.",
    "mean HU": "Compare circles in fat and soft tissue before you rely on HU.",
    "edge sharpness": "Compare vessels and bone edges at full size, or use a lower strength.",
    "removed anatomy": "Look for edges in the difference image, or use a lower strength.",
    "flicker": "Scroll through the whole series (ldct-denoise view).",
    "lesion-sized changes": "Compare input and output at that place.",
    "noise texture": "Look at the texture of uniform tissue, or use a lower strength.",
    "error": "Do not use this output as an improvement of the input.",
    "resolution": "Look at small structures of low contrast, or use a lower strength.",
    "HU linearity": "Do not compare HU of this output with other images.",
    "detectability": "Do not expect small lesions to be easier to see.",
}
#: Checks whose numbers are always in the first paragraph.
KEY_CHECKS = ("error", "noise", "mean HU", "edge sharpness", "resolution", "detectability")
#: Share of the slices that are closer to the reference than the input, below which the error is to be reviewed.
MIN_SHARE_CLOSER = 0.95


def answer(checks: Sequence[Check]) -> str:
    """Key numbers, numbers of the checks that are not green, and what to do."""
    told = [check for check in checks if check.name in KEY_CHECKS or check.status != "green"]
    numbers = "; ".join(check.short for check in told if check.short)
    first = f"{numbers[:1].upper()}{numbers[1:]}. " if numbers else ""
    return f"{first}{conclusion(checks)}"


def conclusion(checks: Sequence[Check]) -> str:
    """Which checks are not green, the worst first, and what to do."""
    failed, review = ([c.name for c in checks if c.status == status] for status in ("red", "amber"))
    count = len(checks)
    if not count:
        return "Nothing could be checked."
    if not failed and not review:
        return f"All {count} checks are within the limits. They do not replace a reader."
    parts = []
    if failed:
        parts.append(f"{len(failed)} of {count} checks failed: {', '.join(failed)}.")
    if review:
        parts.append(f"{len(review)} of {count} checks to review: {', '.join(review)}.")
    parts += dict.fromkeys(ACTIONS[name] for name in (*failed, *review))
    if failed:
        parts.append("Do not rely on this output before the cause is known.")
    return " ".join(parts)


def evaluation_checks(evaluation: Evaluation, model: str) -> list[Check]:
    """Checks of a model against the reference: error, mean HU, noise, noise texture; those that were measured."""
    found = [_error(evaluation, model), _mean_hu(evaluation, model), *_noise(evaluation, model)]
    return [check for check in found if check is not None]


def evaluation_models(evaluation: Evaluation) -> list[str]:
    """The measured models without input and reference, the one with the smallest error first."""
    models = [model for model in evaluation.models if model not in ("input", REFERENCE)]
    changes = {model: error_change(evaluation, model) for model in models}
    return sorted(models, key=lambda model: found.after_hu if (found := changes[model]) else np.inf)


def evaluation_answer(evaluation: Evaluation) -> tuple[str, list[Check]]:
    """First paragraph of an evaluation or comparison, and the checks of the model that it describes."""
    models = evaluation_models(evaluation)
    if not models:
        return "No image was measured against the reference.", []
    checks = evaluation_checks(evaluation, models[0])
    if len(models) == 1:
        return answer(checks), checks
    text = f"{models[0]} has the smallest error of {len(models)} models{_rank_words(evaluation, models)}. "
    return f"{text}{answer(checks)}{_best_passing(evaluation, models, checks)}", checks


def _best_passing(evaluation: Evaluation, models: Sequence[str], checks: Sequence[Check]) -> str:
    """Where a check of the first model failed: the next model of which none failed."""
    if all(check.status != "red" for check in checks):
        return ""
    for model in models[1:]:
        found = evaluation_checks(evaluation, model)
        if found and all(check.status != "red" for check in found):
            return f" Smallest error without a failed check: {model}, {found[0].short}."
    return " Every model failed a check."


def _rank_words(evaluation: Evaluation, models: Sequence[str]) -> str:
    """How certain the first rank is: the interval of the difference of RMSE to the second."""
    window, region = evaluation.headline
    entries: Any = evaluation.extra.get("paired", [])
    for entry in entries:
        key = entry["window"], entry["region"], entry["metric"]
        if key == (window, region, "rmse") and {entry["model"], entry["against"]} == set(models[:2]):
            low, high = entry["difference_low"], entry["difference_high"]
            if low is not None and (low > 0 or high < 0):
                return f", also within the interval of its difference to the next, {models[1]}"
    return f", but the data are too few to tell it from the next, {models[1]}"


def _error(evaluation: Evaluation, model: str) -> Check | None:
    found = error_change(evaluation, model)
    if found is None:
        return None
    if not found.before_hu:
        words = f"error {significant(found.after_hu)} HU RMSE on {found.slices} slices; no input to compare with"
        return Check("error", "green", words, found.after_hu, words)
    percent = f"{signed(100 * (found.after_hu / found.before_hu - 1))} %"
    status = "amber" if found.closer < MIN_SHARE_CLOSER * found.slices else "green"
    status = "red" if found.after_hu > found.before_hu else status
    of = f"on {found.closer} of {found.slices} slices"
    short = f"error {percent} {of}" if status == "green" else f"error {percent}, smaller {of} only"
    reason = (
        f"RMSE against the reference {significant(found.before_hu)} → {significant(found.after_hu)} HU "
        f"({percent}); smaller {of}"
    )
    return Check("error", status, reason, found.after_hu / found.before_hu - 1, short)


def _mean_hu(evaluation: Evaluation, model: str) -> Check | None:
    region = evaluation.headline[1]
    shift_hu, input_hu = (mean_hu_offset(evaluation, name, region) for name in (model, "input"))
    if np.isnan(shift_hu):
        return None
    reason = f"mean HU − reference in {region}, without a window: {signed(shift_hu, 2)} HU"
    if not np.isnan(input_hu):
        reason += f"; input {signed(input_hu, 2)} HU"
    status = status_of(abs(shift_hu), MAX_HU_SHIFT)
    return Check("mean HU", status, reason, shift_hu, mean_hu_words(shift_hu))


def _noise(evaluation: Evaluation, model: str) -> list[Check]:
    """Noise level and mean frequency against the reference, means over the series."""
    noise = _ratio(evaluation, model, REFERENCE, "noise_hu")
    frequency = _ratio(evaluation, model, REFERENCE, "mean_frequency_per_mm")
    checks = []
    if noise is not None:
        before = _ratio(evaluation, "input", REFERENCE, "noise_hu")
        words = f"noise {100 * noise:.0f} % of the reference's"
        reason = words if before is None else f"{words}; the input's is {100 * before:.0f} %"
        rises = before is not None and noise > before
        checks.append(Check("noise", "red" if rises else "green", reason, noise, words))
    if frequency is not None:
        change = frequency - 1
        status = status_of(-change, MAX_FREQUENCY_DROP)
        limit = f"limit −{100 * MAX_FREQUENCY_DROP[0]:.0f} %"
        words = f"mean noise frequency {signed(100 * change, 1)} % against the reference"
        tail = "" if status == "green" else "; the noise is coarser than the reference's"
        checks.append(Check("noise texture", status, f"{words}; {limit}{tail}", change, f"{words} ({limit})"))
    return checks


def _ratio(evaluation: Evaluation, model: str, against: str, key: str) -> float | None:
    """Geometric mean over the series of a noise measurement's ratio; None where it was not measured."""
    entries: Any = evaluation.extra.get("noise", [])
    values = {(entry["series"], entry["model"]): entry.get(key) for entry in entries}
    ratios = [
        value / values[series, against]
        for (series, name), value in values.items()
        if name == model and value and values.get((series, against))
    ]
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else None

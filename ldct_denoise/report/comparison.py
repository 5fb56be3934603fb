"""Report of a comparison: a table with pictures, gains, computing time and training budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldct_denoise.evaluation.measure import REFERENCE
from ldct_denoise.report.evaluation import INTERVAL_TEXT, write_report
from ldct_denoise.report.identity import NO_SIGNATURE, Signature
from ldct_denoise.report.page import Picture, Table
from ldct_denoise.report.pictures import display_window, png_uri, soft_tissue_square
from ldct_denoise.report.sentences import mean_hu_offset
from ldct_denoise.report.verdict import evaluation_checks, evaluation_models

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation

#: Side of a thumbnail in image pixels; shown without scaling, so that the noise keeps its texture.
THUMBNAIL_PX = 144
METRICS = {"psnr": "PSNR", "ssim": "SSIM", "rmse": "RMSE"}


def write_comparison_report(
    evaluation: Evaluation,
    path: Path,
    *,
    include_patient_ids: bool = False,
    signature: Signature = NO_SIGNATURE,
) -> None:
    """Write ``report.html`` of a comparison.

    Parameters
    ----------
    evaluation : Evaluation
        From :func:`~ldct_denoise.evaluation.compare.compare`.
    path : Path
        Replaced atomically.
    include_patient_ids : bool
        Show patient IDs.
    signature : Signature
        Author and site.
    """
    write_report(
        evaluation,
        path,
        kind="Comparison of denoisers",
        include_patient_ids=include_patient_ids,
        signature=signature,
        first_tables=[_leaders(evaluation), *_seeds(evaluation)],
    )


def _leaders(evaluation: Evaluation) -> Table:
    """One row for each model: picture, means by window, PSNR gain over the input, HU offset, time, training."""
    region = evaluation.headline_region
    window = evaluation.windows[-1].name
    means = _patient_means(evaluation, region)
    pictures = _thumbnails(evaluation)
    wanted = ("input", window, region, "psnr")
    keys = ("against", "window", "region", "metric")
    gains = {e["model"]: e for e in _list(evaluation, "paired") if tuple(e[key] for key in keys) == wanted}
    seconds = evaluation.extra.get("seconds_per_slice", {})
    facts = evaluation.extra.get("models", {})
    assert isinstance(seconds, Mapping)
    assert isinstance(facts, Mapping)
    columns = ["picture", "model", "to review", "gain, dB", "95 % interval", "p"]
    columns += [f"{title}, {w.name}" for w in evaluation.windows for title in METRICS.values()]
    columns += ["mean HU − reference", "s per slice", "trained, min", "training", "seen in training"]
    rows = []
    ranked = evaluation_models(evaluation)
    for model in [*ranked, "input", REFERENCE]:  # the reference has only a picture
        numbers = [means.get((model, w.name, metric)) for w in evaluation.windows for metric in METRICS]
        gain = gains.get(model)
        fact = facts.get(model, {})
        trained = fact.get("training_seconds")
        rows.append(
            [
                pictures.get(model),
                model,
                _to_review(evaluation, model) if model in ranked else None,
                gain["difference_mean"] if gain else None,
                _interval(gain),
                gain["wilcoxon_p"] if gain else None,
                *numbers,
                None if model == REFERENCE else mean_hu_offset(evaluation, model, region),
                seconds.get(model),
                trained / 60 if trained else None,
                _budget(fact),
                fact.get("seen_in_training"),
            ]
        )
    text = (
        f"The smallest RMSE in window {window} first. Region {region}; means with each patient weighted equally. "
        f"Gain: PSNR over the input, window {window}, "
        f"with its 95 % interval and Wilcoxon's p by patients (all pairs are in a table below). {INTERVAL_TEXT} "
        "Mean HU: without a window. Seconds: mean on this machine, while it also measures. Seen in "
        "training: whether the model was trained on some of these patients. Pictures: "
        f"soft tissue of the first series, window {display_window(evaluation.windows).name}, not scaled. Click a "
        "heading to sort."
    )
    return Table("Side by side", text, *_known_columns(columns, rows))


def _to_review(evaluation: Evaluation, model: str) -> str:
    """Names of the checks that are not green."""
    return ", ".join(c.name for c in evaluation_checks(evaluation, model) if c.status != "green") or "none"


def _known_columns(columns: Sequence[str], rows: Sequence[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns that have a value in some row."""
    kept = [number for number in range(len(columns)) if any(row[number] is not None for row in rows)]
    return [columns[number] for number in kept], [[row[number] for number in kept] for row in rows]


def _budget(fact: Mapping[str, Any]) -> str | None:
    """Training budget in words."""
    if not fact.get("training_steps"):
        return "none" if fact else None
    return f"{fact['training_steps']} steps of {fact['training_batch']} patches, {fact['training_device']}"


def _seeds(evaluation: Evaluation) -> list[Table]:
    """Spread between seeds, for methods that ran with several."""
    facts = evaluation.extra.get("models", {})
    assert isinstance(facts, Mapping)
    labels: dict[str, list[str]] = {}
    for label, fact in facts.items():
        labels.setdefault(fact["name"], []).append(label)
    repeated = {name: found for name, found in labels.items() if len(found) > 1}
    if not repeated:
        return []
    region = evaluation.headline_region
    means = _patient_means(evaluation, region)
    rows = []
    for name, found in repeated.items():
        for window in evaluation.windows:
            for metric, title in METRICS.items():
                values = np.array([means[label, window.name, metric] for label in found], dtype=np.float64)
                rows.append(
                    [name, window.name, title, float(values.mean()), float(values.std(ddof=1)), len(found)]
                )
    columns = ("model", "window", "metric", "mean", "standard deviation", "seeds")
    return [Table("Seeds", f"Region {region}: spread between seeds of the same method.", columns, rows)]


def _patient_means(evaluation: Evaluation, region: str) -> dict[tuple[str, str, str], Any]:
    return {
        (str(e["model"]), str(e["window"]), str(e["metric"])): e["patient_mean"]
        for e in evaluation.summary()
        if e["region"] == region
    }


def _thumbnails(evaluation: Evaluation) -> dict[str, Picture]:
    """The same square of every image of the first series, where the reference holds most soft tissue."""
    if not evaluation.cases or not evaluation.cases[0].indices:
        return {}
    case, window = evaluation.cases[0], display_window(evaluation.windows)
    found = [(*soft_tissue_square(case.reference.read_hu(at[REFERENCE]), THUMBNAIL_PX), at) for at in case.indices]
    _, box, indices = max(found, key=lambda item: item[0])
    sample = case.sample(indices)
    images = {**sample.images, REFERENCE: sample.reference}
    return {
        name: Picture(png_uri(hu[box], window.low_hu, window.high_hu), name, hu[box].shape[1])
        for name, hu in images.items()
    }


def _interval(entry: Mapping[str, Any] | None) -> str | None:
    if entry is None or None in (entry["difference_low"], entry["difference_high"]):
        return None
    return f"{entry['difference_low']:+.2f} to {entry['difference_high']:+.2f}"


def _list(evaluation: Evaluation, key: str) -> Sequence[Mapping[str, Any]]:
    found = evaluation.extra.get(key, [])
    assert isinstance(found, list)
    return found

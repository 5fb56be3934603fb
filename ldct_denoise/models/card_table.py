"""The model card as a table of ten lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Longest value of a line.
MAX_CHARACTERS = 100
#: Lines that are measured on test images and stored in the card under ``figures``.
MEASURED = (
    "noise and gain",
    "noise texture",
    "contrast recovery",
    "resolution (TTF)",
    "HU accuracy",
    "detectability",
)


def card_rows(name: str, card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Ten lines about a model: what it does to images, what it was trained on, and how it was made.

    Parameters
    ----------
    name : str
        Name of the model.
    card : mapping
        Its card (:mod:`ldct_denoise.training.card`).

    Returns
    -------
    list of (str, str)
        Title and value, at most :data:`MAX_CHARACTERS` each.
    """
    figures: Mapping[str, str] = _validation(card.get("validation", {})) | dict(card.get("figures", {}))
    missing = f"not measured; ldct-denoise image-quality --model {name}"
    rows = [(title, figures.get(title, missing)) for title in MEASURED]
    rows += [
        ("envelope", _envelope(card.get("envelope", {}))),
        ("training data", _data(card.get("pools", {}))),
        ("licence of the data", figures.get("licence of the data", "that of the training images")),
        ("training command", figures.get("training command") or _command(card)),
    ]
    return [(title, _short(value)) for title, value in rows]


def _validation(metrics: Mapping[str, float]) -> dict[str, str]:
    """Lines that follow from the validation of the training run."""
    lines = {}
    if "noise_ratio" in metrics:
        before, after = metrics["input_noise_ratio"], metrics["noise_ratio"]
        lines["noise and gain"] = f"{before:.2f} → {after:.2f} of normal dose's noise in validation"
    bias = {key.removeprefix("hu_bias_"): value for key, value in metrics.items() if key.startswith("hu_bias_")}
    if bias:
        lines["HU accuracy"] = (
            ", ".join(f"{tissue} {value:+.1f} HU" for tissue, value in bias.items()) + " in validation"
        )
    return lines


def _envelope(envelope: Mapping[str, Any]) -> str:
    """Kernels and ranges of the training images."""
    if not envelope:
        return "not measured"
    parts = [", ".join(envelope.get("kernels", ()))]
    for key, unit, digits in (
        ("kvp", "kV", 0),
        ("slice_thickness_mm", "mm slices", 2),
        ("pixel_spacing_mm", "mm pixels", 2),
        ("noise_index", "HU·mm noise", 0),
    ):
        if key in envelope:
            low, high = (f"{round(value, digits):g}" for value in envelope[key])
            parts.append(f"{low} {unit}" if low == high else f"{low}–{high} {unit}")
    return "; ".join(part for part in parts if part)


def _data(pools: Mapping[str, Any]) -> str:
    """Slices and patients of the pools."""
    if not pools:
        return "unknown"
    patients = len(pools.get("training_patients", ()))
    return (
        f"{pools.get('normal_slices', 0)} normal-dose and {pools.get('low_slices', 0)} low-dose slices "
        f"of {patients} patient{'s' * (patients != 1)}"
    )


def _command(card: Mapping[str, Any]) -> str:
    config = card.get("config", {})
    return f"ldct-denoise train --config config.yaml (method {config['method']})" if config else "unknown"


def _short(value: str) -> str:
    return value if len(value) <= MAX_CHARACTERS else value[: MAX_CHARACTERS - 1] + "…"


def markdown(rows: Sequence[tuple[str, str]]) -> str:
    """The lines as a Markdown table."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {title} | {value} |" for title, value in rows)])

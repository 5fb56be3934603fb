"""Contrast recovery of inserted lesions, as it appears in reports and summaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from ldct_denoise.evaluation.contrast_recovery import SeriesRecovery
from ldct_denoise.evaluation.tables import Entry, finite_or_none
from ldct_denoise.phantoms.insertion import InsertedLesion
from ldct_denoise.report.charts import Curve, line_chart
from ldct_denoise.report.curve_styles import curve_styles
from ldct_denoise.report.noise_map import noise_map_pictures
from ldct_denoise.report.numbers import between
from ldct_denoise.report.page import ChartSection, Picture, Table

DEFINITION = (
    "contrast recovery",
    "discs are inserted into slices of these images through the blur of the kernel. Recovery is the contrast of "
    "their core after denoising over the contrast inserted, from the difference of images with and without them. "
    "1 keeps all. Control: lir-ct, blended with the input to the same noise. A denoiser that recovers "
    "less than the control loses more contrast than its noise reduction explains.",
)
#: Largest number of groups with noise maps.
MAX_MAPS = 4
#: Lesion of the sentence: soft tissue, mm and HU.
EXAMPLE = ("soft tissue", 5, -20)


def recovery_noise_maps(found: Sequence[SeriesRecovery]) -> list[ChartSection]:
    """Noise maps of one slice of each kernel and dose, before and after denoising; none without an ROI."""
    pictures = [
        Picture(picture.uri, f"{_title(one)}: {picture.caption}", picture.width_px)
        for one in found[:MAX_MAPS]
        if one.noise
        for picture in noise_map_pictures(
            {
                "input": (one.noise.before, one.noise.noise.before),
                "output": (one.noise.after, one.noise.noise.after),
            },
            one.noise.pixel_spacing_mm,
        )
    ]
    levels = "; ".join(
        f"{_title(one)}: {between(one.noise.noise.before.noise_hu)} → {between(one.noise.noise.after.noise_hu)} HU"
        for one in found
        if one.noise
    )
    text = (
        "Noise differs from place to place; this is its standard deviation around each pixel of one slice. In the "
        f"ROIs with the least anatomy of all slices: {levels}."
    )
    return [ChartSection("Noise map of your images", text, [], pictures)] if pictures else []


def recovery_sentences(found: Sequence[SeriesRecovery]) -> list[str]:
    """One sentence for each kernel and dose."""
    sentences = []
    for one in found:
        example = next((item for item in one.lesions if _key(item.lesion) == EXAMPLE), None)
        if example:
            control = ""
            if math.isfinite(example.control):
                control = f" (control at equal noise: {100 * example.control:.0f} %)"
            sentences.append(
                f"{_title(one)}: a lesion of {EXAMPLE[1]} mm and {EXAMPLE[2]:+g} HU keeps "
                f"{100 * example.recovery:.0f} % of its contrast{control}; noise {one.noise_hu[0]:.1f} → "
                f"{one.noise_hu[1]:.1f} HU."
            )
    return sentences


def recovery_entries(found: Sequence[SeriesRecovery]) -> list[Entry]:
    """Rows of ``summary.json``."""
    return [
        {
            "series": one.name,
            "kernel": one.kernel,
            "dose": one.dose,
            "slices": one.slices,
            "blur_mm": one.blur_mm,
            "noise_before_hu": one.noise_hu[0],
            "noise_after_hu": one.noise_hu[1],
            **asdict(item.lesion),
            "recovery": item.recovery,
            "standard_error": finite_or_none(item.standard_error),
            "control": finite_or_none(item.control),
            "places": item.places,
        }
        for one in found
        for item in one.lesions
    ]


def recovery_table(found: Sequence[SeriesRecovery]) -> Table:
    """A row for each lesion, kernel and dose."""
    columns = (
        "kernel", "dose", "lesion", "diameter, mm", "contrast, HU", "recovery", "standard error", "control",
        "places",
    )  # fmt: skip
    rows = [
        [one.kernel, one.dose, *_key(item.lesion), item.recovery, item.standard_error, item.control, item.places]
        for one in found
        for item in one.lesions
    ]
    text = "Standard error from the spread over the places of these images; it does not describe other patients."
    return Table("Contrast recovery", text, columns, rows)


def recovery_charts(found: Sequence[SeriesRecovery]) -> ChartSection:
    """Recovery by diameter, a curve for each contrast, for each kernel and dose."""
    drawn: list[tuple[str, dict[str, Curve]]] = []
    for one in found:
        for kind in ("soft tissue", "lung nodule"):
            lesions = [item for item in one.lesions if item.lesion.kind == kind]
            curves: dict[str, Curve] = {}
            for contrast in dict.fromkeys(item.lesion.contrast_hu for item in lesions):
                row = [item for item in lesions if item.lesion.contrast_hu == contrast]
                diameters = [item.lesion.diameter_mm for item in row]
                curves[f"{contrast:+g} HU"] = (diameters, [item.recovery for item in row])
            if lesions:
                weakest = [item for item in lesions if item.lesion.contrast_hu == lesions[0].lesion.contrast_hu]
                curves[f"control, {lesions[0].lesion.contrast_hu:+g} HU"] = (
                    [item.lesion.diameter_mm for item in weakest],
                    [item.control for item in weakest],
                )
                drawn.append((f"{kind}: {_title(one)}", curves))
    styles = curve_styles(name for _, curves in drawn for name in curves)
    charts = [
        line_chart(curves, "diameter, mm", "contrast recovery", title, dots=True, styles=styles)
        for title, curves in drawn
    ]
    return ChartSection("Contrast recovery", "Lesions inserted into these images; 1 keeps all contrast.", charts)


def _title(one: SeriesRecovery) -> str:
    kernel = "" if one.kernel in one.name else one.kernel
    return ", ".join(part for part in (one.name, kernel, one.dose and f"{one.dose} dose") if part)


def _key(lesion: InsertedLesion) -> tuple[str, float, float]:
    return lesion.kind, lesion.diameter_mm, lesion.contrast_hu

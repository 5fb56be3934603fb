"""Charts and tables of noise and resolution in the report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ldct_denoise.evaluation.measure import REFERENCE
from ldct_denoise.report.charts import Curve, line_chart
from ldct_denoise.report.curve_styles import curve_styles
from ldct_denoise.report.numbers import between
from ldct_denoise.report.page import ChartSection, Table

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation

#: Number of series with charts; the numbers of all series are in the tables.
MAX_SERIES = 4


def noise_charts(evaluation: Evaluation, names: Mapping[str, str]) -> list[ChartSection]:
    """Radial noise power spectra and noise reduction profiles of the first series."""
    charts = []
    styles = curve_styles(evaluation.models)
    for series, name in list(names.items())[:MAX_SERIES]:
        entries = [e for e in _entries(evaluation, "noise") if e["series"] == series and "nps_hu2_mm2" in e]
        spectra = noise_spectra(evaluation, series)
        title = f"{name}: noise power spectrum"
        charts.append(line_chart(spectra, "frequency, 1/mm", "NPS, HU²·mm²", title, log_y=True, styles=styles))
        title = f"{name}: noise power relative to the reference"
        ratio = spectrum_ratios(spectra, REFERENCE)
        charts.append(line_chart(ratio, "frequency, 1/mm", "NPS / reference's", title, log_y=True, styles=styles))
        reduced = [e for e in entries if "noise_reduction_db" in e]
        against = reduced[0]["against"] if reduced else ""
        curves: dict[str, Curve] = {
            e["model"]: (e["frequency_per_mm"], _numbers(e["noise_reduction_db"])) for e in reduced
        }
        title = f"{name}: noise reduction profile against {against}"
        charts.append(line_chart(curves, "frequency, 1/mm", "dB", title, styles=styles))
        transfer = {e["model"]: list(zip(*e["noise_transfer_hu"], strict=True)) for e in reduced}
        curves = {model: (points[0], points[1]) for model, points in transfer.items() if points}
        labels = f"noise of {against}, HU", "noise, HU"
        charts.append(line_chart(curves, *labels, f"{name}: noise out for noise in", dots=True, styles=styles))
    text = (
        "Radial noise power spectrum of every image in the same ROIs (24 mm), where soft tissue or fat is "
        "most uniform. With an input, the shape comes from input − reference, in which anatomy cancels. Without "
        "an input the curves are upper limits at low frequencies, because the ROIs may hold anatomy."
    )
    return [ChartSection("Noise by frequency", text, [chart for chart in charts if chart])]


def noise_spectra(evaluation: Evaluation, series: str) -> dict[str, Curve]:
    """Radial noise power spectrum of every image of a series, where it was measured."""
    return {
        entry["model"]: (entry["frequency_per_mm"], entry["nps_hu2_mm2"])
        for entry in _entries(evaluation, "noise")
        if entry["series"] == series and "nps_hu2_mm2" in entry
    }


def spectrum_ratios(spectra: Mapping[str, Curve], reference: str) -> dict[str, Curve]:
    """Noise power of every image divided by that of the reference, which becomes the line at 1.

    Parameters
    ----------
    spectra : mapping from image to (frequency, power)
        With the same frequencies.
    reference : str
        Name of the image that the others are divided by.

    Returns
    -------
    dict from image to (frequency, ratio)
        Empty if there is no reference. NaN where the reference has no power.
    """
    if reference not in spectra:
        return {}
    base = spectra[reference][1]
    return {
        name: (
            frequency,
            [a / b if b > 0 else float("nan") for a, b in zip(power, base, strict=True)],
        )
        for name, (frequency, power) in spectra.items()
    }


def noise_tables(evaluation: Evaluation, names: Mapping[str, str]) -> list[Table]:
    """Noise level, texture and flicker of every series and image."""
    entries = _entries(evaluation, "noise")
    columns = (
        "series",
        "model",
        "noise, HU",
        "mean frequency, 1/mm",
        "peak frequency, 1/mm",
        "flicker, HU",
        "ROIs",
        "from",
    )
    keys = ("peak_frequency_per_mm", "flicker_hu", "rois")
    limited = (("noise_hu", "noise_limits_hu"), ("mean_frequency_per_mm", "mean_frequency_limits_per_mm"))
    rows = [
        [
            names[e["series"]],
            e["model"],
            *(_limited(e.get(key), e.get(limits)) for key, limits in limited),
            *(e.get(key) for key in keys),
            _source(e),
        ]
        for e in entries
    ]
    text = (
        "Noise: standard deviation in uniform ROIs, trend removed. From the difference of the doses: input − "
        "reference gives the shape of the spectrum, without anatomy; each image gives its level above 0.25/mm. "
        "Without an input, two numbers are limits: the upper holds the anatomy of the ROIs, the lower assumes "
        "noise of filtered back-projection, which a denoised image may exceed. "
        "Flicker: slice-to-slice change of block means. It includes anatomy, so compare images rather than "
        "absolute values."
    )
    return [Table("Noise and flicker", text, columns, rows), *_scale_table(entries, names)] if rows else []


def _limited(value: object, limits: tuple[float, float] | None) -> object:
    """A figure, or its limits where it has any."""
    return between(limits) if limits else value


def _source(entry: Mapping[str, Any]) -> str | None:
    """Where the figures of an image come from, and whether they may hold anatomy."""
    if "is_free_of_anatomy" not in entry:
        return None
    if entry["is_free_of_anatomy"]:
        return "difference of the doses"
    stated = entry.get("stated_from_per_mm")
    if not entry.get("noise_limits_hu") or stated is None:
        return "ROIs: upper limit, anatomy included"
    return f"ROIs: anatomy may be included below {stated:.2f}/mm" if stated else "ROIs: without visible anatomy"


def _scale_table(entries: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Table]:
    """Noise after blurs, and blotches."""
    measured = [entry for entry in entries if "blurred_noise_hu" in entry]
    if not measured:
        return []
    scales = list(measured[0]["blurred_noise_hu"])
    columns = (
        "series",
        "model",
        *(f"noise after a blur of {scale}, HU" for scale in scales),
        "blotches per 100 cm²",
    )
    rows = [
        [
            names[e["series"]],
            e["model"],
            *(
                _limited(value, (e.get("blurred_noise_limits_hu") or {}).get(scale))
                for scale, value in e["blurred_noise_hu"].items()
            ),
            e["blotches_per_100_cm2"],
        ]
        for e in measured
    ]
    text = (
        "Noise at the scale of lesions: after a Gaussian of this σ. A denoised image can have less noise in all "
        "than the reference and more after a blur. Blotches: local extrema beyond ±8 HU after 2 mm in the uniform "
        "ROIs; anatomy there counts in every image."
    )
    return [Table("Noise by scale", text, columns, rows)]


def insert_charts(evaluation: Evaluation, names: Mapping[str, str]) -> list[ChartSection]:
    """Task transfer functions of the first series, a chart for each insert."""
    entries = _entries(evaluation, "inserts")
    of_model = curve_styles(evaluation.models)
    labels = {id(e): f"{e['model']} ({e['contrast_hu']:+.0f} HU)" for e in entries}
    styles = {labels[id(e)]: of_model[e["model"]] for e in entries}
    charts = [
        line_chart(
            {
                labels[id(e)]: (e["frequency_per_mm"], _numbers(e["ttf"]))
                for e in entries
                if (e["series"], e["insert"]) == (series, insert)
            },
            "frequency, 1/mm",
            "TTF",
            f"{names[series]}: {insert}",
            styles=styles,
        )
        for series, insert in dict.fromkeys((e["series"], e["insert"]) for e in entries)
        if series in list(names)[:MAX_SERIES]
    ]
    text = "Task transfer function from the edge of each insert, valid for the contrast given in brackets."
    return [ChartSection("Resolution", text, charts)]


def insert_tables(evaluation: Evaluation, names: Mapping[str, str]) -> list[Table]:
    """Resolution and mean HU of the inserts, and HU linearity."""
    tables = []
    entries = [{**entry, "series": names[entry["series"]]} for entry in _entries(evaluation, "inserts")]
    resolution = ("f50_per_mm", "f50_low_per_mm", "f50_high_per_mm", "f10_per_mm")
    numbers = ("nominal_hu", "mean_hu", "noise_hu", "contrast_hu", *resolution, "centre_shift_mm", "slices")
    columns = ("series", "insert", "model", *numbers)
    if entries:
        tables.append(
            Table(
                "Inserts",
                "f50, f10: frequencies at which the TTF falls to 0.5 and 0.1; low, high: 95 % interval "
                "over the slices. centre_shift: distance of the centre, as found, from the given one.",
                columns,
                _rows(entries, columns),
            )
        )
    lines = [{**line, "series": names[line["series"]]} for line in _entries(evaluation, "hu_linearity")]
    if lines:
        text = "Least-squares line of measured against nominal HU, and the largest deviation from it."
        tables.append(Table("HU linearity", text, list(lines[0]), [list(line.values()) for line in lines]))
    return tables


def _entries(evaluation: Evaluation, key: str) -> list[dict[str, Any]]:
    found = evaluation.extra.get(key, [])
    return found if isinstance(found, list) else []


def _rows(entries: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[list[Any]]:
    return [[entry[column] for column in columns] for entry in entries]


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]

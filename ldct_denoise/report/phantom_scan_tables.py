"""Tables and charts of a scanned phantom's report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ldct_denoise.evaluation.phantom_quality import PhantomQuality, lesion_name
from ldct_denoise.evaluation.phantom_scan import PhantomStudy
from ldct_denoise.metrics.sharpness import TaskTransfer
from ldct_denoise.metrics.unpaired_noise import RING_PER_MM
from ldct_denoise.report.charts import Curve, line_chart
from ldct_denoise.report.curve_styles import LIGHT, CurveStyle, curve_styles
from ldct_denoise.report.numbers import significant
from ldct_denoise.report.page import ChartSection, Table

#: Most doses that are listed.
MAX_LISTED = 3


def section_images(study: PhantomStudy, number: int) -> dict[str, PhantomQuality]:
    """Image quality of a section by image: ``input``, and ``output`` where it was denoised."""
    found = {"input": study.unprocessed[number]}
    return {**found, "output": study.denoised[number]} if study.denoised else found


def measured_values(quality: PhantomQuality) -> Iterator[tuple[str, str, float]]:
    """Region, metric and value of every measurement."""
    yield "uniform", "noise_hu", quality.noise_hu
    yield "uniform", "mean_frequency_per_mm", quality.mean_frequency_per_mm
    yield "uniform", "hu_mean", quality.mean_hu
    yield "uniform", "uniformity_hu", quality.uniformity_hu
    for name, insert in quality.inserts.items():
        yield name, "hu_mean", insert.mean_hu
        yield name, "noise_hu", insert.noise_hu
        if insert.transfer is not None:
            low, high = insert.transfer.frequency_interval(0.5)
            yield name, "contrast_hu", insert.transfer.contrast_hu
            yield name, "f50_per_mm", insert.transfer.frequency_at(0.5)
            yield name, "f50_low_per_mm", low
            yield name, "f50_high_per_mm", high
            yield name, "f10_per_mm", insert.transfer.frequency_at(0.1)
    if quality.linearity is not None:
        yield "inserts", "linearity_slope", quality.linearity.slope
        yield "inserts", "linearity_deviation_hu", quality.linearity.largest_deviation_hu
    if np.isfinite(quality.contrast_hu):
        yield "low contrast", "contrast_hu", quality.contrast_hu
        yield "low contrast", "cnr", quality.cnr
    for lesion, found in quality.detectability.items():
        yield f"lesion {lesion_name(lesion)}", "d_prime", found.d_prime
        yield f"lesion {lesion_name(lesion)}", "d_prime_low", found.low
        yield f"lesion {lesion_name(lesion)}", "d_prime_high", found.high


def phantom_tables(study: PhantomStudy) -> list[Table]:
    """Noise, inserts and detectability of every section, before and after."""
    rows: dict[str, list[list[object]]] = {"noise": [], "inserts": [], "lesions": []}
    for number, section in enumerate(study.sections):
        nominal = {}
        if section.location is not None:
            nominal = {insert.name: insert.nominal_hu for insert in section.location.phantom.inserts}
        for image, quality in section_images(study, number).items():
            start = [dose_label(study, number), image]
            cnr = f"{quality.contrast_hu:.1f} / {quality.cnr:.2f}" if np.isfinite(quality.cnr) else None
            rows["noise"].append(
                [*start, noise_text(quality), quality.mean_frequency_per_mm, quality.mean_hu,
                 quality.uniformity_hu, cnr]
            )  # fmt: skip
            for name, insert in quality.inserts.items():
                rows["inserts"].append([*start, name, nominal[name], insert.mean_hu, _f50_text(insert.transfer)])
            for lesion, found in quality.detectability.items():
                equal = None
                if image == "output" and study.equivalence:
                    equal = _equivalence_text(study, number, lesion_name(lesion))
                d_prime = f"{found.d_prime:.2f} ({found.low:.2f} to {found.high:.2f})"
                rows["lesions"].append([*start, lesion_name(lesion), d_prime, equal])
    tables = [
        Table("Noise, uniformity and low contrast", "", ("dose", "image", "noise, HU", "mean frequency, 1/mm",
              "mean, HU", "uniformity, HU", "contrast, HU / CNR"), rows["noise"]),
        Table("Inserts", "HU and resolution by material.", ("dose", "image", "insert", "nominal, HU", "mean, HU",
              "f50, 1/mm"), rows["inserts"]),
        Table("Detectability", "Lesions that are added to the uniform module.", ("dose", "image", "lesion", "d′",
              f"equivalent dose, {study.dose_unit}"), rows["lesions"]),
    ]  # fmt: skip
    return [_filled(table) for table in tables if table.rows]


def _filled(table: Table) -> Table:
    """The table without columns that have no value."""
    kept = [column for column, cells in enumerate(zip(*table.rows, strict=True)) if set(cells) != {None}]
    rows = [[row[column] for column in kept] for row in table.rows]
    return replace(table, columns=[table.columns[column] for column in kept], rows=rows)


def phantom_charts(study: PhantomStudy) -> list[ChartSection]:
    """Noise power spectra, task transfer functions, and noise and detectability by dose."""
    labels = "frequency, 1/mm", "NPS, HU²·mm²", "noise power spectrum"
    spectra = noise_spectra(study)
    found = [ChartSection("Noise", "", [line_chart(spectra, *labels, log_y=True, styles=image_styles(spectra))])]
    transfers = transfer_curves(study)
    if transfers:
        labels = "frequency, 1/mm", "TTF", "task transfer function by insert"
        chart = line_chart(transfers, *labels, styles=image_styles(transfers))
        found.append(ChartSection("Resolution", f"Scan at {dose_label(study, 0)}.", [chart]))
    if not study.no_equivalence:
        found.append(_dose_charts(study))
    return found


def noise_spectra(study: PhantomStudy) -> dict[str, Curve]:
    """Radial noise power spectrum of every image; the name alone where there is one section."""
    found: dict[str, Curve] = {}
    for number in range(len(study.sections)):
        for image, quality in section_images(study, number).items():
            radial = quality.spectrum.radial(RING_PER_MM)
            name = image if len(study.sections) == 1 else f"{image}, {dose_label(study, number)}"
            found[name] = list(radial.frequency), list(radial.power)
    return found


def transfer_curves(study: PhantomStudy) -> dict[str, Curve]:
    """Task transfer functions at the lowest dose, up to the Nyquist frequency.

    At most three inserts that have one in every image: of the strongest, a middle and the weakest contrast.
    """
    images = section_images(study, 0)
    contrasts = {
        name: abs(insert.transfer.contrast_hu)
        for name, insert in images["input"].inserts.items()
        if insert.transfer is not None and all(one.inserts[name].transfer for one in images.values())
    }
    ordered = sorted(contrasts, key=lambda name: -contrasts[name])
    shown = {ordered[place] for place in (0, len(ordered) // 2, -1)} if ordered else set()
    nyquist = 1 / (2 * max(study.sections[0].source.geometry.pixel_spacing_mm))
    found: dict[str, Curve] = {}
    for image, quality in images.items():
        for name, insert in quality.inserts.items():
            if name in shown and insert.transfer is not None:
                kept = insert.transfer.frequency < nyquist
                curve = list(insert.transfer.frequency[kept]), list(insert.transfer.value[kept])
                found[f"{image}, {name}"] = curve
    return found


def image_styles(names: Iterable[str]) -> dict[str, CurveStyle]:
    """Styles of curves: input and output of one dose, insert or lesion share a colour; the input is dashed."""
    parts = {name: name.partition(", ") for name in names}
    things = list(dict.fromkeys(thing for _, _, thing in parts.values() if thing))
    roles = curve_styles(("input", "output"))
    return {
        name: CurveStyle(things.index(thing) % len(LIGHT), roles[image].dash) if thing else roles[image]
        for name, (image, _, thing) in parts.items()
    }


def d_prime_by_dose(study: PhantomStudy) -> dict[str, Curve]:
    """d′ of every lesion over the dose, before and after."""
    images = {"input": study.unprocessed, "output": study.denoised}
    return {
        f"{name}, {lesion_name(lesion)}": (
            list(study.doses),
            [one.detectability[lesion].d_prime for one in found],
        )
        for name, found in images.items()
        if found
        for lesion in found[0].detectability
    }


def noise_by_dose(study: PhantomStudy) -> dict[str, Curve]:
    """Noise of all sections over their dose, before and after."""
    images = {"input": study.unprocessed, "output": study.denoised}
    return {name: (list(study.doses), [one.noise_hu for one in found]) for name, found in images.items() if found}


def _dose_charts(study: PhantomStudy) -> ChartSection:
    d_prime = d_prime_by_dose(study)
    label = f"dose, {study.dose_unit}"
    charts = [
        line_chart(noise_by_dose(study), label, "noise, HU", "noise by dose", dots=True),
        line_chart(d_prime, label, "d′", "detectability by dose", dots=True, styles=image_styles(d_prime)),
    ]
    return ChartSection("Dose", "", charts)


def dose_label(study: PhantomStudy, number: int) -> str:
    """Dose of a section, or its name where the dose is not known."""
    dose = study.doses[number]
    return f"{dose:.3g} {study.dose_unit}" if np.isfinite(dose) else study.sections[number].name


def dose_labels(study: PhantomStudy) -> str:
    """Doses of all sections, or the names of those whose dose is not known; more than three as a range."""
    if not np.isfinite(study.doses).all():
        return ", ".join(dose_label(study, number) for number in range(len(study.sections)))
    values = [f"{dose:.3g}" for dose in study.doses]
    if len(values) > MAX_LISTED:
        return f"{values[0]} to {values[-1]} {study.dose_unit}"
    return f"{', '.join(values)} {study.dose_unit}"


def noise_text(quality: PhantomQuality) -> str:
    """Noise and its interval in words."""
    low, high = quality.noise_interval_hu
    return f"{quality.noise_hu:.1f} HU" + (f" ({low:.1f} to {high:.1f})" if np.isfinite(low) else "")


def _f50_text(transfer: TaskTransfer | None) -> str | None:
    if transfer is None:
        return None
    low, high = transfer.frequency_interval(0.5)
    value = f"{transfer.frequency_at(0.5):.2f}"
    return f"{value} ({low:.2f} to {high:.2f})" if np.isfinite(low) else value


def equivalence_sentence(study: PhantomStudy, number: int) -> str:
    """Dose equivalence of a denoised section, by d′ of each lesion and by noise alone."""
    by_lesion = [
        f"{_equivalence_text(study, number, name)} for {name}"
        for name in map(lesion_name, study.denoised[number].detectability)
    ]
    return (
        f"Dose equivalence of the scan denoised at {dose_label(study, number)}, in {study.dose_unit}: by d′ "
        f"{'; '.join(by_lesion)}; by noise alone {_equivalence_text(study, number, 'noise')}."
    )


def _equivalence_text(study: PhantomStudy, number: int, name: str) -> str:
    """An equivalent dose and its interval in words; outside the measured doses, on which side."""
    equal = study.equivalence[number][name]
    if np.isfinite(equal.dose):
        limits = [f"{limit:.3g}" if np.isfinite(limit) else "beyond" for limit in (equal.low, equal.high)]
        return f"{equal.dose:.3g} ({limits[0]} to {limits[1]})"
    value, measured = (
        [_compared(one, name) for one in qualities] for qualities in ([study.denoised[number]], study.unprocessed)
    )
    if value[0] >= max(measured):
        return f"above {max(study.doses):.3g}"
    return f"below {min(study.doses):.3g}" if value[0] <= min(measured) else "outside the measured doses"


def _compared(quality: PhantomQuality, name: str) -> float:
    """What rises with dose: d′ of a lesion, or 1/noise."""
    found = {lesion_name(lesion): one.d_prime for lesion, one in quality.detectability.items()}
    return quality.noise.d_prime if name == "noise" else found[name]


def table_lines(tables: Sequence[Table]) -> list[str]:
    """Tables as text, in columns of equal width."""
    return [line for table in tables for line in (table.title, *_columns(table), "")]


def _columns(table: Table) -> list[str]:
    cells = [
        ["–" if value is None else significant(value) if isinstance(value, float) else str(value) for value in row]
        for row in (table.columns, *table.rows)
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]

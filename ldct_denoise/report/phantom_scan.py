"""Evidence sheet of a scanned phantom: HTML, PDF, CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ldct_denoise import __version__
from ldct_denoise.evaluation.phantom_quality import MIN_TOTAL_CNR
from ldct_denoise.evaluation.phantom_scan import PhantomStudy
from ldct_denoise.evaluation.phantom_sections import phantom_title
from ldct_denoise.evaluation.tables import Entry, finite_or_none
from ldct_denoise.metrics.checks import Check, signed
from ldct_denoise.metrics.unpaired_noise import RING_PER_MM
from ldct_denoise.output import atomic_write, make_output_folder
from ldct_denoise.report.identity import NO_SIGNATURE, Identity, Signature, model_facts, series_facts
from ldct_denoise.report.page import Page, write_page
from ldct_denoise.report.pdf_page import write_pdf
from ldct_denoise.report.phantom_checks import BeforeAfter, phantom_checks
from ldct_denoise.report.phantom_scan_pdf import MODULES, sheet_figures
from ldct_denoise.report.phantom_scan_tables import (
    dose_label,
    dose_labels,
    equivalence_sentence,
    measured_values,
    noise_text,
    phantom_charts,
    phantom_tables,
    section_images,
)
from ldct_denoise.report.pictures import slice_view
from ldct_denoise.report.verdict import answer

COLUMNS = ("section", "dose", "dose_unit", "image", "region", "metric", "value")
DEFINITIONS = (
    ("section", "the slices of one scan, or in a uniform phantom of one tube current of a scan."),
    ("dose", "mean tube current of the uniform slices times rotation time over pitch, from the headers."),
    ("noise, NPS", "ROIs of 24 mm on a grid over the uniform module, second-order trend removed; NPS = "
     "dx·dy/(Nx·Ny)·mean |DFT|², HU²·mm²."),
    ("uniformity", "largest deviation of an ROI's mean from that of the central one, over all slices, HU."),
    ("TTF, f50", "task transfer function from the edge of an insert in the mean of the module's slices; f50 is "
     "the frequency at which it falls to 0.5. Reported if contrast / noise × √slices is at least "
     f"{MIN_TOTAL_CNR:g}."),
    ("CNR", "contrast of the largest low-contrast target to its background, over the standard deviation in it."),
    ("d′", "non-prewhitening observer with eye filter. Lesions are added to the uniform slices before the "
     "denoiser; its images with and without them are scored by the template of the ideal lesion."),
    ("equivalent dose", "dose at which a power law through the unprocessed scans reaches the noise, or the d′, of "
     "the denoised scan. Equal noise is not equal image quality: read d′ and NPS with it."),
    ("interval", "95 %, by a bootstrap over slices, widened for the correlation of neighbouring slices. Nothing "
     "is extrapolated beyond the measured doses."),
)  # fmt: skip


def write_phantom_report(
    study: PhantomStudy,
    output: Path,
    model: Mapping[str, object],
    *,
    signature: Signature = NO_SIGNATURE,
    overwrite: bool = False,
) -> None:
    """Write ``report.html``, ``summary.pdf``, ``metrics.csv`` and ``summary.json`` into a folder.

    Parameters
    ----------
    study : PhantomStudy
    output : Path
        Created if it does not exist.
    model : mapping
        Name, method, checksum and strength of the model; empty without one.
    signature : Signature
        Author and site.
    overwrite : bool
        Write into a folder that is not empty.

    Raises
    ------
    OutputError
        If the folder is not empty and ``overwrite`` is not given.
    """
    make_output_folder(output, overwrite)
    text = json.dumps(phantom_summary(study, model), indent=1, allow_nan=False)
    atomic_write(output / "summary.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    atomic_write(output / "metrics.csv", lambda path: _write_csv(study, path))
    identity, checks = _identity(study, model, signature), scan_checks(study)
    sentences, tables = phantom_sentences(study), phantom_tables(study)
    first = f"{answer(checks)} {sentences[0]}" if checks else sentences[0]
    spacing_mm = study.sections[0].source.geometry.pixel_spacing_mm
    page = Page(
        title=identity.title,
        identity=identity.rows,
        sentences=[first, *sentences[1:]],
        checks=checks,
        slice_views=[
            slice_view(name, example, {}, spacing_mm)
            for name, example in zip(MODULES, study.examples, strict=False)
        ],
        picture_note=f"One slice of each module at {dose_label(study, 0)}.",
        charts=phantom_charts(study),
        tables=tables,
        definitions=DEFINITIONS,
    )
    write_page(page, output / "report.html")
    write_pdf(sheet_figures(study, identity, first, checks, sentences), output / "summary.pdf", identity)


def scan_checks(study: PhantomStudy) -> list[Check]:
    """Checks of the denoiser: of each kind that of the dose with the worst result; none without a denoiser."""
    order = ("green", "amber", "red")
    worst: dict[str, Check] = {}
    for number, (raw, ours) in enumerate(zip(study.unprocessed, study.denoised, strict=False)):
        pairs = {name: (raw.inserts[name], ours.inserts[name]) for name in ours.inserts}
        transfers = [(one.transfer, two.transfer) for one, two in pairs.values() if one.transfer and two.transfer]
        dose = dose_label(study, number)
        for check in phantom_checks(
            BeforeAfter(
                dose,
                (raw.noise_hu, ours.noise_hu),
                (raw.mean_frequency_per_mm, ours.mean_frequency_per_mm),
                (raw.mean_hu, ours.mean_hu),
                {
                    one.contrast_hu: (one.frequency_at(0.5), two.frequency_at(0.5))
                    for one, two in transfers
                    if one and two
                },
                [(raw.detectability[lesion], ours.detectability[lesion]) for lesion in ours.detectability],
                {name: (one.mean_hu, two.mean_hu) for name, (one, two) in pairs.items()},
            )
        ):
            known = worst.get(check.name)
            if known is None or _badness(check, order) > _badness(known, order):
                worst[check.name] = replace(check, reason=f"{dose}: {check.reason}")
    return list(worst.values())


def _badness(check: Check, order: Sequence[str]) -> tuple[int, float]:
    """Status, then how far the value is on the bad side of its kind."""
    value = abs(check.value) if check.name in ("mean HU", "HU linearity") else -check.value
    return order.index(check.status), check.value if check.name == "noise" else value


def _identity(study: PhantomStudy, model: Mapping[str, object], signature: Signature) -> Identity:
    sources = list({section.source.uid: section.source for section in study.sections}.values())
    location = study.sections[0].location
    placed = ""
    if location is not None:
        placed = f", roll {location.roll_deg:.1f}°" + (", scanned from its other end" * location.is_mirrored)
    doses = dose_labels(study)
    title = phantom_title(study.sections[0])
    facts = [("phantom", f"{title}{placed}"), *series_facts(sources), ("dose", doses)]
    name, amount = str(model.get("model", "")), str(model.get("strength", ""))
    if model:
        facts += model_facts(name, str(model.get("checksum") or ""), amount)
    subject = ", ".join(part for part in (name, amount, title, doses) if part)
    return Identity("Image quality on a phantom", subject, facts, signature)


def phantom_sentences(study: PhantomStudy) -> list[str]:
    """Summary in words; with a denoiser, dose equivalence comes first, the lowest dose before the others."""
    found = []
    if study.equivalence:
        found += [equivalence_sentence(study, number) for number in range(len(study.sections))]
    elif study.denoised:
        found.append(f"No dose equivalence: {study.no_equivalence}.")
    for number, raw in enumerate(study.unprocessed):
        dose = dose_label(study, number)
        if not study.denoised:
            found.append(
                f"{dose}: noise {noise_text(raw)}, mean frequency {raw.mean_frequency_per_mm:.2f} /mm; "
                f"uniformity {raw.uniformity_hu:.1f} HU."
            )
            continue
        ours = study.denoised[number]
        found.append(
            f"{dose}: noise {noise_text(raw)} → {noise_text(ours)}; mean frequency "
            f"{raw.mean_frequency_per_mm:.2f} → {ours.mean_frequency_per_mm:.2f} /mm; mean HU "
            f"{signed(ours.mean_hu - raw.mean_hu, 2)}; uniformity {raw.uniformity_hu:.1f} → "
            f"{ours.uniformity_hu:.1f} HU."
        )
    return found


def phantom_summary(study: PhantomStudy, model: Mapping[str, object]) -> Entry:
    """All measurements, as written to ``summary.json``.

    Parameters
    ----------
    study : PhantomStudy
    model : mapping
        Name, method and checksum of the model; empty without one.

    Returns
    -------
    dict
    """
    checks = scan_checks(study)
    return {
        "software": f"ldct-denoise {__version__}",
        "phantom": phantom_title(study.sections[0]),
        "answer": answer(checks) if checks else "",
        "checks": [{"name": check.name, "status": check.status, "reason": check.reason} for check in checks],
        "model": dict(model),
        "dose_unit": study.dose_unit,
        "sections": [_section_entry(study, number) for number in range(len(study.sections))],
        "no_equivalence": study.no_equivalence,
    }


def _section_entry(study: PhantomStudy, number: int) -> Entry:
    section = study.sections[number]
    location = section.location
    entry: Entry = {
        "section": section.name,
        "dose": finite_or_none(study.doses[number]),
        "diameter_mm": section.diameter_mm,
        "uniform_slices": len(section.uniform),
        "rois": len(section.rois),
        "location": None
        if location is None
        else {
            "origin_mm": location.origin_mm,
            "centre_px": list(location.centre_px(location.origin_mm)),
            "roll_deg": location.roll_deg,
            "is_mirrored": location.is_mirrored,
            "correlation": location.correlation,
        },
        "images": {
            name: {
                "noise_ci95_hu": [finite_or_none(limit) for limit in quality.noise_interval_hu],
                "slice_correlation": quality.slice_correlation,
                "frequency_per_mm": quality.spectrum.radial(RING_PER_MM).frequency.tolist(),
                "nps_hu2_mm2": quality.spectrum.radial(RING_PER_MM).power.tolist(),
                "measurements": [
                    {"region": region, "metric": metric, "value": finite_or_none(value)}
                    for region, metric, value in measured_values(quality)
                ],
            }
            for name, quality in section_images(study, number).items()
        },
    }
    if study.equivalence:
        entry["equivalent_dose"] = {
            name: {key: finite_or_none(getattr(equal, key)) for key in ("dose", "low", "high")}
            for name, equal in study.equivalence[number].items()
        }
    return entry


def _write_csv(study: PhantomStudy, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, section in enumerate(study.sections):
            dose = finite_or_none(study.doses[number])
            start = [section.name, "" if dose is None else f"{dose:.6g}", study.dose_unit]
            for image, quality in section_images(study, number).items():
                for region, metric, value in measured_values(quality):
                    writer.writerow([*start, image, region, metric, f"{value:.7g}"])

"""Report of a denoiser's image quality on the simulated phantom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ldct_denoise import __version__
from ldct_denoise.evaluation.along_z import AlongZ
from ldct_denoise.evaluation.contrast_recovery import SeriesRecovery
from ldct_denoise.evaluation.image_quality import OBSERVERS, ImageQualityStudy, PhantomMeasurements
from ldct_denoise.evaluation.tables import Entry, finite_or_none
from ldct_denoise.metrics.dose_equivalence import DoseEquivalence
from ldct_denoise.metrics.noise import noise_reduction_profile
from ldct_denoise.metrics.sharpness import TaskTransfer
from ldct_denoise.metrics.texture import mean_noise_frequency
from ldct_denoise.output import atomic_write, make_output_folder
from ldct_denoise.phantoms.tasks import SPACING_MM
from ldct_denoise.report.along_z import DEFINITIONS as Z_DEFINITIONS
from ldct_denoise.report.along_z import along_z_charts, along_z_entries, along_z_sentences, along_z_tables
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.contrast_recovery import DEFINITION as RECOVERY_DEFINITION
from ldct_denoise.report.contrast_recovery import (
    recovery_charts,
    recovery_entries,
    recovery_sentences,
    recovery_table,
)
from ldct_denoise.report.curve_styles import curve_styles
from ldct_denoise.report.identity import NO_SIGNATURE, Identity, Signature, model_facts
from ldct_denoise.report.noise_resolution import spectrum_ratios
from ldct_denoise.report.page import ChartSection, Page, Table, write_page
from ldct_denoise.report.pictures import slice_view
from ldct_denoise.report.verdict import answer, study_checks

DEFINITIONS = (
    ("phantom", "a simulated disk of 50 HU with four rods; every slice has independent noise with the spectrum of "
     "one kernel. A network trained on patients may behave differently in a phantom than in a patient."),
    ("noise power spectrum", "dx·dy/(Nx·Ny)·mean |DFT|² of uniform ROIs, second-order trend removed, HU²·mm²."),
    ("TTF", "task transfer function from the edge of a rod in the mean of all realisations; f50 is the frequency "
     "at which it falls to 0.5. A denoiser is not linear: the curve is valid for its contrast only."),
    ("d′", "distance between the means of an observer's scores with and without the lesion, in standard "
     "deviations. Scored on the images themselves, in pairs with the same noise; the area under the ROC curve is "
     "Φ(d′/√2). NPWE: template of the ideal lesion with the eye filter of Saunders & Samei 2006. Gabor CHO: "
     "channelised Hotelling observer with internal noise. CHO: Laguerre–Gauss channels without internal noise, "
     "what an ideal linear observer can see. Both are trained on all realisations but the one that they score."),
    ("dose equivalence", "a power law is fitted to d′ of the unprocessed images; the equivalent dose is where "
     "they reach the d′ of the denoised images. 95 % intervals by a bootstrap over realisations. Nothing is "
     "extrapolated beyond the measured doses."),
)  # fmt: skip


def write_image_quality_report(
    study: ImageQualityStudy,
    output: Path,
    model: Mapping[str, object],
    recovery: Sequence[SeriesRecovery] = (),
    along_z: Sequence[AlongZ] = (),
    *,
    signature: Signature = NO_SIGNATURE,
    overwrite: bool = False,
) -> None:
    """Write ``summary.json`` and ``report.html`` into a folder.

    Parameters
    ----------
    study : ImageQualityStudy
    output : Path
        Created if it does not exist.
    model : mapping
        Name, method, checksum and strength of the model.
    recovery : sequence of SeriesRecovery
        Contrast recovery in the user's own images, if it was measured.
    along_z : sequence of AlongZ
        Noise and resolution along z in the user's own images.
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
    text = json.dumps(summary(study, model, recovery, along_z), indent=1, allow_nan=False)
    atomic_write(output / "summary.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    settings = study.settings
    checks = study_checks(study)
    identity = _identity(study, model, signature)
    page = Page(
        title=identity.title,
        identity=identity.rows,
        sentences=[answer(checks), *sentences(study), *recovery_sentences(recovery), *along_z_sentences(along_z)],
        checks=checks,
        notes=[f"{settings.realisations} realisations of the noise, 8 ROIs in each; seed {settings.seed}."],
        slice_views=[slice_view("rods", study.example, {}, (SPACING_MM, SPACING_MM))],
        picture_note="One realisation of the rods.",
        charts=[
            _noise_charts(study),
            _transfer_charts(study),
            _dose_charts(study),
            *([recovery_charts(recovery)] if recovery else []),
            *([along_z_charts(along_z)] if along_z else []),
        ],
        tables=[
            _detectability_table(study),
            *([recovery_table(recovery)] if recovery else []),
            *along_z_tables(along_z),
            _rod_table(study),
        ],
        definitions=(
            *DEFINITIONS,
            *((RECOVERY_DEFINITION,) if recovery else ()),
            *(Z_DEFINITIONS if along_z else ()),
        ),
    )
    write_page(page, output / "report.html")


def _identity(study: ImageQualityStudy, model: Mapping[str, object], signature: Signature) -> Identity:
    settings, name = study.settings, str(model.get("model", "denoiser"))
    amount = str(model.get("strength", ""))
    facts = [
        ("object", f"simulated phantom, one kernel, pixels of {SPACING_MM:g} mm, seed {settings.seed}"),
        ("dose", f"{100 * settings.dose:g} % of normal"),
        *model_facts(name, str(model.get("checksum", "")), amount),
    ]
    subject = ", ".join(part for part in (name, amount, f"{100 * settings.dose:g} % dose") if part)
    return Identity("Image quality on a phantom", subject, facts, signature)


def sentences(study: ImageQualityStudy) -> list[str]:
    """Summary in words."""
    raw, ours = study.unprocessed[study.settings.dose], study.denoised
    noise = [item.noise.variance_hu2**0.5 for item in (raw, ours)]
    frequency = [mean_noise_frequency(item.noise) for item in (raw, ours)]
    sharp = {c: (raw.transfer[c].frequency_at(0.5), ours.transfer[c].frequency_at(0.5)) for c in _contrasts(ours)}
    kept = ", ".join(f"{c:+g} HU {before:.2f} → {after:.2f}" for c, (before, after) in sharp.items())
    percent = 100 * study.settings.dose
    verb = "falls" if noise[1] < noise[0] else "rises"
    return [
        f"At {percent:g} % of the dose the noise {verb} from {noise[0]:.1f} to {noise[1]:.1f} HU; "
        f"its mean frequency changes from {frequency[0]:.2f} to {frequency[1]:.2f} /mm.",
        f"Resolution (f50, 1/mm) by contrast: {kept}.",
        f"Mean HU of the uniform part changes by {ours.body_hu - raw.body_hu:+.2f} HU; HU linearity of the rods: "
        f"slope {ours.linearity.slope:.4f}, largest deviation {ours.linearity.largest_deviation_hu:.1f} HU.",
        *(observer_sentence(study, observer) for observer in OBSERVERS),
    ]


def observer_sentence(study: ImageQualityStudy, observer: str) -> str:
    """Range of the equivalent doses of one observer by background."""
    found: dict[str, list[float]] = {}
    missing = []
    for lesion in study.settings.lesions:
        equal = study.equivalence[lesion, observer].dose
        if np.isfinite(equal):
            found.setdefault(lesion.background, []).append(100 * equal)
        else:
            missing.append(lesion.name)
    ranges = [
        f"{min(doses):.0f}{f' to {max(doses):.0f}' if len(doses) > 1 else ''} % in {background}"
        for background, doses in found.items()
    ]
    if missing:
        ranges.append(f"not within the measured doses for {'; '.join(missing)}")
    dose = f"{100 * study.settings.dose:g} %"
    return f"{observer}: equivalent dose of the images denoised at {dose}: {', '.join(ranges)}."


def dose_text(found: DoseEquivalence) -> str:
    """An equivalent dose and its interval in words."""
    if not np.isfinite(found.dose):
        return "not within the measured doses"
    limits = [f"{100 * limit:.0f}" if np.isfinite(limit) else "beyond" for limit in (found.low, found.high)]
    return f"{100 * found.dose:.0f} % ({limits[0]} to {limits[1]})"


def summary(
    study: ImageQualityStudy,
    model: Mapping[str, object],
    recovery: Sequence[SeriesRecovery] = (),
    along_z: Sequence[AlongZ] = (),
) -> Entry:
    """All measurements, as written to ``summary.json``.

    Parameters
    ----------
    study : ImageQualityStudy
    model : mapping
        Name, method and checksum of the model.
    recovery : sequence of SeriesRecovery
        Contrast recovery in the user's own images.
    along_z : sequence of AlongZ
        Noise and resolution along z in the user's own images.

    Returns
    -------
    dict
    """
    kinds = {f"unprocessed {dose:g}": image for dose, image in study.unprocessed.items()}
    checks = study_checks(study)
    return {
        "software": f"ldct-denoise {__version__}",
        "answer": answer(checks),
        "checks": [{"name": check.name, "status": check.status, "reason": check.reason} for check in checks],
        "model": dict(model),
        "settings": asdict(study.settings),
        "images": {name: _numbers(image) for name, image in {**kinds, "denoised": study.denoised}.items()},
        "dose_equivalence": [
            {**asdict(lesion), "observer": observer, **_finite(asdict(found))}
            for (lesion, observer), found in study.equivalence.items()
        ],
        "contrast_recovery": recovery_entries(recovery),
        "along_z": along_z_entries(along_z),
    }


def _numbers(image: PhantomMeasurements) -> Entry:
    return {
        "noise_hu": finite_or_none(image.noise.variance_hu2**0.5),
        "mean_frequency_per_mm": finite_or_none(mean_noise_frequency(image.noise)),
        "peak_frequency_per_mm": finite_or_none(image.spectrum.peak_frequency),
        "frequency_per_mm": image.spectrum.frequency.tolist(),
        "nps_hu2_mm2": [finite_or_none(value) for value in image.spectrum.power],
        "f50_per_mm": _finite({f"{c:+g} HU": image.transfer[c].frequency_at(0.5) for c in _contrasts(image)}),
        "f50_ci95_per_mm": {
            f"{c:+g} HU": [finite_or_none(limit) for limit in image.transfer[c].frequency_interval(0.5)]
            for c in _contrasts(image)
        },
        "f10_per_mm": _finite({f"{c:+g} HU": image.transfer[c].frequency_at(0.1) for c in _contrasts(image)}),
        "body_hu": finite_or_none(image.body_hu),
        "hu_linearity": _finite(asdict(image.linearity)),
        "detectability": [
            {
                **asdict(lesion),
                "observer": observer,
                **_finite({"d_prime": found.d_prime, "ci95_low": found.low, "ci95_high": found.high}),
                "auc": finite_or_none(found.auc),
                "auc_ci95_low": finite_or_none(found.auc_interval[0]),
                "auc_ci95_high": finite_or_none(found.auc_interval[1]),
            }
            for (lesion, observer), found in image.detectability.items()
        ],
    }


def _finite(values: Mapping[str, float]) -> Entry:
    return {key: finite_or_none(value) for key, value in values.items()}


def _contrasts(image: PhantomMeasurements) -> list[float]:
    return sorted(image.transfer, key=abs)


def _noise_charts(study: ImageQualityStudy) -> ChartSection:
    raw = study.unprocessed[study.settings.dose].spectrum
    normal_dose = max(study.unprocessed)
    normal_name = f"unprocessed, {100 * normal_dose:g} % dose"
    curves = {
        "unprocessed": raw,
        "denoised": study.denoised.spectrum,
        normal_name: study.unprocessed[normal_dose].spectrum,
    }
    profile = noise_reduction_profile(raw, study.denoised.spectrum)
    spectra = {name: (list(item.frequency), list(item.power)) for name, item in curves.items()}
    styles = curve_styles(spectra) | {normal_name: curve_styles(["reference"])["reference"]}
    labels, title = ("frequency, 1/mm", "NPS, HU²·mm²"), "noise power spectrum"
    charts = [line_chart(spectra, *labels, title, log_y=True, styles=styles)]
    ratios, title = spectrum_ratios(spectra, normal_name), f"noise power relative to {normal_name}"
    charts.append(line_chart(ratios, labels[0], "NPS ratio", title, log_y=True, styles=styles))
    reduction = {"denoised": (list(profile.frequency), list(profile.power))}
    charts.append(line_chart(reduction, labels[0], "dB", "noise reduction profile", styles=styles))
    return ChartSection("Noise", "From uniform ROIs.", charts)


def _transfer_charts(study: ImageQualityStudy) -> ChartSection:
    raw = study.unprocessed[study.settings.dose]
    strongest = _contrasts(raw)[-1]
    shown = {f"unprocessed, {strongest:+g} HU": raw.transfer[strongest]}
    shown |= {f"denoised, {c:+g} HU": study.denoised.transfer[c] for c in _contrasts(study.denoised)}
    curves = {}
    for name, found in shown.items():
        kept = found.frequency < 1 / (2 * SPACING_MM)
        curves[name] = (list(found.frequency[kept]), list(found.value[kept]))
    chart = line_chart(curves, "frequency, 1/mm", "TTF", "task transfer function by contrast")
    return ChartSection("Resolution", "From the edges of the rods, mean of all realisations.", [chart])


def _dose_charts(study: ImageQualityStudy) -> ChartSection:
    """One chart for each observer: d′ by dose for every lesion, and the denoised images at the equivalent dose."""
    doses = sorted(study.unprocessed)
    percent = [100 * dose for dose in doses]
    charts = []
    for observer in OBSERVERS:
        curves = {}
        for lesion in study.settings.lesions:
            task = lesion, observer
            curves[lesion.name] = (
                percent,
                [study.unprocessed[dose].detectability[task].d_prime for dose in doses],
            )
        ours = [study.denoised.detectability[lesion, observer].d_prime for lesion in study.settings.lesions]
        curves["denoised (all lesions)"] = ([100 * study.settings.dose] * len(ours), sorted(ours))
        charts.append(
            line_chart(curves, "dose, % of normal", "d′", f"{observer}: unprocessed, by lesion", dots=True)
        )
    return ChartSection("Detectability", "Detectability by dose, lesion and observer.", charts)


def _detectability_table(study: ImageQualityStudy) -> Table:
    rows: list[list[object]] = []
    raw, ours = study.unprocessed[study.settings.dose], study.denoised
    for (lesion, observer), found in ours.detectability.items():
        before = raw.detectability[lesion, observer]
        equal = study.equivalence[lesion, observer]
        cells = [f"{one.d_prime:.2f} ({one.low:.2f} to {one.high:.2f})" for one in (before, found)]
        areas = [f"{one.auc:.3f}" for one in (before, found)]
        place = [lesion.background, lesion.diameter_mm, lesion.contrast_hu, observer]
        rows.append([*place, cells[0], areas[0], cells[1], areas[1], dose_text(equal)])
    columns = (
        "background", "diameter, mm", "contrast, HU", "observer", "d′ unprocessed", "AUC unprocessed",
        "d′ denoised", "AUC denoised", "equivalent dose",
    )  # fmt: skip
    text = f"At {100 * study.settings.dose:g} % of the dose, with 95 % intervals."
    return Table("Detectability", text, columns, rows)


def _rod_table(study: ImageQualityStudy) -> Table:
    kinds = {"unprocessed": study.unprocessed[study.settings.dose], "denoised": study.denoised}
    rows = [
        [
            contrast,
            name,
            image.rod_hu[contrast],
            _with_interval(image.transfer[contrast], 0.5),
            image.transfer[contrast].frequency_at(0.1),
        ]
        for contrast in _contrasts(study.denoised)
        for name, image in kinds.items()
    ]
    columns = ("contrast, HU", "image", "mean, HU", "f50, 1/mm", "f10, 1/mm")
    return Table("Rods", "The body has 50 HU.", columns, rows)


def _with_interval(transfer: TaskTransfer, level: float) -> str:
    low, high = transfer.frequency_interval(level)
    value = f"{transfer.frequency_at(level):.2f}"
    return f"{value} ({low:.2f} to {high:.2f})" if np.isfinite(low) else value

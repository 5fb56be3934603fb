"""Charts and tables of a denoiser's image quality on the simulated phantom."""

from __future__ import annotations

import numpy as np

from ldct_denoise.evaluation.image_quality import OBSERVERS, ImageQualityStudy, PhantomMeasurements
from ldct_denoise.metrics.dose_equivalence import DoseEquivalence
from ldct_denoise.metrics.noise import noise_reduction_profile
from ldct_denoise.metrics.sharpness import TaskTransfer
from ldct_denoise.phantoms.tasks import SPACING_MM
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.curve_styles import curve_styles
from ldct_denoise.report.noise_resolution import spectrum_ratios
from ldct_denoise.report.page import ChartSection, Table


def contrasts(image: PhantomMeasurements) -> list[float]:
    """Contrasts of the rods, HU; the weakest first."""
    return sorted(image.transfer, key=abs)


def noise_charts(study: ImageQualityStudy) -> ChartSection:
    """Noise power spectra, their ratio to full dose, and the noise reduction profile."""
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


def transfer_charts(study: ImageQualityStudy) -> ChartSection:
    """Task transfer function of every contrast."""
    raw = study.unprocessed[study.settings.dose]
    strongest = contrasts(raw)[-1]
    shown = {f"unprocessed, {strongest:+g} HU": raw.transfer[strongest]}
    shown |= {f"denoised, {c:+g} HU": study.denoised.transfer[c] for c in contrasts(study.denoised)}
    curves = {}
    for name, found in shown.items():
        kept = found.frequency < 1 / (2 * SPACING_MM)
        curves[name] = (list(found.frequency[kept]), list(found.value[kept]))
    styles = curve_styles(shown) | {
        f"unprocessed, {strongest:+g} HU": curve_styles(["unprocessed"])["unprocessed"]
    }
    chart = line_chart(curves, "frequency, 1/mm", "TTF", "task transfer function by contrast", styles=styles)
    return ChartSection("Resolution", "From the edges of the rods, mean of all realisations.", [chart])


def dose_charts(study: ImageQualityStudy) -> ChartSection:
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
        styles = curve_styles(curves) | {"denoised (all lesions)": curve_styles(["denoised"])["denoised"]}
        title = f"{observer}: unprocessed, by lesion"
        charts.append(line_chart(curves, "dose, % of normal", "d′", title, dots=True, styles=styles))
    return ChartSection("Detectability", "Detectability by dose, lesion and observer.", charts)


def detectability_table(study: ImageQualityStudy) -> Table:
    """d′, area under the curve and equivalent dose by lesion and observer."""
    rows: list[list[object]] = []
    raw, ours = study.unprocessed[study.settings.dose], study.denoised
    for (lesion, observer), found in ours.detectability.items():
        before = raw.detectability[lesion, observer]
        equal = study.equivalence[lesion, observer]
        cells = [f"{one.d_prime:.2f} ({one.low:.2f} to {one.high:.2f})" for one in (before, found)]
        areas = [f"{one.auc:.3f}" for one in (before, found)]
        place = [lesion.background, lesion.diameter_mm, lesion.contrast_hu, observer]
        rows.append([*place, cells[0], areas[0], cells[1], areas[1], _dose_words(equal)])
    columns = (
        "background", "diameter, mm", "contrast, HU", "observer", "d′ unprocessed", "AUC unprocessed",
        "d′ denoised", "AUC denoised", "equivalent dose",
    )  # fmt: skip
    text = f"At {100 * study.settings.dose:g} % of the dose, with 95 % intervals."
    return Table("Detectability", text, columns, rows)


def rod_table(study: ImageQualityStudy) -> Table:
    """Mean HU and resolution of every rod."""
    kinds = {"unprocessed": study.unprocessed[study.settings.dose], "denoised": study.denoised}
    rows = [
        [
            contrast,
            name,
            image.rod_hu[contrast],
            _with_interval(image.transfer[contrast], 0.5),
            image.transfer[contrast].frequency_at(0.1),
        ]
        for contrast in contrasts(study.denoised)
        for name, image in kinds.items()
    ]
    columns = ("contrast, HU", "image", "mean, HU", "f50, 1/mm", "f10, 1/mm")
    return Table("Rods", "The body has 50 HU.", columns, rows)


def _with_interval(transfer: TaskTransfer, level: float) -> str:
    low, high = transfer.frequency_interval(level)
    value = f"{transfer.frequency_at(level):.2f}"
    return f"{value} ({low:.2f} to {high:.2f})" if np.isfinite(low) else value


def _dose_words(found: DoseEquivalence) -> str:
    """An equivalent dose and its interval in words."""
    if not np.isfinite(found.dose):
        return "not within the measured doses"
    limits = [f"{100 * limit:.0f}" if np.isfinite(limit) else "beyond" for limit in (found.low, found.high)]
    return f"{100 * found.dose:.0f} % ({limits[0]} to {limits[1]})"

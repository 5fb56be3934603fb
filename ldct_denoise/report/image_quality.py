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
from ldct_denoise.metrics.texture import mean_noise_frequency
from ldct_denoise.output import atomic_write, make_output_folder
from ldct_denoise.phantoms.tasks import SPACING_MM
from ldct_denoise.report.along_z import DEFINITIONS as Z_DEFINITIONS
from ldct_denoise.report.along_z import along_z_charts, along_z_entries, along_z_sentences, along_z_tables
from ldct_denoise.report.contrast_recovery import DEFINITION as RECOVERY_DEFINITION
from ldct_denoise.report.contrast_recovery import (
    recovery_charts,
    recovery_entries,
    recovery_noise_maps,
    recovery_sentences,
    recovery_table,
)
from ldct_denoise.report.identity import NO_SIGNATURE, Identity, Signature, model_facts
from ldct_denoise.report.noise_map import DEFINITION as NOISE_MAP
from ldct_denoise.report.page import STATUS, Page, write_page
from ldct_denoise.report.phantom import (
    contrasts,
    detectability_table,
    dose_charts,
    noise_charts,
    rod_table,
    transfer_charts,
)
from ldct_denoise.report.phantom_checks import study_checks
from ldct_denoise.report.pictures import slice_view
from ldct_denoise.report.verdict import answer

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
            noise_charts(study),
            transfer_charts(study),
            dose_charts(study),
            *([recovery_charts(recovery)] if recovery else []),
            *recovery_noise_maps(recovery),
            *([along_z_charts(along_z)] if along_z else []),
        ],
        tables=[
            detectability_table(study),
            *([recovery_table(recovery)] if recovery else []),
            *along_z_tables(along_z),
            rod_table(study),
        ],
        definitions=(
            STATUS,
            *DEFINITIONS,
            *((RECOVERY_DEFINITION, NOISE_MAP) if recovery else ()),
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
    sharp = {c: (raw.transfer[c].frequency_at(0.5), ours.transfer[c].frequency_at(0.5)) for c in contrasts(ours)}
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
        "f50_per_mm": _finite({f"{c:+g} HU": image.transfer[c].frequency_at(0.5) for c in contrasts(image)}),
        "f50_ci95_per_mm": {
            f"{c:+g} HU": [finite_or_none(limit) for limit in image.transfer[c].frequency_interval(0.5)]
            for c in contrasts(image)
        },
        "f10_per_mm": _finite({f"{c:+g} HU": image.transfer[c].frequency_at(0.1) for c in contrasts(image)}),
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

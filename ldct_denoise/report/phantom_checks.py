"""Checks of a denoiser on a phantom, simulated or scanned, against the unprocessed images of the same dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ldct_denoise.evaluation.image_quality import ImageQualityStudy
from ldct_denoise.metrics.checks import (
    MAX_FREQUENCY_DROP,
    MAX_HU_SHIFT,
    MIN_EDGE_SHARPNESS,
    MIN_LOW_CONTRAST_RESOLUTION,
    Check,
    mean_hu_words,
    signed,
    status_of,
)
from ldct_denoise.metrics.observers import Detectability
from ldct_denoise.metrics.texture import mean_noise_frequency
from ldct_denoise.report.numbers import significant

Pair = tuple[float, float]


@dataclass(frozen=True)
class BeforeAfter:
    """Image quality before and after a denoiser, as pairs.

    Parameters
    ----------
    dose : str
        Dose of the images, in words.
    noise_hu, mean_frequency_per_mm, mean_hu : tuple of 2 floats
        Of the uniform part.
    f50_per_mm : mapping from contrast (HU) to tuple of 2 floats
        Resolution; NaN where it was not reached.
    detectability : sequence of (Detectability, Detectability)
        d′ of the NPWE observer for each lesion.
    insert_hu : mapping from str to tuple of 2 floats
        Mean HU of the inserts, if they are checked.
    """

    dose: str
    noise_hu: Pair
    mean_frequency_per_mm: Pair
    mean_hu: Pair
    f50_per_mm: Mapping[float, Pair]
    detectability: Sequence[tuple[Detectability, Detectability]]
    insert_hu: Mapping[str, Pair] = field(default_factory=dict)


def study_checks(study: ImageQualityStudy) -> list[Check]:
    """Checks of a denoiser on the simulated phantom."""
    raw, ours = study.unprocessed[study.settings.dose], study.denoised
    tasks = [task for task in ours.detectability if task[1] == "NPWE"]
    return phantom_checks(
        BeforeAfter(
            f"{100 * study.settings.dose:g} % dose",
            (raw.noise.variance_hu2**0.5, ours.noise.variance_hu2**0.5),
            (mean_noise_frequency(raw.noise), mean_noise_frequency(ours.noise)),
            (raw.body_hu, ours.body_hu),
            {c: (raw.transfer[c].frequency_at(0.5), ours.transfer[c].frequency_at(0.5)) for c in ours.transfer},
            [(raw.detectability[task], ours.detectability[task]) for task in tasks],
        )
    )


def phantom_checks(found: BeforeAfter) -> list[Check]:
    """Checks of what was measured; those that have values.

    Parameters
    ----------
    found : BeforeAfter

    Returns
    -------
    list of Check
    """
    noise = found.noise_hu
    change = noise[1] / noise[0] - 1
    numbers = f"noise {significant(noise[0])} → {significant(noise[1])} HU"
    short = f"noise {signed(100 * change)} % at {found.dose}"
    checks = [Check("noise", "red" if change > 0 else "green", numbers, change, short)]
    shift_hu = found.mean_hu[1] - found.mean_hu[0]
    reason = f"mean HU of the uniform part {signed(shift_hu, 2)} HU"
    checks.append(
        Check("mean HU", status_of(abs(shift_hu), MAX_HU_SHIFT), reason, shift_hu, mean_hu_words(shift_hu))
    )
    frequency = found.mean_frequency_per_mm[1] / found.mean_frequency_per_mm[0] - 1
    if np.isfinite(frequency):
        status = status_of(-frequency, MAX_FREQUENCY_DROP)
        limit = f"limit −{100 * MAX_FREQUENCY_DROP[0]:.0f} %"
        words = f"mean noise frequency {signed(100 * frequency, 1)} % against the input"
        checks.append(Check("noise texture", status, f"{words}; {limit}", frequency, f"{words} ({limit})"))
    return [
        *checks,
        *_resolution(found.f50_per_mm),
        *_insert_hu(found.insert_hu),
        *_detectability(found.detectability),
    ]


def _insert_hu(insert_hu: Mapping[str, Pair]) -> list[Check]:
    """Largest shift of an insert's mean HU."""
    if not insert_hu:
        return []
    shifts = {name: after - before for name, (before, after) in insert_hu.items()}
    worst = max(shifts, key=lambda name: abs(shifts[name]))
    words = f"mean HU of the inserts shifted by at most {signed(shifts[worst], 1)} HU ({worst})"
    limit = f"limit ±{MAX_HU_SHIFT[0]:g} HU"
    status = status_of(abs(shifts[worst]), MAX_HU_SHIFT)
    return [Check("HU linearity", status, f"{words}; {limit}", shifts[worst], f"{words} ({limit})")]


def _resolution(f50_per_mm: Mapping[float, Pair]) -> list[Check]:
    """Ratio of f50 after and before: at the strongest contrast, and the smallest one at the others."""
    ratios = {contrast: after / before for contrast, (before, after) in f50_per_mm.items()}
    if not ratios:
        return []
    known = {contrast: ratio for contrast, ratio in ratios.items() if np.isfinite(ratio)}
    strongest = max(ratios, key=abs)
    weaker = sorted((ratio, contrast) for contrast, ratio in known.items() if contrast != strongest)
    found = [("resolution", *weaker[0], MIN_LOW_CONTRAST_RESOLUTION)] if weaker else []
    if strongest in known:
        found.append(("edge sharpness", known[strongest], strongest, MIN_EDGE_SHARPNESS))
    checks = []
    for name, ratio, contrast, limits in found:
        status = status_of(ratio, limits, above_is_bad=False)
        words = f"{name} (f50) {signed(100 * (ratio - 1))} % at {signed(contrast)} HU"
        limit = f"limit −{100 * (1 - limits[0]):.0f} %"
        short = words if status == "green" else f"{words} ({limit})"
        checks.append(Check(name, status, f"{words}; {limit}", ratio, short))
    return checks


def _detectability(pairs: Sequence[tuple[Detectability, Detectability]]) -> list[Check]:
    """d′ of the NPWE observer after against before, over the lesions."""
    ratios = [after.d_prime / before.d_prime for before, after in pairs if before.d_prime > 0]
    if not ratios:
        return []
    is_lower = any(after.high < before.low for before, after in pairs)
    status = "red" if is_lower else "amber" if float(np.mean(ratios)) < 1 else "green"
    spread = [signed(100 * (ratio - 1)) for ratio in (min(ratios), max(ratios))]
    words = f"detectability (d′ NPWE) {spread[0]} to {spread[1]} % over {len(ratios)} lesions"
    return [Check("detectability", status, words, float(np.mean(ratios)) - 1, words)]

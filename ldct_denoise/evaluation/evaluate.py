"""Evaluate images against their reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.inserts import Insert, is_near_insert, linearity_entries, measure_inserts
from ldct_denoise.evaluation.measure import REFERENCE, Progress, SliceSample, measure_slices
from ldct_denoise.evaluation.plan import DEFAULT_PLAN, MeasurementPlan, missing_regions, missing_ssim
from ldct_denoise.evaluation.registration import check_registration
from ldct_denoise.evaluation.results import Evaluation, SeriesImages
from ldct_denoise.evaluation.tables import Entry, finite_or_none, paired_statistics
from ldct_denoise.io.dose_labels import label_series, names_match_except_dose
from ldct_denoise.io.dose_words import DEFAULT_PATTERNS, Dose, DosePatterns
from ldct_denoise.io.find import find_images
from ldct_denoise.io.slice_matching import Match, best_match
from ldct_denoise.metrics.noise_by_scale import SCALES_MM
from ldct_denoise.metrics.series_noise import SeriesNoise, noise_reduction_profiles
from ldct_denoise.metrics.unpaired_noise import NoiseLimits
from ldct_denoise.volume import SliceSource

Images = SliceSource | Sequence[SliceSource]
#: An input with less than this share of the reference's noise suggests that the two were swapped.
SWAPPED_BELOW = 0.9


def evaluate(
    candidate: Images | Mapping[str, Images],
    reference: Images,
    input: Images | None = None,
    plan: MeasurementPlan = DEFAULT_PLAN,
    *,
    inserts: Sequence[Insert] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure images against their reference.

    Slices are paired by position and orientation.

    Parameters
    ----------
    candidate : SliceSource, sequence of SliceSource, or mapping of str to these
        The images to evaluate, such as denoised series; model ``candidate`` in the tables. Several by name:
        all are measured on the slices that the first one has, each where it has them.
    reference : SliceSource or sequence of SliceSource
        Normal-dose series; each candidate is measured against the one that shares most slices with it.
    input : SliceSource or sequence of SliceSource, optional
        Low-dose series, measured as well; model ``input`` in the tables.
    plan : MeasurementPlan
        Windows, regions, contrasts and metrics.
    inserts : sequence of Insert
        Inserts of a phantom, for resolution (TTF) and HU linearity.
    progress : callable, optional
        Called with (slices done, slices in all).

    Returns
    -------
    Evaluation
        ``extra`` holds ``paired`` statistics, ``noise``, ``registration`` (shift of each pair),
        and with inserts ``inserts`` and ``hu_linearity``.

    Raises
    ------
    InputError
        If no slice has a partner, or several series fit equally well.
    """
    named = candidate if isinstance(candidate, Mapping) else {"candidate": candidate}
    cases, notes = _match_series({name: _as_sequence(images) for name, images in named.items()}, reference, input)
    shifts: list[Entry] = []
    if plan.noise:
        cases, shifts, shift_notes = _check_registration(cases, plan.register)
        notes += shift_notes
    total = sum(len(case.indices) for case in cases)
    samples = (sample for case in cases for sample in case.samples())
    rows, noise = measure_slices(samples, plan, progress=progress, total=total)
    patients = {case.series: case.patient for case in cases}
    models = ["input", *named] if input is not None else [*named]
    extra: dict[str, object] = {"paired": paired_statistics(rows, patients, models), "noise": noise_entries(noise)}
    extra["registration"] = shifts
    if inserts:
        measured = measure_inserts(_samples_near(cases, inserts), inserts)
        extra |= {"inserts": measured, "hu_linearity": linearity_entries(measured)}
    notes = [*plan.notes, *notes, *missing_regions(plan, rows), *missing_ssim(rows), *_swapped_notes(noise)]
    return Evaluation(rows, patients, tuple(plan.windows), tuple(plan.regions), tuple(cases), tuple(notes), extra)


def images_under(
    path: Path,
    dose: Dose | None = None,
    patterns: DosePatterns = DEFAULT_PATTERNS,
    assume_hu: bool = False,
) -> list[SliceSource]:
    """Every series at or below a path, denoised ones included, with the patient that ``inspect`` reports.

    Parameters
    ----------
    path : Path
        A file or a folder.
    dose : Dose, optional
        If some series have this dose label, return only those. A tree with both doses can thus be given as the
        reference and as the input.
    patterns : DosePatterns
        The user's own words for the doses.
    assume_hu : bool
        Take values for HU where header or values speak against it.

    Returns
    -------
    list of SliceSource

    Raises
    ------
    InputError
        If there is no CT series.
    """
    found = find_images(path, include_derived=True, assume_hu=assume_hu)
    if not found.series:
        reason = f": {found.main_exclusion}" if found.skipped else ""
        raise InputError(f"{path}: no CT series to measure{reason}")
    labelled = label_series(found.series, path, patterns)
    wanted = [item for item in labelled if item.dose is dose]
    return [item.series for item in wanted or labelled]


def named_paths(texts: Sequence[str]) -> dict[str, Path]:
    """Candidates of ``evaluate`` by name.

    Parameters
    ----------
    texts : sequence of str
        Each ``PATH`` or ``NAME=PATH``. A single ``PATH`` is named ``candidate``; of several, each has the name of
        its file or folder.

    Returns
    -------
    dict of str to Path

    Raises
    ------
    ConfigError
        If a name is used twice, or stands for the input or the reference.
    InputError
        If a path does not exist.
    """
    named: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = "", text
        if not Path(path).exists():
            raise InputError(f"{path}: no such file or folder; write PATH or NAME=PATH")
        name = name or ("candidate" if len(texts) == 1 else Path(path).resolve().name)
        if name in named or name in ("input", REFERENCE):
            raise ConfigError(f"candidate {text!r}: {name!r} is taken; write NAME=PATH with another name")
        named[name] = Path(path)
    return named


def noise_entries(noise: Mapping[str, SeriesNoise]) -> list[Entry]:
    """Noise of every series and image as entries of ``summary.json``.

    Parameters
    ----------
    noise : mapping from series to SeriesNoise

    Returns
    -------
    list of dict
        Noise level, mean and peak frequency, spectrum, flicker, and the noise reduction relative to the input, or
        to the reference if there is no input.
    """
    entries: list[Entry] = []
    for series, gathered in noise.items():
        found, flicker = gathered.results(), gathered.flicker_hu()
        baseline = "input" if "input" in found else REFERENCE
        profiles = noise_reduction_profiles(found, baseline)
        for model in flicker:
            entry: Entry = {"series": series, "model": model, "flicker_hu": finite_or_none(flicker[model])}
            if model in found:
                item = found[model]
                entry |= {
                    "noise_hu": item.noise_hu,
                    "mean_frequency_per_mm": finite_or_none(item.mean_frequency_per_mm),
                    "peak_frequency_per_mm": item.spectrum.peak_frequency,
                    "rois": item.rois,
                    "is_free_of_anatomy": item.is_free_of_anatomy,
                    **_limit_entries(item.limits),
                    "blurred_noise_hu": {f"{sigma_mm:g} mm": hu for sigma_mm, hu in item.blurred_noise_hu.items()},
                    "blotches_per_100_cm2": finite_or_none(item.blotches_per_100_cm2),
                    "noise_transfer_hu": gathered.noise_transfer(baseline, model) if model != baseline else [],
                    "frequency_per_mm": [float(value) for value in item.spectrum.frequency],
                    "nps_hu2_mm2": [float(value) for value in item.spectrum.power],
                }
            if model in profiles:
                reduction = [finite_or_none(value) for value in profiles[model].power]
                entry |= {"against": baseline, "noise_reduction_db": reduction}
            entries.append(entry)
    return entries


def _limit_entries(limits: NoiseLimits | None) -> Entry:
    """Limits of the noise of an image without a pair; None for an image whose noise holds no anatomy."""
    return {
        "noise_limits_hu": limits.noise_hu if limits else None,
        "mean_frequency_limits_per_mm": limits.mean_frequency_per_mm if limits else None,
        "blurred_noise_limits_hu": {f"{sigma_mm:g} mm": limits.blurred_hu(sigma_mm) for sigma_mm in SCALES_MM}
        if limits
        else None,
        "stated_from_per_mm": finite_or_none(limits.stated_from_per_mm) if limits else 0.0,
    }


def _match_series(
    named: Mapping[str, Sequence[SliceSource]], reference: Images, input: Images | None
) -> tuple[list[SeriesImages], list[str]]:
    """Pair every series of the first candidate with its reference, its input and the other candidates.

    Returns the cases, and notes on slices without a partner.
    """
    cases: list[SeriesImages] = []
    notes: list[str] = []
    unmatched: list[InputError] = []
    first_name = next(iter(named))
    for series in named[first_name]:
        try:
            match = best_match(series, _as_sequence(reference), "reference", names_match_except_dose)
            low = None
            if input is not None:
                low = best_match(series, _as_sequence(input), "input", names_match_except_dose)
        except InputError as error:
            unmatched.append(error)
            continue
        case, name = _case(first_name, match, low), series.name or series.uid
        for other, images in named.items():
            if other == first_name:
                continue
            try:
                case = _with_candidate(case, other, best_match(series, images, other, names_match_except_dose))
            except InputError as error:
                unmatched.append(error)
            absent = sum(other not in indices for indices in case.indices)
            if absent:
                notes.append(f"{absent} of {len(case.indices)} measured slices of {name} are not in {other}")
        cases.append(case)
        missing = len(series) - len(case.indices)
        if missing:
            notes.append(f"{missing} of {len(series)} slices of {name} have no partner")
        lacking = sum("input" not in indices for indices in case.indices) if low else 0
        if lacking:
            notes.append(f"{lacking} of {len(case.indices)} measured slices of {name} have no input")
    if not cases:
        raise unmatched[0] if unmatched else InputError("no series to measure; give images")
    return cases, [*notes, *(f"not measured: {error}" for error in unmatched)]


def _with_candidate(case: SeriesImages, name: str, match: Match) -> SeriesImages:
    """Add another candidate; ``match`` pairs the slices of the first one with its own."""
    partners = dict(match.indices)
    first = next(model for model, source in case.images.items() if source is match.first)
    indices = tuple({**at, name: partners[at[first]]} if at[first] in partners else at for at in case.indices)
    return replace(case, images={**case.images, name: match.second}, indices=indices)


def _case(name: str, match: Match, low: Match | None) -> SeriesImages:
    images = {name: match.first}
    low_indices = dict(low.indices) if low else {}
    if low:
        images = {"input": low.second, **images}
    indices = []
    for index, partner in match.indices:
        found = {"reference": partner, name: index}
        if index in low_indices:
            found["input"] = low_indices[index]
        indices.append(found)
    patient = match.second.patient or match.first.patient or match.first.uid
    measured = tuple(partner for _, partner in match.indices)
    return SeriesImages(match.first.uid, patient, match.second, images, tuple(indices), measured)


def _check_registration(
    cases: Sequence[SeriesImages], register: bool
) -> tuple[list[SeriesImages], list[Entry], list[str]]:
    """Shift of every image against its reference; the reference is interpolated if asked for."""
    checked: list[SeriesImages] = []
    entries: list[Entry] = []
    notes: list[str] = []
    for case in cases:
        images = {
            model: (source, [(at[REFERENCE], at[model]) for at in case.indices if model in at])
            for model, source in case.images.items()
        }
        reference, found, words = check_registration(case.reference, images, register)
        checked.append(replace(case, reference=reference))
        entries += [{"series": case.series, **entry} for entry in found]
        notes += words
    return checked, entries, notes


def _samples_near(cases: Iterable[SeriesImages], inserts: Sequence[Insert]) -> Iterator[SliceSample]:
    for case in cases:
        for indices in case.indices:
            if is_near_insert(case.reference.geometry, indices[REFERENCE], inserts):
                yield case.sample(indices)


def _swapped_notes(noise: Mapping[str, SeriesNoise]) -> Iterator[str]:
    """Notes on series whose reference is noisier than their input."""
    for series, gathered in noise.items():
        found = gathered.results()
        if "input" in found and REFERENCE in found:
            low, normal = (found[name].noise_hu for name in ("input", REFERENCE))
            if low < SWAPPED_BELOW * normal:
                yield (
                    f"the input of {series} has less noise ({low:.1f} HU) than the reference ({normal:.1f} HU): "
                    "were they swapped?"
                )


def _as_sequence(sources: Images) -> Sequence[SliceSource]:
    return [sources] if isinstance(sources, SliceSource) else sources

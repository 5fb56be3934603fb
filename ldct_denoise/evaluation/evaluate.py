"""Which numbers, for which regions and windows: images against their reference, and what a run of it leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.inserts import Insert, linearity, measure_inserts, near
from ldct_denoise.evaluation.measure import REFERENCE, Place, Progress, What, measure_places, unmeasured
from ldct_denoise.evaluation.results import Evaluation, SeriesImages
from ldct_denoise.evaluation.tables import Entry, finite, paired_statistics
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.dose_labels import Dose, label_series, names_match_except_dose
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.series_noise import SeriesNoise, reduction_profiles
from ldct_denoise.regions.regions import Body, Region, WholeImage
from ldct_denoise.slice_matching import Match, best_match
from ldct_denoise.volume import SliceSource

DEFAULT_WINDOWS = (WINDOWS["full"], WINDOWS["abdomen"])
DEFAULT_REGIONS: tuple[Region, ...] = (WholeImage(), Body())


def evaluate(
    candidate: SliceSource | Sequence[SliceSource],
    reference: SliceSource | Sequence[SliceSource],
    input: SliceSource | Sequence[SliceSource] | None = None,
    windows: Sequence[Window] = DEFAULT_WINDOWS,
    regions: Sequence[Region] = DEFAULT_REGIONS,
    *,
    contrasts: Sequence[tuple[Region, Region]] = (),
    inserts: Sequence[Insert] = (),
    extended: bool = False,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure images against their reference.

    Parameters
    ----------
    candidate, reference, input : one or more series
        Paired by the position and orientation of their slices. ``input`` is the low-dose image; its rows have
        the model ``input``, those of the candidate ``candidate``.
    windows, regions, contrasts : sequences
        What to measure; see :class:`~ldct_denoise.evaluation.measure.What`.
    inserts : sequence of Insert
        A phantom's rods, for resolution (TTF) and HU linearity.
    extended : bool
        Also MS-SSIM, VIF and GMSD of the whole image (some ten times slower).
    notes : sequence of str
        Kept with the numbers, as a protocol's name.
    progress : callable, optional
        Called with (slices done, slices in all).

    Raises
    ------
    InputError
        If no slice has a partner, or several series fit equally well.
    ConfigError
        If two different windows have one name.
    """
    what = What(windows, regions, contrasts, extended)
    cases, found = [], list(notes)
    alone: list[InputError] = []
    for series in _several(candidate):
        try:
            match = best_match(series, _several(reference), "reference", names_match_except_dose)
            low = (
                best_match(series, _several(input), "input", names_match_except_dose)
                if input is not None
                else None
            )
        except InputError as error:
            alone.append(error)
            continue
        case = _case(match, low)
        cases.append(case)
        missing = len(series) - len(case.indices)
        if missing:
            found.append(f"{missing} of {len(series)} slices of {_name(series)} have no partner")
        lacking = sum("input" not in at for at in case.indices) if low else 0
        if lacking:
            found.append(f"{lacking} of {len(case.indices)} measured slices of {_name(series)} have no input")
    if not cases:
        raise alone[0] if alone else InputError("no series to measure; give images")
    found += [f"not measured: {error}" for error in alone]
    total = sum(len(case.indices) for case in cases)
    places = (place for case in cases for place in case.places())
    rows, noise = measure_places(places, what, progress=progress, total=total)
    patients = {case.series: case.patient for case in cases}
    models = ["input", "candidate"] if input is not None else ["candidate"]
    extra: dict[str, object] = {"paired": paired_statistics(rows, patients, models), "noise": noise_entries(noise)}
    if inserts:
        measured = measure_inserts(_places_near(cases, inserts), inserts)
        extra |= {"inserts": measured, "hu_linearity": linearity(measured)}
    found += [*unmeasured(what, rows), *_swapped(noise)]
    return Evaluation(rows, patients, tuple(what.windows), tuple(what.regions), tuple(cases), tuple(found), extra)


def images_under(path: Path, dose: Dose | None = None) -> list[SliceSource]:
    """Every series at or below a path, denoised ones too, with the patient that :func:`label_series` tells.

    Parameters
    ----------
    path : Path
    dose : Dose, optional
        Where some are of this dose, only those: of a tree that holds both, each side finds its own.
    """
    labelled = label_series(find_images(path, include_derived=True).series, path)
    wanted = [item for item in labelled if item.dose is dose]
    return [item.series for item in wanted or labelled]


def _swapped(noise: Mapping[str, SeriesNoise]) -> Iterator[str]:
    """A note for every series whose reference is noisier than its input."""
    for series, gathered in noise.items():
        found = gathered.results()
        if "input" in found and REFERENCE in found:
            low, normal = (found[name].noise_hu for name in ("input", REFERENCE))
            if low < 0.9 * normal:
                yield (
                    f"the input of {series} has less noise ({low:.1f} HU) than the reference ({normal:.1f} HU): "
                    "is each in the other's place?"
                )


def _places_near(cases: Sequence[SeriesImages], inserts: Sequence[Insert]) -> Iterator[Place]:
    for case in cases:
        for at in case.indices:
            if near(case.reference.geometry, at[REFERENCE], inserts):
                yield case.place(at)


def noise_entries(noise: Mapping[str, SeriesNoise]) -> list[Entry]:
    """Noise of every series and image as entries of ``summary.json``.

    The noise reduction is against the input, or against the reference where there is no input.
    """
    entries: list[Entry] = []
    for series, gathered in noise.items():
        found, flicker = gathered.results(), gathered.flicker_hu()
        baseline = "input" if "input" in found else REFERENCE
        profiles = reduction_profiles(found, baseline)
        for model in flicker:
            entry: Entry = {"series": series, "model": model, "flicker_hu": finite(flicker[model])}
            if model in found:
                item = found[model]
                entry |= {
                    "noise_hu": item.noise_hu,
                    "mean_frequency_per_mm": finite(item.spectrum.mean_frequency),
                    "peak_frequency_per_mm": item.spectrum.peak_frequency,
                    "squares": item.squares,
                    "frequency_per_mm": [float(value) for value in item.spectrum.frequency],
                    "nps_hu2_mm2": [float(value) for value in item.spectrum.power],
                }
            if model in profiles:
                entry |= {"against": baseline, "noise_reduction_db": [finite(v) for v in profiles[model].power]}
            entries.append(entry)
    return entries


def _case(match: Match, low: Match | None) -> SeriesImages:
    images = {"candidate": match.first}
    low_of = dict(low.indices) if low else {}
    if low:
        images = {"input": low.second, **images}
    indices = []
    for index, partner in match.indices:
        at = {"reference": partner, "candidate": index}
        if index in low_of:
            at["input"] = low_of[index]
        indices.append(at)
    patient = match.second.patient or match.first.patient or match.first.uid
    measured = tuple(partner for _, partner in match.indices)
    return SeriesImages(match.first.uid, patient, match.second, images, tuple(indices), measured)


def _name(series: SliceSource) -> str:
    return series.name or series.uid


def _several(sources: SliceSource | Sequence[SliceSource]) -> Sequence[SliceSource]:
    return [sources] if isinstance(sources, SliceSource) else sources

"""Which numbers, for which regions and windows: images against their reference, and what a run of it leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from ldct_denoise.errors import InputError
from ldct_denoise.inserts import Insert, linearity, measure_inserts, near
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.find import find_images
from ldct_denoise.io.mayo import Dose, are_named_alike, label_series
from ldct_denoise.measure import REFERENCE, Place, Progress, What, measure_places, unmeasured
from ldct_denoise.metrics.contrast import regular_step_mm, slice_step_mm
from ldct_denoise.metrics.series_noise import SeriesNoise, reduction_profiles, spectrum_slices
from ldct_denoise.output import prepare_folder
from ldct_denoise.pairing import Match, best_match
from ldct_denoise.regions import Body, Region, WholeImage
from ldct_denoise.tables import Entry, Measurement, finite, paired_statistics, summarise, write_tables
from ldct_denoise.volume import SliceSource

DEFAULT_WINDOWS = (WINDOWS["full"], WINDOWS["abdomen"])
DEFAULT_REGIONS: tuple[Region, ...] = (WholeImage(), Body())


@dataclass(frozen=True)
class SeriesImages:
    """A measured series and where its slices can be read again, for the report.

    Parameters
    ----------
    series, patient : str
    reference : SliceSource
    images : mapping from model to SliceSource
    indices : tuple of dict
        For each place the slice index of ``reference`` and of every model (keys: ``reference`` and the models).
    measured : tuple of int, optional
        The slices of ``reference`` that are measured; all without.
    """

    series: str
    patient: str
    reference: SliceSource
    images: Mapping[str, SliceSource]
    indices: tuple[Mapping[str, int], ...]
    measured: tuple[int, ...] | None = None

    @cached_property
    def slice_spacing_mm(self) -> float:
        """Distance of neighbours among the places measured; where they are irregular, in the finest of the series.

        What a series lacks are then gaps.
        """
        offsets = self.reference.geometry.offsets_mm
        regular = regular_step_mm(offsets if self.measured is None else offsets[list(self.measured)])
        every = (source.geometry.offsets_mm for source in (self.reference, *self.images.values()))
        return regular if np.isfinite(regular) else slice_step_mm(*every)

    def places(self) -> Iterator[Place]:
        """Read the slices, one place after the other; spectra are taken where every image has the slice."""
        most = max(len(at) for at in self.indices)
        complete = [number for number, at in enumerate(self.indices) if len(at) == most]
        chosen = {complete[number] for number in spectrum_slices(len(complete))}
        for number, at in enumerate(self.indices):
            yield replace(self.place(at), spectra=number in chosen)

    def place(self, at: Mapping[str, int]) -> Place:
        """Read the slices of one place."""
        images = {model: source.read_hu(at[model]) for model, source in self.images.items() if model in at}
        reference = self.reference.read_hu(at[REFERENCE])
        geometry, spacing = self.reference.geometry, self.slice_spacing_mm
        return Place(self.series, self.patient, geometry, at[REFERENCE], reference, images, spacing)


@dataclass(frozen=True)
class Evaluation:
    """All measurements of a run.

    Parameters
    ----------
    rows : tuple of Measurement
    patients : mapping from series to patient
        So that patients weigh alike.
    windows, regions : tuples
        What was measured.
    cases : tuple of SeriesImages
        Where the images can be read again.
    notes : tuple of str
        What the reader of the numbers must know: slices without partner, the protocol's name.
    extra : mapping
        Further entries of ``summary.json``: ``paired``, ``noise``, ``inserts``, …
    """

    rows: tuple[Measurement, ...]
    patients: Mapping[str, str]
    windows: tuple[Window, ...]
    regions: tuple[Region, ...]
    cases: tuple[SeriesImages, ...] = ()
    notes: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The models in the order of the table."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    @property
    def headline_region(self) -> str:
        """The region of the first table: the body if it was asked for, else the first."""
        names = [region.name for region in self.regions]
        return Body().name if Body().name in names else names[0]

    def values(self, model: str, window: str, region: str, metric: str) -> dict[tuple[str, float], float]:
        """One metric by (series, position)."""
        return self._by_key.get((model, window, region, metric), {})

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, str, str], dict[tuple[str, float], float]]:
        table: dict[tuple[str, str, str, str], dict[tuple[str, float], float]] = {}
        for row in self.rows:
            table.setdefault(row[2:6], {})[row.series, row.position_mm] = row.value
        return table

    @cached_property
    def _summary(self) -> list[Entry]:
        return summarise(self.rows, self.patients)

    def summary(self) -> list[Entry]:
        """Mean, spread and interval of every model × window × region × metric; see :func:`summarise`."""
        return self._summary

    def lines(self, metrics: Sequence[str] = ("psnr", "ssim", "rmse", "hu_bias")) -> list[str]:
        """The means as a plain table: one line for every window, region and model."""
        rows: list[tuple[str, ...]] = [("window", "region", "model", *metrics)]
        for window, region, model in product(self.windows, self.regions, self.models):
            values = [self.values(model, window.name, region.name, metric) for metric in metrics]
            if values[0]:
                means = [f"{np.mean([*of_metric.values()] or np.nan):.4f}" for of_metric in values]
                rows.append((window.name, region.name, model, *means))
        widths = [max(len(name) for name in names) + 1 for names in list(zip(*rows, strict=True))[:3]]
        return [
            "".join(f"{name:{width}}" for name, width in zip(row[:3], widths, strict=True))
            + "".join(f"{value:>10}" for value in row[3:])
            for row in rows
        ]


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
        What to measure; see :class:`~ldct_denoise.measure.What`.
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
            match = best_match(series, _several(reference), "reference", are_named_alike)
            low = best_match(series, _several(input), "input", are_named_alike) if input is not None else None
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


def write_evaluation(
    evaluation: Evaluation,
    output: Path,
    *,
    overwrite: bool = False,
    show_patients: bool = False,
    pdf: bool = False,
) -> None:
    """Write ``metrics.csv``, ``summary.json`` and ``report.html`` into a folder, each whole or not at all.

    Parameters
    ----------
    evaluation : Evaluation
    output : Path
        Made if it is not there.
    overwrite : bool
        Write into a folder that holds something.
    show_patients : bool
        Name the patients in the report.
    pdf : bool
        Also ``summary.pdf``, one page.

    Raises
    ------
    OutputError
        If the folder holds something and must not be overwritten.
    """
    from ldct_denoise.report import write_report
    from ldct_denoise.report.pdf import write_summary_pdf

    prepare_folder(output, overwrite)
    write_tables(evaluation, output, show_patients=show_patients)
    write_report(evaluation, output / "report.html", show_patients=show_patients)
    if pdf:
        write_summary_pdf(evaluation, output / "summary.pdf")

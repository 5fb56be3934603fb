"""Result of an evaluation, and the images that it was measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.evaluation.measure import REFERENCE, SliceSample
from ldct_denoise.evaluation.tables import Entry, Measurement, summarise
from ldct_denoise.intensity import Window
from ldct_denoise.metrics.contrast import finest_spacing_mm, regular_spacing_mm
from ldct_denoise.metrics.series_noise import spectrum_slices
from ldct_denoise.regions.regions import Body, Region
from ldct_denoise.volume import SliceSource

#: Slices farther apart than this do not show the same anatomy, mm.
MAX_NEIGHBOUR_MM = 5.0


@dataclass(frozen=True)
class SeriesImages:
    """A measured series and the sources of its images, from which slices can be read again for a report.

    Parameters
    ----------
    series, patient : str
        Identifiers.
    reference : SliceSource
    images : mapping from model to SliceSource
    indices : tuple of dict
        For every slice the index in ``reference`` and in each image that has it (keys: ``reference``, models).
    measured_indices : tuple of int, optional
        The slices of ``reference`` that are measured; by default all.
    """

    series: str
    patient: str
    reference: SliceSource
    images: Mapping[str, SliceSource]
    indices: tuple[Mapping[str, int], ...]
    measured_indices: tuple[int, ...] | None = None

    @cached_property
    def slice_spacing_mm(self) -> float:
        """Distance of neighbouring slices, mm; a larger distance is a gap.

        It is the regular spacing of the measured slices, or that of the finest series if they are irregular.
        """
        offsets = self.reference.geometry.offsets_mm
        measured = offsets if self.measured_indices is None else offsets[list(self.measured_indices)]
        regular = regular_spacing_mm(measured)
        every = (source.geometry.offsets_mm for source in (self.reference, *self.images.values()))
        return regular if np.isfinite(regular) else finest_spacing_mm(*every)

    def samples(self) -> Iterator[SliceSample]:
        """Read all slices in order; noise spectra are measured on some of those that every image has."""
        most = max(len(indices) for indices in self.indices)
        complete = [number for number, indices in enumerate(self.indices) if len(indices) == most]
        chosen = {complete[number] for number in spectrum_slices(len(complete))}
        for number, indices in enumerate(self.indices):
            sample = self.sample(indices)
            if number in chosen:
                sample = replace(sample, spectra=True, neighbours=self._neighbours(indices[REFERENCE]))
            yield sample

    def _neighbours(self, index: int) -> NDArray[np.float64] | None:
        """Mean of the two neighbouring slices of the reference; None if one is missing or far away."""
        offsets = self.reference.geometry.offsets_mm
        if not 0 < index < len(offsets) - 1:
            return None
        gaps = np.abs(np.diff(offsets[index - 1 : index + 2]))
        if gaps.max() > MAX_NEIGHBOUR_MM:
            return None
        return (self.reference.read_hu(index - 1).astype(np.float64) + self.reference.read_hu(index + 1)) / 2

    def sample(self, indices: Mapping[str, int]) -> SliceSample:
        """Read one slice of the reference and of every image that has it (an element of ``indices``)."""
        found = {model: source for model, source in self.images.items() if model in indices}
        images = {model: source.read_hu(indices[model]) for model, source in found.items()}
        index, geometry = indices[REFERENCE], self.reference.geometry
        reference, spacing = self.reference.read_hu(index), self.slice_spacing_mm
        return SliceSample(self.series, self.patient, geometry, index, reference, images, spacing)


@dataclass(frozen=True)
class Evaluation:
    """All measurements of an evaluation or comparison.

    Parameters
    ----------
    rows : tuple of Measurement
    patients : mapping from series to patient
        Means give every patient the same weight.
    windows, regions : tuples
        Windows and regions that were measured.
    cases : tuple of SeriesImages
        The images, to be read again.
    notes : tuple of str
        Remarks for the reader of the numbers: slices without a partner, the protocol's name, ….
    extra : mapping
        Further entries of ``summary.json``: ``paired``, ``noise``, ``inserts``, ….
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
        """Region of the report's first table: the body if it was measured, otherwise the first region."""
        names = [region.name for region in self.regions]
        return Body().name if Body().name in names else names[0]

    @property
    def headline(self) -> tuple[str, str]:
        """Names of the window and the region of the numbers in sentences: the last window, and the body."""
        return self.windows[-1].name, self.headline_region

    @property
    def possibly_trained_on(self) -> frozenset[str]:
        """Models that were trained on some of the patients, or of which this cannot be known."""
        entries = self.extra.get("models", {})
        assert isinstance(entries, Mapping)
        return frozenset(label for label, entry in entries.items() if entry.get("seen_in_training", "no") != "no")

    def values(self, model: str, window: str, region: str, metric: str) -> dict[tuple[str, float], float]:
        """Values of one metric, by (series, position in mm); empty where it was not measured.

        Parameters
        ----------
        model, window, region, metric : str
            Entries of the columns of ``metrics.csv``.

        Returns
        -------
        dict from (str, float) to float
        """
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
        """Means over all slices as a text table with three significant digits.

        The window and region of the headline come first; there the models are sorted by RMSE, and the others
        follow that order.
        """
        rows: list[tuple[str, ...]] = [("window", "region", "model", *metrics)]
        window, region = self.headline
        places = [(w.name, r.name) for w, r in product(reversed(self.windows), self.regions)]
        errors = {name: [*self.values(name, window, region, "rmse").values()] for name in self.models}
        models = sorted(self.models, key=lambda name: float(np.mean(errors[name])) if errors[name] else np.inf)
        for (w, r), model in product(sorted(places, key=lambda place: place != self.headline), models):
            values = [self.values(model, w, r, metric) for metric in metrics]
            if values[0]:
                means = [_three_digits(float(np.mean([*found.values()]))) if found else "–" for found in values]
                marked = f"{model}*" if model in self.possibly_trained_on else model
                rows.append((w, r, marked, *means))
        widths = [max(len(name) for name in names) + 1 for names in list(zip(*rows, strict=True))[:3]]
        footnote = ["* trained on some of these patients, or it cannot be known (see the notes)"]
        return [
            "".join(f"{name:{width}}" for name, width in zip(row[:3], widths, strict=True))
            + "".join(f"{value:>10}" for value in row[3:])
            for row in rows
        ] + (footnote if self.possibly_trained_on else [])


def _three_digits(value: float) -> str:
    """Three significant digits; at least all before the point."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".removesuffix(".")

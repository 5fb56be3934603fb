"""Results of an evaluation and the images they were measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np

from ldct_denoise.evaluation.measure import REFERENCE, Place
from ldct_denoise.evaluation.tables import Entry, Measurement, summarise
from ldct_denoise.intensity import Window
from ldct_denoise.metrics.contrast import regular_step_mm, slice_step_mm
from ldct_denoise.metrics.series_noise import spectrum_slices
from ldct_denoise.regions.regions import Body, Region
from ldct_denoise.volume import SliceSource


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

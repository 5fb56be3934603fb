"""The series of the benchmarks: a synthetic patient of any length that repeats a few slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.phantoms.patients import Patient
from ldct_denoise.phantoms.scan import with_noise
from ldct_denoise.volume import Geometry, SeriesView

#: Number of different slices.
DISTINCT = 4
#: Rows and columns.
MATRIX = 512


@dataclass(frozen=True)
class RepeatedSlices(SeriesView):
    """The slices of a source, repeated at further positions.

    Parameters
    ----------
    source : SliceSource
        Series to repeat.
    length : int
        Number of slices.
    """

    length: int

    @property
    def name(self) -> str:
        """Name of the series."""
        return "synthetic patient"

    @property
    def geometry(self) -> Geometry:
        """Positions at equal distances."""
        g = self.source.geometry
        steps = np.arange(self.length)[:, None] * (g.normal * 1.0)
        return Geometry(
            g.positions_mm[0] + steps, g.row_direction, g.column_direction, g.pixel_spacing_mm, *g.shape[1:]
        )

    def __len__(self) -> int:
        return self.length

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Return one slice, HU."""
        return self.source.read_hu(index % len(self.source))


def patient(length: int, dose: float = 0.25, seed: int = 1) -> RepeatedSlices:
    """Return a synthetic patient of 512×512 slices.

    Parameters
    ----------
    length : int
        Number of slices.
    dose : float
        Fraction of the normal dose.
    seed : int
        Seed of anatomy and noise.

    Returns
    -------
    RepeatedSlices
        The series.
    """
    truth = Patient(seed, DISTINCT, MATRIX).truth()
    return RepeatedSlices(with_noise(truth, dose, seed), length)


def write_patient(folder: Path, source: RepeatedSlices, number: int = 1) -> Series:
    """Write a synthetic patient as a DICOM series, and open it.

    Parameters
    ----------
    folder : Path
        The series is written to a folder inside it.
    source : RepeatedSlices
        The synthetic patient.
    number : int
        Number of the patient and the series.

    Returns
    -------
    Series
        The DICOM series.
    """
    path = folder / f"series-{number}"
    write_series(
        source,
        path,
        SeriesAttributes(
            patient_id=f"B{number}",
            study_uid=f"1.2.826.0.1.3680043.2.{number}",
            series_number=number,
            description="benchmark",
            kernel="B40",
        ),
    )
    series = scan(path).series[0]
    assert isinstance(series, Series)
    return series

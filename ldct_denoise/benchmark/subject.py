"""What is measured on: a synthetic patient of any length, a few slices over and over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.io.derived.create import write_series
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.phantoms.patients import Patient, with_noise
from ldct_denoise.volume import Geometry, SeriesView

#: Slices that differ.
DISTINCT = 4
MATRIX = 512


@dataclass(frozen=True)
class Repeated(SeriesView):
    """A source's slices over and over, at positions of their own.

    Parameters
    ----------
    source : SliceSource
    length : int
        Number of slices.
    """

    length: int

    @property
    def name(self) -> str:
        """For people."""
        return "synthetic patient"

    @property
    def geometry(self) -> Geometry:
        """Evenly spaced slices."""
        g = self.source.geometry
        steps = np.arange(self.length)[:, None] * (g.normal * 1.0)
        return Geometry(
            g.positions_mm[0] + steps, g.row_direction, g.column_direction, g.pixel_spacing_mm, *g.shape[1:]
        )

    def __len__(self) -> int:
        return self.length

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One slice, HU."""
        return self.source.read_hu(index % len(self.source))


def patient(length: int, dose: float = 0.25, seed: int = 1) -> Repeated:
    """A synthetic patient of 512×512 slices scanned at a fraction of the normal dose."""
    truth = Patient(seed, DISTINCT, MATRIX).truth()
    return Repeated(with_noise(truth, dose, seed), length)


def write_patient(folder: Path, source: Repeated, number: int = 1) -> Series:
    """The patient as a DICOM series."""
    place = folder / f"series-{number}"
    write_series(
        source, place, patient_id=f"B{number}", study_uid=f"1.2.826.0.1.3680043.2.{number}", series_uid=None,
        series_number=number, description="benchmark", kernel="B40",
    )  # fmt: skip
    found = scan(place).series[0]
    assert isinstance(found, Series)
    return found

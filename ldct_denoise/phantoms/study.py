"""Write scans of an object with known truth as one study in the TCIA layout."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.phantoms.scan import KERNEL, NORMAL_MA, scan
from ldct_denoise.volume import Volume


@dataclass(frozen=True)
class GroundTruth:
    """A noise-free object, to be scanned.

    Parameters
    ----------
    name : str
        Patient ID of the scans.
    volume : Volume
        The object without noise, HU.
    labels : Volume
        Label volume of the same geometry.
    table : sequence of mapping
        Meaning of the labels, one row for each.
    labels_name : str
        File name of labels and table, without extension.
    """

    name: str
    volume: Volume
    labels: Volume
    table: Sequence[Mapping[str, object]]
    labels_name: str


def write_study(
    study: Path,
    truth: GroundTruth,
    *,
    dose: float,
    seed: int,
    progress: Callable[[int, int, str], None] = lambda d, t, n: None,
) -> None:
    """Write scans of an object at normal and low dose (DICOM), its truth and labels (NIfTI) and their table (CSV).

    Parameters
    ----------
    study : Path
        Folder of the study.
    truth : GroundTruth
    dose : float
        Low dose as a fraction of the normal dose.
    seed : int
        Seed of the noise.
    progress : callable
        Called with (slices done, slices in all, note).
    """
    name, volume = truth.name, truth.volume
    study_uid = derived_uid("phantom", name, seed, *volume.geometry.shape, dose)
    for series_number, (label, fraction) in enumerate((("Full", 1.0), ("Low", dose)), 1):
        named = Volume(volume.hu, volume.geometry, name=f"{name}, {label.lower()} dose")
        write_series(
            scan(named, fraction, seed, progress),
            study / f"{series_number}.000000-{label} Dose Images-{seed:05d}",
            SeriesAttributes(
                patient_id=name,
                study_uid=study_uid,
                series_number=series_number,
                description=f"{label} Dose Images",
                kernel=KERNEL,
                tube_current_ma=[NORMAL_MA * fraction] * len(volume),
            ),
        )
    write_volume(study / "truth.nii.gz", volume, volume.geometry)
    write_volume(study / f"{truth.labels_name}.nii.gz", truth.labels, volume.geometry, labels=True)
    with (study / f"{truth.labels_name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(truth.table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(truth.table)

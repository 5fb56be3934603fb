"""The result of ``inspect``: series, dose labels, low/normal pairs and skipped files, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldct_denoise.io.dose_labels import LabelledSeries, Pair, find_pairs, label_series
from ldct_denoise.io.dose_words import DEFAULT_PATTERNS, DosePatterns
from ldct_denoise.io.find import find_images
from ldct_denoise.io.inventory import ExclusionKind, Inventory
from ldct_denoise.volume import SliceSource

#: Version of the form of the result. A version may gain fields; none is removed or changes its meaning.
VERSION = 1


def inspect(
    path: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    patterns: DosePatterns = DEFAULT_PATTERNS,
    assume_hu: bool = False,
) -> dict[str, Any]:
    """Describe everything under ``path`` in the form of ``inspect --json`` (docs/reference/input.md).

    Parameters
    ----------
    path : Path
        A file, a folder or tree, a zip archive, or a DICOMDIR.
    progress : callable, optional
        Called with (files examined, number of files).
    patterns : DosePatterns
        The user's own words for the doses.
    assume_hu : bool
        Take the values of images for HU where header or values speak against it.

    Returns
    -------
    dict
        Plain values, for JSON.

    Raises
    ------
    InputError
        If there is no file at all, or the path cannot be read.
    """
    return describe_inventory(scan_for_inspect(path, progress, assume_hu=assume_hu), path, patterns)


def scan_for_inspect(
    path: Path, progress: Callable[[int, int], None] | None = None, *, assume_hu: bool = False
) -> Inventory[SliceSource]:
    """Find the series that ``inspect`` lists: where only denoised series are, as in an output of ``apply``, those.

    Parameters
    ----------
    path : Path
    progress : callable, optional
        Called with (files examined, number of files).
    assume_hu : bool
        Take the values of images for HU where header or values speak against it.

    Returns
    -------
    Inventory

    Raises
    ------
    InputError
        If there is no file at all, or the path cannot be read.
    """
    inventory = find_images(path, progress, assume_hu=assume_hu)
    if inventory.series or all(item.kind is not ExclusionKind.ALREADY_DENOISED for item in inventory.skipped):
        return inventory
    return find_images(path, progress, include_derived=True, assume_hu=assume_hu)


def describe_inventory(
    inventory: Inventory[SliceSource], path: Path, patterns: DosePatterns = DEFAULT_PATTERNS
) -> dict[str, Any]:
    """Describe the result of a scan in the form of ``inspect --json``.

    Parameters
    ----------
    inventory : Inventory
    path : Path
        Where it was found.
    patterns : DosePatterns
        The user's own words for the doses.

    Returns
    -------
    dict
        Plain values, for JSON.
    """
    labelled = label_series(inventory.series, path, patterns)
    return {
        "version": VERSION,
        "path": str(path),
        "series": [_series(item) for item in labelled],
        "pairs": [_pair(pair) for pair in find_pairs(labelled)],
        "skipped": [
            {"file": str(item.path), "kind": item.kind.value, "reason": item.reason} for item in inventory.skipped
        ],
        "problems": [
            f"{item.series.name}: {problem}" for item in labelled for problem in item.series.metadata.problems
        ],
    }


def _series(item: LabelledSeries) -> dict[str, Any]:
    source = item.series
    geometry, metadata = source.geometry, source.metadata
    return {
        "uid": source.uid,
        "folder": str(metadata.path),
        "patient": item.patient,
        "patient_source": item.patient_source,
        "dose": item.dose.value,
        "dose_source": item.dose_source,
        "kernel": metadata.kernel,
        "description": metadata.description,
        "slices": len(source),
        "slice_thickness_mm": metadata.slice_thickness_mm,
        "kvp": metadata.kvp,
        "rows": geometry.rows,
        "columns": geometry.columns,
        "spacing_mm": [round(value, 5) for value in geometry.spacing_mm],
        "evenly_spaced": geometry.is_even,
        "first_position_mm": [round(float(value), 4) for value in geometry.positions_mm[0]],
        "last_position_mm": [round(float(value), 4) for value in geometry.positions_mm[-1]],
        "orientation": [round(value, 6) for value in (*geometry.row_direction, *geometry.column_direction)],
        "gantry_tilt_degrees": round(geometry.tilt_degrees, 2),
        "multiframe": metadata.multiframe,
        "transfer_syntax": metadata.transfer_syntax,
        "manufacturer": metadata.manufacturer,
        "problems": list(metadata.problems),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "patient": pair.patient,
        "kernel": pair.kernel,
        "slice_thickness_mm": pair.low.metadata.slice_thickness_mm,
        "slices": len(pair.indices),
        "low": str(pair.low.metadata.path),
        "normal": str(pair.normal.metadata.path),
    }

"""What a path holds, as `inspect` tells it: series, doses and how they were told, pairs, what was set aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldct_denoise.io.dicom.stacks import tilt_degrees
from ldct_denoise.io.dose_labels import LabelledSeries, Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images

#: Of the form of the result: fields may be added to it, but none is removed or changes its meaning.
VERSION = 1


def inspect(path: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Look at everything under ``path``; the form is that of `inspect --json` (docs/inspect.md).

    Raises
    ------
    InputError
        If there is nothing at all.
    """
    inventory = find_images(path, progress)
    labelled = label_series(inventory.series, path)
    problems = [*inventory.problems]
    problems += [f"{item.series.name}: {text}" for item in labelled for text in item.series.metadata.problems]
    return {
        "version": VERSION,
        "path": str(path),
        "series": [_series(item) for item in labelled],
        "pairs": [_pair(pair) for pair in find_pairs(labelled)],
        "skipped": [{"file": str(item.path), "reason": item.reason} for item in inventory.skipped],
        "problems": problems,
    }


def _series(item: LabelledSeries) -> dict[str, Any]:
    source = item.series
    geometry, metadata = source.geometry, source.metadata
    return {
        "uid": source.uid,
        "folder": str(metadata.path),
        "patient": item.patient,
        "dose": item.dose.value,
        "dose_source": item.dose_source,
        "kernel": metadata.kernel,
        "description": metadata.description,
        "slices": len(source),
        "rows": geometry.rows,
        "columns": geometry.columns,
        "spacing_mm": [round(value, 5) for value in geometry.spacing_mm],
        "evenly_spaced": geometry.is_even,
        "first_position_mm": [round(float(value), 4) for value in geometry.positions_mm[0]],
        "last_position_mm": [round(float(value), 4) for value in geometry.positions_mm[-1]],
        "orientation": [round(value, 6) for value in (*geometry.row_direction, *geometry.column_direction)],
        "gantry_tilt_degrees": round(tilt_degrees(geometry), 2),
        "multiframe": metadata.multiframe,
        "transfer_syntax": metadata.transfer_syntax,
        "manufacturer": metadata.manufacturer,
        "problems": list(metadata.problems),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "patient": pair.patient,
        "kernel": pair.kernel,
        "slices": len(pair.indices),
        "low": str(pair.low.metadata.path),
        "normal": str(pair.normal.metadata.path),
    }

"""Measurements of the regions that the user gave as DICOM Structured Reports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.measure import REFERENCE, UNCLIPPED
from ldct_denoise.evaluation.phantom_quality import PhantomRegion
from ldct_denoise.evaluation.phantom_scan import PhantomStudy
from ldct_denoise.evaluation.phantom_sections import phantom_title
from ldct_denoise.evaluation.results import Evaluation, SeriesImages
from ldct_denoise.io.derived.measurement_report import RegionMeasurement, import_sr, write_measurement_report
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.regions.outline import pixel_outline
from ldct_denoise.regions.regions import Body, Region, Tissue, WholeImage


def reportable_regions(regions: Sequence[Region]) -> list[Region]:
    """Regions that the user gave: not the image, the body or a tissue.

    Parameters
    ----------
    regions : sequence of Region

    Returns
    -------
    list of Region
        At least one.

    Raises
    ------
    ConfigError
        If there is none.
    InputError
        If highdicom is not installed.
    """
    import_sr()
    found = [region for region in regions if not isinstance(region, WholeImage | Body | Tissue)]
    if not found:
        raise ConfigError("--sr: no region to report; give --roi X,Y,Z,RADIUS or a label volume")
    return found


def write_structured_reports(evaluation: Evaluation, folder: Path) -> tuple[list[Path], list[str]]:
    """Write a report for every measured DICOM series: input, candidates and reference.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        Created if it does not exist.

    Returns
    -------
    list of Path
        The files.
    list of str
        Which regions could not be written, and why.

    Raises
    ------
    ConfigError
        If the user gave no region.
    InputError
        If no series is DICOM, no region has an outline, or highdicom is not installed.
    """
    regions = reportable_regions(evaluation.regions)
    folder.mkdir(parents=True, exist_ok=True)
    paths, notes = [], []
    for number, case in enumerate(evaluation.cases, start=1):
        for image, source in {**case.images, REFERENCE: case.reference}.items():
            if not isinstance(source, Series):
                notes.append(f"{source.name}: not DICOM, so that no DICOM SR was written")
                continue
            found = list(_measurements(evaluation, case, image, regions))
            without = {f"{name} (slice {index + 1})" for name, index, measured in found if measured is None}
            if without:
                notes.append(
                    f"{source.name}: not in the DICOM SR, because an outline cannot describe several parts or a "
                    f"hole: {', '.join(sorted(without))}"
                )
            measurements = [measured for _, _, measured in found if measured is not None]
            if measurements:
                name = re.sub(r"[^\w.-]+", "-", image)
                path = folder / (f"{number}-{name}.dcm" if len(evaluation.cases) > 1 else f"{name}.dcm")
                write_measurement_report(source, measurements, path, f"ROI measurements, {image}")
                paths.append(path)
    if not paths:
        reasons = "; ".join(dict.fromkeys(notes)) or "the regions are outside the measured slices"
        raise InputError(f"--sr: nothing could be written: {reasons}")
    return paths, notes


def write_phantom_structured_reports(study: PhantomStudy, folder: Path) -> list[Path]:
    """Write a report of the unprocessed scans of a phantom for every section that is DICOM.

    Parameters
    ----------
    study : PhantomStudy
    folder : Path
        Created if it does not exist.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If no scan is DICOM, or highdicom is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (section, regions) in enumerate(zip(study.sections, study.regions, strict=True), start=1):
        if isinstance(section.source, Series):
            path = folder / f"section-{number}.dcm"
            found = [measured for region in regions for measured in _in_slices(section.source, region)]
            write_measurement_report(section.source, found, path, f"ROI measurements, {phantom_title(section)}")
            paths.append(path)
    if not paths:
        raise InputError("--sr: no scan is DICOM, so that no DICOM SR was written")
    return paths


def _in_slices(source: Series, region: PhantomRegion) -> Iterator[RegionMeasurement]:
    """A region of a phantom in each of its slices."""
    outline = pixel_outline(region.mask)
    if outline is None:  # the core of an insert that is smaller than a pixel
        return
    (top, left), (rows, columns) = region.corner, region.mask.shape
    outline = np.add(outline, (left, top))
    row_mm, column_mm = source.geometry.pixel_spacing_mm
    area_mm2 = float(region.mask.sum()) * row_mm * column_mm
    for index in region.slices:
        inside = source.read_hu(index)[top : top + rows, left : left + columns][region.mask]
        mean_hu, std_hu = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
        yield RegionMeasurement(region.name, index, outline, mean_hu, std_hu, area_mm2)


def _measurements(
    evaluation: Evaluation, case: SeriesImages, image: str, regions: list[Region]
) -> Iterator[tuple[str, int, RegionMeasurement | None]]:
    """Name, slice and measurement of every region; None where it has no single outline."""
    geometry = case.reference.geometry
    row_mm, column_mm = geometry.pixel_spacing_mm
    for indices in case.indices:
        if image not in indices:
            continue
        index, here = indices[image], (case.series, float(geometry.offsets_mm[indices[REFERENCE]]))
        for region in regions:
            mean_hu, std_hu = (
                evaluation.values(image, UNCLIPPED, region.name, metric).get(here)
                for metric in ("hu_mean", "hu_std")
            )
            if mean_hu is None or std_hu is None:  # the region is not in this slice
                continue
            mask = region.mask(geometry, indices[REFERENCE], np.empty((0, 0)))
            outline = None if mask is None else pixel_outline(mask)
            if mask is None or outline is None:
                yield region.name, index, None
                continue
            area_mm2 = float(mask.sum()) * row_mm * column_mm
            yield region.name, index, RegionMeasurement(region.name, index, outline, mean_hu, std_hu, area_mm2)

"""Slices of phantom scans that are measured: one section for each scan, or for each tube current of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.phantom_location import PhantomLocation, locate_phantom
from ldct_denoise.phantoms.qa_phantoms import QaPhantom, find_qa_phantoms
from ldct_denoise.regions.body import body_mask
from ldct_denoise.volume import SliceSource, spread_indices

Mask = NDArray[np.bool_]
Roi = tuple[slice, slice]

#: Side of the ROIs for noise, mm, and the most of them.
ROI_MM, MAX_ROIS = 24.0, 25
#: Fewest slices of a section, and slices that are left out at both ends where the current changes.
MIN_SLICES, END_SLICES = 4, 1
#: Currents of one section differ by at most this fraction.
CURRENT_TOLERANCE = 0.02
#: Distance of the ROIs from the outline of a uniform phantom, and radius around a bead without ROIs, mm.
MARGIN_MM, BEAD_MM = 12.0, 4.0
#: Part of the phantom's radius in which its uniform module is measured.
UNIFORM_RADIUS = 0.8
#: ROI means of a uniform section differ by at most this, HU: more is a phantom with inserts.
MAX_NONUNIFORMITY_HU = 60.0


@dataclass(frozen=True)
class PhantomSection:
    """Slices of one phantom at one dose.

    Parameters
    ----------
    name : str
    source : SliceSource
    uniform : tuple of int
        Slices of the uniform module.
    rois : tuple of (slice, slice)
        Square ROIs of the uniform module; the first is the central one.
    diameter_mm : float
        Diameter of the circle with the area of the cross-section.
    location : PhantomLocation, optional
        None for a uniform phantom.
    """

    name: str
    source: SliceSource
    uniform: tuple[int, ...]
    rois: tuple[Roi, ...]
    diameter_mm: float
    location: PhantomLocation | None = None

    @property
    def current_ma(self) -> float:
        """Mean tube current of the uniform slices; NaN where the header does not state it."""
        currents = self.source.metadata.tube_current_ma
        found = [currents[index] for index in self.uniform] if currents else []
        known = [current for current in found if current is not None]
        return float(np.mean(known)) if known and len(known) == len(found) else float("nan")

    @property
    def protocol(self) -> dict[str, object]:
        """What has to be equal for two sections to differ in dose only."""
        metadata = self.source.metadata
        return {
            "tube voltage": metadata.kvp,
            "kernel": metadata.kernel,
            "slice thickness": metadata.slice_thickness_mm,
            "pixel spacing": tuple(round(mm, 3) for mm in self.source.geometry.pixel_spacing_mm),
            "rotation time over pitch": metadata.mas_per_ma,
        }


def find_sections(sources: Sequence[SliceSource], phantom: str) -> list[PhantomSection]:
    """Locate the phantom in every scan and choose the slices.

    Parameters
    ----------
    sources : sequence of SliceSource
        Scans of one phantom.
    phantom : str
        ``auto``, ``uniform`` or the name of a phantom.

    Returns
    -------
    list of PhantomSection
        In order of tube current where it is known.

    Raises
    ------
    ConfigError
        If there is no such phantom.
    InputError
        If a scan does not show the phantom, or the scans show different ones.
    """
    found: list[PhantomSection] = []
    for source in sources:
        if phantom == "uniform":
            found += _uniform_sections(source)
        elif phantom == "auto":
            found += _any_sections(source)
        else:
            found.append(_located_section(source, find_qa_phantoms(phantom)))
    if not found:
        raise ConfigError("no scan of a phantom; give at least one series")
    titles = dict.fromkeys(phantom_title(section) for section in found)
    if len(titles) > 1:
        raise InputError(f"the scans show different phantoms ({', '.join(titles)}); measure one phantom at a time")
    return sorted(found, key=lambda section: np.nan_to_num(section.current_ma, nan=0.0))


def phantom_title(section: PhantomSection) -> str:
    """Name of a section's phantom for people."""
    return section.location.phantom.title if section.location else "uniform phantom"


def _any_sections(source: SliceSource) -> list[PhantomSection]:
    try:
        return [_located_section(source, find_qa_phantoms("auto"))]
    except InputError as located:
        try:
            return _uniform_sections(source)
        except InputError as uniform:
            reason = str(uniform).removeprefix(f"{source.name}: ")
            raise InputError(f"{located}. Not a uniform phantom either: {reason}") from uniform


def _located_section(source: SliceSource, phantoms: Sequence[QaPhantom]) -> PhantomSection:
    location = locate_phantom(source, phantoms)
    phantom = location.phantom
    for module in ("insert_module", "uniform_module"):
        slices = location.module_slices(source, getattr(phantom, module))
        if len(slices) < MIN_SLICES:
            raise InputError(
                f"{source.name}: {len(slices)} slices of the {module.replace('_', ' ')} of the {phantom.title}; "
                f"scan at least {MIN_SLICES} of each module"
            )
    uniform = location.module_slices(source, phantom.uniform_module)
    centre = location.centre_px(float(source.geometry.offsets_mm[uniform].mean()))
    mask = _distance_mm(source, centre) < UNIFORM_RADIUS * phantom.radius_mm
    for angle_deg, distance_mm in phantom.beads:
        bead = location.point_px(source, uniform, angle_deg, distance_mm)
        mask &= _distance_mm(source, bead) > BEAD_MM
    rois = _grid_rois(source, mask, centre)
    return PhantomSection(source.name, source, tuple(uniform), rois, 2 * phantom.radius_mm, location)


def _uniform_sections(source: SliceSource) -> list[PhantomSection]:
    """A section for each run of slices with one tube current, or one of all slices."""
    spacing_mm = source.geometry.pixel_spacing_mm
    runs = _runs(source.metadata.tube_current_ma, len(source))
    found = []
    for run in runs:
        masks = np.stack([body_mask(source.read_hu(index), spacing_mm) for index in run])
        inside = np.pad(masks.all(axis=0), 1)
        inside = (ndimage.distance_transform_edt(inside, spacing_mm) > MARGIN_MM)[1:-1, 1:-1]
        if not inside.any():
            continue
        rois = _grid_rois(source, inside, ndimage.center_of_mass(inside))
        current = source.metadata.tube_current_ma[run[0]] if source.metadata.tube_current_ma else None
        name = source.name if len(runs) == 1 or current is None else f"{source.name}, {current:g} mA"
        diameter_mm = float(np.sqrt(4 / np.pi * masks.sum(axis=(1, 2)).mean() * spacing_mm[0] * spacing_mm[1]))
        section = PhantomSection(name, source, tuple(run), rois, diameter_mm)
        _check_uniform(section)
        found.append(section)
    if not found:
        raise InputError(f"{source.name}: no {MIN_SLICES} neighbouring slices of a uniform phantom at one current")
    return found


def _runs(currents: Sequence[float | None], count: int) -> list[list[int]]:
    """Runs of slices with nearly the same current; all slices where currents are not stated."""
    if not currents or any(current is None for current in currents):
        return [list(range(count))] if count >= MIN_SLICES else []
    values = [current for current in currents if current is not None]
    runs: list[list[int]] = []
    for index, current in enumerate(values):
        if runs and abs(current / values[runs[-1][0]] - 1) <= CURRENT_TOLERANCE:
            runs[-1].append(index)
        else:
            runs.append([index])
    if len(runs) > 1:
        runs = [run[END_SLICES:-END_SLICES] for run in runs]
    return [run for run in runs if len(run) >= MIN_SLICES]


def _check_uniform(section: PhantomSection) -> None:
    slices = [section.source.read_hu(section.uniform[i]) for i in spread_indices(len(section.uniform), 7)]
    means = [float(hu[roi].mean()) for hu in slices for roi in section.rois]
    spread = max(means) - min(means)
    if spread > MAX_NONUNIFORMITY_HU:
        raise InputError(
            f"{section.name}: ROI means differ by {spread:.0f} HU, so that it is not a uniform phantom; give its "
            "name with --phantom, or only its uniform slices"
        )


def _grid_rois(source: SliceSource, mask: Mask, centre_px: Sequence[float]) -> tuple[Roi, ...]:
    """Square ROIs of a grid around the centre that lie completely inside a mask, the central one first.

    Noise does not choose them: ROIs that are chosen for their uniformity have less noise.
    """
    side = 2 * round(ROI_MM / min(source.geometry.pixel_spacing_mm) / 2)
    row, column = (round(middle - side / 2) for middle in centre_px)
    steps = range(-(max(mask.shape) // side), max(mask.shape) // side + 1)
    found = []
    for down, along in sorted(((d, a) for d in steps for a in steps), key=lambda step: (np.hypot(*step), step)):
        top, left = row + down * side, column + along * side
        roi = slice(top, top + side), slice(left, left + side)
        if min(top, left) >= 0 and mask[roi].shape == (side, side) and mask[roi].all():
            found.append(roi)
    if len(found) < 3:
        raise InputError(f"{source.name}: no room for ROIs of {ROI_MM:g} mm in the uniform part of the phantom")
    return tuple(found[:MAX_ROIS])


def _distance_mm(source: SliceSource, point_px: Sequence[float]) -> NDArray[np.float64]:
    row_mm, column_mm = source.geometry.pixel_spacing_mm
    rows = (np.arange(source.geometry.rows) - point_px[0])[:, None] * row_mm
    columns = (np.arange(source.geometry.columns) - point_px[1])[None, :] * column_mm
    return np.asarray(np.hypot(rows, columns))

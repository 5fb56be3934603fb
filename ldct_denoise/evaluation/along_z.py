"""Noise and resolution along z of a denoiser in the user's own images.

A thin disc is inserted into contiguous slices with the slice sensitivity profile (SSP) of the scan, a Gaussian
whose full width at half maximum (FWHM) is the slice thickness. Its centre lies at four positions between two
slices, so that the profile is sampled four times as finely as the slices. The difference of the denoised images
with and without the disc is the profile that the denoiser leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.io.dose_labels import find_pairs, label_series
from ldct_denoise.io.dose_words import Dose
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.along_z import ZNoise, full_width_mm, noise_along_z
from ldct_denoise.metrics.contrast import MAX_NEIGHBOUR_MM, REGULAR_TOLERANCE
from ldct_denoise.metrics.noise import find_uniform_rois
from ldct_denoise.metrics.unpaired_noise import roi_side_px
from ldct_denoise.phantoms.insertion import disc, find_places, tile_side_px
from ldct_denoise.regions.body import body_mask
from ldct_denoise.regions.tissues import noise_tissue_mask
from ldct_denoise.volume import Geometry, SliceSource, Volume, slice_thickness_mm

Restore = Callable[[SliceSource], Iterable[NDArray[np.floating]]]
NormalDose = Callable[[int], NDArray[np.floating] | None]
Stack = NDArray[np.floating]

#: Slices of a stack: fewest and most.
MIN_SLICES, MAX_SLICES = 5, 9
#: Uniform regions of a stack.
MAX_REGIONS = 8
#: Inserted disc: diameter and blur of the kernel (σ), mm, and its contrasts by turns, HU.
DISC_MM, BLUR_MM = 10.0, 0.5
CONTRASTS_HU = (200.0, -40.0)
#: Positions of the disc between two slices, and so the number of copies of the stack.
SUBDIVISIONS = 4
#: Distance between the copies along z, so that they are no neighbours, mm.
COPY_GAP_MM = 100.0


class SliceSensitivity(NamedTuple):
    """Slice sensitivity profile of discs of one contrast.

    Parameters
    ----------
    contrast_hu : float
        Contrast of the disc at its centre, HU.
    offsets_mm : ndarray, shape (n,)
        Distance of the slices from the disc, mm, rising.
    before, after : ndarray, shape (n,)
        Contrast in the disc's core over ``contrast_hu``; mean over the places.
    places : int
    """

    contrast_hu: float
    offsets_mm: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    places: int

    @property
    def fwhm_mm(self) -> tuple[float, float]:
        """Full width at half maximum before and after, mm."""
        return full_width_mm(self.offsets_mm, self.before), full_width_mm(self.offsets_mm, self.after)


@dataclass(frozen=True)
class AlongZ:
    """Noise and resolution along z in one series.

    Parameters
    ----------
    name, kernel, dose : str
        Of the series.
    slices : int
        Number of contiguous slices that were used.
    spacing_mm, thickness_mm : float
        Spacing and thickness of the slices.
    difference : str
        Difference that freed the noise of anatomy: ``low − normal dose`` or ``input − output``.
    regions : int
        Uniform regions in which noise was measured.
    noise : tuple of 2 ZNoise
        Before and after; None where no region is uniform in all slices.
    sensitivity : tuple of SliceSensitivity
        Empty where there is no place for a disc.
    """

    name: str
    kernel: str
    dose: str
    slices: int
    spacing_mm: float
    thickness_mm: float
    difference: str
    regions: int
    noise: tuple[ZNoise, ZNoise] | None
    sensitivity: tuple[SliceSensitivity, ...]


def measure_along_z(
    source: SliceSource,
    restore: Restore,
    normal: NormalDose | None = None,
    *,
    dose: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> AlongZ:
    """Measure the noise and the slice sensitivity along z before and after denoising.

    Parameters
    ----------
    source : SliceSource
        The user's images as they are denoised in use.
    restore : callable
        Takes a series and returns its denoised slices (HU) in order.
    normal : callable, optional
        Takes the index of a slice and returns the normal-dose slice (HU) at its position, or None.
    dose : str
        Dose label for the report.
    progress : callable, optional
        Called with (slices done, slices in all).

    Returns
    -------
    AlongZ

    Raises
    ------
    InputError
        If fewer than 5 slices are contiguous, or they hold neither uniform tissue nor a place for a disc.
    """
    indices = contiguous_slices(source.geometry.offsets_mm)
    if len(indices) < MIN_SLICES:
        raise InputError(f"{source.name}: fewer than {MIN_SLICES} contiguous slices; nothing to measure along z")
    before = np.stack([source.read_hu(index) for index in indices])
    geometry = source.geometry.select(indices)
    plan = _DiscPlan.of(before, geometry, slice_thickness_mm(source))
    rois = _uniform_rois(before, geometry.pixel_spacing_mm)
    if not rois and not plan.places:
        raise InputError(f"{source.name}: no uniform soft tissue that reaches through {len(indices)} slices")
    stack = plan.volume(source, indices, before)
    after = np.empty(stack.geometry.shape, np.float32)
    for number, hu in enumerate(restore(stack)):
        after[number] = hu
        if progress:
            progress(number + 1, len(stack))
    images = before, after[: len(indices)]
    difference, kind = _difference(images, indices, normal)
    noise = None
    if rois:
        regions, removed = [_regions(image, rois) for image in images], _regions(difference, rois)
        # An output that equals its input, as at strength 0, leaves nothing to follow.
        by = removed if np.any(removed) else None
        spacing = geometry.spacing_mm
        noise = noise_along_z(regions[0], spacing, by), noise_along_z(regions[1], spacing, by)
    return AlongZ(
        source.name,
        source.metadata.kernel,
        dose,
        len(indices),
        geometry.slice_spacing_mm,
        plan.thickness_mm,
        kind,
        len(rois),
        noise,
        plan.sensitivity(stack.hu, after),
    )


def find_and_measure_along_z(
    paths: Sequence[Path], restore: Restore, progress: Callable[[int, int, str], None] | None = None
) -> tuple[list[AlongZ], list[str]]:
    """Measure every series below some paths along z; a normal-dose partner is used where there is one.

    Parameters
    ----------
    paths : sequence of Path
        Files, folders or trees.
    restore : callable
        As for :func:`measure_along_z`.
    progress : callable, optional
        Called with (slices done, slices in all, name), for every series.

    Returns
    -------
    found : list of AlongZ
    skipped : list of str
        Reasons for series that could not be measured, such as slices that are not contiguous.
    """
    found, skipped = [], []
    for path in paths:
        labelled = label_series(find_images(path).series, path)
        pairs = {id(pair.low): pair for pair in find_pairs(labelled)}
        for one in labelled:
            source, pair = one.series, pairs.get(id(one.series))
            report = None if progress is None else partial(_named, progress, source.name)
            dose = "" if one.dose is Dose.UNKNOWN else str(one.dose)
            normal = None if pair is None else partial(_partner, pair.normal, dict(pair.indices))
            try:
                found.append(measure_along_z(source, restore, normal, dose=dose, progress=report))
            except InputError as error:
                skipped.append(str(error))
    return found, skipped


def contiguous_slices(offsets_mm: NDArray[np.floating]) -> list[int]:
    """Indices of at most 9 neighbouring slices at equal distances, in the middle of the longest such run.

    Parameters
    ----------
    offsets_mm : ndarray, shape (slices,)
        Position of each slice along the normal, mm.

    Returns
    -------
    list of int
        In the order along the normal; empty where no two slices are neighbours.
    """
    order = np.argsort(offsets_mm, kind="stable")
    steps = np.diff(np.asarray(offsets_mm, np.float64)[order])
    near = steps[(steps > 0) & (steps <= MAX_NEIGHBOUR_MM)]
    if not len(near):
        return []
    spacing = float(np.median(near))
    even = np.abs(steps - spacing) <= REGULAR_TOLERANCE * spacing
    best, start = (0, 0), 0
    for number, is_even in enumerate([*even.tolist(), False]):
        if not is_even:
            best = max(best, (number - start, -start))
            start = number + 1
    length, first = best[0] + 1, -best[1]
    skipped = max(length - MAX_SLICES, 0) // 2
    return [int(index) for index in order[first + skipped : first + skipped + min(length, MAX_SLICES)]]


@dataclass(frozen=True)
class _DiscPlan:
    """Thin discs in copies of a stack of slices.

    Every place holds the disc at each of the positions between two slices, in one copy each; contrasts alternate
    from place to place.
    """

    places: Sequence[tuple[int, int]]
    geometry: Geometry
    thickness_mm: float

    @classmethod
    def of(cls, stack: Stack, geometry: Geometry, thickness_mm: float) -> _DiscPlan:
        mean = stack.mean(axis=0, dtype=np.float64)
        return cls(find_places(mean, geometry.pixel_spacing_mm)["soft tissue"], geometry, thickness_mm)

    @property
    def copies(self) -> int:
        return SUBDIVISIONS if self.places else 0

    def offsets_mm(self, copy: int, place: int) -> NDArray[np.float64]:
        """Distance of every slice from the disc of a place in a copy."""
        along = self.geometry.offsets_mm - self.geometry.offsets_mm[len(self.geometry.offsets_mm) // 2]
        return np.asarray(along - (copy + place) % SUBDIVISIONS / SUBDIVISIONS * self.geometry.slice_spacing_mm)

    def volume(self, source: SliceSource, indices: Sequence[int], stack: Stack) -> Volume:
        """The stack without discs, then all copies with them, each far from the others along z."""
        hu = np.tile(np.asarray(stack, np.float32), (1 + self.copies, 1, 1))
        side = tile_side_px(self.geometry.pixel_spacing_mm)
        shape = disc(DISC_MM, self.geometry.pixel_spacing_mm, side, BLUR_MM)
        for copy in range(self.copies):
            part = hu[(1 + copy) * len(stack) : (2 + copy) * len(stack)]
            for place, contrast_hu in enumerate(self._contrasts()):
                height = np.exp(-4 * np.log(2) * (self.offsets_mm(copy, place) / self.thickness_mm) ** 2)
                part[:, *self._tile(place)] += contrast_hu * height[:, None, None] * shape
        length = float(np.ptp(self.geometry.offsets_mm)) + COPY_GAP_MM
        shift = np.arange(1 + self.copies)[:, None, None] * length * self.geometry.normal
        geometry = replace(self.geometry, positions_mm=(self.geometry.positions_mm[None] + shift).reshape(-1, 3))
        metadata = source.metadata.select([*indices] * (1 + self.copies))
        return Volume(hu, geometry, source.uid, source.patient, source.name, metadata)

    def sensitivity(self, before: Stack, after: Stack) -> tuple[SliceSensitivity, ...]:
        """Slice sensitivity profiles of the volume before and after denoising."""
        count, spacing = len(self.geometry.offsets_mm), self.geometry.pixel_spacing_mm
        axis = np.arange(tile_side_px(spacing)) + 0.5 - tile_side_px(spacing) / 2
        core = np.hypot(axis[:, None] * spacing[0], axis[None] * spacing[1]) < DISC_MM / 4
        found = []
        for contrast in dict.fromkeys(self._contrasts()):
            used = [place for place, one in enumerate(self._contrasts()) if one == contrast]
            spots = [(copy, place) for copy in range(self.copies) for place in used]
            offsets = np.concatenate([self.offsets_mm(*spot) for spot in spots])
            at, inverse = np.unique(np.round(offsets, 3), return_inverse=True)

            profiles = []
            for images in (before, after):
                cores = {place: images[:, *self._tile(place)][:, core].mean(axis=1) for place in used}
                changes = [
                    cores[place][(1 + copy) * count : (2 + copy) * count] - cores[place][:count]
                    for copy, place in spots
                ]
                sums = np.bincount(inverse, np.concatenate(changes).astype(np.float64))
                profiles.append(sums / np.bincount(inverse) / contrast)
            found.append(SliceSensitivity(contrast, at, profiles[0], profiles[1], len(used)))
        return tuple(found)

    def _contrasts(self) -> list[float]:
        return [CONTRASTS_HU[place % len(CONTRASTS_HU)] for place in range(len(self.places))]

    def _tile(self, place: int) -> tuple[slice, slice]:
        half = tile_side_px(self.geometry.pixel_spacing_mm) // 2
        row, column = self.places[place]
        return slice(row - half, row + half), slice(column - half, column + half)


def _uniform_rois(stack: Stack, pixel_spacing_mm: tuple[float, float]) -> list[tuple[slice, slice]]:
    """Square ROIs that lie in uniform soft tissue of every slice."""
    mean = stack.mean(axis=0, dtype=np.float64)
    tissue = np.logical_and.reduce([noise_tissue_mask(np.asarray(hu, np.float32)) for hu in stack])
    size_px = roi_side_px(pixel_spacing_mm)
    return find_uniform_rois(mean, tissue & body_mask(mean, pixel_spacing_mm), size_px, MAX_REGIONS)


def _regions(images: Stack, rois: Sequence[tuple[slice, slice]]) -> NDArray[np.float64]:
    """The ROIs of every slice, (rois, slices, rows, columns)."""
    return np.stack([images[:, *roi] for roi in rois]).astype(np.float64)


def _difference(
    images: tuple[Stack, Stack], indices: Sequence[int], normal: NormalDose | None
) -> tuple[Stack, str]:
    """Difference in which anatomy cancels, and its name: of the doses, or else the noise that was removed."""
    partners = [None if normal is None else normal(index) for index in indices]
    known = [one for one in partners if one is not None]
    if len(known) == len(indices):
        return images[0] - np.stack(known), "low − normal dose"
    return images[0] - images[1], "input − output"


def _partner(normal: SliceSource, indices: dict[int, int], index: int) -> NDArray[np.floating] | None:
    return normal.read_hu(indices[index]) if index in indices else None


def _named(progress: Callable[[int, int, str], None], name: str, done: int, total: int) -> None:
    progress(done, total, name)

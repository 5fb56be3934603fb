"""Which inserted lesion goes where in the slices of a series, and what is read from the same places afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.metrics.noise import noise_power_spectrum, periodograms
from ldct_denoise.metrics.texture import mean_noise_frequency
from ldct_denoise.phantoms.insertion import InsertedLesion, disc, find_places, tile_side_px
from ldct_denoise.volume import SliceSource, Volume

Stack = NDArray[np.floating]

#: Fewest places of each lesion that are aimed at in a series.
PLACES_PER_LESION = 8
#: Most copies of each slice with lesions.
MAX_COPIES = 10
#: Part of the lesion's diameter over which its contrast is averaged.
CORE_FRACTION = 0.5
#: Limits of the kernel's blur: σ of a Gaussian, mm.
BLUR_LIMITS_MM = (0.3, 0.75)
#: Side of the square around each place in which noise is measured, mm.
NOISE_ROI_MM = 20.0
#: Distance between the copies of the series along z, so that they are no neighbours, mm.
COPY_GAP_MM = 100.0


@dataclass(frozen=True)
class Insertion:
    """A lesion in one copy of one slice.

    Parameters
    ----------
    lesion : InsertedLesion
    copy : int
        Number of the copy, from 0.
    slice_number : int
        Number of the slice among those used.
    place : tuple of 2 ints
        Row and column of the corner that the middle pixels of its tile share.
    """

    lesion: InsertedLesion
    copy: int
    slice_number: int
    place: tuple[int, int]


@dataclass(frozen=True)
class InsertionPlan:
    """Which lesion goes where, for the slices without lesions and their copies with them.

    Parameters
    ----------
    slices : ndarray, shape (slices, rows, columns)
        Without lesions, HU.
    indices : sequence of int
        Their indices in the series.
    places : sequence of dict
        Places of each slice by tissue; see :func:`~ldct_denoise.phantoms.insertion.find_places`.
    insertions : sequence of Insertion
    copies : int
        Number of copies of the slices with lesions.
    blur_mm : float
        Resolution of the kernel: σ of a Gaussian.
    spacing_mm : tuple of 2 floats
        Row and column spacing.
    """

    slices: Stack
    indices: Sequence[int]
    places: Sequence[dict[str, list[tuple[int, int]]]]
    insertions: Sequence[Insertion]
    copies: int
    blur_mm: float
    spacing_mm: tuple[float, float]

    def volume(self, source: SliceSource) -> Volume:
        """The slices without lesions, then all copies with lesions, each far from the others along z."""
        stack = np.tile(np.asarray(self.slices, np.float32), (1 + self.copies, 1, 1))
        for one in self.insertions:
            stack[self._number(one)][self._tile(one.place)] += self._image(one.lesion)
        geometry = source.geometry.select(self.indices)
        length = float(np.ptp(geometry.offsets_mm)) + COPY_GAP_MM
        shift = np.arange(1 + self.copies)[:, None, None] * length * geometry.normal
        geometry = replace(geometry, positions_mm=(geometry.positions_mm[None] + shift).reshape(-1, 3))
        metadata = source.metadata.select([*self.indices] * (1 + self.copies))
        return Volume(stack, geometry, source.uid, source.patient, source.name, metadata)

    def recoveries(self, output: Stack) -> dict[InsertedLesion, list[float]]:
        """Recovered share of the contrast at every place of each lesion."""
        found: dict[InsertedLesion, list[float]] = {}
        side = tile_side_px(self.spacing_mm)
        axis = np.arange(side) + 0.5 - side / 2
        radius = np.hypot(axis[:, None] * self.spacing_mm[0], axis[None, :] * self.spacing_mm[1])
        for one in self.insertions:
            core = radius < max(CORE_FRACTION * one.lesion.diameter_mm / 2, 0.75 * max(self.spacing_mm))
            tile = self._tile(one.place)
            without = output[one.slice_number][tile][core]
            change = float(np.mean(output[self._number(one)][tile][core] - without, dtype=np.float64))
            found.setdefault(one.lesion, []).append(change / float(self._image(one.lesion)[core].mean()))
        return found

    def noise_rois(self, images: Stack) -> Stack:
        """Squares at the places of soft tissue, or of lung where there is none, shape (n, side, side)."""
        tissue = "soft tissue" if any(one["soft tissue"] for one in self.places) else "lung"
        half = round(NOISE_ROI_MM / min(self.spacing_mm) / 2)
        return np.stack(
            [
                images[number][row - half : row + half, column - half : column + half]
                for number, one in enumerate(self.places)
                for row, column in one[tissue]
            ]
        )

    def _number(self, one: Insertion) -> int:
        return (1 + one.copy) * len(self.indices) + one.slice_number

    def _tile(self, place: tuple[int, int]) -> tuple[slice, slice]:
        half = tile_side_px(self.spacing_mm) // 2
        row, column = place
        return slice(row - half, row + half), slice(column - half, column + half)

    def _image(self, lesion: InsertedLesion) -> NDArray[np.float64]:
        side = tile_side_px(self.spacing_mm)
        return lesion.contrast_hu * _disc(lesion.diameter_mm, self.spacing_mm, side, self.blur_mm)


_disc = cache(disc)


def plan_insertions(
    source: SliceSource, indices: Sequence[int], lesions: Sequence[InsertedLesion], seed: int
) -> InsertionPlan:
    """Find the places of the slices and deal the lesions out to them.

    Parameters
    ----------
    source : SliceSource
    indices : sequence of int
        Slices to use.
    lesions : sequence of InsertedLesion
    seed : int
        Seed of the assignment of lesions to places.

    Returns
    -------
    InsertionPlan

    Raises
    ------
    InputError
        If no slice has a place for a lesion.
    """
    spacing_mm = source.geometry.pixel_spacing_mm
    slices = np.stack([source.read_hu(index) for index in indices])
    places = [find_places(hu, spacing_mm) for hu in slices]
    if not any(any(one.values()) for one in places):
        raise InputError(f"{source.name}: no uniform soft tissue or lung that is wide enough for a lesion")
    by_tissue = {
        tissue: [lesion for lesion in lesions if lesion.tissue == tissue] for tissue in ("soft tissue", "lung")
    }
    spots = {
        tissue: [(number, place) for number, one in enumerate(places) for place in one[tissue]]
        for tissue in by_tissue
    }
    needed = [
        -(-PLACES_PER_LESION * len(by_tissue[tissue]) // len(found))
        for tissue, found in spots.items()
        if found and by_tissue[tissue]
    ]
    copies = min(MAX_COPIES, max(needed, default=1))
    rng = np.random.default_rng(seed)
    insertions = [
        Insertion(lesion, copy, number, place)
        for tissue, found in spots.items()
        for (copy, (number, place)), lesion in zip(
            ((copy, spot) for copy in range(copies) for spot in found),
            _dealt(by_tissue[tissue], rng),
            strict=False,
        )
    ]
    return InsertionPlan(
        slices, indices, places, insertions, copies, _kernel_blur_mm(slices, places, spacing_mm), spacing_mm
    )


def _dealt(lesions: Sequence[InsertedLesion], rng: np.random.Generator) -> Iterator[InsertedLesion]:
    """The lesions in random order, again and again, so that each is dealt equally often."""
    while lesions:
        yield from (lesions[number] for number in rng.permutation(len(lesions)))


def _kernel_blur_mm(
    slices: Stack, places: Sequence[dict[str, list[tuple[int, int]]]], spacing_mm: tuple[float, float]
) -> float:
    """Resolution of the kernel from its noise.

    The noise power spectrum of filtered back-projection is f·MTF². For a Gaussian of σ its mean frequency is
    1/(4·√π·σ).
    """
    half = round(NOISE_ROI_MM / min(spacing_mm) / 2)
    rois = [
        slices[number][row - half : row + half, column - half : column + half]
        for number, one in enumerate(places)
        for row, column in one["soft tissue"]
    ]
    if not rois:
        return 0.5
    spectrum = noise_power_spectrum(np.stack(rois), spacing_mm)
    # The median over ROIs leaves out the anatomy of a few; that it is lower than the mean at all frequencies alike
    # does not matter.
    median = np.fft.fftshift(np.median(periodograms(np.stack(rois)), axis=0))
    frequency = mean_noise_frequency(replace(spectrum, power=median))
    return float(np.clip(1 / (4 * np.sqrt(np.pi) * frequency), *BLUR_LIMITS_MM))

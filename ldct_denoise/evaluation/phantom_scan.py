"""Image quality in scans of a real phantom, at one dose or more, before and after a denoiser.

The uniform module gives noise, noise power spectrum and uniformity. Lesions that are added to it give the
detectability after the denoiser: images with and without them are denoised and scored. The inserts give HU and
resolution, the low-contrast module its contrast-to-noise ratio. Power laws through the unprocessed scans give the
dose at which they reach the noise and the detectability of the denoised ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.evaluation.phantom_quality import (
    PhantomQuality,
    PhantomRegion,
    ScannedSection,
    Stack,
    lesion_name,
)
from ldct_denoise.evaluation.phantom_sections import PhantomSection, find_sections
from ldct_denoise.metrics.dose_equivalence import DoseEquivalence, dose_equivalence
from ldct_denoise.phantoms.insertion import InsertedLesion
from ldct_denoise.volume import SliceSource, Volume

Restore = Callable[[SliceSource], Iterable[NDArray[np.floating]]]

#: Lesions that are added to the uniform module.
DEFAULT_LESIONS = tuple(InsertedLesion("soft tissue", mm, hu) for mm, hu in ((4, -20), (7, -10), (12, -6)))
#: Cross-sections of scans that are compared by dose differ by at most this fraction in diameter.
SIZE_TOLERANCE = 0.02
#: Doses that differ by less are one dose.
DOSE_TOLERANCE = 0.05


@dataclass(frozen=True)
class PhantomStudy:
    """Result of :func:`measure_phantom_scans`.

    Parameters
    ----------
    sections : tuple of PhantomSection
        In order of tube current.
    unprocessed : tuple of PhantomQuality
        One for each section.
    denoised : tuple of PhantomQuality
        One for each section; empty without a denoiser.
    doses : tuple of float
        Dose of each section, in ``dose_unit``; NaN where it is not known.
    dose_unit : str
        mAs (tube current times rotation time over pitch), or mA.
    no_equivalence : str
        Why there is no dose equivalence; empty if there is.
    equivalence : tuple of mapping from str to DoseEquivalence
        For each section and for ``noise`` and each lesion, the dose at which unprocessed scans equal the denoised.
    regions : tuple of tuple of PhantomRegion
        Measured pixels of each section.
    examples : tuple of mapping from str to ndarray
        Slices of the section of lowest dose, HU: ``input`` and ``output``.
    """

    sections: tuple[PhantomSection, ...]
    unprocessed: tuple[PhantomQuality, ...]
    denoised: tuple[PhantomQuality, ...]
    doses: tuple[float, ...]
    dose_unit: str
    no_equivalence: str
    equivalence: tuple[Mapping[str, DoseEquivalence], ...]
    regions: tuple[tuple[PhantomRegion, ...], ...]
    examples: tuple[Mapping[str, Stack], ...]


def measure_phantom_scans(
    sources: Sequence[SliceSource],
    phantom: str = "auto",
    restore: Restore | None = None,
    *,
    lesions: Sequence[InsertedLesion] = DEFAULT_LESIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomStudy:
    """Locate the phantom in every scan, denoise it, and measure both.

    Parameters
    ----------
    sources : sequence of SliceSource
        Scans of one phantom, usually one for each dose.
    phantom : str
        ``auto``, ``uniform``, ``acr``, ``catphan503``, ``catphan504``, ``catphan600`` or ``catphan604``.
    restore : callable, optional
        Takes a series and returns its denoised slices (HU) in order. Without it only the scans are measured.
    lesions : sequence of InsertedLesion
        Lesions that are added to the uniform module.
    seed : int
        Seed of the bootstrap.
    progress : callable, optional
        Called with (slices denoised, slices in all).

    Returns
    -------
    PhantomStudy

    Raises
    ------
    InputError
        If a scan does not show the phantom.
    """
    sections = find_sections(sources, phantom)
    scans = [ScannedSection(section, lesions, seed) for section in sections]
    unprocessed = [scan.measure(scan.stacks) for scan in scans]
    denoised: list[PhantomQuality] = []
    examples: list[dict[str, Stack]] = [{"input": stack[len(stack) // 2]} for stack in scans[0].shown()]
    if restore is not None:
        total, done = sum(scan.slices for scan in scans), count(1)

        def restored(volume: Volume) -> Stack:
            output = np.empty_like(volume.hu)
            for index, hu in enumerate(restore(volume)):
                output[index] = hu
                if progress:
                    progress(next(done), total)
            return output

        for number, scan in enumerate(scans):
            outputs = {name: restored(scan.volume(name)) for name in scan.stacks}
            denoised.append(scan.measure(outputs))
            if number == 0:
                for example, stack in zip(examples, scan.shown(outputs), strict=True):
                    example["output"] = stack[len(stack) // 2]
    unit, doses = _doses(sections)
    reason = _why_no_equivalence(sections, doses, unprocessed)
    equivalence = [] if reason else [_equivalence(doses, unprocessed, quality) for quality in denoised]
    return PhantomStudy(
        tuple(sections),
        tuple(unprocessed),
        tuple(denoised),
        tuple(doses),
        unit,
        reason,
        tuple(equivalence),
        tuple(tuple(scan.regions()) for scan in scans),
        tuple(examples),
    )


def _doses(sections: Sequence[PhantomSection]) -> tuple[str, list[float]]:
    """Unit and dose of every section."""
    currents = [section.current_ma for section in sections]
    factors = [section.source.metadata.mas_per_ma for section in sections]
    if all(factor is not None for factor in factors):
        return "mAs", [ma * (factor or 0.0) for ma, factor in zip(currents, factors, strict=True)]
    return "mA", currents


def _why_no_equivalence(
    sections: Sequence[PhantomSection], doses: Sequence[float], unprocessed: Sequence[PhantomQuality]
) -> str:
    """Reason why the scans do not form a dose series; empty if they do."""
    if len(sections) < 2 or max(doses) <= (1 + DOSE_TOLERANCE) * min(doses):
        return "there is one dose only; scan the phantom at two doses or more"
    if not np.isfinite(doses).all():
        return "the headers do not state the tube current"
    diameters = [section.diameter_mm for section in sections]
    if max(diameters) > (1 + SIZE_TOLERANCE) * min(diameters):
        return (
            f"the cross-sections differ in size ({min(diameters):.0f} to {max(diameters):.0f} mm), so that noise "
            "does not depend on the dose alone"
        )
    for name in sections[0].protocol:
        values = dict.fromkeys(str(section.protocol[name]) for section in sections)
        if len(values) > 1 and not name.startswith("rotation"):
            return f"the scans differ in {name} ({', '.join(values)})"
    slope = np.polyfit(np.log(doses), np.log([quality.noise_hu for quality in unprocessed]), 1)[0]
    return "" if slope < 0 else "the noise of the unprocessed scans does not fall as the dose rises"


def _equivalence(
    doses: Sequence[float], unprocessed: Sequence[PhantomQuality], ours: PhantomQuality
) -> dict[str, DoseEquivalence]:
    found = {"noise": dose_equivalence(doses, [one.noise for one in unprocessed], ours.noise)}
    for lesion, detected in ours.detectability.items():
        measured = [one.detectability[lesion] for one in unprocessed]
        found[lesion_name(lesion)] = dose_equivalence(doses, measured, detected)
    return found

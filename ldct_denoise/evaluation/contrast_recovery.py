"""Contrast recovery: how much of a lesion's contrast a denoiser leaves, measured in the user's own images.

Lesions are inserted into real slices through the blur of the kernel. The slices are denoised with and without
them; the difference is the lesion as the denoiser leaves it, the noise being the same (Yu et al. 2015). Denoisers
that leave more noise recover more contrast, so a control is reported: a network whose output is blended with the
input to the same noise.

References
----------
Yu et al., "Ensemble-based assessment of the resolution of iterative reconstruction", Med. Phys. 42, 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.insertion_plan import plan_insertions
from ldct_denoise.io.dose_labels import label_series
from ldct_denoise.io.dose_words import Dose
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import periodograms
from ldct_denoise.metrics.noise_change import AFTER, BEFORE, NoiseChange, noise_change
from ldct_denoise.metrics.unpaired_noise import stack_rois
from ldct_denoise.phantoms.insertion import DEFAULT_LESIONS, InsertedLesion
from ldct_denoise.regions.body import body_mask
from ldct_denoise.volume import SliceSource, spread_indices

Restore = Callable[[SliceSource], Iterable[NDArray[np.floating]]]
Stack = NDArray[np.floating]


@dataclass(frozen=True)
class LesionRecovery:
    """Contrast recovery of one lesion in one series.

    Parameters
    ----------
    lesion : InsertedLesion
    recovery : float
        Mean over places of (contrast after)/(contrast inserted) in the core; 1 keeps all.
    standard_error : float
        Of ``recovery``, from the spread over the places of these images; NaN for a single place.
    places : int
    control : float
        Recovery of the control at equal noise; NaN where it cannot have as much or as little noise.
    """

    lesion: InsertedLesion
    recovery: float
    standard_error: float
    places: int
    control: float


@dataclass(frozen=True)
class NoiseExample:
    """A slice of a series before and after denoising, without lesions, and the noise of the series.

    Parameters
    ----------
    before, after : ndarray, shape (rows, columns)
        HU.
    noise : NoiseChange
        Of all slices that were used.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    """

    before: NDArray[np.floating]
    after: NDArray[np.floating]
    noise: NoiseChange
    pixel_spacing_mm: tuple[float, float]


@dataclass(frozen=True)
class SeriesRecovery:
    """Contrast recovery in one series.

    Parameters
    ----------
    name, kernel, dose : str
        Of the series.
    slices : int
        Number of slices that were used.
    blur_mm : float
        Resolution of the kernel through which lesions were inserted: σ of a Gaussian.
    noise_hu : tuple of 2 floats
        Standard deviation in the places, before and after, HU; anatomy is included.
    control_strength : float
        Strength of the blend that gives the control the same noise; NaN where there is none.
    lesions : tuple of LesionRecovery
    noise : NoiseExample or None
        For a map of the noise; None without an ROI. Of the first series where several are pooled.
    """

    name: str
    kernel: str
    dose: str
    slices: int
    blur_mm: float
    noise_hu: tuple[float, float]
    control_strength: float
    lesions: tuple[LesionRecovery, ...]
    noise: NoiseExample | None = None


def measure_contrast_recovery(
    source: SliceSource,
    restore: Restore,
    control: Restore,
    *,
    dose: str = "",
    slices: int = 4,
    lesions: Sequence[InsertedLesion] = DEFAULT_LESIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SeriesRecovery:
    """Insert lesions into slices of a series, denoise with and without them, and compare.

    Parameters
    ----------
    source : SliceSource
        The user's images as they are denoised in use, such as a low-dose series.
    restore : callable
        Takes a series and returns its denoised slices (HU) in order.
    control : callable
        As ``restore``, at full strength; it is blended with the input to the noise of ``restore``.
    dose : str
        Dose label for the report.
    slices : int
        Number of slices, spread over the series.
    lesions : sequence of InsertedLesion
    seed : int
        Seed of the assignment of lesions to places.
    progress : callable, optional
        Called with (slices done, slices in all).

    Returns
    -------
    SeriesRecovery

    Raises
    ------
    InputError
        If no slice has a place for a lesion.
    """
    plan = plan_insertions(source, spread_indices(len(source), slices), lesions, seed)
    stack = plan.volume(source)
    total, done = 2 * len(stack), count(1)

    def restored(method: Restore) -> Stack:
        output = np.empty(stack.geometry.shape, np.float32)
        for index, hu in enumerate(method(stack)):
            output[index] = hu
            if progress:
                progress(next(done), total)
        return output

    outputs = restored(restore), restored(control)
    noise = [plan.noise_rois(images[: len(plan.indices)]) for images in (stack.hu, *outputs)]
    variance = [float(periodograms(rois).mean()) for rois in noise]
    covariance = (variance[0] + variance[2] - float(periodograms(noise[0] - noise[2]).mean())) / 2
    strength = _equal_noise_strength(variance[0], variance[2], covariance, variance[1])
    recovered = [plan.recoveries(output) for output in outputs]
    found = []
    for lesion in lesions:
        ours, theirs = (np.array(part.get(lesion, ())) for part in recovered)
        if len(ours):
            error = float(ours.std(ddof=1) / np.sqrt(len(ours))) if len(ours) > 1 else float("nan")
            blended = 1 - strength + strength * float(theirs.mean())
            found.append(LesionRecovery(lesion, float(ours.mean()), error, len(ours), blended))
    return SeriesRecovery(
        source.name,
        source.metadata.kernel,
        dose,
        len(plan.indices),
        plan.blur_mm,
        (variance[0] ** 0.5, variance[1] ** 0.5),
        strength,
        tuple(found),
        _noise_example(stack.hu[: len(plan.indices)], outputs[0], source.geometry.pixel_spacing_mm),
    )


def _noise_example(before: Stack, after: Stack, spacing_mm: tuple[float, float]) -> NoiseExample | None:
    """The middle one of the slices, and the noise of all."""
    stacks = [
        stack_rois({BEFORE: first, AFTER: second}, BEFORE, body_mask(first, spacing_mm), spacing_mm)
        for first, second in zip(before, after, strict=False)
    ]
    noise = noise_change([stack for stack in stacks if stack is not None], spacing_mm)
    middle = len(before) // 2
    return NoiseExample(before[middle], after[middle], noise, spacing_mm) if noise else None


def find_and_measure(
    paths: Sequence[Path],
    restore: Restore,
    control: Restore,
    *,
    slices: int = 4,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[list[SeriesRecovery], list[str]]:
    """Measure every series below some paths, pooled by kernel and dose.

    Parameters
    ----------
    paths : sequence of Path
        Files, folders or trees.
    restore, control : callable
        As for :func:`measure_contrast_recovery`.
    slices : int
        Number of slices of each series.
    seed : int
        Seed of the assignment of lesions to places.
    progress : callable, optional
        Called with (slices done, slices in all, name), for every series.

    Returns
    -------
    found : list of SeriesRecovery
        One for each kernel and dose.
    skipped : list of str
        Reasons for series that could not be measured, such as no place for a lesion.

    Raises
    ------
    InputError
        If no series could be measured.
    """
    found, skipped = [], []
    for path in paths:
        for labelled in label_series(find_images(path).series, path):
            source = labelled.series
            report = None if progress is None else partial(_named, progress, source.name)
            dose = "" if labelled.dose is Dose.UNKNOWN else str(labelled.dose)
            try:
                one = measure_contrast_recovery(
                    source, restore, control, dose=dose, slices=slices, seed=seed, progress=report
                )
                found.append(one)
            except InputError as error:
                skipped.append(str(error))
    if not found:
        raise InputError("; ".join(skipped) or f"{paths[0]}: no CT series; see `ldct-denoise inspect`")
    return pool_recoveries(found), skipped


def _named(progress: Callable[[int, int, str], None], name: str, done: int, total: int) -> None:
    progress(done, total, name)


def pool_recoveries(found: Sequence[SeriesRecovery]) -> list[SeriesRecovery]:
    """Pool series of one kernel and dose; every place has the same weight."""
    groups: dict[tuple[str, str], list[SeriesRecovery]] = {}
    for one in found:
        groups.setdefault((one.kernel, one.dose), []).append(one)
    return [members[0] if len(members) == 1 else _pooled(members) for members in groups.values()]


def _pooled(members: Sequence[SeriesRecovery]) -> SeriesRecovery:
    by_lesion: dict[InsertedLesion, list[LesionRecovery]] = {}
    for item in (item for member in members for item in member.lesions):
        by_lesion.setdefault(item.lesion, []).append(item)
    lesions = []
    for lesion, items in by_lesion.items():
        places = np.array([item.places for item in items])
        recovery, control = (
            float(np.average([getattr(item, name) for item in items], weights=places))
            for name in ("recovery", "control")
        )
        errors = places * np.array([item.standard_error for item in items])
        error = float(np.sqrt(np.sum(errors**2)) / places.sum())
        lesions.append(LesionRecovery(lesion, recovery, error, int(places.sum()), control))
    slices = np.array([member.slices for member in members])
    before, after = (
        float(np.sqrt(np.average([member.noise_hu[part] ** 2 for member in members], weights=slices)))
        for part in (0, 1)
    )
    blur, strength = (
        float(np.average([getattr(member, name) for member in members], weights=slices))
        for name in ("blur_mm", "control_strength")
    )
    first = members[0]
    name = f"{len(members)} series"
    return SeriesRecovery(
        name,
        first.kernel,
        first.dose,
        int(slices.sum()),
        blur,
        (before, after),
        strength,
        tuple(lesions),
        first.noise,
    )


def _equal_noise_strength(before: float, full: float, covariance: float, wanted: float) -> float:
    """Strength a at which input + a·(output − input) has the wanted variance; NaN if no strength from 0 to 1 has.

    Parameters
    ----------
    before, full : float
        Variance of the input and of the output at full strength.
    covariance : float
        Of input and output.
    wanted : float
        Variance of the blend.
    """
    if abs(wanted - full) < 1e-6 * before:
        return 1.0
    quadratic = [before + full - 2 * covariance, 2 * (covariance - before), before - wanted]
    roots = np.roots(quadratic)
    inside = [float(root.real) for root in roots if abs(root.imag) < 1e-9 and -1e-9 <= root.real <= 1 + 1e-9]
    return min(inside, default=float("nan"))

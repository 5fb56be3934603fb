"""Compare several models on the low/normal-dose pairs of a folder: same slices, paired statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.config import DataConfig
from ldct_denoise.data.pools import label_paths
from ldct_denoise.data.published_splits import load_split
from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.candidates import Candidate, DisplayedSlices, SeriesSubset, Timer, make_candidates
from ldct_denoise.evaluation.competitors import Competitor, overlap_of
from ldct_denoise.evaluation.evaluate import noise_entries
from ldct_denoise.evaluation.measure import REFERENCE, SliceSample, measure_slices
from ldct_denoise.evaluation.plan import DEFAULT_PLAN, MeasurementPlan, missing_regions, missing_ssim
from ldct_denoise.evaluation.registration import check_registration
from ldct_denoise.evaluation.results import Evaluation, SeriesImages
from ldct_denoise.evaluation.tables import Entry, paired_statistics
from ldct_denoise.evaluation.training_overlap import TrainingOverlap, fair_pairs
from ldct_denoise.inference.settings import DEFAULT_APPLY_SETTINGS, ApplySettings
from ldct_denoise.inference.slices import Progress, report_fit_progress
from ldct_denoise.intensity import Window
from ldct_denoise.io.dose_labels import Pair, find_pairs, label_series
from ldct_denoise.io.dose_words import DEFAULT_PATTERNS, Dose, DosePatterns
from ldct_denoise.io.find import find_images
from ldct_denoise.io.manifest import open_manifest
from ldct_denoise.io.photos import NoiseLaw, NoisyImage, open_images
from ldct_denoise.io.slice_matching import has_thickness
from ldct_denoise.metrics.series_noise import spectrum_slices
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.regions.regions import WholeImage
from ldct_denoise.volume import SliceSource, spread_indices

#: Slices of each pair that the report shows.
DISPLAYED_PER_PAIR = 4


def compare(
    dicom_root: Path,
    models: Sequence[Competitor],
    plan: MeasurementPlan = DEFAULT_PLAN,
    *,
    include_training_patients: bool = False,
    patterns: DosePatterns = DEFAULT_PATTERNS,
    slice_thickness_mm: Sequence[float] = (),
    kernels: Sequence[str] = (),
    num_seeds: int = 1,
    settings: ApplySettings = DEFAULT_APPLY_SETTINGS,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure every model on all paired slices of a folder.

    Parameters
    ----------
    dicom_root : Path
        Folder with low- and normal-dose series, in any layout that ``inspect`` recognises.
    models : sequence of Competitor
        Models, images that were made elsewhere, functions, or the models of several folds; see
        :mod:`~ldct_denoise.evaluation.competitors`.
    plan : MeasurementPlan
        Windows, regions, contrasts and metrics. Regions in mm are measured in every series that they reach.
    include_training_patients : bool
        Include patients that a model was trained on, with a note. By default they are left out for all models, so
        that all are measured on the same slices. Training images are recognised by patient, by Study and Series
        Instance UID, and by pixels; where it cannot be known, the model is marked.
    patterns : DosePatterns
        The user's own words for the doses.
    slice_thickness_mm : sequence of float
        Measure only series with these slice thicknesses; empty: all.
    kernels : sequence of str
        Measure only series with these kernels; empty: all.
    num_seeds : int
        Number of seeds for stochastic methods; their labels then end in ``-seed0``, ``-seed1``, ….
    settings : ApplySettings
        How the models are applied; the seed is set for each run.
    progress : callable, optional
        Called with (slices done, slices in all, note).

    Returns
    -------
    Evaluation
        Models are ``input`` and every candidate's label. ``extra`` holds the ``paired`` statistics,
        ``seconds_per_slice``, ``models`` (with ``seen_in_training``), ``noise`` and ``registration``.

    Raises
    ------
    InputError
        If the folder holds no pair, or only patients that a model was trained on.
    ConfigError
        If ``num_seeds`` is below 1 or no model is given.
    """
    make_candidates(models, num_seeds)  # refuses what is impossible before the folder is read
    return compare_pairs(
        _pairs_of(dicom_root, patterns, settings.assume_hu),
        models,
        plan,
        include_training_patients=include_training_patients,
        slice_thickness_mm=slice_thickness_mm,
        kernels=kernels,
        num_seeds=num_seeds,
        settings=settings,
        progress=progress,
    )


def compare_pairs(
    pairs: Sequence[Pair],
    models: Sequence[Competitor],
    plan: MeasurementPlan = DEFAULT_PLAN,
    *,
    include_training_patients: bool = False,
    slice_thickness_mm: Sequence[float] = (),
    kernels: Sequence[str] = (),
    num_seeds: int = 1,
    settings: ApplySettings = DEFAULT_APPLY_SETTINGS,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure every model on the slices of pairs; see :func:`compare`, which finds the pairs of a folder.

    Parameters
    ----------
    pairs : sequence of Pair
    models : sequence of Competitor
    plan : MeasurementPlan
    include_training_patients : bool
    slice_thickness_mm : sequence of float
    kernels : sequence of str
    num_seeds : int
    settings : ApplySettings
    progress : callable, optional

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If no pair is left, or a competitor has not the slices of one.
    ConfigError
        If ``num_seeds`` is below 1 or no model is given.
    """
    candidates = make_candidates(models, num_seeds)
    found = [pair for pair in pairs if _is_wanted(pair, slice_thickness_mm, kernels)]
    if not found:
        raise InputError("no low/normal pair has one of the slice thicknesses and kernels that were given")
    kept, left_out, overlaps = fair_pairs(found, models, include_training_patients, overlap_of)
    checked, shifts, shift_notes = _check_registration(kept, plan.register)
    plan = replace(plan, notes=[*plan.notes, *left_out, *shift_notes])
    result = _compare_pairs(checked, candidates, plan, settings, progress, overlaps)
    return replace(result, extra={**result.extra, "registration": shifts})


def find_pairs_for(
    dicom_root: Path | None = None,
    low: Sequence[Path] = (),
    normal: Sequence[Path] = (),
    manifest: Path | None = None,
    *,
    patterns: DosePatterns = DEFAULT_PATTERNS,
    assume_hu: bool = False,
) -> tuple[Pair, ...]:
    """Find the pairs of a tree, of low- and normal-dose paths, or of a manifest.

    Parameters
    ----------
    dicom_root : Path, optional
        Folder with series of both doses.
    low, normal : sequence of Path
        Instead: series of one dose each.
    manifest : Path, optional
        Instead: a table of series; its ``test`` rows, or all where no row has a split.
    patterns : DosePatterns
        The user's own words for the doses, for ``dicom_root``.
    assume_hu : bool
        Take the values of images for HU where header or values speak against it.

    Returns
    -------
    tuple of Pair

    Raises
    ------
    InputError
        If there is none.
    """
    if dicom_root is not None:
        return tuple(_pairs_of(dicom_root, patterns, assume_hu))
    if manifest is not None:
        table = open_manifest(manifest, assume_hu=assume_hu)
        has_splits = any(row.split for _, row in table.series)
        pairs, where = table.pairs(*(("test",) if has_splits else ())), str(manifest)
        hint = "its test rows hold no pair" if has_splits else "its rows hold no pair"
    else:
        config = DataConfig(assume_hu=assume_hu)  # type: ignore[call-arg]
        labelled = [*label_paths(low, Dose.LOW, config, []), *label_paths(normal, Dose.NORMAL, config, [])]
        pairs, where = (
            find_pairs(labelled),
            f"--low {' '.join(map(str, low))} --normal {' '.join(map(str, normal))}",
        )
        hint = "no slice of one patient, kernel and position is in both"
    if not pairs:
        raise InputError(f"{where}: {hint}")
    return pairs


def pairs_of_split(pairs: Sequence[Pair], split: str, fold: int = 0) -> tuple[Pair, ...]:
    """Pairs of the test patients of a split.

    Parameters
    ----------
    pairs : sequence of Pair
    split : str
        As for :func:`~ldct_denoise.data.published_splits.load_split`.
    fold : int
        Fold of a file.

    Returns
    -------
    tuple of Pair

    Raises
    ------
    InputError
        If none is of a test patient.
    """
    wanted = load_split(split, fold).test
    chosen = tuple(pair for pair in pairs if pair.patient in wanted)
    if not chosen:
        here = ", ".join(sorted({pair.patient for pair in pairs}))
        raise InputError(f"split {split}: no pair of a test patient ({', '.join(sorted(wanted))}); here: {here}")
    return chosen


def compare_on_images(
    folder: Path,
    models: Sequence[TrainedModel],
    *,
    noise_sigma: float,
    noise: NoiseLaw = "gaussian",
    seed: int = 0,
    num_seeds: int = 1,
    settings: ApplySettings = DEFAULT_APPLY_SETTINGS,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure every model on grey images with synthetic noise; PSNR and SSIM over 0…255.

    Parameters
    ----------
    folder : Path
        Folder of grey images.
    models : sequence of TrainedModel
    noise_sigma : float
        Noise level in grey values; see :class:`~ldct_denoise.io.photos.NoisyImage`.
    noise : {"gaussian", "poisson"}
        Distribution of the noise. Noisy values are neither rounded nor clipped, as usual for published tables.
    seed : int
        Seed of the noise.
    num_seeds : int
        Number of seeds for stochastic methods.
    settings : ApplySettings
        How the models are applied. The range guard is switched off, because noisy grey values exceed 0…255.
    progress : callable, optional
        Called with (images done, images in all, note).

    Returns
    -------
    Evaluation

    Raises
    ------
    ConfigError
        If ``num_seeds`` is below 1 or no model is given.
    """
    candidates = make_candidates(models, num_seeds)
    pairs = [
        Pair(image.name, "", NoisyImage(image, noise, noise_sigma, seed), image, ((0, 0),))
        for image in open_images(folder)
    ]
    note = f"{noise} noise of {noise_sigma:g} grey values, seed {seed}, on {len(pairs)} images of {folder.name}"
    plan = MeasurementPlan((Window.between("grey", 0, 255),), (WholeImage(),), noise=False, notes=[note])
    return _compare_pairs(pairs, candidates, plan, replace(settings, guard_range=False), progress)


def _compare_pairs(
    pairs: Sequence[Pair],
    candidates: Sequence[Candidate],
    plan: MeasurementPlan,
    settings: ApplySettings,
    progress: Progress | None,
    overlaps: Mapping[int, TrainingOverlap] = MappingProxyType({}),
) -> Evaluation:
    timer, cases = Timer(), [_case(pair, candidates) for pair in pairs]
    total = sum(len(pair.indices) for pair in pairs)
    samples = (
        sample
        for pair, case in zip(pairs, cases, strict=True)
        for sample in _samples(pair, case, candidates, timer, settings)
    )
    models = {c.name: c.model for c in candidates if isinstance(c.model, TrainedModel)}
    show = progress or (lambda done, count, note: None)
    with report_fit_progress(list(models.values()), show, (0, total, "")) as update:
        rows, noise = measure_slices(samples, plan, progress=lambda done, _: update(done, total, ""), total=total)
    patients = {case.series: case.patient for case in cases}
    labels = [candidate.label for candidate in candidates]
    extra = {
        "paired": paired_statistics(rows, patients, ["input", *labels]),
        "seconds_per_slice": timer.per_slice(),
        "models": {
            candidate.label: _model_entry(candidate, overlaps.get(id(candidate.model))) for candidate in candidates
        },
        "noise": noise_entries(noise),
    }
    notes = [*plan.notes, *_settings_notes(settings), *missing_regions(plan, rows), *missing_ssim(rows)]
    return Evaluation(rows, patients, tuple(plan.windows), tuple(plan.regions), tuple(cases), tuple(notes), extra)


def _check_registration(pairs: Sequence[Pair], register: bool) -> tuple[list[Pair], list[Entry], list[str]]:
    """Shift of every pair; the normal-dose series is interpolated if asked for."""
    checked: list[Pair] = []
    entries: list[Entry] = []
    notes: list[str] = []
    for pair in pairs:
        images = {"input": (pair.low, [(normal, low) for low, normal in pair.indices])}
        normal, found, words = check_registration(pair.normal, images, register)
        checked.append(replace(pair, normal=normal))
        entries += [{"series": pair.low.uid, **entry} for entry in found]
        notes += words
    return checked, entries, notes


def _settings_notes(settings: ApplySettings) -> Iterator[str]:
    """Settings that change every model's numbers."""
    if settings.tta:
        yield "each model's output is the mean over 8 flips and rotations (test-time augmentation)"
    if settings.precision != "fp32":
        yield f"networks computed in {settings.precision}"


def _model_entry(candidate: Candidate, overlap: TrainingOverlap | None) -> dict[str, object]:
    """A candidate's entry in ``summary.json``: checksum, seed, training budget, seen patients."""
    model = candidate.model
    seen = (overlap or TrainingOverlap()).status
    if not isinstance(model, TrainedModel):
        return {"name": candidate.name, "method": type(model).__name__, "seed": None, "seen_in_training": seen}
    training = model.card.get("config", {}).get("training", {})
    return {
        "name": candidate.name,
        "method": model.method_name,
        "checksum": model.checksum,
        "seed": candidate.seed,
        "seen_in_training": seen,
        "training_seconds": model.card.get("seconds"),
        "training_steps": model.card.get("step"),
        "training_batch": training.get("batch_size"),
        "training_device": model.card.get("device"),
    }


def _pairs_of(root: Path, patterns: DosePatterns, assume_hu: bool) -> list[Pair]:
    pairs = find_pairs(label_series(find_images(root, assume_hu=assume_hu).series, root, patterns))
    if not pairs:
        raise InputError(f"{root}: no low/normal pair; `ldct-denoise inspect` shows how each series was labelled")
    return list(pairs)


def _is_wanted(pair: Pair, thicknesses_mm: Sequence[float], kernels: Sequence[str]) -> bool:
    """Whether a pair has one of the slice thicknesses and one of the kernels; empty: any."""
    is_right_thickness = not thicknesses_mm or has_thickness(pair.low, thicknesses_mm)
    return is_right_thickness and (not kernels or pair.kernel in kernels)


def _case(pair: Pair, candidates: Sequence[Candidate]) -> SeriesImages:
    """The pair's slices, with storage for the restored slices that the report shows."""
    low = SeriesSubset(pair.low, [i for i, _ in pair.indices])
    normal = SeriesSubset(pair.normal, [j for _, j in pair.indices])
    restored: dict[str, SliceSource] = {candidate.label: DisplayedSlices(low) for candidate in candidates}
    count = len(pair.indices)
    shown = spread_indices(count, DISPLAYED_PER_PAIR)
    indices = tuple(dict.fromkeys([REFERENCE, "input", *restored], index) for index in shown)
    return SeriesImages(pair.low.uid, pair.patient, normal, {"input": low, **restored}, indices)


def _samples(
    pair: Pair, case: SeriesImages, candidates: Sequence[Candidate], timer: Timer, settings: ApplySettings
) -> Iterator[SliceSample]:
    """The pair's slices in order, restored by every candidate."""
    low, normal = case.images["input"], case.reference
    shown, low_indices = {indices["input"] for indices in case.indices}, [index for index, _ in pair.indices]
    streams: Mapping[str, Iterator[NDArray[np.float32]]] = {
        c.label: timer.timed(c.label, c.restore(pair, settings, low_indices)) for c in candidates
    }
    spectra = spectrum_slices(len(low))
    for index in range(len(low)):
        restored = {label: next(stream) for label, stream in streams.items()}
        if index in shown:
            for label, hu in restored.items():
                displayed = case.images[label]
                assert isinstance(displayed, DisplayedSlices)
                displayed.hu[index] = hu
        images = {"input": low.read_hu(index), **restored}
        reference, spacing = normal.read_hu(index), case.slice_spacing_mm
        yield SliceSample(
            case.series, case.patient, normal.geometry, index, reference, images, spacing, index in spectra
        )

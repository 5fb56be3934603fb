"""Several models over all low/normal pairs of a root: the same slices, one run, paired statistics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.evaluate import DEFAULT_REGIONS, DEFAULT_WINDOWS, noise_entries
from ldct_denoise.evaluation.measure import REFERENCE, Place, What, measure_places, unmeasured
from ldct_denoise.evaluation.results import Evaluation, SeriesImages
from ldct_denoise.evaluation.tables import paired_statistics
from ldct_denoise.inference.slices import DEFAULTS, ApplySettings, Progress, report_fit_progress, restore_slices
from ldct_denoise.intensity import Window
from ldct_denoise.io.dose_labels import Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.photos import NoiseLaw, NoisyImage, open_images
from ldct_denoise.metrics.series_noise import spectrum_slices
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.regions.regions import Region, WholeImage
from ldct_denoise.volume import Geometry, SeriesMetadata, SeriesView, SliceSource

KEPT_PER_PAIR = 4


@dataclass(frozen=True)
class Contestant:
    """A model under the label that stands in the tables, its name without the seed, and the seed it runs with."""

    label: str
    name: str
    model: TrainedModel
    seed: int = 0


@dataclass
class Timer:
    """Seconds that each contestant took, and for how many slices."""

    seconds: dict[str, float] = field(default_factory=dict)
    slices: dict[str, int] = field(default_factory=dict)

    def per_slice(self) -> dict[str, float]:
        """The mean by contestant: on a GPU one slice waits for its whole group, the others for nothing."""
        return {label: seconds / self.slices[label] for label, seconds in self.seconds.items()}

    def timed(self, label: str, items: Iterator[tuple[int, NDArray[np.float32]]]) -> Iterator[NDArray[np.float32]]:
        """The images of ``items``, each one's making timed."""
        while True:
            start = time.perf_counter()
            item = next(items, None)
            if item is None:
                return
            self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - start
            self.slices[label] = self.slices.get(label, 0) + 1
            yield item[1]


@dataclass(frozen=True)
class ChosenSlices(SeriesView):
    """Some slices of a series, as a series: those that both sides of a pair have.

    Parameters
    ----------
    source : SliceSource
    indices : sequence of int
        Slices of ``source``.
    """

    indices: Sequence[int]

    @property
    def geometry(self) -> Geometry:
        """Geometry of the chosen slices."""
        return self.source.geometry.select(self.indices)

    @property
    def metadata(self) -> SeriesMetadata:
        """Metadata of the chosen slices."""
        return self.source.metadata.select(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One slice in HU."""
        return self.source.read_hu(self.indices[index])


@dataclass(frozen=True)
class KeptSlices(SeriesView):
    """The restored slices that are shown in the report; the others are measured and forgotten."""

    hu: dict[int, NDArray[np.floating]] = field(default_factory=dict)

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One kept slice in HU."""
        return np.asarray(self.hu[index], dtype=np.float32)


def compare(
    dicom_root: Path,
    models: Sequence[TrainedModel],
    *,
    windows: Sequence[Window] = DEFAULT_WINDOWS,
    regions: Sequence[Region] = DEFAULT_REGIONS,
    contrasts: Sequence[tuple[Region, Region]] = (),
    extended: bool = False,
    include_training_patients: bool = False,
    repeat: int = 1,
    settings: ApplySettings = DEFAULTS,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure every model on all paired slices of a root.

    Parameters
    ----------
    dicom_root : Path
        Low- and normal-dose series, in any of the layouts that ``inspect`` tells.
    models : sequence of TrainedModel
    windows, regions, contrasts : sequences
        As for `evaluate`. Positions in mm are measured in every series that reaches them.
    extended : bool
        Also MS-SSIM, VIF and GMSD of the whole image.
    include_training_patients : bool
        Keep patients that a model was trained on, and say so; otherwise they are left out for all models, so that
        every model is measured on the same slices.
    repeat : int
        Seeds of the methods that draw random numbers; their labels then end in ``-seed0``, ``-seed1``, …
    settings : ApplySettings
        How the models are used; each repeat has a seed of its own.
    notes : sequence of str
        What else the reader of the numbers must know.
    progress : callable, optional
        Called with (slices done, slices in all, note).

    Returns
    -------
    Evaluation
        With the models ``input`` and one for every contestant; ``extra`` holds the paired statistics
        (``paired``) and the ``seconds_per_slice``.

    Raises
    ------
    InputError
        If the root holds no pair, or only patients that a model was trained on.
    ConfigError
        If ``repeat`` is below 1 or no model is given.
    """
    _check(models, repeat)
    pairs, left_out = _fair_pairs(_pairs_of(dicom_root), models, include_training_patients)
    what = What(windows, regions, contrasts, extended)
    return _compare_pairs(pairs, [*notes, *left_out], models, what, repeat, settings, progress)


def compare_on_images(
    folder: Path,
    models: Sequence[TrainedModel],
    *,
    sigma: float,
    law: NoiseLaw = "gaussian",
    seed: int = 0,
    repeat: int = 1,
    settings: ApplySettings = DEFAULTS,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure every model on the grey images of a folder with synthetic noise, PSNR and SSIM over 0…255.

    Parameters
    ----------
    folder : Path
    models : sequence of TrainedModel
    sigma : float
        Level of the noise, grey values (see :class:`~ldct_denoise.io.photos.NoisyImage`).
    law, seed : str, int
        Of the noise; values are neither rounded nor clipped, as usual for these tables.
    repeat, settings, progress
        As in :func:`compare`; noisy photographs leave a model's range, so that it is not guarded.
    """
    _check(models, repeat)
    pairs = [
        Pair(image.name, "", NoisyImage(image, law, sigma, seed), image, ((0, 0),))
        for image in open_images(folder)
    ]
    notes = [f"{law} noise of {sigma:g} grey values, seed {seed}, on {len(pairs)} images of {folder.name}"]
    settings = replace(settings, guard_range=False)
    what = What((Window.between("grey", 0, 255),), (WholeImage(),), noise=False)
    return _compare_pairs(pairs, notes, models, what, repeat, settings, progress)


def _check(models: Sequence[TrainedModel], repeat: int) -> None:
    if repeat < 1 or not models:
        raise ConfigError("compare needs at least one model and --repeat of at least 1")


def _compare_pairs(
    pairs: Sequence[Pair],
    notes: Sequence[str],
    models: Sequence[TrainedModel],
    what: What,
    repeat: int,
    settings: ApplySettings,
    progress: Progress | None,
) -> Evaluation:
    contestants = _contestants(models, repeat)
    notes = [*notes, *_how_used(settings)]
    timer, cases = Timer(), []
    for pair in pairs:
        cases.append(_case(pair, contestants))
    total = sum(len(pair.indices) for pair in pairs)
    places = (
        place
        for pair, case in zip(pairs, cases, strict=True)
        for place in _places(pair, case, contestants, timer, settings)
    )
    with report_fit_progress(models, progress or (lambda done, count, note: None), (0, total, "")) as tell:
        rows, noise = measure_places(places, what, progress=lambda done, _: tell(done, total, ""), total=total)
    patients = {case.series: case.patient for case in cases}
    extra = {
        "paired": paired_statistics(rows, patients, ["input", *(c.label for c in contestants)]),
        "seconds_per_slice": timer.per_slice(),
        "models": {c.label: _facts(c) for c in contestants},
        "noise": noise_entries(noise),
    }
    notes += unmeasured(what, rows)
    return Evaluation(rows, patients, tuple(what.windows), tuple(what.regions), tuple(cases), tuple(notes), extra)


def _how_used(settings: ApplySettings) -> Iterator[str]:
    """What a reader of the numbers must know of how every model was used."""
    if settings.tta:
        yield "each model's output is the mean over 8 flips and turns"
    if settings.precision != "fp32":
        yield f"networks computed in {settings.precision}"


def _facts(contestant: Contestant) -> dict[str, object]:
    """What stands beside a model's numbers: its file, its seed, and what its training cost."""
    model = contestant.model
    training = model.card.get("config", {}).get("training", {})
    return {
        "name": contestant.name,
        "method": model.method_name,
        "checksum": model.checksum,
        "seed": contestant.seed,
        "training_seconds": model.card.get("seconds"),
        "training_steps": model.card.get("step"),
        "training_batch": training.get("batch_size"),
        "training_device": model.card.get("device"),
    }


def _pairs_of(root: Path) -> list[Pair]:
    pairs = find_pairs(label_series(find_images(root).series, root))
    if not pairs:
        raise InputError(f"{root}: no low/normal pair; `ldct-denoise inspect` shows how each series was labelled")
    return list(pairs)


def _fair_pairs(pairs: list[Pair], models: Sequence[TrainedModel], include: bool) -> tuple[list[Pair], list[str]]:
    """The pairs to measure, and what must be said about them."""
    seen = {model.name: sorted(model.training_patients & {pair.patient for pair in pairs}) for model in models}
    seen = {name: patients for name, patients in seen.items() if patients}
    if not seen:
        return pairs, []
    trained = {patient for patients in seen.values() for patient in patients}
    counts = ", ".join(f"{name} on {len(patients)}" for name, patients in seen.items())
    if include:
        return pairs, [f"patients that a model was trained on are included ({counts}): its numbers flatter it"]
    fair = [pair for pair in pairs if pair.patient not in trained]
    if not fair:
        raise InputError(
            f"every patient was in a model's training pools ({counts}); give other patients or "
            "--include-training-patients"
        )
    return fair, [f"{len(trained)} patient(s) left out because a model was trained on them ({counts})"]


def _contestants(models: Sequence[TrainedModel], repeat: int) -> list[Contestant]:
    """A label for every model and seed, no two alike."""
    contestants: list[Contestant] = []
    for model in models:
        taken = {contestant.name for contestant in contestants} | {"input", REFERENCE}
        name, number = model.name, 2
        while name in taken:
            name, number = f"{model.name}-{number}", number + 1
        if model.method.is_random and repeat > 1:
            contestants += [Contestant(f"{name}-seed{seed}", name, model, seed) for seed in range(repeat)]
        else:
            contestants.append(Contestant(name, name, model))
    return contestants


def _case(pair: Pair, contestants: Sequence[Contestant]) -> SeriesImages:
    """The pair's slices, with room for those that the report shows."""
    low = ChosenSlices(pair.low, [i for i, _ in pair.indices])
    normal = ChosenSlices(pair.normal, [j for _, j in pair.indices])
    kept: dict[str, SliceSource] = {contestant.label: KeptSlices(low) for contestant in contestants}
    count = len(pair.indices)
    shown = np.unique(np.linspace(0, count - 1, min(KEPT_PER_PAIR, count)).round().astype(int))
    indices = tuple(dict.fromkeys([REFERENCE, "input", *kept], int(index)) for index in shown)
    return SeriesImages(pair.low.uid, pair.patient, normal, {"input": low, **kept}, indices)


def _places(
    pair: Pair, case: SeriesImages, contestants: Sequence[Contestant], timer: Timer, settings: ApplySettings
) -> Iterator[Place]:
    """The pair's slices one after the other, restored by every contestant."""
    low, normal = case.images["input"], case.reference
    shown, places = {at["input"] for at in case.indices}, [index for index, _ in pair.indices]
    streams: Mapping[str, Iterator[NDArray[np.float32]]] = {
        c.label: timer.timed(c.label, restore_slices(pair.low, c.model, replace(settings, seed=c.seed), places))
        for c in contestants
    }
    spectra = spectrum_slices(len(low))
    for index in range(len(low)):
        restored = {label: next(stream) for label, stream in streams.items()}
        if index in shown:
            for label, hu in restored.items():
                kept = case.images[label]
                assert isinstance(kept, KeptSlices)
                kept.hu[index] = hu
        images = {"input": low.read_hu(index), **restored}
        reference, spacing = normal.read_hu(index), case.slice_spacing_mm
        yield Place(
            case.series, case.patient, normal.geometry, index, reference, images, spacing, index in spectra
        )

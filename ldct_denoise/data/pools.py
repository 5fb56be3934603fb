"""The low-dose and the normal-dose pool, pairs, and the split by patient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ldct_denoise.config import DataConfig
from ldct_denoise.data.folds import Split, divide
from ldct_denoise.data.image_digests import training_digests
from ldct_denoise.data.published_splits import PatientSplit, load_split
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.io.dose_labels import LabelledSeries, Pair, find_pairs, label_series
from ldct_denoise.io.dose_words import Dose, DosePatterns
from ldct_denoise.io.find import find_images
from ldct_denoise.io.manifest import Manifest, open_manifest
from ldct_denoise.io.photos import GreyImage, open_images
from ldct_denoise.io.slice_matching import has_thickness
from ldct_denoise.methods import Supervision
from ldct_denoise.volume import SeriesView, SliceSource


@dataclass(frozen=True)
class Pools:
    """Series that a run trains and validates on.

    Parameters
    ----------
    low, normal : tuple of SliceSource
        Low- and normal-dose series of the training patients.
    pairs : tuple of Pair
        Pairs of the training patients: targets of supervised methods, never drawn together by unpaired ones.
    validation_low : tuple of SliceSource
        Low-dose series of the validation patients, who are in neither pool.
    validation_pairs : tuple of Pair
        Pairs of the validation patients; they are measured, never trained on.
    validation_normal : tuple of SliceSource
        Normal-dose series of the validation patients.
    notes : tuple of str
        Files and series that are in no pool, a line each.
    splits : tuple of dict
        Training and validation patients of every fold of a cross-validation; see :mod:`~ldct_denoise.data.folds`.
    """

    low: tuple[SliceSource, ...]
    normal: tuple[SliceSource, ...]
    pairs: tuple[Pair, ...] = ()
    validation_low: tuple[SliceSource, ...] = ()
    validation_pairs: tuple[Pair, ...] = ()
    validation_normal: tuple[SliceSource, ...] = ()
    notes: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ()

    @property
    def patients(self) -> tuple[str, ...]:
        """IDs of the training patients, sorted."""
        return tuple(sorted({source.patient for source in (*self.low, *self.normal)}))

    @cached_property
    def image_digests(self) -> tuple[str, ...]:
        """Digests of the training images; see :mod:`~ldct_denoise.data.image_digests`. Photographs have none."""
        return tuple(training_digests(one for one in (*self.low, *self.normal) if not isinstance(one, GreyImage)))

    def describe(self) -> dict[str, object]:
        """Numbers of series and slices, kernels and patients, for the model's card."""
        return {
            "low_series": len(self.low),
            "low_slices": sum(len(source) for source in self.low),
            "normal_series": len(self.normal),
            "normal_slices": sum(len(source) for source in self.normal),
            "kernels": sorted({source.metadata.kernel for source in (*self.low, *self.normal)} - {""}),
            "training_patients": list(self.patients),
            "validation_patients": sorted({source.patient for source in self.validation_low}),
        }


def pools_from_root(
    root: Path, config: DataConfig, seed: int = 0, supervision: Supervision = Supervision.UNPAIRED
) -> Pools:
    """Build pools from one tree with series of both doses (Mayo 2016, TCIA, or folders named low and normal).

    Parameters
    ----------
    root : Path
        The tree.
    config : DataConfig
        Kernels, thicknesses, words for the doses, test and validation patients.
    seed : int
        Decides on the validation patients, where none are named.
    supervision : Supervision
        Kind of images that the method is trained on.

    Raises
    ------
    InputError
        If a pool that the method needs would be empty, or the settings name a patient who is not in the tree.
    """
    inventory = find_images(root, assume_hu=config.assume_hu)
    patterns = DosePatterns(config.low_patterns, config.normal_patterns)
    labelled = label_series(inventory.series, root, patterns)
    labelled = [item for item in labelled if _is_wanted(item.series, config)]
    unknown = sum(item.dose is Dose.UNKNOWN for item in labelled)
    notes = inventory.notes(root)
    if unknown:
        notes.append(f"{unknown} series of unknown dose are in no pool; `ldct-denoise inspect {root}` shows which")
    pools = _split(labelled, config, seed, str(root), supervision)
    return replace(pools, notes=(*notes, *pools.notes))


def pools_from_paths(
    low: Sequence[Path],
    normal: Sequence[Path],
    config: DataConfig,
    seed: int = 0,
    supervision: Supervision = Supervision.UNPAIRED,
) -> Pools:
    """Build pools from low-dose and normal-dose paths; the names of the paths have no meaning.

    Parameters
    ----------
    low, normal : sequence of Path
        Files, folders or trees with the series of one dose.
    config : DataConfig
        Kernels, thicknesses, words for the doses, test and validation patients.
    seed : int
        Decides on the validation patients, where none are named.
    supervision : Supervision
        Kind of images that the method is trained on.

    Raises
    ------
    InputError
        If a path holds no CT, a pool that the method needs would be empty, or the settings name a patient who is
        not there.
    """
    notes: list[str] = []
    labelled = [*label_paths(low, Dose.LOW, config, notes), *label_paths(normal, Dose.NORMAL, config, notes)]
    where = f"--low {' '.join(map(str, low))} --normal {' '.join(map(str, normal))}"
    pools = _split(labelled, config, seed, where, supervision)
    return replace(pools, notes=(*dict.fromkeys(notes), *pools.notes))


def pools_from_manifest(
    file: Path, config: DataConfig, seed: int = 0, supervision: Supervision = Supervision.UNPAIRED
) -> Pools:
    """Build pools from the series of a manifest (:mod:`~ldct_denoise.io.manifest`).

    Its splits decide: ``test`` is left out, ``validation`` validates. Where no row has a split, the validation
    patients are chosen as for a tree.

    Parameters
    ----------
    file : Path
    config : DataConfig
        Kernels, thicknesses, test and validation patients, folds.
    seed : int
        Decides on the validation patients, where neither the manifest nor the settings name any.
    supervision : Supervision
        Kind of images that the method is trained on.

    Returns
    -------
    Pools

    Raises
    ------
    InputError
        If the manifest cannot be read, or a pool that the method needs would be empty.
    """
    manifest = open_manifest(file, assume_hu=config.assume_hu)
    kept = Manifest(file, tuple(one for one in manifest.series if _is_wanted(one[0].series, config)))
    if not any(row.split for _, row in kept.series):
        return _split(kept.labelled(), config, seed, str(file), supervision, kept.pairs())
    if config.folds or config.split or config.validation_patients or config.test_patients:
        raise ConfigError(
            f"{file}: has splits, so leave out data.folds, data.split, data.validation_patients and "
            "data.test_patients"
        )
    training, validation = kept.labelled("train", ""), kept.labelled("validation")
    pairs = kept.pairs("train", ""), kept.pairs("validation")
    return _pools(training, validation, pairs, config, str(file), supervision)


def pools_from_images(folder: Path, supervision: Supervision, seed: int = 0) -> Pools:
    """Build pools of grey photographs; noise is added when patches of the low-dose pool are cut.

    Parameters
    ----------
    folder : Path
        Folder with image files.
    supervision : Supervision
        Kind of images that the method is trained on. For an unpaired method the images are split at random into
        two halves, as in the paper; for the others both pools hold all images.
    seed : int
        Seed of the split.

    Raises
    ------
    InputError
        If there is no image, or a single one for two pools.
    """
    images = open_images(folder)
    if supervision is Supervision.UNPAIRED and len(images) < 2:
        raise InputError(f"{folder}: one image; an unpaired method needs images for each of its two pools")
    if supervision is not Supervision.UNPAIRED:
        pairs = tuple(Pair(image.patient, "", image, image, ((0, 0),)) for image in images)
        return Pools(images, images, pairs)
    order = np.random.default_rng(seed).permutation(len(images))
    half = len(images) // 2
    low, normal = ([images[int(place)] for place in part] for part in (order[:half], order[half:]))
    return Pools(tuple(low), tuple(normal))


def label_paths(paths: Iterable[Path], dose: Dose, config: DataConfig, notes: list[str]) -> list[LabelledSeries]:
    """Label series whose dose the user gave.

    Parameters
    ----------
    paths : iterable of Path
    dose : Dose
    config : DataConfig
        Kernels and thicknesses.
    notes : list of str
        Gets a line for each kind of skipped files.

    Returns
    -------
    list of LabelledSeries
    """
    found = []
    for path in paths:
        inventory = find_images(path, assume_hu=config.assume_hu)
        notes += inventory.notes(path)
        for item in label_series(inventory.series, path):
            if _is_wanted(item.series, config):
                found.append(item.relabelled(dose, f"given as --{'low' if dose is Dose.LOW else 'normal'}"))
    return found


def _split(
    labelled: Sequence[LabelledSeries],
    config: DataConfig,
    seed: int,
    where: str,
    supervision: Supervision,
    known_pairs: Sequence[Pair] | None = None,
) -> Pools:
    """Divide the patients into training, validation and test."""
    everyone = sorted({item.patient for item in labelled})
    for setting in ("test_patients", "validation_patients"):
        for name in sorted({*getattr(config, setting)} - {*everyone}):
            raise InputError(f"{where}: data.{setting}: no patient {name!r}; there are {', '.join(everyone)}")
    labelled = [item for item in labelled if item.patient not in config.test_patients]
    splits: list[Split] = []
    notes: list[str] = []
    if config.split:
        chosen = load_split(config.split, config.fold)
        labelled, notes = _in_split(labelled, chosen, config.split, where)
        held_out = {*chosen.validation}
    elif config.folds:
        splits = divide([item.patient for item in labelled], config.folds, seed=0)
        held_out = {*splits[config.fold]["val"]}
    else:
        held_out = {*config.validation_patients} or _draw_validation_patients(
            labelled, config.validation_fraction, seed, supervision
        )
    training = [item for item in labelled if item.patient not in held_out]
    validation = [item for item in labelled if item.patient in held_out]
    if known_pairs is None:
        pairs = find_pairs(training), find_pairs(validation)
    else:
        kept = {item.patient for item in training}
        pairs = (
            tuple(pair for pair in known_pairs if pair.patient in kept),
            tuple(pair for pair in known_pairs if pair.patient in held_out),
        )
    pools = _pools(training, validation, pairs, config, where, supervision)
    return replace(pools, splits=tuple(splits), notes=tuple(notes))


def _in_split(
    labelled: Sequence[LabelledSeries], split: PatientSplit, name: str, where: str
) -> tuple[list[LabelledSeries], list[str]]:
    """Series of a split's training and validation patients, and notes on missing and other patients."""
    here = {item.patient for item in labelled}
    wanted = split.train | split.validation
    if not here & split.train:
        raise InputError(f"{where}: data.split {name}: none of its {len(split.train)} training patients is here")
    notes = []
    for part, patients in (("training", split.train), ("validation", split.validation)):
        if missing := patients - here:
            notes.append(f"split {name}: {len(missing)} of its {len(patients)} {part} patients are not here")
    if other := here - wanted - split.test:
        notes.append(f"split {name}: does not name {', '.join(sorted(other))}; left out")
    return [item for item in labelled if item.patient in wanted], notes


def _pools(
    training: Sequence[LabelledSeries],
    validation: Sequence[LabelledSeries],
    both_pairs: tuple[tuple[Pair, ...], tuple[Pair, ...]],
    config: DataConfig,
    where: str,
    supervision: Supervision,
) -> Pools:
    pairs, validation_pairs = both_pairs
    pools = Pools(
        low=_of(training, Dose.LOW),
        normal=_oriented(_of(training, Dose.NORMAL), pairs),
        pairs=pairs,
        validation_low=_of(validation, Dose.LOW),
        validation_pairs=validation_pairs,
        validation_normal=_oriented(_of(validation, Dose.NORMAL), validation_pairs),
    )
    simulated = config.simulated_dose is not None
    if not pools.normal and (supervision is not Supervision.SELF or simulated):
        raise InputError(f"{where}: no normal-dose series is left to train on; {_hint(config)}")
    if not pools.low and not simulated:
        simulate = "or simulate it: --set data.simulated_dose=[0.2,0.3]"
        raise InputError(f"{where}: no low-dose series is left to train on; {_hint(config)} ({simulate})")
    return pools


def _hint(config: DataConfig) -> str:
    """Possible causes of an empty pool."""
    settings = ("kernels", "source_thickness_mm", "test_patients", "validation_patients")
    given = [f"data.{name}" for name in settings if getattr(config, name)]
    excluding = f", and {' and '.join(given)} exclude series" if given else ""
    return f"`ldct-denoise inspect` shows the dose label of each series{excluding}"


def _draw_validation_patients(
    labelled: Sequence[LabelledSeries], fraction: float, seed: int, supervision: Supervision
) -> set[str]:
    """Draw validation patients; never empties a pool, and draws none from fewer than five patients."""
    patients = sorted({item.patient for item in labelled})
    if len(patients) < 5 or not fraction:
        return set()
    count = max(1, round(fraction * len(patients)))
    needed = (Dose.LOW,) if supervision is Supervision.SELF else (Dose.LOW, Dose.NORMAL)
    doses = {dose: {item.patient for item in labelled if item.dose is dose} for dose in needed}
    held_out: set[str] = set()
    for patient in np.random.default_rng(seed).permutation(patients).tolist():
        if len(held_out) < count and all(who - held_out - {patient} for who in doses.values() if who):
            held_out.add(patient)
    return held_out


def _of(labelled: Iterable[LabelledSeries], dose: Dose) -> tuple[SliceSource, ...]:
    return tuple(item.series for item in labelled if item.dose is dose)


def _oriented(normal: Sequence[SliceSource], pairs: Sequence[Pair]) -> tuple[SliceSource, ...]:
    """Normal-dose series with the axes that they have in their pairs, so that the pools hold the paired slices."""
    changed = {id(pair.normal.source): pair.normal for pair in pairs if isinstance(pair.normal, SeriesView)}
    return tuple(changed.get(id(source), source) for source in normal)


def _is_wanted(source: SliceSource, config: DataConfig) -> bool:
    """Whether a series has one of the kernels and one of the slice thicknesses that the settings ask for."""
    if config.kernels and source.metadata.kernel not in config.kernels:
        return False
    return not config.source_thickness_mm or has_thickness(source, config.source_thickness_mm)

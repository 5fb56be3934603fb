"""The two unpaired pools, the pairs kept for evaluation, and the split by patient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ldct_denoise.config import DataConfig
from ldct_denoise.errors import InputError
from ldct_denoise.io.dose_labels import Dose, LabelledSeries, Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.photos import open_images
from ldct_denoise.methods import Supervision
from ldct_denoise.volume import SliceSource


@dataclass(frozen=True)
class Pools:
    """What a run trains and validates on.

    Parameters
    ----------
    low, normal : tuple of SliceSource
        The unpaired pools of the training patients.
    pairs : tuple of Pair
        Pairs among the training patients: for supervised methods, and to keep partners out of one unpaired draw.
    validation_low : tuple of SliceSource
        Low-dose series of patients who are in neither pool.
    validation_pairs : tuple of Pair
        Their pairs, where there are any: measured and logged, never trained on.
    validation_normal : tuple of SliceSource
        Their normal-dose series.
    notes : tuple of str
        What was found and is in no pool, a line each.
    """

    low: tuple[SliceSource, ...]
    normal: tuple[SliceSource, ...]
    pairs: tuple[Pair, ...] = ()
    validation_low: tuple[SliceSource, ...] = ()
    validation_pairs: tuple[Pair, ...] = ()
    validation_normal: tuple[SliceSource, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def patients(self) -> tuple[str, ...]:
        """Patients whose images are trained on, sorted."""
        return tuple(sorted({source.patient for source in (*self.low, *self.normal)}))

    def describe(self) -> dict[str, object]:
        """Counts and patients, for the log and the model card."""
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
    """Pools from one tree whose series tell their dose (Mayo 2016, TCIA, or folders named low/normal).

    Raises
    ------
    InputError
        If a pool that the method needs would be empty, or a patient is named who is not there.
    """
    inventory = find_images(root)
    labelled = [item for item in label_series(inventory.series, root) if _wanted(item.series, config)]
    unknown = sum(item.dose is Dose.UNKNOWN for item in labelled)
    notes = inventory.notes(root)
    if unknown:
        notes.append(f"{unknown} series of unknown dose are in no pool; `ldct-denoise inspect {root}` shows which")
    return replace(_split(labelled, config, seed, str(root), supervision), notes=tuple(notes))


def pools_from_paths(
    low: Sequence[Path],
    normal: Sequence[Path],
    config: DataConfig,
    seed: int = 0,
    supervision: Supervision = Supervision.UNPAIRED,
) -> Pools:
    """Pools from explicit low-dose and normal-dose paths; what a path is called does not matter.

    Raises
    ------
    InputError
        If a path holds no CT, a pool that the method needs would be empty, or a patient is named who is not there.
    """
    notes: list[str] = []
    labelled = [*_label_all(low, Dose.LOW, config, notes), *_label_all(normal, Dose.NORMAL, config, notes)]
    where = f"--low {' '.join(map(str, low))} --normal {' '.join(map(str, normal))}"
    return replace(_split(labelled, config, seed, where, supervision), notes=tuple(dict.fromkeys(notes)))


def pools_from_images(folder: Path, supervision: Supervision, seed: int = 0) -> Pools:
    """Pools of grey images; noise is added to the low pool's patches when they are cut.

    For unpaired methods the images fall at random into two halves, as in the paper; for others all are in both.

    Raises
    ------
    InputError
        If there is none, or one alone for two pools.
    """
    images = open_images(folder)
    if supervision is Supervision.UNPAIRED and len(images) < 2:
        raise InputError(f"{folder}: one image; an unpaired method needs some for each of its two pools")
    if supervision is not Supervision.UNPAIRED:
        pairs = tuple(Pair(image.patient, "", image, image, ((0, 0),)) for image in images)
        return Pools(images, images, pairs)
    order = np.random.default_rng(seed).permutation(len(images))
    half = len(images) // 2
    low, normal = ([images[int(place)] for place in part] for part in (order[:half], order[half:]))
    return Pools(tuple(low), tuple(normal))


def _label_all(paths: Iterable[Path], dose: Dose, config: DataConfig, notes: list[str]) -> list[LabelledSeries]:
    found = []
    for path in paths:
        inventory = find_images(path)
        notes += inventory.notes(path)
        for item in label_series(inventory.series, path):
            if _wanted(item.series, config):
                found.append(item.relabelled(dose, f"given as --{'low' if dose is Dose.LOW else 'normal'}"))
    return found


def _split(
    labelled: Sequence[LabelledSeries], config: DataConfig, seed: int, where: str, supervision: Supervision
) -> Pools:
    everyone = sorted({item.patient for item in labelled})
    for setting in ("test_patients", "validation_patients"):
        for name in sorted({*getattr(config, setting)} - {*everyone}):
            raise InputError(f"{where}: data.{setting}: no patient {name!r}; there are {', '.join(everyone)}")
    labelled = [item for item in labelled if item.patient not in config.test_patients]
    held_out = {*config.validation_patients} or _draw(labelled, config.validation_fraction, seed, supervision)
    training = [item for item in labelled if item.patient not in held_out]
    validation = [item for item in labelled if item.patient in held_out]
    pools = Pools(
        low=_of(training, Dose.LOW),
        normal=_of(training, Dose.NORMAL),
        pairs=tuple(find_pairs(training)),
        validation_low=_of(validation, Dose.LOW),
        validation_pairs=tuple(find_pairs(validation)),
        validation_normal=_of(validation, Dose.NORMAL),
    )
    simulated = config.simulated_dose is not None
    if not pools.normal and (supervision is not Supervision.SELF or simulated):
        raise InputError(f"{where}: no normal-dose series is left to train on; {_hint(config)}")
    if not pools.low and not simulated:
        simulate = "or simulate it: --set data.simulated_dose=[0.2,0.3]"
        raise InputError(f"{where}: no low-dose series is left to train on; {_hint(config)} ({simulate})")
    return pools


def _hint(config: DataConfig) -> str:
    """What to look at where a pool is empty."""
    settings = ("kernels", "test_patients", "validation_patients")
    told = [f"data.{name}" for name in settings if getattr(config, name)]
    left_out = f" and {' and '.join(told)} leave series out" if told else ""
    return f"`ldct-denoise inspect` shows how each dose was told{left_out}"


def _draw(labelled: Sequence[LabelledSeries], fraction: float, seed: int, supervision: Supervision) -> set[str]:
    """Patients to hold out, none of whom a pool is alone from; none of fewer than five."""
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


def _wanted(source: SliceSource, config: DataConfig) -> bool:
    return not config.kernels or source.metadata.kernel in config.kernels

"""Were the patients of a comparison in a model's training data? By name, UID and pixels; or it cannot be known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ldct_denoise import methods
from ldct_denoise.data.image_digests import pixel_digests, uid_digests
from ldct_denoise.errors import InputError
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.io.patients import is_unnamed
from ldct_denoise.methods import Supervision
from ldct_denoise.models.network_file import NetworkFileMethod
from ldct_denoise.models.trained import TrainedModel


@dataclass(frozen=True)
class TrainingOverlap:
    """Patients of a comparison that a model was trained on.

    Parameters
    ----------
    seen : frozenset of str
        Patients that it was trained on.
    unknown : frozenset of str
        Patients of whom this cannot be known.
    reason : str
        Why it cannot be known; empty where it can.
    """

    seen: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    reason: str = ""

    @property
    def status(self) -> str:
        """``no``, ``yes`` or ``cannot be known``, for tables."""
        if self.seen:
            return "yes"
        return "cannot be known" if self.unknown else "no"

    def without(self, patients: frozenset[str]) -> TrainingOverlap:
        """The overlap after patients are left out of the comparison."""
        unknown = self.unknown - patients
        return TrainingOverlap(self.seen - patients, unknown, self.reason if unknown else "")


class Named(Protocol):
    """A competitor."""

    @property
    def name(self) -> str:
        """Name in the tables."""
        ...


def fair_pairs(
    pairs: Sequence[Pair],
    models: Sequence[Named],
    include: bool,
    overlap: Callable[[Any, Sequence[Pair]], TrainingOverlap] | None = None,
) -> tuple[list[Pair], list[str], dict[int, TrainingOverlap]]:
    """Choose the pairs on which models can be compared fairly.

    Parameters
    ----------
    pairs : sequence of Pair
    models : sequence of TrainedModel
        Or others that have a name.
    include : bool
        Keep patients that a model was trained on.
    overlap : callable, optional
        Finds the patients that one of ``models`` was trained on; by default :func:`training_overlap`.

    Returns
    -------
    list of Pair
        Without the patients that any model was trained on, unless they are to be kept.
    list of str
        Notes on patients that a model was or may have been trained on.
    dict from int to TrainingOverlap
        What remains, by ``id`` of the model.

    Raises
    ------
    InputError
        If no patient is left.
    """
    find: Callable[[Any, Sequence[Pair]], TrainingOverlap] = overlap or training_overlap
    overlaps = {id(model): find(model, pairs) for model in models}
    counts = ", ".join(
        f"{model.name} on {len(overlaps[id(model)].seen)}" for model in models if overlaps[id(model)].seen
    )
    seen = frozenset(name for found in overlaps.values() for name in found.seen)
    kept, notes = list(pairs), []
    if seen and include:
        notes.append(f"patients that a model was trained on are included ({counts}): its numbers flatter it")
    elif seen:
        kept = [pair for pair in pairs if pair.patient not in seen]
        if not kept:
            raise InputError(
                f"every patient was in a model's training pools ({counts}); give other patients or "
                "--include-training-patients"
            )
        notes.append(f"{len(seen)} patient(s) left out because a model was trained on them ({counts})")
        overlaps = {model: found.without(seen) for model, found in overlaps.items()}
    for model in models:
        found = overlaps[id(model)]
        if found.unknown:
            notes.append(
                f"{model.name}: whether it was trained on {len(found.unknown)} patient(s) measured here cannot be "
                f"known: {found.reason}; its numbers may flatter it"
            )
    return kept, notes, overlaps


def training_overlap(model: TrainedModel, pairs: Sequence[Pair]) -> TrainingOverlap:
    """Compare the patients and images of pairs with those that a model was trained on.

    Parameters
    ----------
    model : TrainedModel
    pairs : sequence of Pair

    Returns
    -------
    TrainingOverlap
        Nobody for a method without training.
    """
    patients = frozenset(pair.patient for pair in pairs)
    if not _is_trained(model):
        return TrainingOverlap()
    seen = {name for name in model.training_patients & patients if not is_unnamed(name)}
    for pair in pairs:
        if pair.patient not in seen and _has_digest(pair, model.image_digests):
            seen.add(pair.patient)
    left = patients - seen
    if "pools" not in model.card:
        return TrainingOverlap(frozenset(seen), left, "its card does not tell its training images")
    if model.has_unnamed_patients:
        return TrainingOverlap(frozenset(seen), left, "some of its training images have no patient's name")
    unnamed = frozenset(name for name in left if is_unnamed(name))
    return TrainingOverlap(frozenset(seen), unnamed, "images here have no patient's name" if unnamed else "")


def _is_trained(model: TrainedModel) -> bool:
    if isinstance(model.method, NetworkFileMethod):
        return True
    if "pools" in model.card or model.method_name not in methods.names():
        return "pools" in model.card
    return methods.describe(model.method_name).supervision is not Supervision.NONE


def _has_digest(pair: Pair, digests: frozenset[str]) -> bool:
    """Whether one of the two series has the UIDs, or a slice the pixels, of a training image."""
    if not digests:
        return False
    sides = ((pair.low, [low for low, _ in pair.indices]), (pair.normal, [normal for _, normal in pair.indices]))
    return any(not digests.isdisjoint(uid_digests(source)) for source, _ in sides) or any(
        not digests.isdisjoint(pixel_digests(source, [index])) for source, indices in sides for index in indices
    )

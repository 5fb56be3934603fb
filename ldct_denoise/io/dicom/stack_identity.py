"""What decides on an image's stack; and the memory of it, so that images that come late find theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

#: Orientations and pixel spacings that differ by no more are the same (direction cosines; fraction).
SAME_DIRECTION = 1e-3
SAME_SPACING = 1e-4
#: SOP Instance UID and frame, counted from 0.
ImageId = tuple[str, int]


class StackKey(NamedTuple):
    """What the images of one stack share; those that differ in it are never one stack."""

    uid: str
    folder: str
    patient: str
    kernel: tuple[str, ...]
    rows: int
    columns: int
    orientation: tuple[float, ...]
    spacing: tuple[float, float]


class StackMember(Protocol):
    """An image, as far as sorting into stacks looks at it."""

    @property
    def identity(self) -> ImageId:
        """Which image it is."""
        ...

    @property
    def facts(self) -> StackKey:
        """What it shares with its stack."""
        ...

    @property
    def position_mm(self) -> tuple[float, float, float]:
        """Of its first pixel."""
        ...

    @property
    def telling(self) -> tuple[str, ...]:
        """What tells it apart from others at its place."""
        ...

    @property
    def taken(self) -> tuple[str, float]:
        """When it was taken, and its number."""
        ...


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image that was sorted before and may be gone; ``uid`` is that of its stack. Its patient is a digest."""

    uid: str
    identity: ImageId
    facts: StackKey
    position_mm: tuple[float, float, float]
    telling: tuple[str, ...]
    taken: tuple[str, float]


class StackRegistry:
    """The images of one series that were sorted into stacks so far.

    Parameters
    ----------
    images : iterable of KnownImage
    """

    def __init__(self, images: Iterable[KnownImage] = ()) -> None:
        self._images = {image.identity: image for image in images}

    @classmethod
    def read(cls, text: str) -> StackRegistry:
        """From what :meth:`text` gave; empty where it is no such text."""
        try:
            return cls(_earlier(values) for values in json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def text(self) -> str:
        """As JSON; it names no patient."""
        return json.dumps([asdict(image) for image in self._images.values()])

    @property
    def uids(self) -> dict[ImageId, str]:
        """The UID of every image's stack."""
        return {identity: image.uid for identity, image in self._images.items()}

    def before(self, images: Sequence[StackMember]) -> list[KnownImage]:
        """Those that are not among ``images``, with the facts of those they can share a stack with."""
        now = {image.identity for image in images}
        facts = list(dict.fromkeys(image.facts for image in images))
        fitted = {image.facts: _fitted(image.facts, facts) for image in self._images.values()}
        return [
            replace(image, facts=fitted[image.facts])
            for image in self._images.values()
            if image.identity not in now
        ]

    def note(self, uid: str, images: Iterable[StackMember]) -> None:
        """``images`` are in the stack ``uid``."""
        for image in images:
            self._images[image.identity] = KnownImage(
                uid, image.identity, _nameless(image.facts), image.position_mm, image.telling, image.taken
            )


def same_plane(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two planes (six direction cosines, two spacings in mm) are equal but for rounding."""
    same_way = np.abs(one[:6] - other[:6]).max() < SAME_DIRECTION
    return bool(same_way and np.abs(one[6:] / other[6:] - 1).max() < SAME_SPACING)


def plane_of(facts: StackKey) -> np.ndarray:
    """The plane as :func:`same_plane` takes it."""
    return np.array([*facts.orientation, *facts.spacing])


def _earlier(values: dict[str, Any]) -> KnownImage:
    found = {name: _tuples(value) for name, value in values.items()}
    return KnownImage(**found | {"facts": StackKey(*found["facts"])})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _nameless(facts: StackKey) -> StackKey:
    """Without the patient and the place of the files."""
    return facts._replace(folder="", patient=hashlib.sha256(facts.patient.encode()).hexdigest()[:16])


def _fitted(facts: StackKey, others: Iterable[StackKey]) -> StackKey:
    """The one of ``others`` that remembered facts are of, else themselves."""
    return next((other for other in others if _are_of(facts, other)), facts)


def _are_of(facts: StackKey, other: StackKey) -> bool:
    unplaced = [one._replace(orientation=(), spacing=(0, 0)) for one in (facts, _nameless(other))]
    return unplaced[0] == unplaced[1] and same_plane(plane_of(facts), plane_of(other))

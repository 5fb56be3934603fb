"""Identity of images and stacks, and a registry so that images that arrive later join the same stack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

#: Planes are equal within these tolerances: of direction cosines (difference) and pixel spacings (ratio).
DIRECTION_TOLERANCE = 1e-3
SPACING_TOLERANCE = 1e-4
#: SOP Instance UID (made unique where several files share it), and index of the frame from 0.
ImageId = tuple[str, int]


class StackKey(NamedTuple):
    """Attributes that all images of a stack share; images that differ in one of them never share a stack.

    Parameters
    ----------
    uid : str
        Series Instance UID; empty where the files have none.
    folder : str
    patient : str
        Patient ID, or the patient's name.
    kernel : tuple of str
    rows, columns : int
    orientation : tuple of 6 floats
        Row and column direction, unit vectors.
    spacing_mm : tuple of 2 floats
        Pixel spacing.
    """

    uid: str
    folder: str
    patient: str
    kernel: tuple[str, ...]
    rows: int
    columns: int
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]


class StackMember(Protocol):
    """An image as far as sorting into stacks needs it."""

    @property
    def image_id(self) -> ImageId:
        """Identity of the image."""
        ...

    @property
    def stack_key(self) -> StackKey:
        """Attributes shared with its stack."""
        ...

    @property
    def position_mm(self) -> tuple[float, float, float]:
        """LPS position of the first pixel."""
        ...

    @property
    def split_key(self) -> tuple[str, ...]:
        """Attributes that separate images at the same position."""
        ...

    @property
    def acquisition_order(self) -> tuple[str, float]:
        """Acquisition time and instance number."""
        ...


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image that was sorted earlier; its file may be gone.

    Parameters
    ----------
    uid : str
        UID of its stack.
    image_id : ImageId
    stack_key : StackKey
        The patient is replaced by a digest.
    position_mm : tuple of 3 floats
    split_key : tuple of str
    acquisition_order : tuple of (str, float)
    """

    uid: str
    image_id: ImageId
    stack_key: StackKey
    position_mm: tuple[float, float, float]
    split_key: tuple[str, ...]
    acquisition_order: tuple[str, float]


class StackRegistry:
    """The images of one series that were sorted into stacks so far.

    Parameters
    ----------
    images : iterable of KnownImage
    contents : mapping from str to sequence of str
        For each SOP Instance UID the digests of the different images that had it, in the order of their arrival.
    """

    def __init__(
        self, images: Iterable[KnownImage] = (), contents: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        self._images = {image.image_id: image for image in images}
        self.contents = {uid: list(digests) for uid, digests in contents.items()}

    @classmethod
    def from_json(cls, text: str) -> StackRegistry:
        """Restore what :meth:`to_json` gave; text that cannot be understood gives an empty registry."""
        try:
            known = json.loads(text)
            return cls(map(_known_image, known["images"]), known["contents"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def to_json(self) -> str:
        """The registry as JSON, without the patient's name or ID."""
        images = [asdict(image) for image in self._images.values()]
        return json.dumps({"images": images, "contents": self.contents})

    @property
    def uids(self) -> dict[ImageId, str]:
        """UID of the stack of every image."""
        return {image_id: image.uid for image_id, image in self._images.items()}

    def earlier_images(self, images: Sequence[StackMember]) -> list[KnownImage]:
        """Known images that are not among ``images``, with the stack keys of those that can share their stack."""
        present = {image.image_id for image in images}
        keys = list(dict.fromkeys(image.stack_key for image in images))
        matching = {image.stack_key: _matching_key(image.stack_key, keys) for image in self._images.values()}
        return [
            replace(image, stack_key=matching[image.stack_key])
            for image in self._images.values()
            if image.image_id not in present
        ]

    def add(self, uid: str, images: Iterable[StackMember]) -> None:
        """Register ``images`` as members of the stack ``uid``."""
        for image in images:
            self._images[image.image_id] = KnownImage(
                uid,
                image.image_id,
                _anonymous(image.stack_key),
                image.position_mm,
                image.split_key,
                image.acquisition_order,
            )


def is_same_plane(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two planes (six direction cosines, two spacings in mm) are equal within rounding."""
    same_direction = np.abs(first[:6] - second[:6]).max() < DIRECTION_TOLERANCE
    return bool(same_direction and np.abs(first[6:] / second[6:] - 1).max() < SPACING_TOLERANCE)


def _known_image(values: dict[str, Any]) -> KnownImage:
    fields = {name: _as_tuples(value) for name, value in values.items()}
    return KnownImage(**fields | {"stack_key": StackKey(*fields["stack_key"])})


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _anonymous(key: StackKey) -> StackKey:
    """The key without the folder, and with a digest in place of the patient."""
    return key._replace(folder="", patient=hashlib.sha256(key.patient.encode()).hexdigest()[:16])


def _matching_key(known: StackKey, keys: Iterable[StackKey]) -> StackKey:
    """The key among ``keys`` that equals a known, anonymous one; the known one itself where there is none."""
    return next((key for key in keys if _is_same_stack(known, key)), known)


def _is_same_stack(known: StackKey, key: StackKey) -> bool:
    without_plane = [one._replace(orientation=(), spacing_mm=(0, 0)) for one in (known, _anonymous(key))]
    planes = [np.array([*one.orientation, *one.spacing_mm]) for one in (known, key)]
    return without_plane[0] == without_plane[1] and is_same_plane(*planes)

"""Images sorted into stacks: one orientation, one reconstruction, one phase, one image at each place."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ldct_denoise.io.dicom.archive import ExtractedArchive
from ldct_denoise.io.dicom.encoding import Encoding
from ldct_denoise.io.dicom.filter import has_ct_signs, unit_directions
from ldct_denoise.io.dicom.series import Series, SliceRef
from ldct_denoise.io.dicom.stack_identity import ImageId, StackKey, StackMember, StackRegistry, same_plane
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.dicom.values import number, text
from ldct_denoise.volume import POSITION_TOLERANCE_MM, Geometry, SeriesMetadata

#: Series Instance UIDs that are none, but harmless: anonymisers write digests.
SAFE_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
#: What tells images at one place apart, the surest first.
TELLING = (
    ("acquisition number", "AcquisitionNumber"),
    ("stack", "StackID"),
    ("phase", "NominalPercentageOfCardiacPhase"),
    ("phase", "TemporalPositionIdentifier"),
    ("phase", "TemporalPositionIndex"),
    ("trigger time", "TriggerTime"),
    ("image type", "ImageType"),
    ("tube voltage", "KVP"),
    ("slice thickness", "SliceThickness"),
    ("field of view", "ReconstructionDiameter"),
)
T = TypeVar("T", bound=Hashable)


class Labels(NamedTuple):
    """What may differ within a stack; that of its first image is shown."""

    study_uid: str
    description: str
    manufacturer: str
    derivation: str
    slice_thickness_mm: float | None
    ct_signs: bool


@dataclass(frozen=True, slots=True)
class Image:
    """One image that was found: its slice, and what is needed to put it into a stack."""

    ref: SliceRef
    facts: StackKey
    labels: Labels
    position_mm: tuple[float, float, float]
    telling: tuple[str, ...]
    taken: tuple[str, float]

    @property
    def identity(self) -> ImageId:
        """Which image it is."""
        return self.ref.sop_uid, self.ref.frame or 0


class ImageFactory:
    """Makes :class:`Image` objects that share what they have in common, so that a large tree stays small."""

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}
        self._planes: dict[tuple[Any, ...], list[np.ndarray]] = defaultdict(list)

    def _once(self, value: T) -> T:
        return self._shared.setdefault((type(value), value), value)  # type: ignore[no-any-return]

    def image(self, path: str, frame: int | None, header: Dataset, sop_uid: str, pixel_offset: int) -> Image:
        """One image, by what its header tells.

        Parameters
        ----------
        header : Dataset
            Header of a classic image, or of a frame made into one, with every tag in `filter.TAGS`.
        """
        folder, file = os.path.split(path)
        folder = self._once(folder)
        slope, intercept = float(header.RescaleSlope), float(header.get("RescaleIntercept") or 0)
        current = number(header, "XRayTubeCurrent")
        ref = SliceRef(
            folder, file, frame, sop_uid, self._once(slope), self._once(intercept),
            self._once(Encoding.of(header)), self._once(pixel_offset), self._once(current),
        )  # fmt: skip
        x, y, z = (float(value) for value in header.ImagePositionPatient)
        telling = tuple(sys.intern(text(header, keyword)) for _, keyword in TELLING)
        taken = (sys.intern(text(header, "AcquisitionTime")), number(header, "InstanceNumber") or 0.0)
        facts, labels = self._once(self._facts(header, folder)), self._once(_labels(header))
        return Image(ref, facts, labels, (x, y, z), self._once(telling), taken)

    def _facts(self, header: Dataset, folder: str) -> StackKey:
        uid = text(header, "SeriesInstanceUID")
        size = int(header.Rows), int(header.Columns)
        row, column, _ = unit_directions(header.ImageOrientationPatient)
        plane = np.array([*row, *column, *(float(value) for value in header.PixelSpacing)])
        plane = self._same_plane((uid, folder, size), plane)
        return StackKey(
            uid=uid,
            folder=folder,
            patient=text(header, "PatientID") or text(header, "PatientName"),
            kernel=tuple(value for value in _kernel(header) if value),
            rows=size[0],
            columns=size[1],
            orientation=tuple(float(value) for value in plane[:6]),
            spacing=(float(plane[6]), float(plane[7])),
        )

    def _same_plane(self, place: tuple[Any, ...], plane: np.ndarray) -> np.ndarray:
        """The first orientation and spacing seen here that this one equals but for rounding."""
        for known in self._planes[place]:
            if same_plane(known, plane):
                return known
        self._planes[place].append(plane)
        return plane


def _labels(header: Dataset) -> Labels:
    thickness = number(header, "SliceThickness")
    return Labels(
        study_uid=text(header, "StudyInstanceUID") or _study_uid(header),
        description=text(header, "SeriesDescription"),
        manufacturer=text(header, "Manufacturer"),
        derivation=text(header, "DerivationDescription"),
        slice_thickness_mm=thickness if thickness and thickness > 0 else None,
        ct_signs=has_ct_signs(header),
    )


def _kernel(header: Dataset) -> tuple[str, ...]:
    try:
        value = header.get("ConvolutionKernel") or ()
        return (value,) if isinstance(value, str) else tuple(str(one) for one in value)
    except Exception:  # whatever pydicom makes of broken bytes
        return ()


def _study_uid(header: Dataset) -> str:
    """A study of its own for files that an anonymiser left without one; "" where nothing tells."""
    told = [text(header, keyword) for keyword in ("PatientID", "StudyDate", "StudyTime", "AccessionNumber")]
    return derived_uid("study", *told) if any(told) else ""


def series_of(
    images: Iterable[Image],
    by_folder: bool = True,
    keeper: ExtractedArchive | None = None,
    memory: StackRegistry | None = None,
) -> Iterator[tuple[Series, bool]]:
    """Every stack as a series, and whether its headers have anything that only CT has.

    Parameters
    ----------
    images : iterable of Image
    by_folder : bool
        Whether images in different folders are different series although they have one UID (doses of the Mayo
        2016 tree); folders that differ in their numbers alone are taken together.
    keeper : ExtractedArchive, optional
        See :class:`~ldct_denoise.io.dicom.series.Series`.
    memory : StackRegistry, optional
        Of the images that came before: late ones join their stacks and have their UIDs. Learns these images.
    """
    images = list(images)
    placed: list[StackMember] = [*(memory.before(images) if memory else ()), *images]
    groups: dict[StackKey, list[StackMember]] = defaultdict(list)
    for image in placed:
        groups[image.facts if by_folder else image.facts._replace(folder="")].append(image)
    joined = _joined(groups)
    noted = [item for group in joined for item in _noted(group)]
    uids = _uids([stack for stack, _ in noted], memory.uids if memory else {})
    for (stack, note), uid in zip(noted, uids, strict=True):
        here = [image for image in stack if isinstance(image, Image)]
        if memory:
            memory.note(uid, here)
        if here:
            yield _series(here, uid, note, keeper), any(image.labels.ct_signs for image in here)


def _noted(group: list[StackMember]) -> Iterator[tuple[list[StackMember], str]]:
    """The stacks, each with what is to be told of how it was found."""
    stacks = list(_stacks(group))
    for count, (stack, how) in enumerate(stacks, start=1):
        note = f"stack {count} of {len(stacks)} under one Series Instance UID, told apart by {how}" if how else ""
        yield stack, note


def _uids(stacks: Sequence[Sequence[StackMember]], known: Mapping[ImageId, str]) -> list[str]:
    """A UID for every stack: that of its images that came before, or one that no other stack has."""
    firsts = _firsts(stacks)
    going_on = _going_on(stacks, known)
    taken = set(known.values())
    return [
        going_on.get(place) or _uid(_unknown(stack, known) or stack, firsts, taken)
        for place, stack in enumerate(stacks)
    ]


def _unknown(stack: Sequence[StackMember], known: Container[ImageId]) -> list[StackMember]:
    return [image for image in stack if image.identity not in known]


def _going_on(stacks: Sequence[Sequence[StackMember]], known: Mapping[ImageId, str]) -> dict[int, str]:
    """Which stacks go on with a UID that was given before: for each UID the stack with most of its images."""
    shares = Counter(
        (place, known[image.identity])
        for place, stack in enumerate(stacks)
        for image in stack
        if image.identity in known
    )
    going_on: dict[int, str] = {}
    for (place, uid), _ in shares.most_common():
        if place not in going_on and uid not in going_on.values():
            going_on[place] = uid
    return going_on


def _firsts(stacks: Iterable[Sequence[StackMember]]) -> dict[str, ImageId]:
    """By Series Instance UID, the image whose stack keeps it: told by content, not by the order of files."""
    firsts: dict[str, ImageId] = {}
    for stack in stacks:
        uid, first = stack[0].facts.uid, min(image.identity for image in stack)
        firsts[uid] = min(first, firsts.get(uid, first))
    return firsts


def _uid(stack: Sequence[StackMember], firsts: Mapping[str, ImageId], taken: Container[str]) -> str:
    """A UID that no other stack has, and that is safe as the name of a folder."""
    uid = stack[0].facts.uid
    if not uid:
        return derived_uid("series", *sorted(image.identity[0] for image in stack))
    first = min(image.identity for image in stack)
    own = uid if SAFE_UID.fullmatch(uid) else derived_uid("series", uid)
    return own if first == firsts[uid] and own not in taken else derived_uid("stack", uid, *first)


def _joined(groups: dict[StackKey, list[StackMember]]) -> list[list[StackMember]]:
    """Folders that one series was spread over (1, 2, 3 …) put together, unless they show the same places."""
    joined: dict[StackKey, list[list[StackMember]]] = defaultdict(list)
    for facts, group in groups.items():
        alike = joined[facts._replace(folder=_without_digits(facts.folder) if facts.uid else facts.folder)]
        together = next((other for other in alike if not _overlap([*other, *group])), None)
        if together is None:
            alike.append(group)
        else:
            together += group
    return [group for alike in joined.values() for group in alike]


def _without_digits(folder: str) -> str:
    return "".join("#" if character.isdigit() else character for character in folder)


def _offsets(images: Sequence[StackMember]) -> np.ndarray:
    orientation = images[0].facts.orientation
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array([image.position_mm for image in images]) @ normal


def _overlap(images: Sequence[StackMember]) -> int:
    """How many of the images lie at the place of another."""
    return int((np.diff(np.sort(_offsets(images))) < POSITION_TOLERANCE_MM).sum())


def _stacks(images: list[StackMember]) -> Iterator[tuple[list[StackMember], str]]:
    """The images in stacks without two at one place, and how they were told apart; "" for a single stack."""
    if not _overlap(images):
        yield images, ""
        return
    deepest = _deepest(images)
    tellers: list[tuple[str, Callable[[StackMember], Hashable]]] = [
        (name, lambda image, place=place: image.telling[place])  # type: ignore[misc]
        for place, (name, _) in enumerate(TELLING)
    ]
    tellers.append(("all that tells them apart", lambda image: image.telling))
    for name, teller in tellers:
        parts: dict[Hashable, list[StackMember]] = defaultdict(list)
        for image in images:
            parts[teller(image)].append(image)
        # An attribute that differs from slice to slice tells no phases apart.
        if 1 < len(parts) <= 2 * deepest and not any(_overlap(part) for part in parts.values()):
            yield from ((part, name) for part in parts.values())
            return
    yield from ((part, "the order in which they were taken alone") for part in _by_turns(images))


def _deepest(images: Sequence[StackMember]) -> int:
    """The largest number of images at one place."""
    places = np.cumsum(np.diff(np.sort(_offsets(images)), prepend=-np.inf) >= POSITION_TOLERANCE_MM)
    return int(np.bincount(places).max())


def _by_turns(images: Sequence[StackMember]) -> list[list[StackMember]]:
    """First images of every place, second images, …"""
    offsets = _offsets(images)
    order = sorted(range(len(images)), key=lambda index: (offsets[index], images[index].taken))
    turns: list[list[StackMember]] = []
    turn, last = 0, -np.inf
    for index in order:
        turn = turn + 1 if offsets[index] - last < POSITION_TOLERANCE_MM else 0
        last = offsets[index] if turn == 0 else last
        if turn == len(turns):
            turns.append([])
        turns[turn].append(images[index])
    return turns


def _series(images: Sequence[Image], uid: str, note: str, keeper: ExtractedArchive | None) -> Series:
    offsets = _offsets(images)
    ordered = [images[index] for index in np.argsort(offsets, kind="stable")]
    refs = tuple(image.ref for image in ordered)
    facts, labels = images[0].facts, images[0].labels
    a, b, c, d, e, f = facts.orientation
    positions = np.array([image.position_mm for image in ordered])
    geometry = Geometry(positions, (a, b, c), (d, e, f), facts.spacing, facts.rows, facts.columns)
    syntaxes = Counter(ref.encoding.syntax for ref in refs)
    folder, first_file = Path(refs[0].folder), refs[0].path
    metadata = SeriesMetadata(
        kernel=facts.kernel[0] if facts.kernel else "",
        description=labels.description,
        derivation=labels.derivation,
        manufacturer=labels.manufacturer,
        transfer_syntax=", ".join(UID(syntax).name for syntax, _ in syntaxes.most_common()),
        slice_thickness_mm=ordered[0].labels.slice_thickness_mm,
        tube_current_ma=tuple(ref.tube_current_ma for ref in refs),
        multiframe=any(ref.frame is not None for ref in refs),
        path=keeper.shown(folder) if keeper else folder,
        first_file=keeper.shown(first_file) if keeper else first_file,
        problems=(*([note] if note else []), *_problems(geometry)),
    )
    study_uid = labels.study_uid or derived_uid("study", uid)
    return Series(uid, facts.patient, study_uid, refs, geometry, metadata, keeper)


def _problems(geometry: Geometry) -> Iterator[str]:
    """What is odd about where the slices are."""
    steps = np.diff(geometry.offsets_mm)
    if len(steps) > 1 and not geometry.is_even:
        usual = float(np.median(steps))
        missing = int(np.maximum(np.rint(steps / usual) - 1, 0).sum())
        gaps = (
            f"; {missing} missing"
            if missing and np.abs(steps / usual - np.rint(steps / usual)).max() < 0.05
            else ""
        )
        yield f"slices are {steps.min():g} to {steps.max():g} mm apart{gaps}"
    tilt = tilt_degrees(geometry)
    if tilt > 0.1:
        yield f"gantry tilt of {tilt:.1f}°: slices are shifted in plane from one to the next"
    off_axis = np.degrees(np.arccos(np.clip(abs(geometry.normal[2]), 0, 1)))
    if tilt <= 0.1 and off_axis > 0.5:
        yield f"slices lie {off_axis:.1f}° off the axial plane"


def tilt_degrees(geometry: Geometry) -> float:
    """Angle between the slices' normal and the line on which they are stacked; 0 for a single slice."""
    step = geometry.positions_mm[-1] - geometry.positions_mm[0]
    length = np.linalg.norm(step)
    if length < POSITION_TOLERANCE_MM:
        return 0.0
    return float(np.degrees(np.arccos(np.clip(abs(step @ geometry.normal) / length, 0, 1))))

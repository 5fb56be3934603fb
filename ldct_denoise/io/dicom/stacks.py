"""Sort images into stacks, one series each: one orientation, reconstruction and phase, one image per position."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom.uid import UID

from ldct_denoise.io.dicom.archive import ExtractedArchive
from ldct_denoise.io.dicom.images import SPLIT_ATTRIBUTES, Image
from ldct_denoise.io.dicom.series import Series, SliceRef
from ldct_denoise.io.dicom.stack_identity import ImageId, StackKey, StackMember, StackRegistry
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.dicom.unit import HuEvidence
from ldct_denoise.volume import POSITION_TOLERANCE_MM, Geometry, SeriesMetadata

#: Series Instance UIDs that can name a folder, also where they are no UIDs: anonymisers write digests.
SAFE_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
Stack = list[StackMember]


def build_series(
    images: Iterable[Image],
    by_folder: bool = True,
    archive: ExtractedArchive | None = None,
    registry: StackRegistry | None = None,
) -> Iterator[tuple[Series, HuEvidence]]:
    """Sort images into stacks and make a series of each.

    Parameters
    ----------
    images : iterable of Image
    by_folder : bool
        Whether images with the same Series Instance UID in different folders are different series (the doses of
        the Mayo 2016 tree). Folders whose names differ only in digits are joined.
    archive : ExtractedArchive, optional
        The archive that the files were extracted from.
    registry : StackRegistry, optional
        Images that arrived earlier. New images join their stacks and are added to the registry.

    Yields
    ------
    Series
    HuEvidence
        How well its headers show that values are HU.
    """
    images = list(images)
    members: Stack = [*(registry.earlier_images(images) if registry else ()), *images]
    groups: dict[StackKey, Stack] = defaultdict(list)
    for member in members:
        groups[member.stack_key if by_folder else member.stack_key._replace(folder="")].append(member)
    stacks = [item for group in _join_folders(groups) for item in _annotated_stacks(group)]
    uids = _unique_uids([stack for stack, _ in stacks], registry.uids if registry else {})
    for (stack, note), uid in zip(stacks, uids, strict=True):
        present = [image for image in stack if isinstance(image, Image)]
        if registry:
            registry.add(uid, present)
        if present:
            evidence = max(image.attributes.hu_evidence for image in present)
            yield _series(present, uid, note, archive), evidence


# Sorting ----------------------------------------------------------------------------------------------------


def _join_folders(groups: dict[StackKey, Stack]) -> list[Stack]:
    """Join folders that one series was spread over (1, 2, 3 …), unless their images overlap."""
    joined: dict[StackKey, list[Stack]] = defaultdict(list)
    for key, group in groups.items():
        candidates = joined[key._replace(folder=_without_digits(key.folder) if key.uid else key.folder)]
        partner = next((other for other in candidates if not _overlap_count([*other, *group])), None)
        if partner is None:
            candidates.append(group)
        else:
            partner += group
    return [group for candidates in joined.values() for group in candidates]


def _without_digits(folder: str) -> str:
    return "".join("#" if character.isdigit() else character for character in folder)


def _annotated_stacks(group: Stack) -> Iterator[tuple[Stack, str]]:
    """The stacks of a group, each with a note where the group holds several."""
    stacks = list(_split(group))
    for count, (stack, criterion) in enumerate(stacks, start=1):
        note = f"stack {count} of {len(stacks)} with one Series Instance UID, separated by {criterion}"
        yield stack, note if criterion else ""


def _split(images: Stack) -> Iterator[tuple[Stack, str]]:
    """Split images into stacks without two images at one position.

    Yields
    ------
    list of StackMember
    str
        Criterion that separates the stacks; empty for a single stack.
    """
    if not _overlap_count(images):
        yield images, ""
        return
    criteria: list[tuple[str, Callable[[StackMember], Hashable]]] = [
        (name, lambda image, index=index: image.split_key[index])  # type: ignore[misc]
        for index, (name, _) in enumerate(SPLIT_ATTRIBUTES)
    ]
    criteria.append(("several attributes", lambda image: image.split_key))
    largest = _largest_overlap(images)
    for name, criterion in criteria:
        parts: dict[Hashable, Stack] = defaultdict(list)
        for image in images:
            parts[criterion(image)].append(image)
        # An attribute that differs from slice to slice, as a number of every rotation, separates no phases.
        if 1 < len(parts) <= 2 * largest and not any(_overlap_count(part) for part in parts.values()):
            yield from ((part, name) for part in parts.values())
            return
    yield from ((part, "acquisition order alone") for part in _split_by_order(images))


def _split_by_order(images: Sequence[StackMember]) -> list[Stack]:
    """The first images of all positions, the second images, and so on."""
    offsets = _offsets_mm(images)
    order = sorted(range(len(images)), key=lambda index: (offsets[index], images[index].acquisition_order))
    stacks: list[Stack] = []
    turn, position = 0, -np.inf
    for index in order:
        turn = turn + 1 if offsets[index] - position < POSITION_TOLERANCE_MM else 0
        position = offsets[index] if turn == 0 else position
        if turn == len(stacks):
            stacks.append([])
        stacks[turn].append(images[index])
    return stacks


def _offsets_mm(images: Sequence[StackMember]) -> np.ndarray:
    """Positions along the normal, shape (images,)."""
    orientation = images[0].stack_key.orientation
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array([image.position_mm for image in images]) @ normal


def _overlap_count(images: Sequence[StackMember]) -> int:
    """Number of images at the position of another image."""
    return int((np.diff(np.sort(_offsets_mm(images))) < POSITION_TOLERANCE_MM).sum())


def _largest_overlap(images: Sequence[StackMember]) -> int:
    """Largest number of images at one position."""
    starts = np.diff(np.sort(_offsets_mm(images)), prepend=-np.inf) >= POSITION_TOLERANCE_MM
    return int(np.bincount(np.cumsum(starts)).max())


# UIDs -------------------------------------------------------------------------------------------------------


def _unique_uids(stacks: Sequence[Stack], known: Mapping[ImageId, str]) -> list[str]:
    """A UID for every stack: the one of its images that arrived earlier, or one that no other stack has."""
    first_images = _first_images(stacks)
    continued = _continued_stacks(stacks, known)
    used = set(known.values())
    uids = []
    for index, stack in enumerate(stacks):
        new = [image for image in stack if image.image_id not in known]
        uids.append(continued.get(index) or _new_uid(new or stack, first_images, used))
    return uids


def _continued_stacks(stacks: Sequence[Stack], known: Mapping[ImageId, str]) -> dict[int, str]:
    """Stacks that keep a UID given earlier: for each UID, the stack with most of its images."""
    counts = Counter(
        (index, known[image.image_id])
        for index, stack in enumerate(stacks)
        for image in stack
        if image.image_id in known
    )
    continued: dict[int, str] = {}
    for (index, uid), _ in counts.most_common():
        if index not in continued and uid not in continued.values():
            continued[index] = uid
    return continued


def _first_images(stacks: Iterable[Stack]) -> dict[str, ImageId]:
    """For each Series Instance UID, the image whose stack keeps it: decided by content, not by order of files."""
    first_images: dict[str, ImageId] = {}
    for stack in stacks:
        uid, first = stack[0].stack_key.uid, min(image.image_id for image in stack)
        first_images[uid] = min(first, first_images.get(uid, first))
    return first_images


def _new_uid(stack: Stack, first_images: Mapping[str, ImageId], used: Container[str]) -> str:
    """A UID that no other stack has and that can name a folder."""
    uid = stack[0].stack_key.uid
    if not uid:
        return derived_uid("series", *sorted(image.image_id[0] for image in stack))
    first = min(image.image_id for image in stack)
    safe_uid = uid if SAFE_UID.fullmatch(uid) else derived_uid("series", uid)
    keeps_it = first == first_images[uid] and safe_uid not in used
    return safe_uid if keeps_it else derived_uid("stack", uid, *first)


# Series -----------------------------------------------------------------------------------------------------


def _series(images: Sequence[Image], uid: str, note: str, archive: ExtractedArchive | None) -> Series:
    """The series of a stack, its slices ordered along the normal."""
    ordered = [images[index] for index in np.argsort(_offsets_mm(images), kind="stable")]
    refs = tuple(image.ref for image in ordered)
    key, attributes = images[0].stack_key, images[0].attributes
    a, b, c, d, e, f = key.orientation
    positions = np.array([image.position_mm for image in ordered])
    geometry = Geometry(positions, (a, b, c), (d, e, f), key.spacing_mm, key.rows, key.columns)
    syntaxes = Counter(ref.encoding.syntax for ref in refs)
    folder, first_file = Path(refs[0].folder), refs[0].path
    metadata = SeriesMetadata(
        kernel=key.kernel[0] if key.kernel else "",
        description=attributes.description,
        derivation=attributes.derivation,
        manufacturer=attributes.manufacturer,
        scanner_model=attributes.scanner_model,
        transfer_syntax=", ".join(UID(syntax).name for syntax, _ in syntaxes.most_common()),
        slice_thickness_mm=ordered[0].attributes.slice_thickness_mm,
        kvp=attributes.kvp,
        tube_current_ma=tuple(ref.tube_current_ma for ref in refs),
        mas_per_ma=ordered[0].attributes.mas_per_ma,
        multiframe=any(ref.frame is not None for ref in refs),
        path=archive.original_path(folder) if archive else folder,
        first_file=archive.original_path(first_file) if archive else first_file,
        problems=(*([note] if note else []), *_shared_uid_problem(refs), *_geometry_problems(geometry)),
    )
    study_uid = attributes.study_uid or derived_uid("study", uid)
    return Series(uid, key.patient, study_uid, refs, geometry, metadata, archive)


def _shared_uid_problem(refs: Sequence[SliceRef]) -> Iterator[str]:
    """Slices whose SOP Instance UID is not unique, in words."""
    count = sum(bool(ref.copy_id) for ref in refs)
    if count:
        yield f"{count} of {len(refs)} slices have the SOP Instance UID of another image with other pixels"


def _geometry_problems(geometry: Geometry) -> Iterator[str]:
    """Uneven spacing, gantry tilt and oblique planes, in words."""
    steps = np.diff(geometry.offsets_mm)
    if len(steps) > 1 and not geometry.is_even:
        relative = steps / float(np.median(steps))
        missing = int(np.maximum(np.rint(relative) - 1, 0).sum())
        is_gap = missing and np.abs(relative - np.rint(relative)).max() < 0.05
        yield f"slices are {steps.min():g} to {steps.max():g} mm apart{f'; {missing} missing' if is_gap else ''}"
    tilt = geometry.tilt_degrees
    if tilt > 0.1:
        yield f"gantry tilt of {tilt:.1f}°: slices are shifted in plane from one to the next"
    off_axis = np.degrees(np.arccos(np.clip(abs(geometry.normal[2]), 0, 1)))
    if tilt <= 0.1 and off_axis > 0.5:
        yield f"slices lie {off_axis:.1f}° off the axial plane"

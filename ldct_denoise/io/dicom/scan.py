"""Find CT series: by header, split into stacks, in order. Pixels are read when a slice is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.archive import Listing, is_archive, list_files
from ldct_denoise.io.dicom.encoding import Encoding
from ldct_denoise.io.dicom.filter import MULTI_FRAME, TAGS, why_not_file, why_not_image, why_not_slice
from ldct_denoise.io.dicom.multiframe import frame_headers
from ldct_denoise.io.dicom.reader import Head, read_header, why_not_decodable
from ldct_denoise.io.dicom.series import Inventory, Series, SkippedFile
from ldct_denoise.io.dicom.stack_identity import StackRegistry
from ldct_denoise.io.dicom.stacks import Image, ImageFactory, series_of
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.dicom.values import text
from ldct_denoise.io.quiet import short_message, suppress_warnings

#: CT of a patient shows air or fat; MR under a CT label does not go this low.
NO_AIR_ABOVE_HU = -30.0

Progress = Callable[[int, int], None]


def scan(
    path: Path,
    progress: Progress | None = None,
    *,
    include_derived: bool = False,
    memory: StackRegistry | None = None,
) -> Inventory:
    """Find every CT series that ``path`` stands for.

    Parameters
    ----------
    path : Path
        A file, a folder or tree, a zip archive, or a DICOMDIR.
    progress : callable, optional
        Told (files looked at, files).
    include_derived : bool
        Also series that this package denoised.
    memory : StackRegistry, optional
        Of the images of this series that came before; learns those found now.

    Returns
    -------
    Inventory
        Files that cannot be used are set aside with the reason; no file makes the scan fail.

    Raises
    ------
    InputError
        If the path does not exist, or is an archive that must not be extracted.
    """
    return scan_files(list_files(path), progress, include_derived=include_derived, memory=memory)


def scan_files(
    listing: Listing,
    progress: Progress | None = None,
    *,
    include_derived: bool = False,
    memory: StackRegistry | None = None,
) -> Inventory:
    """As :func:`scan`, for files that were listed before."""
    facts = ImageFactory()
    images: list[Image] = []
    aside = list(listing.skipped)
    seen: set[str] = set()
    for count, name in enumerate(listing.files, start=1):
        if progress:
            progress(count, len(listing.files))
        with suppress_warnings():
            found, refused = _images_of(name, facts, seen, include_derived)
        images += found
        aside += refused
    series = []
    for one, is_ct in series_of(images, listing.by_folder, listing.keeper, memory):
        reason = None if is_ct else _why_not_ct_numbers(one)
        if reason is None:
            series.append(one)
        else:
            aside += [SkippedFile(ref.path, reason) for ref in one.slices]
    shown = tuple(replace(item, path=listing.shown(item.path)) for item in aside)
    return Inventory(tuple(series), shown)


def _images_of(
    path: str, facts: ImageFactory, seen: set[str], include_derived: bool
) -> tuple[list[Image], list[SkippedFile]]:
    """The images to denoise in a file, and why others in it are not."""
    try:
        head = _read(path)
        reason = _why_not_head(head.dataset, include_derived)
    except Exception as error:  # a broken value can fail anywhere inside pydicom
        reason = _told(path, error)
    if reason is not None:
        return [], [SkippedFile(Path(path), reason)]
    try:
        return _slices_of(path, head, facts, seen)
    except Exception as error:
        return [], [SkippedFile(Path(path), _told(path, error), is_slice=True)]


def _told(path: str, error: Exception) -> str:
    """The reason to set a file aside that failed with this error."""
    if isinstance(error, InputError):
        return str(error).removeprefix(f"{path}: ")
    return f"broken header ({short_message(error)})"


def _read(path: str) -> Head:
    try:
        return read_header(path, TAGS)
    except InputError:
        if path.lower().endswith(".zip") and is_archive(Path(path)):
            raise InputError("a zip archive inside the folder; give it as the path itself") from None
        raise


def _why_not_head(header: Dataset, include_derived: bool) -> str | None:
    if header.SOPClassUID == MediaStorageDirectoryStorage:
        return "a DICOMDIR; the files themselves were looked at"
    return why_not_file(header, include_derived)


def _slices_of(
    path: str, head: Head, facts: ImageFactory, seen: set[str]
) -> tuple[list[Image], list[SkippedFile]]:
    """The images of a CT file, and those that are no slices or cannot be read."""
    header = head.dataset
    sop_uid = _instance_uid(path, header)
    if sop_uid in seen:
        return [], [SkippedFile(Path(path), "duplicate of an image already found (same SOP Instance UID)")]
    found, refused, broken = [], dict[str, list[int]](), False
    several = header.SOPClassUID in MULTI_FRAME
    for frame, image in enumerate(_headers(header, sop_uid)):
        other = why_not_image(image)
        reason = other or (_why_not_pixels(path, head, image) if frame == 0 else None)
        if reason is None:
            at = head.pixels.tag_offset if head.pixels else 0
            found.append(facts.image(path, frame if several else None, image, sop_uid, at))
            continue
        refused.setdefault(reason, []).append(frame + 1)
        # A header that was cut off lacks what came behind.
        broken |= other is None or (head.pixels is None and why_not_slice(image) is None)
        if other is None:
            break  # the pixels of all frames are out of reach
    if found:
        seen.add(sop_uid)
    reasons = [f"{reason} ({_frames(numbers)})" if found else reason for reason, numbers in refused.items()]
    return found, [SkippedFile(Path(path), reason, broken) for reason in reasons]


def _headers(header: Dataset, sop_uid: str) -> Iterator[Dataset]:
    header.SOPInstanceUID = sop_uid
    if header.SOPClassUID in MULTI_FRAME:
        yield from frame_headers(header)
        return
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise InputError("several frames in a classic CT image")
    yield header


def _instance_uid(path: str, header: Dataset) -> str:
    """The image's UID; where an anonymiser emptied it, that of the file meta, or one made from the content."""
    told = text(header, "SOPInstanceUID") or text(header.file_meta, "MediaStorageSOPInstanceUID")
    if told:
        return told
    with open(path, "rb") as file:
        return derived_uid("instance", hashlib.file_digest(file, "sha256").hexdigest())


def _why_not_pixels(path: str, head: Head, image: Dataset) -> str | None:
    return why_not_decodable(path, head.pixels, Encoding.of(image))


def _frames(numbers: list[int]) -> str:
    """Frame numbers, as runs."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs[:8])
    return f"frame{'s' if len(numbers) > 1 else ''} {shown}{' …' if len(runs) > 8 else ''}"


def _why_not_ct_numbers(series: Series) -> str | None:
    """Look at the middle slice of a series whose header has nothing that only CT has."""
    try:
        lowest = float(series.read_hu(len(series) // 2).min())
    except InputError:
        return None
    if lowest > NO_AIR_ABOVE_HU:
        return f"nothing in the header is of CT alone, and no value lies below {NO_AIR_ABOVE_HU:g} HU; perhaps MR"
    return None

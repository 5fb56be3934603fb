"""Find the CT series under a path.

Every file's header is read and either gives images or a reason to skip the file; the images are then sorted into
stacks, and each stack becomes a series. Pixels are read later, when a slice is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.archive import FileListing, is_archive, list_files
from ldct_denoise.io.dicom.duplicates import resolve_shared_uids
from ldct_denoise.io.dicom.encoding import Encoding
from ldct_denoise.io.dicom.filter import AXIAL_COSINE, TAGS, file_exclusion, image_exclusion, private_pixel_data
from ldct_denoise.io.dicom.header import Header, read_header
from ldct_denoise.io.dicom.images import Image, ImageFactory
from ldct_denoise.io.dicom.multiframe import frame_headers, has_frame_groups
from ldct_denoise.io.dicom.pixel_data import pixel_data_exclusion
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.dicom.stack_identity import StackRegistry
from ldct_denoise.io.dicom.stacks import build_series
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.dicom.unit import HuEvidence, values_exclusion
from ldct_denoise.io.dicom.values import text
from ldct_denoise.io.inventory import Exclusion, ExclusionKind, Inventory, SkippedFile
from ldct_denoise.io.quiet import short_message, suppress_warnings

#: At least so many slices make an axial series, next to which one or two images of another plane are localizers.
LEAST_AXIAL_SLICES = 3
MOST_LOCALIZERS = 2
ASSUMED_HU = "values are taken for HU on request (--assume-hu)"

#: Called with (files examined, number of files).
Progress = Callable[[int, int], None]


def scan(
    path: Path,
    progress: Progress | None = None,
    *,
    include_derived: bool = False,
    assume_hu: bool = False,
    registry: StackRegistry | None = None,
) -> Inventory[Series]:
    """Find every CT series under ``path``.

    Parameters
    ----------
    path : Path
        A file, a folder or tree, a zip archive, or a DICOMDIR.
    progress : callable, optional
        Called with (files examined, number of files).
    include_derived : bool
        Include series that this package denoised.
    assume_hu : bool
        Take the values of CT images, after the rescale that there is, for HU whatever header and values say. The
        series have a note about it in their problems.
    registry : StackRegistry, optional
        Images of the series that arrived earlier; the images found now are added.

    Returns
    -------
    Inventory
        The series, and the files that cannot be used. No file makes the scan fail.

    Raises
    ------
    InputError
        If the path does not exist, or is an archive that must not be extracted.
    """
    return scan_files(
        list_files(path), progress, include_derived=include_derived, assume_hu=assume_hu, registry=registry
    )


def scan_files(
    listing: FileListing,
    progress: Progress | None = None,
    *,
    include_derived: bool = False,
    assume_hu: bool = False,
    registry: StackRegistry | None = None,
) -> Inventory[Series]:
    """Find every CT series among files that were listed before.

    Parameters
    ----------
    listing : FileListing
    progress, include_derived, assume_hu, registry
        As in :func:`scan`.

    Returns
    -------
    Inventory
    """
    factory = ImageFactory()
    images: list[Image] = []
    skipped = list(listing.skipped)
    for count, path in enumerate(listing.files, start=1):
        if progress:
            progress(count, len(listing.files))
        with suppress_warnings():
            read, exclusions = _read_file(path, factory, include_derived, assume_hu)
        images += read
        skipped += [SkippedFile(Path(path), exclusion) for exclusion in exclusions]
    with suppress_warnings():
        images, duplicates = resolve_shared_uids(images, None if registry is None else registry.contents)
    skipped += duplicates
    found: list[Series] = []
    for stack, evidence in build_series(images, listing.by_folder, listing.archive, registry):
        accepted = _with_unit(stack, evidence, assume_hu)
        if isinstance(accepted, Series):
            found.append(accepted)
        else:
            skipped += [SkippedFile(ref.path, accepted) for ref in stack.slices]
    series = []
    for one in found:
        localizer = _localizer_exclusion(one, found)
        if localizer is None:
            series.append(one)
        else:
            skipped += [SkippedFile(ref.path, localizer) for ref in one.slices]
    shown = tuple(replace(item, path=listing.original_path(item.path)) for item in skipped)
    return Inventory(tuple(series), shown)


def _read_file(
    path: str, factory: ImageFactory, include_derived: bool, assume_hu: bool
) -> tuple[list[Image], list[Exclusion]]:
    """Images of a file, and the reasons why the file or some of its frames are excluded."""
    try:
        header = _read_header(path)
        exclusion = _file_exclusion(header.dataset, include_derived)
    except Exception as error:  # a damaged value can fail anywhere inside pydicom
        exclusion = Exclusion(ExclusionKind.UNREADABLE, _reason(path, error))
    if exclusion is not None:
        return [], [exclusion]
    try:
        return _read_images(path, header, factory, assume_hu)
    except Exception as error:
        return [], [Exclusion(ExclusionKind.LOST_SLICE, _reason(path, error))]


def _read_header(path: str) -> Header:
    try:
        return read_header(path, TAGS)
    except InputError:
        if path.lower().endswith(".zip") and is_archive(Path(path)):
            raise InputError("a zip archive inside the folder; give it as the path itself") from None
        raise


def _file_exclusion(header: Dataset, include_derived: bool) -> Exclusion | None:
    if header.SOPClassUID == MediaStorageDirectoryStorage:
        return Exclusion(ExclusionKind.DICOMDIR, "a DICOMDIR; the files themselves were examined")
    return file_exclusion(header, include_derived)


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error).removeprefix(f"{path}: ")
    return f"broken header ({short_message(error)})"


def _read_images(
    path: str, header: Header, factory: ImageFactory, assume_hu: bool
) -> tuple[list[Image], list[Exclusion]]:
    """Images of a CT file, one per frame, and the reasons why some are excluded."""
    sop_uid = _sop_instance_uid(path, header.dataset)
    is_multiframe = has_frame_groups(header.dataset)
    pixel_offset = header.pixel_data.tag_offset if header.pixel_data else 0
    images: list[Image] = []
    excluded: dict[Exclusion, list[int]] = {}
    for frame, image in enumerate(_image_headers(header.dataset, sop_uid)):
        exclusion = image_exclusion(image, assume_hu)
        if exclusion is not None:
            excluded.setdefault(_of_truncated_header(exclusion, header), []).append(frame + 1)
            continue
        encoding = Encoding.of(image)
        if frame == 0:
            lost = private_pixel_data(header.dataset) if header.pixel_data is None else None
            lost = lost or pixel_data_exclusion(path, header.pixel_data, encoding)
            if lost is not None:
                return [], [lost]  # all frames share the pixel data
        number = frame if is_multiframe else None
        images.append(factory.create(path, number, image, encoding, sop_uid, pixel_offset))
    if images:
        return images, [replace(one, text=f"{one.text} ({_frames(at)})") for one, at in excluded.items()]
    return [], list(excluded)


def _image_headers(header: Dataset, sop_uid: str) -> Iterator[Dataset]:
    """Header of the image, or of every frame."""
    header.SOPInstanceUID = sop_uid
    if has_frame_groups(header):
        yield from frame_headers(header)
        return
    frames = int(header.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(
            f"Number of Frames is {frames} in a classic CT image, where no frame has a position of its own;"
            " convert it to single frames or Enhanced CT"
        )
    yield header


def _sop_instance_uid(path: str, header: Dataset) -> str:
    """SOP Instance UID; if an anonymiser emptied it, that of the file meta information or of the content."""
    uid = text(header, "SOPInstanceUID") or text(header.file_meta, "MediaStorageSOPInstanceUID")
    if uid:
        return uid
    with open(path, "rb") as file:
        return derived_uid("instance", hashlib.file_digest(file, "sha256").hexdigest())


def _of_truncated_header(exclusion: Exclusion, header: Header) -> Exclusion:
    """A slice is lost if the file ends within the header: the attributes that are missing may have been there."""
    if header.pixel_data is None and exclusion.kind in (ExclusionKind.INVALID_HEADER, ExclusionKind.NOT_HU):
        return replace(exclusion, kind=ExclusionKind.LOST_SLICE)
    return exclusion


def _frames(numbers: list[int]) -> str:
    """Frame numbers as runs: "frames 1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs[:8])
    return f"frame{'s' if len(numbers) > 1 else ''} {shown}{' …' if len(runs) > 8 else ''}"


def _with_unit(series: Series, evidence: HuEvidence, assume_hu: bool) -> Series | Exclusion:
    """The series if its values are HU, or taken for HU on request; else the reason against it."""
    if not assume_hu:
        return values_exclusion(series, evidence) or series
    if evidence is HuEvidence.STATED:
        return series
    metadata = replace(series.metadata, problems=(*series.metadata.problems, ASSUMED_HU))
    return replace(series, metadata=metadata)


def _localizer_exclusion(series: Series, found: Sequence[Series]) -> Exclusion | None:
    """An unlabelled localizer: one or two images across the plane of an axial series of the same study."""
    normal = np.abs(series.geometry.normal)
    if len(series) > MOST_LOCALIZERS or normal[2] >= AXIAL_COSINE:
        return None
    axial = (
        other
        for other in found
        if other.study_uid == series.study_uid
        and len(other) >= LEAST_AXIAL_SLICES
        and abs(other.geometry.normal[2]) >= AXIAL_COSINE
    )
    if next(axial, None) is None:
        return None
    plane = "coronal" if normal[1] > normal[0] else "sagittal"
    text = f"an unlabelled localizer: {len(series)} {plane} image{'s' * (len(series) > 1)} next to an axial series"
    return Exclusion(ExclusionKind.LOCALIZER, text)

"""Tell duplicates from different images that share a SOP Instance UID.

Anonymisers have given one UID to all slices of a series, and low-dose copies made by changing only the pixels
keep the UIDs of the full-dose series. Such images are different; only equal position and pixels make a duplicate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.images import Image
from ldct_denoise.io.dicom.pixel_data import read_frame
from ldct_denoise.io.inventory import Exclusion, ExclusionKind, SkippedFile

DUPLICATE = Exclusion(
    ExclusionKind.DUPLICATE, "duplicate of an image already found (same SOP Instance UID, position and pixels)"
)
DIGEST_CHARACTERS = 16
#: Folder and name; a string needs less memory than a Path.
_File = tuple[str, str]


def resolve_shared_uids(
    images: Sequence[Image], contents: dict[str, list[str]] | None = None
) -> tuple[list[Image], list[SkippedFile]]:
    """Remove duplicates, and make different images that share a SOP Instance UID distinguishable.

    Parameters
    ----------
    images : sequence of Image
        In the order of their files. Pixels are read only where files share a UID, or where ``contents`` is given.
    contents : dict from str to list of str, optional
        Digests of the images that arrived earlier, by their UID; those of ``images`` are added. An image that
        arrives again keeps its ``copy_id``.

    Returns
    -------
    list of Image
        Without duplicates. The first image with a UID has an empty ``copy_id``; each further one has a digest of
        its content there.
    list of SkippedFile
        The duplicates.
    """
    copy_ids: dict[_File, str] = {}
    duplicates: list[_File] = []
    for uid, files in _by_uid(images, every=contents is not None).items():
        known = [] if contents is None else contents.setdefault(uid, [])
        found: set[str] = set()
        for file, content in files.items():
            digest = _digest(content)
            if digest not in known:
                known.append(digest)
            if digest in found:
                duplicates.append(file)
            elif digest != known[0]:
                copy_ids[file] = digest
            found.add(digest)
    gone = set(duplicates)
    kept = [_with_copy_id(image, copy_ids.get(_file(image))) for image in images if _file(image) not in gone]
    return kept, [SkippedFile(Path(*file), DUPLICATE) for file in duplicates]


def _file(image: Image) -> _File:
    return image.ref.folder, image.ref.file


def _by_uid(images: Sequence[Image], every: bool) -> dict[str, dict[_File, list[Image]]]:
    """Images by UID and file, of every UID or of those that several files have."""
    first: dict[str, _File] = {}
    shared = {
        image.ref.sop_uid for image in images if first.setdefault(image.ref.sop_uid, _file(image)) != _file(image)
    }
    files: dict[str, dict[_File, list[Image]]] = {}
    for image in images:
        if every or image.ref.sop_uid in shared:
            files.setdefault(image.ref.sop_uid, {}).setdefault(_file(image), []).append(image)
    return files


def _with_copy_id(image: Image, copy_id: str | None) -> Image:
    return replace(image, ref=replace(image.ref, copy_id=copy_id)) if copy_id else image


def _digest(images: Sequence[Image]) -> str:
    """Digest of position, orientation, rescale and stored values of a file's images, whatever their encoding."""
    digest = hashlib.sha256()
    for image in images:
        ref = image.ref
        plane = (*image.position_mm, *image.stack_key.orientation, *image.stack_key.spacing_mm)
        digest.update(np.round([*plane, ref.slope, ref.intercept], 6).tobytes())
        try:
            stored = read_frame(ref.path, ref.pixel_offset, ref.frame or 0, ref.encoding)
        except InputError:  # not decodable: equal files only are duplicates
            digest.update(hashlib.sha256(ref.path.read_bytes()).digest())
        else:
            digest.update(np.ascontiguousarray(stored, dtype="<i8").tobytes())
    return digest.hexdigest()[:DIGEST_CHARACTERS]

"""Find images of every supported format under a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.archive import ExtractedArchive, list_files
from ldct_denoise.io.dicom.scan import ASSUMED_HU, scan_files
from ldct_denoise.io.inventory import Exclusion, ExclusionKind, Inventory, SkippedFile
from ldct_denoise.io.npy_slices import is_npy_slice, open_npy_slices
from ldct_denoise.io.quiet import short_message
from ldct_denoise.io.volume_files import VolumeFile, is_volume_file, open_volume_file
from ldct_denoise.io.volumes.guards import values_exclusion
from ldct_denoise.io.volumes.itk import data_files
from ldct_denoise.volume import SliceSource


def find_images(
    path: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    include_derived: bool = False,
    assume_hu: bool = False,
) -> Inventory[SliceSource]:
    """Find every CT series, volume file and folder of ``.npy`` slices at or below ``path``.

    Parameters
    ----------
    path : Path
        A file, a folder or tree, a zip archive, or a DICOMDIR.
    progress : callable, optional
        Called with (files examined, number of files).
    include_derived : bool
        Include series that this package denoised. By default they are skipped, so that nothing is denoised twice.
    assume_hu : bool
        Take values for HU where header or values speak against it. Label maps are skipped all the same.

    Returns
    -------
    Inventory
        Where it has no series, ``skipped`` gives the reason for each file.

    Raises
    ------
    InputError
        If the path does not exist, holds no file at all, or is an archive that must not be extracted.
    """
    listing = list_files(path)
    if not listing.files:
        empty = f"no file to read ({listing.skipped[0].reason})" if listing.skipped else "an empty folder"
        raise InputError(f"{path}: {empty}; give one that holds DICOM, NIfTI, NRRD or MHA")
    volumes: list[SliceSource] = []
    skipped: list[SkippedFile] = []
    others = []
    detached = {data for name in listing.files for data in data_files(Path(name))}
    npy = [Path(name) for name in listing.files if is_npy_slice(name)]
    slices, unusable = open_npy_slices(npy, listing.archive, assume_hu=assume_hu)
    skipped += unusable
    for name in listing.files:
        if is_npy_slice(name):
            continue
        if not is_volume_file(name):
            if Path(name) not in detached:
                others.append(name)
            continue
        found = _open_volume(Path(name), listing.archive, include_derived, assume_hu)
        if isinstance(found, Exclusion):
            skipped.append(SkippedFile(listing.original_path(Path(name)), found))
        else:
            volumes.append(found)
    listing = replace(listing, files=tuple(others))
    dicom = scan_files(listing, progress, include_derived=include_derived, assume_hu=assume_hu)
    return Inventory((*dicom.series, *volumes, *slices), (*dicom.skipped, *skipped))


def _open_volume(
    file: Path, archive: ExtractedArchive | None, include_derived: bool, assume_hu: bool
) -> VolumeFile | Exclusion:
    """Open a volume file, or give the reason to skip it."""
    try:
        volume = open_volume_file(file, archive)
        if volume.header.is_labels:
            return Exclusion(ExclusionKind.OTHER_OBJECT, "a label volume, by its NIfTI intent; not an image")
        if not include_derived and volume.header.is_denoised:
            return Exclusion(ExclusionKind.ALREADY_DENOISED, "already denoised by ldct-denoise")
        if volume.header.is_denoised:
            return volume
        exclusion = values_exclusion(volume.read_hu, len(volume))
        if exclusion is None:
            return volume
        if not assume_hu or exclusion.kind is not ExclusionKind.NOT_HU:
            return exclusion
        problems = (*volume.metadata.problems, ASSUMED_HU)
        return replace(volume, metadata=replace(volume.metadata, problems=problems))
    except InputError as error:
        return Exclusion(ExclusionKind.UNREADABLE, str(error).removeprefix(f"{file}: "))
    except Exception as error:  # a damaged file can fail anywhere inside nibabel and SimpleITK
        return Exclusion(ExclusionKind.UNREADABLE, f"unreadable ({short_message(error)})")

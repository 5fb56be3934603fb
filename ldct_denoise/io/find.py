"""Find images of every format that is read, in one inventory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.archive import list_files
from ldct_denoise.io.dicom.scan import scan_files
from ldct_denoise.io.dicom.series import Inventory, SkippedFile
from ldct_denoise.io.quiet import short_message
from ldct_denoise.io.volume_files import holds_labels, is_denoised, is_volume_file, open_file
from ldct_denoise.volume import SliceSource


def find_images(
    path: Path, progress: Callable[[int, int], None] | None = None, *, include_derived: bool = False
) -> Inventory:
    """Every CT series and volume file at or below ``path``.

    Parameters
    ----------
    path : Path
        A file, a folder or tree, a zip archive, or a DICOMDIR.
    progress : callable, optional
        Told (files looked at, files).
    include_derived : bool
        Also series that this package denoised; otherwise they are set aside, so as not to be denoised twice.

    Returns
    -------
    Inventory
        May hold no series; ``skipped`` then says why for each file.

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
    aside: list[SkippedFile] = []
    rest = []
    for name in listing.files:
        if not is_volume_file(name):
            rest.append(name)
            continue
        file = Path(name)
        try:
            if holds_labels(file):
                raise InputError("a label volume, by its NIfTI intent; not an image")
            if not include_derived and is_denoised(file):
                raise InputError("already denoised by ldct-denoise")
            volumes.append(open_file(file, listing.keeper))
        except InputError as error:
            aside.append(SkippedFile(listing.shown(file), str(error).removeprefix(f"{file}: ")))
        except Exception as error:  # a broken file can fail anywhere inside nibabel and SimpleITK
            aside.append(SkippedFile(listing.shown(file), f"unreadable ({short_message(error)})"))
    found = scan_files(replace(listing, files=tuple(rest)), progress, include_derived=include_derived)
    return Inventory((*found.series, *volumes), (*found.skipped, *aside), found.problems)

"""Find images of every format that is read, in one inventory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom import Inventory, SetAside, scan
from ldct_denoise.io.files import is_volume_file, open_file
from ldct_denoise.volume import SliceSource


def find_images(
    path: Path, progress: Callable[[int, int], None] | None = None, *, include_derived: bool = False
) -> Inventory:
    """Every CT series and volume file at or below ``path``.

    Parameters
    ----------
    path : Path
        A file, folder or tree.
    progress : callable, optional
        Told (files looked at, files).
    include_derived : bool
        Also series that this package denoised; otherwise they are set aside, so as not to be denoised twice.

    Returns
    -------
    Inventory
        May hold no series; ``set_aside`` then says why for each file.

    Raises
    ------
    InputError
        If the path does not exist, or holds no file at all.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    if not files:
        raise InputError(f"{path}: an empty folder; give one that holds DICOM, NIfTI, NRRD or MHA")
    volumes: list[SliceSource] = []
    aside: list[SetAside] = []
    for file in sorted(filter(is_volume_file, files)):
        try:
            volumes.append(open_file(file))
        except InputError as error:
            aside.append(SetAside(file, str(error).removeprefix(f"{file}: ")))
    if path.is_file() and is_volume_file(path):
        return Inventory(tuple(volumes), tuple(aside))
    found = scan(path, progress, include_derived=include_derived)
    aside += [item for item in found.set_aside if not is_volume_file(item.path)]
    return Inventory((*found.series, *volumes), tuple(aside), found.problems)

"""Create output files and folders: whole or not at all, and never over existing ones unless asked."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from ldct_denoise.errors import OutputError


def make_output_folder(output: Path, overwrite: bool) -> None:
    """Create a folder; refuse one that is not empty, unless ``overwrite`` is set.

    Raises
    ------
    OutputError
        If it cannot be created or must not be overwritten.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give a folder for the results")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise OutputError(f"{output}: is not empty; give another folder, or --overwrite")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be created ({error.strerror}); give a writable folder") from None


def check_writable(path: Path, overwrite: bool) -> None:
    """Refuse a path where a file cannot or must not be written, before anything is computed for it.

    Raises
    ------
    OutputError
        If it exists and ``overwrite`` is not set, is a folder, or its folder is not writable.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: already exists; use --overwrite, or choose another name")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise OutputError(f"{path}: cannot be written, because {parent} is not writable; give another path")


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely before it gets its name.

    Parameters
    ----------
    path : Path
        The file; replaced where it exists.
    write : callable
        Called with the path of a temporary file in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name ends with the whole name: writers select the format by its suffix.
    part = path.with_name(f".part-{secrets.token_hex(4)}-{path.name}")
    # Created here, so that the umask sets the permissions.
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    os.close(descriptor)
    try:
        write(part)
        part.chmod(mode)  # safetensors puts a private file of its own in this place
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

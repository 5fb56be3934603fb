"""Results appear whole under their final names or not at all, and never over others unasked."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ldct_denoise.errors import OutputError


def make_output_folder(output: Path, overwrite: bool) -> None:
    """Make the folder; refuse one that holds something, unless told to overwrite.

    Raises
    ------
    OutputError
        If it cannot be made or must not be overwritten.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give a folder for the results")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise OutputError(f"{output}: holds files already; give another folder or --overwrite")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be made ({error.strerror}); give a folder you may write") from None


def check_writable(path: Path, overwrite: bool) -> None:
    """Refuse a place where a file cannot be written or must not be, before anything is computed for it.

    Raises
    ------
    OutputError
        If it exists, unless told to overwrite; if it is a folder, or its folder takes no files.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists; give --overwrite or another name")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise OutputError(f"{path}: cannot be written, since {above} takes no files; give another place")


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, and give it its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The whole name ends the temporary one: writers tell the format by it.
    part = path.with_name(f".part-{secrets.token_hex(4)}-{path.name}")
    # Made here, so that the umask decides who may read it, whoever writes it.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def series_subfolders(output: Path, uids: Iterable[str]) -> Iterator[Path]:
    """A subfolder for each of several series, named by its UID; further stacks of one UID are numbered."""
    seen: dict[str, int] = {}
    for uid in uids:
        count = seen[uid] = seen.get(uid, 0) + 1
        yield output / (uid if count == 1 else f"{uid}-{count}")

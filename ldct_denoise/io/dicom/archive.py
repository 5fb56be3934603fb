"""Which files a path stands for: a folder's, a zip archive's, a DICOMDIR's, or the one file that it is."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydicom.uid import MediaStorageDirectoryStorage

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.reader import MAX_INFLATION_RATIO, SAFE_INFLATED_BYTES, read_header
from ldct_denoise.io.dicom.series import SkippedFile
from ldct_denoise.io.quiet import short_message

#: Limits of an archive, against zip bombs.
MAX_MEMBERS = 200_000
MAX_EXTRACTED_BYTES = 32 << 30
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_CHUNK = 1 << 20


class ExtractedArchive:
    """A temporary folder that goes when nothing refers to it any more, and at the end of the process that made it.

    Parameters
    ----------
    archive : Path
        What was extracted.
    """

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        # The name says nothing that could be taken for a dose; below it the archive's own name stands.
        root = Path(tempfile.mkdtemp(prefix="ct-"))
        self.folder = root / (archive.stem or "study")
        self.folder.mkdir()
        self._end = weakref.finalize(self, _remove, root, os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process uses the folder and does not remove it.
        return _borrowed, (self.archive, self.folder)

    def shown(self, path: Path) -> Path:
        """An extracted file by its place in the archive."""
        return self.archive / path.relative_to(self.folder) if path.is_relative_to(self.folder) else path


def _borrowed(archive: Path, folder: Path) -> ExtractedArchive:
    copy = ExtractedArchive.__new__(ExtractedArchive)
    copy.archive, copy.folder = archive, folder
    return copy


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Listing:
    """The files that a path stands for.

    Parameters
    ----------
    files : tuple of str
        Regular files, sorted.
    skipped : tuple of SkippedFile
        What is no regular file, or must not be read.
    by_folder : bool
        Whether a folder tells series apart; not where a DICOMDIR does.
    keeper : ExtractedArchive, optional
        Holds extracted files while it is referred to.
    """

    files: tuple[str, ...]
    skipped: tuple[SkippedFile, ...] = ()
    by_folder: bool = True
    keeper: ExtractedArchive | None = None

    def shown(self, path: Path) -> Path:
        """A file as the user knows it."""
        return self.keeper.shown(path) if self.keeper else path


def list_files(path: Path) -> Listing:
    """The files that ``path`` stands for.

    Raises
    ------
    InputError
        If the path does not exist, is no regular file or folder, or is an archive that must not be extracted.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        raise InputError(f"{path}: no such file or folder") from None
    if stat.S_ISDIR(mode):
        return _listing(path)
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: not a regular file or folder")
    start = _start(path)
    if start.startswith(_ZIP):
        keeper = _extract(path)
        found = _listing(keeper.folder)
        return Listing(found.files, found.skipped, True, keeper)
    if start[128:132] == b"DICM" and _is_directory(path):
        return _of_directory(path)
    return Listing((str(path),))


def is_archive(path: Path) -> bool:
    """Whether the file begins like a zip archive."""
    return _start(path).startswith(_ZIP)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror})") from None


def _listing(root: Path) -> Listing:
    files: list[str] = []
    aside: list[SkippedFile] = []

    def refused(error: OSError) -> None:
        aside.append(SkippedFile(Path(str(error.filename)), f"folder cannot be read ({error.strerror})"))

    for folder, folders, names in os.walk(root, onerror=refused):
        folders.sort()
        for name in [name for name in folders if name.startswith(".") and ".partial-" in name]:
            folders.remove(name)
            aside.append(SkippedFile(Path(folder, name), "an output that is not finished"))
        linked = [Path(folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]
        aside += [SkippedFile(path, "a link to a folder; not followed") for path in linked]
        for name in sorted(names):
            path = os.path.join(folder, name)
            if _is_regular(path):
                files.append(path)
            else:
                aside.append(SkippedFile(Path(path), "not a regular file"))
    return Listing(tuple(sorted(files)), tuple(aside))


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _extract(path: Path) -> ExtractedArchive:
    """The files of a zip archive in a temporary folder.

    Raises
    ------
    InputError
        If a limit is passed, a name leads out of the archive, or the archive is broken or encrypted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _refuse_hostile(path, members)
            keeper = ExtractedArchive(path)
            budget = MAX_EXTRACTED_BYTES
            for member in members:
                budget = _extract_one(archive, member, keeper.folder, budget)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or short_message(error)
        raise InputError(f"{path}: cannot be extracted ({reason}); extract it yourself") from None
    except Exception as error:  # a broken archive can fail anywhere inside zipfile
        raise InputError(
            f"{path}: broken or encrypted archive ({short_message(error)}); extract it yourself"
        ) from None
    return keeper


def _refuse_hostile(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{path}: more than {MAX_MEMBERS} files in the archive; extract what you need of it")
    size, packed = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if size > MAX_EXTRACTED_BYTES:
        raise InputError(
            f"{path}: inflates to {size >> 30} GiB, more than {MAX_EXTRACTED_BYTES >> 30}; extract it yourself"
        )
    if size > SAFE_INFLATED_BYTES and size > MAX_INFLATION_RATIO * packed:
        raise InputError(f"{path}: inflates {size // max(packed, 1)} times; this is no archive of images")
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if size > free:
        raise InputError(f"{path}: inflates to {size >> 20} MiB, {place} has {free >> 20} MiB left; set TMPDIR")
    for member in members:
        if not _stays_inside(member.filename) or stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{path}: the archive's file {member.filename[:80]!r} leads out of it; not extracted")


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not any(
        part == ".." or part.startswith("/") or "\\" in part or ":" in part[1:2] or "\0" in part for part in parts
    )


def _extract_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, budget: int) -> int:
    """Extract one file; the sizes that an archive states may lie, so what comes out is counted."""
    target = folder / PurePosixPath(member.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return budget
    with archive.open(member) as packed, target.open("xb") as file:
        while chunk := packed.read(_CHUNK):
            budget -= len(chunk)
            if budget < 0:
                raise InputError(f"{archive.filename}: inflates to more than {MAX_EXTRACTED_BYTES >> 30} GiB")
            file.write(chunk)
    return budget


def _is_directory(path: Path) -> bool:
    try:
        return bool(read_header(path, ["SOPClassUID"]).dataset.SOPClassUID == MediaStorageDirectoryStorage)
    except InputError:
        return False


def _of_directory(path: Path) -> Listing:
    """The files that a DICOMDIR names (PS3.10 8.6, PS3.3 F.3); none outside its folder.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    root = path.resolve().parent
    files: dict[str, None] = {}
    aside = []
    try:
        named = list(_named(read_header(path).dataset))
    except InputError:
        raise
    except Exception as error:  # whatever pydicom makes of broken bytes
        raise InputError(f"{path}: broken DICOMDIR ({short_message(error)}); give the folder instead") from None
    for parts in named:
        shown = path.parent / "\\".join(parts)
        if not parts or not all(_stays_inside(part) and "/" not in part for part in parts):
            aside.append(SkippedFile(shown, "the DICOMDIR leads out of its folder"))
            continue
        file = _in_any_case(root, parts)
        if file is None:
            aside.append(SkippedFile(path.parent.joinpath(*parts), "named by the DICOMDIR but not there"))
        elif not file.resolve().is_relative_to(root):
            aside.append(SkippedFile(path.parent.joinpath(*parts), "the DICOMDIR leads out of its folder"))
        elif not _is_regular(str(file)):
            aside.append(SkippedFile(path.parent.joinpath(*parts), "not a regular file"))
        else:
            files[str(path.parent / file.relative_to(root))] = None
    return Listing(tuple(files), tuple(aside), by_folder=False)


def _named(directory: Any) -> Iterator[list[str]]:
    for record in directory.get("DirectoryRecordSequence") or []:
        parts = record.get("ReferencedFileID")
        if parts:
            yield [parts] if isinstance(parts, str) else [str(part) for part in parts]


def _in_any_case(root: Path, parts: list[str]) -> Path | None:
    """The file, also where copying from a disc changed capitals."""
    path = root
    for part in parts:
        if not os.path.lexists(path / part):
            try:
                alike = [name for name in os.listdir(path) if name.lower() == part.lower()]
            except OSError:
                return None
            if len(alike) != 1:
                return None
            part = alike[0]
        path = path / part
    return path

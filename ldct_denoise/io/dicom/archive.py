"""List the files that a path stands for: those of a folder, a zip archive or a DICOMDIR, or the one file."""

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
from ldct_denoise.io.dicom.header import MAX_INFLATION_RATIO, SAFE_INFLATED_BYTES, read_header
from ldct_denoise.io.inventory import Exclusion, ExclusionKind, SkippedFile
from ldct_denoise.io.quiet import short_message

#: Limits of a zip archive, against decompression bombs.
MAX_MEMBERS = 200_000
MAX_EXTRACTED_BYTES = 32 << 30
_ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
_CHUNK_BYTES = 1 << 20
#: File Meta Information names the SOP class within the first bytes (PS3.10 7.1).
_META_BYTES = 1024


class ExtractedArchive:
    """A zip archive's files in a temporary folder.

    The folder is removed when nothing refers to this object any more, at the latest when the process ends.

    Parameters
    ----------
    path : Path
        The archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The temporary name cannot be taken for a dose label. The folder below it has the archive's own name.
        root = Path(tempfile.mkdtemp(prefix="ct-"))
        self.folder = root / (path.stem or "study")
        self.folder.mkdir()
        self._finalizer = weakref.finalize(self, _remove, root, os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process uses the folder and does not remove it.
        return _copy, (self.path, self.folder)

    def original_path(self, path: Path) -> Path:
        """Path of an extracted file as the user knows it: the archive's path and the path inside it."""
        return self.path / path.relative_to(self.folder) if path.is_relative_to(self.folder) else path


def _copy(path: Path, folder: Path) -> ExtractedArchive:
    copy = ExtractedArchive.__new__(ExtractedArchive)
    copy.path, copy.folder = path, folder
    return copy


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class FileListing:
    """The files that a path stands for.

    Parameters
    ----------
    files : tuple of str
        Regular files, sorted.
    skipped : tuple of SkippedFile
        Entries that are no regular files, or must not be read.
    by_folder : bool
        Whether different folders mean different series; not so for a DICOMDIR.
    archive : ExtractedArchive, optional
        Where the files were extracted; they exist as long as something refers to it.
    """

    files: tuple[str, ...]
    skipped: tuple[SkippedFile, ...] = ()
    by_folder: bool = True
    archive: ExtractedArchive | None = None

    def original_path(self, path: Path) -> Path:
        """Path of a listed file as the user knows it."""
        return self.archive.original_path(path) if self.archive else path


def list_files(path: Path) -> FileListing:
    """List the files that ``path`` stands for.

    Raises
    ------
    InputError
        If the path does not exist, is no regular file or folder, or is an archive that must not be extracted.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        problem = "a link that leads nowhere, or in a circle" if os.path.islink(path) else "no such file or folder"
        raise InputError(f"{path}: {problem}") from None
    if stat.S_ISDIR(mode):
        return _list_folder(path)
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: not a regular file or folder")
    start = _start(path)
    if start.startswith(_ZIP_SIGNATURES):
        archive = _extract(path)
        found = _list_folder(archive.folder)
        return FileListing(found.files, found.skipped, True, archive)
    if start[128:132] == b"DICM" and _is_dicomdir(path):
        return _list_dicomdir(path)
    return FileListing((str(path),))


def is_archive(path: Path) -> bool:
    """Whether the file begins like a zip archive."""
    return _start(path).startswith(_ZIP_SIGNATURES)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror})") from None


def _skip(path: Path, kind: ExclusionKind, text: str) -> SkippedFile:
    return SkippedFile(path, Exclusion(kind, text))


# Folders ----------------------------------------------------------------------------------------------------


def _list_folder(root: Path) -> FileListing:
    """List a folder tree. Links to folders are followed, but never to a folder that is listed already or above."""
    files: list[str] = []
    skipped: list[SkippedFile] = []
    real_root = os.path.realpath(root)
    listed = {real_root}
    links = _walk(root, files, skipped, listed)
    while links:  # after the folders themselves, so that a folder is listed under its own name
        link = links.pop(0)
        target = os.path.realpath(link)
        if target in listed or Path(real_root).is_relative_to(target):
            reason = "a link to a folder that is read already, or to one above; not followed"
            skipped.append(_skip(link, ExclusionKind.NOT_REGULAR, reason))
        else:
            listed.add(target)
            links += _walk(link, files, skipped, listed)
    files = _without_links_to_each_other(sorted(files), skipped)
    return FileListing(tuple(files), tuple(skipped))


def _without_links_to_each_other(files: list[str], skipped: list[SkippedFile]) -> list[str]:
    """Leave out links to files that are listed too; a file outside the tree is read under the name of one link."""
    links = {path for path in files if os.path.islink(path)}
    if not links:
        return files
    read = {os.path.realpath(path) for path in files if path not in links}
    kept = []
    for path in files:
        if path in links:
            target = os.path.realpath(path)
            if target in read:
                reason = "a link to a file that is read already"
                skipped.append(_skip(Path(path), ExclusionKind.DUPLICATE, reason))
                continue
            read.add(target)
        kept.append(path)
    return kept


def _walk(root: Path, files: list[str], skipped: list[SkippedFile], listed: set[str]) -> list[Path]:
    """Append the files below a folder and what is skipped, note the real folders, and return links to folders."""
    links: list[Path] = []

    def skip_unreadable(error: OSError) -> None:
        reason = f"folder cannot be read ({error.strerror})"
        skipped.append(_skip(Path(str(error.filename)), ExclusionKind.UNREADABLE, reason))

    for folder, folders, names in os.walk(root, onerror=skip_unreadable):
        folders.sort()
        for name in [name for name in folders if name.startswith(".") and ".partial-" in name]:
            folders.remove(name)
            skipped.append(_skip(Path(folder, name), ExclusionKind.NOT_REGULAR, "an output that is not finished"))
        links += [Path(folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in folders}
        folders[:] = [name for name in folders if real[name] not in listed]  # two links may share a folder below
        listed.update(real[name] for name in folders if not os.path.islink(os.path.join(folder, name)))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if _is_regular(path):
                files.append(path)
            else:
                skipped.append(_skip(Path(path), ExclusionKind.NOT_REGULAR, "not a regular file"))
    return links


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


# Zip archives -----------------------------------------------------------------------------------------------


def _extract(path: Path) -> ExtractedArchive:
    """Extract a zip archive into a temporary folder.

    Raises
    ------
    InputError
        If a limit is exceeded, a name leads out of the archive, or the archive is broken or encrypted.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            _refuse_hostile(path, members)
            archive = ExtractedArchive(path)
            budget = MAX_EXTRACTED_BYTES
            for member in members:
                budget = _extract_member(file, member, archive.folder, budget)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or short_message(error)
        raise InputError(f"{path}: cannot be extracted ({reason}); extract it yourself") from None
    except Exception as error:  # a broken archive can fail anywhere inside zipfile
        reason = short_message(error)
        raise InputError(f"{path}: broken or encrypted archive ({reason}); extract it yourself") from None
    return archive


def _refuse_hostile(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{path}: more than {MAX_MEMBERS} files in the archive; extract only what you need")
    size, packed = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if size > MAX_EXTRACTED_BYTES:
        raise InputError(
            f"{path}: inflates to {size >> 30} GiB, more than {MAX_EXTRACTED_BYTES >> 30}; extract it yourself"
        )
    if size > SAFE_INFLATED_BYTES and size > MAX_INFLATION_RATIO * packed:
        raise InputError(f"{path}: inflates {size // max(packed, 1)} times; this is no archive of images")
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{path}: inflates to {size >> 20} MiB, but {folder} has only {free >> 20} MiB free; set TMPDIR"
        )
    for member in members:
        if not _stays_inside(member.filename) or stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{path}: the archive's file {member.filename[:80]!r} leads out of it; not extracted")


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not any(
        part == ".." or part.startswith("/") or "\\" in part or ":" in part[1:2] or "\0" in part for part in parts
    )


def _extract_member(file: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, budget: int) -> int:
    """Extract one file and return the bytes left of the budget; the sizes that an archive states may be false."""
    target = folder / PurePosixPath(member.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return budget
    with file.open(member) as packed, target.open("xb") as output:
        while chunk := packed.read(_CHUNK_BYTES):
            budget -= len(chunk)
            if budget < 0:
                raise InputError(f"{file.filename}: inflates to more than {MAX_EXTRACTED_BYTES >> 30} GiB")
            output.write(chunk)
    return budget


# DICOMDIR ---------------------------------------------------------------------------------------------------


def _is_dicomdir(path: Path) -> bool:
    try:
        return bool(read_header(path, ["SOPClassUID"]).dataset.SOPClassUID == MediaStorageDirectoryStorage)
    except InputError:
        return False


def _list_dicomdir(path: Path) -> FileListing:
    """List the files that a DICOMDIR references (PS3.10 8.6, PS3.3 F.3); none outside its folder.

    Philips discs nest directories: a record refers to another DICOMDIR.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    root = path.resolve().parent
    files: dict[str, None] = {}
    skipped: list[SkippedFile] = []
    waiting, known = [path], {path.resolve()}
    while waiting:
        directory = waiting.pop(0)
        for listed, file, problem in _entries(directory, root):
            if file is None:
                skipped.append(_skip(listed, ExclusionKind.NOT_REGULAR, problem))
            elif not _is_nested_dicomdir(file):
                files[str(path.parent / file.relative_to(root))] = None
            elif file.resolve() not in known:
                known.add(file.resolve())
                waiting.append(path.parent / file.relative_to(root))
    return FileListing(tuple(files), tuple(skipped), by_folder=False)


def _entries(directory: Path, root: Path) -> Iterator[tuple[Path, Path | None, str]]:
    """Each file that a DICOMDIR lists: path as listed, file inside ``root`` or None, problem with it."""
    try:
        references = list(_referenced_files(read_header(directory).dataset))
    except InputError:
        raise
    except Exception as error:  # pydicom may fail in any way on damaged bytes
        raise InputError(
            f"{directory}: broken DICOMDIR ({short_message(error)}); give the folder instead"
        ) from None
    base = directory.resolve().parent
    for parts in references:
        if not parts or not all(_stays_inside(part) and "/" not in part for part in parts):
            yield directory.parent / "\\".join(parts), None, "the DICOMDIR leads out of its folder"
            continue
        listed, file = root.joinpath(*parts), _find_referenced(root, base, parts)
        if file is None:
            yield listed, None, "listed in the DICOMDIR but missing"
        elif not file.resolve().is_relative_to(root):
            yield listed, None, "the DICOMDIR leads out of its folder"
        elif not _is_regular(str(file)):
            yield listed, None, "not a regular file"
        else:
            yield listed, file, ""


def _is_nested_dicomdir(file: Path) -> bool:
    """Whether a referenced file is a DICOMDIR; File Meta Information shows it without parsing the rest."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_META_BYTES)
    except OSError:
        return False
    return start[128:132] == b"DICM" and MediaStorageDirectoryStorage.encode() in start and _is_dicomdir(file)


def _referenced_files(directory: Any) -> Iterator[list[str]]:
    for record in directory.get("DirectoryRecordSequence") or []:
        parts = record.get("ReferencedFileID")
        if parts:
            yield [parts] if isinstance(parts, str) else [str(part) for part in parts]


def _find_referenced(root: Path, base: Path, parts: list[str]) -> Path | None:
    """Find a referenced file: paths begin at the root of the disc, in some nested directories at their own folder.

    A nested directory may be given without the disc around it: the names of its own folders are then skipped.
    """
    found = _find_in_any_case(root, parts) or _find_in_any_case(base, parts)
    for count in range(1, len(parts)):
        own = [name.lower() for name in base.parts[-count:]]
        if found is None and own == [part.lower() for part in parts[:count]]:
            found = _find_in_any_case(base, parts[count:])
    return found


def _find_in_any_case(root: Path, parts: list[str]) -> Path | None:
    """Find a file whose capitals may have changed when it was copied from a disc."""
    path = root
    for part in parts:
        if not os.path.lexists(path / part):
            try:
                candidates = [name for name in os.listdir(path) if name.lower() == part.lower()]
            except OSError:
                return None
            if len(candidates) != 1:
                return None
            part = candidates[0]
        path = path / part
    return path

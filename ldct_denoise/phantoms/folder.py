"""Output folder of phantoms: studies appear when all are complete, and replace those of an earlier call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ldct_denoise.errors import OutputError
from ldct_denoise.output import make_output_folder

#: Prefix of the hidden folder in which studies are created; leftovers of a killed call are never read as images.
PARTIAL_PREFIX = ".phantom.partial-"
#: Folders and files of phantoms, relative to the output folder.
_FOLDER = re.compile(r"(L\d{3}|QA-[A-Z-]+)(/synthetic-\d+(/[12]\.000000-(Full|Low) Dose Images-\d{5,})?)?")
_FILE = re.compile(
    r"(L\d{3}|QA-[A-Z-]+)/synthetic-\d+/"
    r"([12]\.000000-(Full|Low) Dose Images-\d{5,}/1-\d{3,}\.dcm|truth\.nii\.gz|(lesions|labels)\.(nii\.gz|csv))"
)


@contextmanager
def replace_phantoms(output: Path, overwrite: bool) -> Iterator[Path]:
    """Context manager: create studies in a hidden folder, and move them to ``output`` at the end.

    Parameters
    ----------
    output : Path
    overwrite : bool
        Remove all phantoms of an earlier call: patients of two calls have the same names.

    Yields
    ------
    Path
        The hidden folder.

    Raises
    ------
    OutputError
        If ``output`` is not empty and ``overwrite`` is not set, contains anything but phantoms, or cannot be
        written.
    """
    make_output_folder(output, overwrite)
    earlier = _earlier(output)
    try:
        with TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=output) as hidden:
            new, old = Path(hidden) / "new", Path(hidden) / "old"
            new.mkdir()
            old.mkdir()
            yield new
            for path in earlier:
                path.rename(old / path.name)
            for path in sorted(new.iterdir()):
                path.rename(output / path.name)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another folder") from None


def _earlier(output: Path) -> list[Path]:
    """Studies of earlier calls; anything else in the folder is refused, because it would be removed with them."""
    found = sorted(output.iterdir())
    for item in found:
        if item.name.startswith(PARTIAL_PREFIX):
            continue
        for path in [item, *sorted(item.rglob("*"))]:
            name = path.relative_to(output).as_posix()
            ours = _FOLDER.fullmatch(name) if path.is_dir() else _FILE.fullmatch(name)
            if path.is_symlink() or not ours:
                raise OutputError(f"{output}: holds {name}, which is not part of a phantom; give another folder")
    return found

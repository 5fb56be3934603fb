"""The folder of phantoms: studies get their names when all are whole, in place of those of an earlier call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ldct_denoise.errors import OutputError
from ldct_denoise.output import make_output_folder

#: Begins the hidden folder that studies are made in; what a killed call leaves there is never read as images.
PARTIAL_PREFIX = ".phantom.partial-"
#: Every folder and file that a phantom consists of, relative to the output folder.
_FOLDER = re.compile(r"(L\d{3}|QA-[A-Z-]+)(/synthetic-\d+(/[12]\.000000-(Full|Low) Dose Images-\d{5,})?)?")
_FILE = re.compile(
    r"(L\d{3}|QA-[A-Z-]+)/synthetic-\d+/"
    r"([12]\.000000-(Full|Low) Dose Images-\d{5,}/1-\d{3,}\.dcm|truth\.nii\.gz|(lesions|labels)\.(nii\.gz|csv))"
)


@contextmanager
def replace_phantoms(output: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden folder in ``output`` to make studies in; at the end they take the place of earlier ones.

    Parameters
    ----------
    output : Path
    overwrite : bool
        Whether what an earlier call left may be removed, all of it: patients of two calls share their names.

    Raises
    ------
    OutputError
        If ``output`` holds something and ``overwrite`` is not given, or anything that is no phantom's; or cannot
        be written.
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
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another place") from None


def _earlier(output: Path) -> list[Path]:
    """What earlier calls left; refuses anything else there, which would be removed with it."""
    found = sorted(output.iterdir())
    for item in found:
        if item.name.startswith(PARTIAL_PREFIX):
            continue
        for path in [item, *sorted(item.rglob("*"))]:
            name = path.relative_to(output).as_posix()
            ours = _FOLDER.fullmatch(name) if path.is_dir() else _FILE.fullmatch(name)
            if path.is_symlink() or not ours:
                raise OutputError(f"{output}: holds {name}, which no phantom is made of; give another folder")
    return found

"""Rows of a manifest, and data lists in the form of the Medical Segmentation Decathlon (``dataset.json``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldct_denoise.errors import InputError
from ldct_denoise.io.dose_words import Dose, without_dose

SPLITS = ("train", "validation", "test")
#: Lists of a decathlon file, and the split of their images.
LISTS = {"training": "train", "validation": "validation", "test": "test"}
#: Keys of the normal-dose image of an item; ``image`` is the low dose.
TARGETS = ("label", "target")


@dataclass(frozen=True)
class ManifestRow:
    """A row of a manifest.

    Parameters
    ----------
    line : int
        Its line in the file, for messages.
    path : Path
        A file or folder with the series.
    dose : Dose
        ``low`` or ``normal``.
    patient : str
        Empty for the patient that the images name.
    series_uid, kernel : str
        Choose one of several series at the path; empty for all.
    split : str
        ``train``, ``validation`` or ``test``; empty for the default.
    pair : str
        Two rows of one text are a pair; empty to find pairs by patient, kernel and position.
    """

    line: int
    path: Path
    dose: Dose
    patient: str = ""
    series_uid: str = ""
    kernel: str = ""
    split: str = ""
    pair: str = ""


def read_decathlon(file: Path, text: str) -> list[ManifestRow]:
    """Read the rows of a decathlon file: ``image`` is the low dose, ``label`` or ``target`` the normal dose.

    Parameters
    ----------
    file : Path
        Named in errors; relative paths start at its folder.
    text : str
        JSON with the lists ``training``, ``validation`` and ``test``. An item is an object, or the path of an
        image without a label. ``patient`` is optional: by default the name of the image without dose words.

    Returns
    -------
    list of ManifestRow
        Two rows for each pair. ``line`` is the number of the item.

    Raises
    ------
    InputError
        If the text has another form, or a path does not exist.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict) or not any(isinstance(content.get(name), list) for name in LISTS):
        raise InputError(f"{file}: no list {', '.join(LISTS)}; give a dataset.json of MONAI, or a CSV table")
    items = [(split, item) for name, split in LISTS.items() for item in content.get(name) or ()]
    return [row for number, (split, item) in enumerate(items, 1) for row in _rows(file, number, split, item)]


def _rows(file: Path, number: int, split: str, item: Any) -> Iterator[ManifestRow]:
    parts = {"image": item} if isinstance(item, str) else item
    if not isinstance(parts, dict) or not isinstance(parts.get("image"), str):
        raise InputError(f"{file}, item {number}: no text 'image'; one item is one image with its 'label'")
    target = next((parts[key] for key in TARGETS if isinstance(parts.get(key), str)), None)
    stem = Path(parts["image"]).name.split(".")[0]
    patient = str(parts.get("patient", without_dose(stem) or stem))
    for dose, name in ((Dose.LOW, parts["image"]), (Dose.NORMAL, target)):
        if name is None:
            continue
        path = file.parent / Path(name).expanduser()
        if not path.exists():
            raise InputError(f"{file}, item {number}: {path} does not exist; relative paths start at its folder")
        yield ManifestRow(number, path, dose, patient, split=split, pair=str(number) if target else "")

"""Regions from the text and files that a user gives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.regions.contours import ContourRegion
from ldct_denoise.regions.regions import Body, LabelRegion, Region, Sphere, Tissue, WholeImage
from ldct_denoise.regions.tissues import TISSUES
from ldct_denoise.volume import SliceSource, Volume


def parse_regions(text: str) -> tuple[Region, ...]:
    """Regions from one command-line word.

    ``image``, ``body``, a tissue's name, ``x,y,z,radius`` (LPS mm), or the path of a label volume, which gives a
    region for every label in it, called ``<file>-<label>``; of a DICOM SEG or RTSTRUCT, for every segment or
    structure.

    Raises
    ------
    ConfigError, InputError
        If the text is none of these, or the label volume cannot be used.
    """
    if text == "image":
        return (WholeImage(),)
    if text == "body":
        return (Body(),)
    if text in TISSUES:
        return (Tissue(text),)
    if Path(text).exists():
        return regions_from_file(Path(text))
    try:
        x, y, z, radius = (float(part) for part in text.split(","))
    except ValueError:
        known = ", ".join(["image", "body", *TISSUES])
        raise ConfigError(
            f"region {text!r}: give x,y,z,radius in mm (LPS), a label volume that exists, or one of {known}"
        ) from None
    if not (np.isfinite([x, y, z, radius]).all() and radius > 0):
        raise ConfigError(f"region {text!r}: the radius must be larger than 0 mm")
    return (Sphere(f"sphere({x:g} {y:g} {z:g} r{radius:g})", (x, y, z), radius),)


def parse_region(text: str) -> Region:
    """A single region from one command-line word; see :func:`parse_regions`.

    Raises
    ------
    ConfigError
        If the text gives several regions.
    """
    found = parse_regions(text)
    if len(found) != 1:
        raise ConfigError(f"region {text!r} holds {len(found)} regions; give a file with one, a ball or a tissue")
    return found[0]


def disambiguate_names(regions: Sequence[Region]) -> list[Region]:
    """The regions, one for one, of which no two different ones share a name: later ones get a number.

    What is given twice (a tissue, a ball, the same label of the same file) keeps one name.
    """
    kept: dict[str, Region] = {}
    named: list[Region] = []
    for region in regions:
        names = chain([region.name], (f"{region.name}-{number}" for number in count(2)))
        renamed = (region.renamed(name) for name in names)
        named.append(next(one for one in renamed if kept.setdefault(one.name, one) == one))
    return named


def regions_from_file(path: Path) -> tuple[Region, ...]:
    """A region for every label above 0 of a label volume (NIfTI, NRRD, MHA) or segment of a DICOM SEG, and
    for every structure of an RTSTRUCT.

    Raises
    ------
    InputError
        If the file holds no label.
    """
    from ldct_denoise.io.dicom.rtstruct import is_structure_set, read_structures
    from ldct_denoise.io.dicom.segmentation import is_segmentation, read_segmentation
    from ldct_denoise.io.volume_files import open_volume_file

    if path.is_file() and is_segmentation(path):
        labels, names = read_segmentation(path)
        return tuple(LabelRegion(name, labels, value) for value, name in names.items())
    if path.is_file() and is_structure_set(path):
        return tuple(ContourRegion(one.name, one.contours) for one in read_structures(path))
    return regions_from_labels(open_volume_file(path), path.name.split(".")[0])


def regions_from_labels(source: SliceSource, name: str) -> tuple[Region, ...]:
    """A region for every label above 0 of a label volume.

    Raises
    ------
    InputError
        If there is no label.
    """
    labels = Volume.of(source)
    values = np.unique(np.rint(labels.hu[labels.hu > 0.5])).astype(int)
    if not len(values):
        raise InputError(f"{name}: a label volume without a label above 0; label the region with 1, 2, …")
    if len(values) > 200:
        raise InputError(f"{name}: {len(values)} different values; this is an image, not a label volume")
    return tuple(LabelRegion(f"{name}-{value}", labels, int(value)) for value in values)

"""Regions from command-line text and files."""

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

#: A volume with more different values must be an image.
MAX_LABELS = 200


def parse_regions(text: str) -> tuple[Region, ...]:
    """Parse regions.

    Parameters
    ----------
    text : str
        ``image``, ``body``, the name of a tissue, ``x,y,z,radius`` of a sphere (LPS mm), or the path of a label
        volume, DICOM SEG or RTSTRUCT.

    Returns
    -------
    tuple of Region
        One region; from a file one for every label, named ``<file>-<label>``, segment or structure.

    Raises
    ------
    ConfigError
        If the text is none of these.
    InputError
        If the file cannot be used.
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
    """Parse a single region; see :func:`parse_regions`.

    Raises
    ------
    ConfigError
        If the text describes several regions.
    """
    found = parse_regions(text)
    if len(found) != 1:
        raise ConfigError(
            f"region {text!r} holds {len(found)} regions; give a file with one, a sphere or a tissue"
        )
    return found[0]


def disambiguate_names(regions: Sequence[Region]) -> list[Region]:
    """Rename regions so that different ones have different names: later ones get a number.

    Equal regions (the same tissue, sphere, or label of the same file) keep a common name.
    """
    kept: dict[str, Region] = {}
    named: list[Region] = []
    for region in regions:
        names = chain([region.name], (f"{region.name}-{number}" for number in count(2)))
        renamed = (region.renamed(name) for name in names)
        named.append(next(one for one in renamed if kept.setdefault(one.name, one) == one))
    return named


def regions_from_file(path: Path) -> tuple[Region, ...]:
    """Read the regions of a file.

    Parameters
    ----------
    path : Path
        Label volume (NIfTI, NRRD, MHA), DICOM SEG or RTSTRUCT.

    Returns
    -------
    tuple of Region
        One for every label above 0, segment or structure.

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
    """One region for every label above 0 of a label volume, named ``<name>-<label>``.

    Raises
    ------
    InputError
        If there is no label, or so many that the volume must be an image.
    """
    labels = Volume.of(source)
    values = np.unique(np.rint(labels.hu[labels.hu > 0.5])).astype(int)
    if not len(values):
        raise InputError(f"{name}: a label volume without a label above 0; label the region with 1, 2, …")
    if len(values) > MAX_LABELS:
        raise InputError(f"{name}: {len(values)} different values; this is an image, not a label volume")
    return tuple(LabelRegion(f"{name}-{value}", labels, int(value)) for value in values)

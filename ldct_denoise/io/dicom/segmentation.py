"""DICOM Segmentation objects as label volumes (PS3.3 A.51), read by highdicom, which is an optional extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.uid import SegmentationStorage

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.reader import read_header
from ldct_denoise.io.quiet import short_message
from ldct_denoise.volume import Geometry, Volume


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM Segmentation."""
    try:
        return bool(read_header(path, ["SOPClassUID"]).dataset.SOPClassUID == SegmentationStorage)
    except InputError:
        return False


def read_segmentation(path: Path) -> tuple[Volume, dict[int, str]]:
    """The labels of a DICOM Segmentation.

    Returns
    -------
    Volume
        Segment numbers; 0 is background. Of overlapping segments the later counts.
    dict from int to str
        The segments' labels.

    Raises
    ------
    InputError
        If highdicom is not installed, or the segments do not lie on a regular grid.
    """
    try:
        import highdicom
    except ImportError:
        raise InputError(f"{path}: DICOM SEG needs highdicom; pip install 'ldct-denoise[seg]'") from None
    try:
        segmentation = highdicom.seg.segread(path)
    except Exception as error:  # a broken value can fail anywhere inside highdicom
        raise InputError(f"{path}: broken DICOM SEG ({short_message(error)})") from None
    try:
        found = segmentation.get_volume(combine_segments=True, skip_overlap_checks=True, rescale_fractional=False)
    except Exception as error:
        raise InputError(f"{path}: its segments do not lie on a regular grid ({short_message(error)})") from None
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in segmentation.SegmentSequence}
    geometry = Geometry.from_affine(np.asarray(found.affine), found.array.shape)
    return Volume(found.array.astype(np.float32), geometry, name=path.stem), names

"""DICOM Segmentation objects (PS3.3 A.51) as label volumes, read by the optional package highdicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.uid import SegmentationStorage

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.header import read_header
from ldct_denoise.io.quiet import short_message
from ldct_denoise.volume import Geometry, Volume


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM Segmentation."""
    try:
        return bool(read_header(path, ["SOPClassUID"]).dataset.SOPClassUID == SegmentationStorage)
    except InputError:
        return False


def read_segmentation(path: Path) -> tuple[Volume, dict[int, str]]:
    """Read the labels of a DICOM Segmentation.

    Returns
    -------
    Volume
        Segment numbers; 0 is background. Where segments overlap, the later one is kept.
    dict from int to str
        Label of each segment.

    Raises
    ------
    InputError
        If highdicom is not installed, the file cannot be read, or the segments do not lie on a regular grid.
    """
    try:
        import highdicom
    except ImportError:
        raise InputError(f"{path}: DICOM SEG needs highdicom; pip install 'ldct-denoise[seg]'") from None
    try:
        segmentation = highdicom.seg.segread(path)
    except Exception as error:  # a damaged value can fail anywhere inside highdicom
        raise InputError(f"{path}: broken DICOM SEG ({short_message(error)})") from None
    try:
        labels = segmentation.get_volume(combine_segments=True, skip_overlap_checks=True, rescale_fractional=False)
    except Exception as error:
        raise InputError(f"{path}: its segments do not lie on a regular grid ({short_message(error)})") from None
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in segmentation.SegmentSequence}
    geometry = Geometry.from_affine(np.asarray(labels.affine), labels.array.shape)
    return Volume(labels.array.astype(np.float32), geometry, name=path.stem), names

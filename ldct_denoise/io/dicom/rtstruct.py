"""Contours of RT Structure Sets (PS3.3 A.19) as polygons in patient coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.header import read_header
from ldct_denoise.io.quiet import short_message, suppress_warnings

#: Contour Geometric Type (3006,0042) of contours that enclose an area.
CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True)
class Structure:
    """A region of interest.

    Parameters
    ----------
    name : str
        ROI Name.
    contours : tuple of ndarray, each of shape (points, 3)
        Closed polygons, LPS mm.
    """

    name: str
    contours: tuple[NDArray[np.float64], ...]


def is_structure_set(path: Path) -> bool:
    """Whether a file is an RT Structure Set."""
    try:
        return bool(read_header(path, ["SOPClassUID"]).dataset.SOPClassUID == RTStructureSetStorage)
    except InputError:
        return False


def read_structures(path: Path) -> tuple[Structure, ...]:
    """Read the regions of an RT Structure Set that enclose an area; points and open lines are ignored.

    Raises
    ------
    InputError
        If it cannot be read, or has no closed contour.
    """
    dataset = read_header(path).dataset
    try:
        with suppress_warnings():
            names = {item.ROINumber: str(item.get("ROIName") or "") for item in _items(dataset, "StructureSetROI")}
            structures = tuple(
                Structure(names.get(item.ReferencedROINumber) or f"ROI {item.ReferencedROINumber}", contours)
                for item in _items(dataset, "ROIContour")
                if (contours := _contours(item))
            )
    except Exception as error:  # a damaged value can fail anywhere inside pydicom
        raise InputError(f"{path}: broken RT Structure Set ({short_message(error)})") from None
    if not structures:
        raise InputError(f"{path}: an RT Structure Set without a closed contour")
    return structures


def _items(dataset: Dataset, name: str) -> Any:
    return dataset.get(f"{name}Sequence") or []


def _contours(item: Dataset) -> tuple[NDArray[np.float64], ...]:
    contours = []
    for contour in _items(item, "Contour"):
        if str(contour.get("ContourGeometricType") or "") not in CLOSED_TYPES:
            continue
        points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
        if not np.isfinite(points).all():
            raise ValueError("a contour with points that are not finite numbers")
        if len(points) > 2:
            contours.append(points)
    return tuple(contours)

"""Geometry of the quality-assurance phantoms that can be located in a scan: ACR and Catphan.

Angles are measured in the image from the row direction towards higher rows (clockwise on the screen). Offsets are
along the slice normal, for a phantom that is mounted so that its layout is not mirrored.

References
----------
American College of Radiology, "CT accreditation program testing instructions" (Gammex 464).
The Phantom Laboratory, manuals of Catphan 503, 504, 600 and 604.
Kerns, "Pylinac: image analysis for routine quality assurance in radiotherapy", JOSS 8, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError

#: Samples along the side of a pixel of a drawn section.
OVERSAMPLING = 4


@dataclass(frozen=True)
class PhantomInsert:
    """A cylindrical insert, parallel to the axis of the phantom.

    Parameters
    ----------
    name : str
        Material.
    angle_deg : float
    distance_mm : float
        From the axis.
    radius_mm : float
    nominal_hu : float
        HU of the material, as the manufacturer states it.
    """

    name: str
    angle_deg: float
    distance_mm: float
    radius_mm: float
    nominal_hu: float

    def offset_mm(self, roll_deg: float, *, is_mirrored: bool) -> tuple[float, float]:
        """Position relative to the axis: mm down the column and along the row."""
        return polar_mm(self.angle_deg, self.distance_mm, roll_deg, is_mirrored=is_mirrored)


@dataclass(frozen=True)
class LowContrastTarget:
    """The largest low-contrast target, with background of the same module.

    Parameters
    ----------
    angle_deg, distance_mm, radius_mm : float
    background : tuple of (angle in degrees, distance in mm)
        Centres of the background ROIs.
    background_radius_mm : float
    """

    angle_deg: float
    distance_mm: float
    radius_mm: float
    background: tuple[tuple[float, float], ...]
    background_radius_mm: float


@dataclass(frozen=True)
class Module:
    """Slices of one module that are measured.

    Parameters
    ----------
    offset_mm : float
        Of the middle of the module from that of the module with the inserts.
    half_length_mm : float
        Slices up to this distance from the middle belong to it.
    """

    offset_mm: float
    half_length_mm: float


@dataclass(frozen=True)
class QaPhantom:
    """A commercial phantom with inserts, a uniform module and perhaps a low-contrast module.

    Parameters
    ----------
    name, title : str
        Name on the command line, and for people.
    radius_mm : float
        Outer radius.
    inserts : tuple of PhantomInsert
    insert_module, uniform_module : Module
    low_contrast_module : Module, optional
    low_contrast : LowContrastTarget, optional
    beads : tuple of (angle in degrees, distance in mm)
        Metal beads of the uniform module, which noise ROIs avoid.
    """

    name: str
    title: str
    radius_mm: float
    inserts: tuple[PhantomInsert, ...]
    insert_module: Module
    uniform_module: Module
    low_contrast_module: Module | None = None
    low_contrast: LowContrastTarget | None = None
    beads: tuple[tuple[float, float], ...] = ()


def polar_mm(
    angle_deg: float, distance_mm: float, roll_deg: float = 0.0, *, is_mirrored: bool = False
) -> tuple[float, float]:
    """Position relative to the axis: mm down the column and along the row.

    Parameters
    ----------
    angle_deg, distance_mm : float
        In the layout of the phantom.
    roll_deg : float
        Rotation of the phantom in the image.
    is_mirrored : bool
        The layout is seen from behind; it is mirrored left to right before it is rotated.

    Returns
    -------
    tuple of 2 floats
    """
    angle = np.radians((180 - angle_deg if is_mirrored else angle_deg) + roll_deg)
    return float(distance_mm * np.sin(angle)), float(distance_mm * np.cos(angle))


def draw_inserts(
    inserts: Sequence[PhantomInsert],
    spacing_mm: tuple[float, float],
    shape: tuple[int, int],
    *,
    centre_px: tuple[float, float],
    radius_mm: float,
    background_hu: float = 0.0,
    roll_deg: float = 0.0,
    is_mirrored: bool = False,
) -> NDArray[np.float64]:
    """A cross-section through the inserts, without noise and blur, each pixel the mean over its area.

    Parameters
    ----------
    inserts : sequence of PhantomInsert
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    shape : tuple of 2 ints
        Rows and columns.
    centre_px : tuple of 2 floats
        Row and column of the axis.
    radius_mm : float
        Outer radius; outside is air.
    background_hu : float
        HU between the inserts.
    roll_deg : float
    is_mirrored : bool

    Returns
    -------
    ndarray, shape ``shape``
        HU.
    """
    rows, columns = (
        (((np.arange(count * OVERSAMPLING) + 0.5) / OVERSAMPLING - 0.5) - middle) * mm
        for count, middle, mm in zip(shape, centre_px, spacing_mm, strict=True)
    )
    hu = np.full((len(rows), len(columns)), -1000.0)
    hu[np.hypot(rows[:, None], columns[None, :]) < radius_mm] = background_hu
    for insert in inserts:
        down, along = insert.offset_mm(roll_deg, is_mirrored=is_mirrored)
        hu[np.hypot(rows[:, None] - down, columns[None, :] - along) < insert.radius_mm] = insert.nominal_hu
    return hu.reshape(shape[0], OVERSAMPLING, shape[1], OVERSAMPLING).mean(axis=(1, 3))


def find_qa_phantoms(name: str) -> tuple[QaPhantom, ...]:
    """The phantoms that a name stands for: one, or all for ``auto``.

    Raises
    ------
    ConfigError
        If there is no such phantom.
    """
    if name == "auto":
        return QA_PHANTOMS
    found = tuple(phantom for phantom in QA_PHANTOMS if phantom.name == name)
    if not found:
        known = ", ".join(phantom.name for phantom in QA_PHANTOMS)
        raise ConfigError(f"phantom {name!r} is unknown; give auto, uniform, {known}")
    return found


def _ring(
    materials: dict[str, tuple[float, float]], distance_mm: float, radius_mm: float
) -> tuple[PhantomInsert, ...]:
    """Inserts on one circle, from angle in degrees and nominal HU by material."""
    return tuple(PhantomInsert(name, angle, distance_mm, radius_mm, hu) for name, (angle, hu) in materials.items())


def _catphan(
    model: str,
    inserts: tuple[PhantomInsert, ...],
    uniform_mm: float,
    low_contrast_mm: float | None,
    radius_mm: float = 100.0,
    turn_deg: float = 0.0,
) -> QaPhantom:
    angle = -87.4 + turn_deg
    return QaPhantom(
        name=f"catphan{model}",
        title=f"Catphan {model}",
        radius_mm=radius_mm,
        inserts=inserts,
        insert_module=Module(0.0, 7.0),
        uniform_module=Module(uniform_mm, 16.0),
        low_contrast_module=None if low_contrast_mm is None else Module(low_contrast_mm, 8.0),
        low_contrast=None
        if low_contrast_mm is None
        else LowContrastTarget(angle, 50.0, 7.5, ((angle, 37.5), (angle, 62.5)), 4.0),
    )


#: Angle and nominal HU of the CTP404 module of Catphan 503 and 504.
_CTP404 = {
    "air": (-90.0, -1000.0),
    "PMP": (-120.0, -196.0),
    "LDPE": (180.0, -104.0),
    "polystyrene": (120.0, -47.0),
    "air (opposite)": (90.0, -1000.0),
    "acrylic": (60.0, 115.0),
    "Delrin": (0.0, 365.0),
    "Teflon": (-60.0, 1000.0),
}
_CTP404_MM = {"distance_mm": 58.7, "radius_mm": 6.1}
#: The Catphan 600 has the same inserts, turned by half a turn, and a vial of water or air at the top.
_CTP404_600 = {
    name: (angle + 180.0 if angle <= 0 else angle - 180.0, hu)
    for name, (angle, hu) in _CTP404.items()
    if name != "air (opposite)"
}
_CTP732_604 = _CTP404 | {"bone 50 %": (-150.0, 725.0), "bone 20 %": (30.0, 237.0)}

ACR = QaPhantom(
    name="acr",
    title="ACR CT phantom (Gammex 464)",
    radius_mm=100.0,
    inserts=_ring(
        {
            "air": (45.0, -1000.0),
            "polyethylene": (225.0, -95.0),
            "acrylic": (135.0, 120.0),
            "bone": (-45.0, 955.0),
            "water": (180.0, 0.0),
        },
        63.0,
        12.5,
    ),
    insert_module=Module(0.0, 12.0),
    uniform_module=Module(80.0, 14.0),
    low_contrast_module=Module(38.0, 10.0),
    low_contrast=LowContrastTarget(-90.0, 60.0, 12.5, ((-115.0, 60.0),), 6.0),
    beads=((-45.0, 20.0), (135.0, 80.0)),
)

#: All phantoms, in the order in which ``auto`` prefers equally good matches.
QA_PHANTOMS = (
    ACR,
    _catphan("504", _ring(_CTP404, **_CTP404_MM), -65.0, -30.0),
    _catphan("503", _ring(_CTP404, **_CTP404_MM), -110.0, None, 97.0),
    _catphan("600", _ring(_CTP404_600, **_CTP404_MM), -160.0, -110.0, turn_deg=180.0),
    _catphan("604", _ring(_CTP732_604, **_CTP404_MM), -80.0, -40.0),
)

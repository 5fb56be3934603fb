"""RT Structure Sets as regions: contours filled on the slices, against what geometry says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.rtstruct import is_structure_set, read_structures
from ldct_denoise.regions.contours import ContourRegion
from ldct_denoise.regions.parse import parse_regions
from ldct_denoise.regions.regions import region_masks
from ldct_denoise.volume import Geometry

RADIUS, CENTRE = 20.0, np.array([3.2, -7.1, 0.0])
HU = np.zeros((160, 200), dtype=np.float32)


def geometry(planes: int = 5, spacing: float = 3.0, turned: float = 0.0) -> Geometry:
    """Slices of 0.5 × 0.4 mm pixels around the origin, turned about x by some radians."""
    down = np.array([0, np.cos(turned), np.sin(turned)])
    normal = np.cross([1, 0, 0], down)
    corner = -40 * np.array([1, 0, 0]) - 40 * down
    positions = corner + np.arange(planes)[:, None] * spacing * normal
    return Geometry(positions, (1, 0, 0), (0, float(down[1]), float(down[2])), (0.5, 0.4), *HU.shape)


def circle(place: Geometry, index: int, radius: float = RADIUS, points: int = 720) -> np.ndarray:
    """A circle in the plane of a slice, around :data:`CENTRE`."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    down = np.asarray(place.column_direction)
    plane = place.normal * place.offsets_mm[index]
    along = CENTRE[0] + radius * np.cos(angle)
    return plane + along[:, None] * np.array([1, 0, 0]) + (CENTRE[1] + radius * np.sin(angle))[:, None] * down


def distance(place: Geometry, index: int) -> np.ndarray:
    """Of each pixel's centre from the circle's centre, in the plane."""
    rows, columns = np.mgrid[: place.rows, : place.columns]
    points = place.to_lps(np.stack([np.full(rows.shape, index), rows, columns], axis=-1))
    return np.hypot(points[..., 0] - CENTRE[0], points @ np.asarray(place.column_direction) - CENTRE[1])


def write_structures(path: Path, structures: dict[str, list[np.ndarray]], kind: str = "CLOSED_PLANAR") -> Path:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = RTStructureSetStorage, "1.2.3", "RTSTRUCT"
    image.StructureSetROISequence, image.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber = drawn.ReferencedROINumber = number
        roi.ROIName, drawn.ContourSequence = name, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{value:.5f}" for value in points.ravel()]
            drawn.ContourSequence.append(contour)
        image.StructureSetROISequence.append(roi)
        image.ROIContourSequence.append(drawn)
    image.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("turned", [0.0, 0.3])
def test_a_circle_has_the_pixels_and_the_area_of_a_circle(tmp_path: Path, turned: float) -> None:
    place = geometry(turned=turned)
    path = write_structures(tmp_path / "rs", {"liver": [circle(place, index) for index in (1, 2, 3)]})
    assert is_structure_set(path)
    (region,) = parse_regions(str(path))
    assert region.name == "liver"
    for index in (1, 2, 3):
        mask = region.mask(place, index, HU)
        assert mask is not None
        away = distance(place, index)
        np.testing.assert_array_equal(
            mask[np.abs(away - RADIUS) > 0.01], (away < RADIUS)[np.abs(away - RADIUS) > 0.01]
        )
        assert abs(mask.sum() * 0.5 * 0.4 / (np.pi * RADIUS**2) - 1) < 3e-3
    for index in (0, 4):
        assert index not in region_masks([region], place, index, HU)
        assert not np.any(region.mask(place, index, HU))


def test_a_circle_in_a_circle_is_a_hole_and_two_apart_are_two() -> None:
    place = geometry()
    ring = ContourRegion("ring", [circle(place, 2), circle(place, 2, RADIUS / 2)])
    area = ring.mask(place, 2, HU).sum() * 0.5 * 0.4
    assert abs(area / (np.pi * RADIUS**2 * 0.75) - 1) < 5e-3
    small = circle(place, 2, 5)
    two = ContourRegion("two", [small, small + np.array([15, 0, 0])])
    assert abs(two.mask(place, 2, HU).sum() * 0.2 / (2 * np.pi * 25) - 1) < 2e-2


def test_thin_slices_take_the_contours_of_the_nearest_plane() -> None:
    drawn, thin = geometry(planes=3, spacing=3.0), geometry(planes=11, spacing=1.0)
    region = ContourRegion("x", [circle(drawn, index, radius) for index, radius in enumerate((8.0, 12.0, 16.0))])
    radii = [np.sqrt(region.mask(thin, index, HU).sum() * 0.2 / np.pi) for index in range(11)]
    np.testing.assert_allclose(radii, [8, 8, 12, 12, 12, 16, 16, 16, 0, 0, 0], atol=0.1)


def test_contours_of_another_plane_are_refused() -> None:
    with pytest.raises(InputError, match="'x': its contours are not parallel"):
        ContourRegion("x", [circle(geometry(turned=0.5), 0)]).mask(geometry(), 0, HU)


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", ""])
def test_open_contours_are_no_region(tmp_path: Path, kind: str) -> None:
    path = write_structures(tmp_path / "rs", {"x": [circle(geometry(), 0)]}, kind)
    with pytest.raises(InputError, match=f"{path}: .*without a closed contour"):
        read_structures(path)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # which the test itself writes
@pytest.mark.parametrize("points", [np.full((4, 3), np.nan), np.zeros(7)])
def test_broken_contours_are_refused(tmp_path: Path, points: np.ndarray) -> None:
    path = write_structures(tmp_path / "rs", {"x": [points]})
    with pytest.raises(InputError, match=f"{path}: broken RT Structure Set"):
        read_structures(path)


def test_a_real_structure_set() -> None:
    path = Path(pydicom.data.get_testdata_file("rtstruct.dcm"))
    structures = read_structures(path)
    assert all(len(contour) > 2 for one in structures for contour in one.contours)
    assert all(one.name for one in structures)

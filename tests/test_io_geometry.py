"""Where slices lie: as SimpleITK says, also after conversion; and how little a large tree costs."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.errors import OutputError
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.volume_files import open_volume_file
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.volume import Geometry, Volume
from tests.dicom_files import COLUMNS, ROWS, ct_image, write_ct
from tests.synthetic import series_of

TILT = np.radians(18)
ORIENTATIONS = {
    "axial": ([1, 0, 0, 0, 1, 0], [0, 0, 3]),
    "feet first": ([-1, 0, 0, 0, 1, 0], [0, 0, 3]),
    "oblique": ([0.8, 0.6, 0, -0.6, 0.8, 0], [0, 0, 2.5]),
    "tilted gantry": ([1, 0, 0, 0, np.cos(TILT), -np.sin(TILT)], [0, 0, 3]),
    "tilted and rounded": ([1, 0, 0, 0, round(np.cos(TILT), 4), -round(np.sin(TILT), 4)], [0, 0, 3]),
}


def placed(folder: Path, case: str) -> Series:
    orientation, step = ORIENTATIONS[case]
    for number in range(5):
        position = [f"{-30 + number * step[axis]:.6f}" for axis in range(3)]
        rounded = [f"{value:.12g}" for value in orientation]
        write_ct(folder / str(number), number, ImageOrientationPatient=rounded, ImagePositionPatient=position)
    (series,) = series_of(folder)
    return series


@pytest.mark.parametrize("case", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_geometry_agrees_with_simpleitk_also_after_conversion(tmp_path: Path, case: str, suffix: str) -> None:
    """Every corner of every slice, in patient mm: SimpleITK on DICOM, ours, and nibabel or SimpleITK on the volume."""
    import nibabel
    import SimpleITK as sitk

    series = placed(tmp_path / "in", case)
    assert any("gantry tilt of 18.0°" in problem for problem in series.metadata.problems) == case.startswith(
        "tilted"
    )
    volume = tmp_path / f"out{suffix}"
    write_volume(volume, Volume.of(series), series.geometry)
    back = open_volume_file(volume)
    for index, ref in enumerate(series.slices):
        image = sitk.ReadImage(str(ref.path))
        for row, column in ((0, 0), (ROWS - 1, 0), (0, COLUMNS - 1), (ROWS - 1, COLUMNS - 1)):
            theirs = np.array(image.TransformIndexToPhysicalPoint((column, row, 0)))
            at = [index, row, column]
            np.testing.assert_allclose(series.geometry.to_lps(at), theirs, atol=1e-3)
            np.testing.assert_allclose(back.geometry.to_lps(at), theirs, atol=1e-3)
            if suffix == ".nii.gz":
                ras = nibabel.load(volume).affine @ [column, row, index, 1]
                np.testing.assert_allclose(ras[:3] * [-1, -1, 1], theirs, atol=1e-3)
            else:
                whole = sitk.ReadImage(str(volume))
                point = whole.TransformIndexToPhysicalPoint((column, row, index))
                np.testing.assert_allclose(point, theirs, atol=1e-3)
        np.testing.assert_array_equal(back.read_hu(index), series.read_hu(index))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_stack_with_a_gap_is_no_volume_file(tmp_path: Path, suffix: str) -> None:
    """Slices at 0, 3, 9 and 12 mm would be stored at 0, 4, 8 and 12 mm. None is read, and no file appears."""
    placed(tmp_path / "in", "axial")
    (tmp_path / "in" / "2").unlink()
    (series,) = series_of(tmp_path / "in")
    assert series.geometry.unevenness_mm == pytest.approx(1)
    with pytest.raises(OutputError, match=r"up to 1\.0 mm from an even spacing.*DICOM"):
        write_volume(tmp_path / f"out{suffix}", iter(()), series.geometry)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("case", ["axial", "feet first", "oblique"])
def test_simpleitk_sees_a_nifti_where_the_slices_were(tmp_path: Path, case: str) -> None:
    import SimpleITK as sitk

    series = placed(tmp_path / "in", case)
    write_volume(tmp_path / "out.nii", Volume.of(series), series.geometry)
    image = sitk.ReadImage(str(tmp_path / "out.nii"))
    for index in (0, 4):
        point = image.TransformIndexToPhysicalPoint((COLUMNS - 1, ROWS - 1, index))
        np.testing.assert_allclose(point, series.geometry.to_lps([index, ROWS - 1, COLUMNS - 1]), atol=1e-3)


def test_the_qform_of_a_tilted_stack_is_marked_unknown(tmp_path: Path) -> None:
    """A qform cannot store the shear; marked as unknown, it makes ITK refuse the file."""
    import nibabel

    series = placed(tmp_path / "in", "tilted gantry")
    write_volume(tmp_path / "out.nii", Volume.of(series), series.geometry)
    header = nibabel.load(tmp_path / "out.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("step", [[0, 0, -5], [0, 1.5, 4], None])
def test_a_single_slice_keeps_its_thickness_and_direction(
    tmp_path: Path, suffix: str, step: list[float] | None
) -> None:
    affine = np.array([[0, 0, 0.7, -20], [0, 0.8, 0, -30], [-5, 0, 0, 40], [0, 0, 0, 1.0]])
    affine[:3, 0] = step or [0, 0, 1]
    given = Geometry.from_affine(affine, (1, 6, 8))
    geometry = given if step else replace(given, step_mm=None)  # nothing is known: as DICOM of one slice
    write_volume(tmp_path / f"one{suffix}", Volume(np.zeros((1, 6, 8)), geometry), geometry)
    back = open_volume_file(tmp_path / f"one{suffix}").geometry
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)
    assert back.slice_spacing_mm == pytest.approx(abs(affine[2, 0]))
    three = Geometry.from_affine(affine, (3, 6, 8))
    np.testing.assert_allclose(three.select([1]).affine[:3, 0], affine[:3, 0])


# Large trees -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_stays_flat_for_a_tree_of_100_000_slices(tmp_path: Path) -> None:
    """Bytes a slice, held after the scan and at its peak, measured on 300."""
    count = 300
    image = ct_image()
    image.add_new(0x00291010, "OB", b"x" * 4000)  # a private header as scanners write them, which must not be held
    for number in range(count):
        image.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{10**30 + number}"
        image.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.{number // 100}"
        image.ImagePositionPatient, image.XRayTubeCurrent = [-250.5, -250.5, 1.25 * number], 100 + number % 300
        folder = tmp_path / f"patient-{number // 100}" / "series"
        folder.mkdir(parents=True, exist_ok=True)
        image.save_as(folder / f"{number:08d}.dcm", enforce_file_format=True)
    scan(tmp_path / "patient-0")  # what is loaded once is no memory of a slice
    tracemalloc.start()
    inventory = scan(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert sum(len(series) for series in inventory.series) == count
    assert held / count * 100_000 < 60e6, f"{held / count:.0f} bytes a slice"
    assert peak / count * 100_000 < 150e6, f"{peak / count:.0f} bytes a slice at the peak"

"""Measurements as DICOM SR: read back by highdicom, checked by dciodvfy and dsrdump."""

from __future__ import annotations

import csv
import importlib
import re
import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from ldct_denoise.errors import InputError
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.derived.measurement_report import (
    AREA,
    ATTENUATION,
    MEAN,
    STANDARD_DEVIATION,
    RegionMeasurement,
    write_measurement_report,
)
from ldct_denoise.io.find import find_images
from ldct_denoise.regions.outline import pixel_outline
from ldct_denoise.volume import Geometry, Volume
from tests.enhanced_file import make_enhanced

main = importlib.import_module("ldct_denoise.cli.main").main
SPACING_MM, SIDE, RADIUS_MM = 0.8, 64, 9.0


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Folder of an evaluation with --sr, and the HU of the candidate."""
    folder = tmp_path_factory.mktemp("sr")
    rng = np.random.default_rng(3)
    distance = np.hypot(*(np.indices((SIDE, SIDE)) - (SIDE - 1) / 2))
    body = np.where(distance < 28, 40.0, -1000.0)
    images = {}
    for number, (name, noise_hu) in enumerate((("normal", 8.0), ("denoised", 5.0)), start=1):
        hu = np.rint(body + rng.normal(0, noise_hu, (6, SIDE, SIDE)))
        positions = np.array([[-25.2, -25.2, 3.0 * z] for z in range(6)])
        geometry = Geometry(positions, (1, 0, 0), (0, 1, 0), (SPACING_MM, SPACING_MM), SIDE, SIDE)
        attributes = SeriesAttributes(
            patient_id="P1", study_uid="1.2.3", series_number=number, description=name, kernel="B30f"
        )
        write_series(Volume(hu, geometry), folder / name, attributes)
        images[name] = hu
    arguments = ["evaluate", str(folder / "denoised"), "--reference", str(folder / "normal")]
    main([*arguments, f"--roi=0,0,6,{RADIUS_MM:g}", "--sr", "--output", str(folder / "out")])
    return folder, images["denoised"]


def test_the_report_holds_the_measured_values_and_the_measured_pixels(result):
    sr = pytest.importorskip("highdicom.sr", reason="DICOM SR is written by highdicom (the extra seg)")
    folder, hu = result
    report = sr.srread(folder / "out" / "sr" / "candidate.dcm")
    groups = report.content.get_planar_roi_measurement_groups()
    sources = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in (folder / "denoised").iterdir()}
    with (folder / "out" / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "candidate" and "sphere" in row["region"]]
    csv_means = {float(row["position_mm"]): float(row["value"]) for row in rows if row["metric"] == "hu_mean"}
    # The sphere reaches from z = −3 to 15 mm, where no centre of a pixel is inside it.
    assert len(groups) == len(csv_means) == 5
    for group in groups:
        roi = group.roi
        uid = str(roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        source = pydicom.dcmread(sources[uid])
        z_mm = float(source.ImagePositionPatient[2])
        index = round(z_mm / 3)
        x, y = roi.value[:, 0], roi.value[:, 1]
        enclosed = 0.5 * abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))
        # Centres of pixels are at .5 in the coordinates of an SCOORD (PS3.3 C.18.6.1.2).
        along = np.arange(SIDE) * SPACING_MM - 25.2
        inside = along[:, None] ** 2 + along[None, :] ** 2 + (z_mm - 6) ** 2 <= RADIUS_MM**2
        assert enclosed == inside.sum()
        assert ((x.min(), x.max()), (y.min(), y.max())) == (_extent(inside.any(0)), _extent(inside.any(1)))
        mean, std = group.get_measurements(ATTENUATION)
        (area,) = group.get_measurements(AREA)
        assert (mean.derivation, std.derivation) == (MEAN, STANDARD_DEVIATION)
        assert (mean.unit.value, area.unit.value) == ("[hnsf'U]", "mm2")
        assert mean.value == pytest.approx(hu[index][inside].mean(), abs=6e-4)
        assert mean.value == pytest.approx(csv_means[z_mm], abs=6e-4)
        assert std.value == pytest.approx(hu[index][inside].std(), abs=6e-4)
        assert area.value == pytest.approx(inside.sum() * SPACING_MM**2, abs=6e-4)


def _extent(inside):
    found = np.flatnonzero(inside)
    return float(found[0]), float(found[-1] + 1)


def test_the_report_belongs_to_the_study_of_the_images(result):
    folder, _ = result
    report = pydicom.dcmread(folder / "out" / "sr" / "reference.dcm")
    image = pydicom.dcmread(next((folder / "normal").iterdir()))
    assert (report.PatientID, report.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
    assert report.Modality == "SR"
    assert report.SeriesInstanceUID != image.SeriesInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == image.SeriesInstanceUID
    assert len(evidence.ReferencedSOPSequence) == 5


@pytest.mark.parametrize("tool", ["dciodvfy", "dsrdump"])
def test_other_programs_find_no_error(result, tool):
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")
    for path in (result[0] / "out" / "sr").iterdir():
        done = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0
        assert not re.search(r"^(Error|[EWF]:)", done.stdout + done.stderr, re.MULTILINE)


def test_frames_of_a_multi_frame_image_are_referenced_by_number(tmp_path):
    sr = pytest.importorskip("highdicom.sr")
    (series,) = find_images(make_enhanced(tmp_path / "in" / "enhanced.dcm")).series
    outline = pixel_outline(np.eye(1, dtype=bool))
    measured = [RegionMeasurement("lesion", 1, outline, 40.0, 10.0, 0.64)]
    write_measurement_report(series, measured, tmp_path / "sr.dcm", "ROI measurements")
    (group,) = sr.srread(tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    reference = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == series.slices[1].sop_uid
    assert reference.ReferencedFrameNumber == series.slices[1].frame + 1


def test_names_of_patient_and_region_may_have_any_characters(tmp_path):
    sr = pytest.importorskip("highdicom.sr")
    path = make_enhanced(tmp_path / "in" / "enhanced.dcm")
    image = pydicom.dcmread(path)
    image.SpecificCharacterSet, image.PatientName = "ISO_IR 100", "Müller^Jörg"
    image.save_as(path)
    (series,) = find_images(path).series
    measured = [RegionMeasurement("łata", 0, pixel_outline(np.eye(1, dtype=bool)), 40.0, 10.0, 0.64)]
    write_measurement_report(series, measured, tmp_path / "sr.dcm", "ROI measurements")
    report = sr.srread(tmp_path / "sr.dcm")
    assert str(report.PatientName) == "Müller^Jörg"
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert group.tracking_identifier == "łata"


def test_outlines_enclose_exactly_the_mask():
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:3, 2:5] = mask[3, 2] = True
    corners = [[2, 1], [5, 1], [5, 3], [3, 3], [3, 4], [2, 4], [2, 1]]
    assert pixel_outline(mask).tolist() == corners
    ring, two, corner = (np.ones((3, 3), dtype=bool) for _ in range(3))
    ring[1, 1] = False
    two[:, 1] = False
    corner[:] = np.eye(3, dtype=bool)
    assert [pixel_outline(one) for one in (ring, two, corner, ring & False)] == [None] * 4


def test_what_cannot_be_reported_is_said(result, tmp_path, capsys, monkeypatch):
    folder, _ = result
    arguments = ["evaluate", str(folder / "denoised"), "--reference", str(folder / "normal"), "--sr", "--output"]
    with pytest.raises(SystemExit):
        main([*arguments, str(tmp_path / "a")])
    assert "no region to report; give --roi" in capsys.readouterr().err
    (series,) = find_images(folder / "normal").series
    monkeypatch.setitem(importlib.sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install 'ldct-denoise\[seg\]'"):
        write_measurement_report(series, [], tmp_path / "b.dcm", "")

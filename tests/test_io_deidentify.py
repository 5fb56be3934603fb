"""Shared files hold nothing of the patient: not at the top, not in sequences, not in private attributes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.io.derived import deidentify
from ldct_denoise.io.derived.attributes import code_item
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry

SECRET = "SECRET"


def make_source(folder: Path, **attributes: object) -> Series:
    """Two slices with a secret in many places."""
    geometry = axial_geometry(2, 32, 40, (3.0, 0.7, 0.7))
    volume = Volume(np.random.default_rng(0).normal(0, 100, geometry.shape), geometry)
    names = {"patient_id": SECRET, "study_uid": "1.2.826.0.1", "description": f"CT {SECRET}"}
    write_series(
        volume, folder, SeriesAttributes(series_uid="1.2.826.0.2", series_number=1, kernel="B30f", **names)
    )
    for path in folder.iterdir():
        image = dcmread(path)
        image.StudyDate, image.AcquisitionDate, image.PatientBirthDate = "20240229", "20240229", "19500229"
        image.InstitutionName = image.StationName = image.ProtocolName = image.StudyDescription = SECRET
        image.PatientComments = image.ImageComments = image.DerivationDescription = SECRET
        image.OperatorsName = image.DeviceSerialNumber = SECRET
        image.IrradiationEventUID = ["1.2.826.0.3", "1.2.826.0.4"]
        item = Dataset()
        item.Manufacturer, item.InstitutionName, item.OperatorsName = "SCANNERS", SECRET, SECRET
        item.ScheduledProcedureStepDescription = SECRET
        item.PurposeOfReferenceCodeSequence = [code_item("109101", "Acquisition Equipment")]
        image.ContributingEquipmentSequence = [item]
        image.RequestAttributesSequence = [item]
        image.ContrastBolusAgentSequence = [item]
        image.private_block(0x0099, "OTHER", create=True).add_new(1, "LO", SECRET)
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        image.save_as(path)
    (series,) = scan(folder).series
    assert isinstance(series, Series)
    return series


def derive(series: Series, output: Path) -> list[Path]:
    with DerivedWriter(series, output, Derivation("lir-ct", "ab" * 32), WriteSettings(deidentify=True)) as writer:
        for index in range(len(series)):
            writer.write(index, series.read_hu(index))
    return sorted(output.iterdir())


def test_no_secret_uid_or_date_is_left_in_the_bytes(tmp_path: Path) -> None:
    pytest.importorskip("dicomanonymizer", reason="the extra [deid] is not installed")
    paths = derive(make_source(tmp_path / "in"), tmp_path / "out")
    for path in paths:
        content = path.read_bytes()
        for secret in (SECRET.encode(), b"1.2.826.0", b"20240229", b"19500229"):
            assert secret not in content
    first, second = (dcmread(path) for path in paths)
    assert first.PatientIdentityRemoved == "YES"
    assert first.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert first.StudyInstanceUID == second.StudyInstanceUID == deidentify.public_uid("1.2.826.0.1")
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.ContributingEquipmentSequence[-1].Manufacturer == "ldct-denoise"


def test_pixels_geometry_and_kernel_stay(tmp_path: Path) -> None:
    pytest.importorskip("dicomanonymizer", reason="the extra [deid] is not installed")
    series = make_source(tmp_path / "in")
    for index, path in enumerate(derive(series, tmp_path / "out")):
        image = dcmread(path)
        np.testing.assert_array_equal(image.pixel_array, series.read_stored(index))
        assert list(image.ImagePositionPatient) == [0, 0, 3 * index]
        assert image.ConvolutionKernel == "B30f"


def test_burned_in_annotation_is_not_shared(tmp_path: Path) -> None:
    series = make_source(tmp_path / "in", BurnedInAnnotation="YES")
    with pytest.raises(InputError, match="burned-in"):
        derive(series, tmp_path / "out")


def test_without_the_table_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, deidentify.TABLE, None)
    with pytest.raises(ConfigError, match=r"ldct-denoise\[deid\]"):
        derive(make_source(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools (dciodvfy) is not installed")
def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    pytest.importorskip("dicomanonymizer", reason="the extra [deid] is not installed")
    for path in derive(make_source(tmp_path / "in"), tmp_path / "out"):
        run = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
        found = [line for line in run.stderr.splitlines() if line.startswith("Error")]
        assert [line for line in found if "(0008,001c)" not in line] == []

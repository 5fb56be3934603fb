"""Enhanced CT in gives Enhanced CT out, or classic images on request."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from ldct_denoise.errors import OutputError
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.volume import Geometry
from tests.conformance import check_derived
from tests.enhanced_file import COLUMNS, FRAMES, ROWS, make_enhanced

MODEL = Derivation("lir-ct", "ab" * 32)
needs_dicom3tools = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dicom3tools (dciodvfy) is not installed"
)


class Frames:
    """The frames of one file as a series, read by pydicom alone; what DerivedWriter asks of a series."""

    def __init__(self, path: Path) -> None:
        self.image = dcmread(path)
        self.uid = str(self.image.SeriesInstanceUID)
        self.geometry = Geometry(
            [[0, 0, 3 * k] for k in range(FRAMES)], (1, 0, 0), (0, 1, 0), (0.7, 0.7), ROWS, COLUMNS
        )
        sop_uid = str(self.image.SOPInstanceUID)
        self.slices = tuple(
            SimpleNamespace(path=path, frame=k, sop_uid=sop_uid, copy_id="", slope=1 + k / 4, intercept=-1024 - k)
            for k in range(FRAMES)
        )

    def __len__(self) -> int:
        return FRAMES

    def header(self, index: int) -> Dataset:
        return dcmread(self.slices[index].path, stop_before_pixels=True)

    def read_stored(self, index: int) -> np.ndarray:
        return self.image.pixel_array[index]

    def padding(self, index: int) -> np.ndarray:
        return np.zeros((ROWS, COLUMNS), dtype=bool)

    def read_hu(self, index: int) -> np.ndarray:
        frame = self.slices[index]
        return (self.read_stored(index) * frame.slope + frame.intercept).astype(np.float32)


@pytest.fixture
def series(tmp_path: Path) -> Frames:
    return Frames(make_enhanced(tmp_path / "in" / "enhanced.dcm"))


def derive(series: Frames, output: Path, **options: object) -> Path:
    with DerivedWriter(series, output, MODEL, WriteSettings(**options)) as writer:
        for index in reversed(range(len(series))):
            writer.write(index, series.read_hu(index))
    return output


def test_simulated_frames_state_the_simulated_exposure(series: Frames, tmp_path: Path) -> None:
    """In the functional groups of every frame, once each."""
    simulated = Derivation("noise", kind="simulated", dose=0.25)
    with DerivedWriter(series, tmp_path / "out", simulated, WriteSettings()) as writer:
        for index in range(len(series)):
            writer.write(index, series.read_hu(index))
    image = dcmread(next((tmp_path / "out").glob("*.dcm")))
    for frame, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        exposure = group.CTExposureSequence[0]
        assert exposure.XRayTubeCurrentInmA == pytest.approx((100 + frame) / 4)
        assert exposure.ExposureInmAs == pytest.approx((50 + frame / 2) / 4)
        assert (exposure.CTDIvol, exposure.ExposureTimeInms) == (1.25, 500)


def errors(path: Path) -> set[str]:
    output = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False).stderr
    return {line for line in output.splitlines() if line.startswith("Error")}


@pytest.mark.parametrize("compress", [None, "jpegls", "j2k", "rle"])
def test_enhanced_stays_enhanced(series: Frames, tmp_path: Path, compress: str | None) -> None:
    (path,) = derive(series, tmp_path / "out", compress=compress).iterdir()
    image, source = dcmread(path), dcmread(series.slices[0].path)
    np.testing.assert_array_equal(image.pixel_array, source.pixel_array)
    assert image.SOPClassUID == EnhancedCTImageStorage
    assert image.SOPInstanceUID != source.SOPInstanceUID
    assert list(image.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "FILTERED"]
    frame_type = image.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType
    assert list(frame_type) == ["DERIVED", "PRIMARY", "VOLUME", "FILTERED"]
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence, start=1):
        (derivation,) = frame.DerivationImageSequence
        (reference,) = derivation.SourceImageSequence
        assert reference.ReferencedFrameNumber == number
        assert derivation.DerivationCodeSequence[0].CodingSchemeDesignator == "99LDCTDENOISE"
    assert check_derived(series, tmp_path / "out") == []


def test_one_frame_changes_by_its_own_slope(series: Frames, tmp_path: Path) -> None:
    with DerivedWriter(series, tmp_path / "out", MODEL) as writer:
        for index in range(len(series)):
            writer.write(index, series.read_hu(index) * (index != 2) + 7 * (index == 2))
    image = dcmread(tmp_path / "out" / "0001.dcm")
    source = dcmread(series.slices[0].path).pixel_array
    np.testing.assert_array_equal(image.pixel_array[[0, 1, 3]], source[[0, 1, 3]])
    assert np.all(image.pixel_array[2] == round((7 + 1026) / 1.5))


def test_classic_on_request(series: Frames, tmp_path: Path) -> None:
    files = sorted(derive(series, tmp_path / "out", convert_enhanced=True).iterdir())
    assert len(files) == FRAMES
    source = dcmread(series.slices[0].path)
    for frame, path in enumerate(files):
        image = dcmread(path)
        np.testing.assert_array_equal(image.pixel_array, source.pixel_array[frame])
        assert image.SOPClassUID == CTImageStorage
        assert "PerFrameFunctionalGroupsSequence" not in image
        assert list(image.ImagePositionPatient) == [0, 0, 3 * frame]
        assert (image.RescaleSlope, image.RescaleIntercept) == (1 + frame / 4, -1024 - frame)
        assert (image.KVP, image.ConvolutionKernel, image.XRayTubeCurrent) == (120, "B30f", 100 + frame)
        assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert image.SourceImageSequence[0].ReferencedFrameNumber == frame + 1
    assert len({dcmread(path).SOPInstanceUID for path in files}) == FRAMES
    assert check_derived(series, tmp_path / "out") == []


@needs_dicom3tools
def test_dciodvfy_finds_no_error(series: Frames, tmp_path: Path) -> None:
    assert errors(Path(series.slices[0].path)) == set()
    assert errors(derive(series, tmp_path / "out") / "0001.dcm") == set()
    for path in derive(series, tmp_path / "classic", convert_enhanced=True).iterdir():
        assert errors(path) == set()


def test_an_image_type_of_one_value(series: Frames, tmp_path: Path) -> None:
    path = Path(series.slices[0].path)
    image = dcmread(path)
    image.ImageType = "ORIGINAL"
    image.save_as(path)
    (output,) = derive(series, tmp_path / "out").iterdir()
    assert list(dcmread(output).ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "FILTERED"]
    first = sorted(derive(series, tmp_path / "classic", convert_enhanced=True).iterdir())[0]
    assert list(dcmread(first).ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]


def test_a_disk_without_room_for_the_frames_is_told(
    series: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of a sparse file ended the process, with SIGBUS, where the disk became full."""
    asked = []

    def full(file: int, start: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match=f"^{tmp_path / 'out'}: .*No space left on device"):
        derive(series, tmp_path / "out")
    assert asked == [2 * FRAMES * ROWS * COLUMNS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_room_is_made_where_the_system_has_no_call_for_it(
    series: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    (output,) = derive(series, tmp_path / "out").iterdir()
    np.testing.assert_array_equal(dcmread(output).pixel_array, series.image.pixel_array)


def test_the_reader_and_the_writer_agree_on_frames(tmp_path: Path) -> None:
    path = make_enhanced(tmp_path / "in" / "enhanced.dcm")
    found = scan(path.parent).series
    if not found:
        pytest.skip("this reader sets Enhanced CT aside")
    (output,) = derive(found[0], tmp_path / "out").iterdir()
    np.testing.assert_array_equal(dcmread(output).pixel_array, dcmread(path).pixel_array)

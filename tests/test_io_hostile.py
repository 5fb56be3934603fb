"""Broken and hostile files are skipped or refused in one line that names them: no crash, no hang, little memory.

Each case that fuzzing found (``tests/fuzz_dicom.py``, ``tests/fuzz_atheris.py``) is kept here as a file of its own kind.
"""

from __future__ import annotations

import resource
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from ldct_denoise.errors import InputError
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom import decoder_process
from ldct_denoise.io.dicom.scan import scan
from tests.dicom_files import COLUMNS, ROWS, ct_image, write_ct
from tests.enhanced_file import make_enhanced
from tests.fuzz_dicom import nested_sequence, try_file

# Pydicom remarks on the broken values that these tests write.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{remark}:UserWarning")
    for remark in ("Invalid value for VR", "With tag .* got exception", "Unknown encoding")
]


def reason(path: Path) -> str:
    """Reason why the file is skipped, found without a hang."""
    begin = time.perf_counter()
    inventory = scan(path)
    assert time.perf_counter() - begin < 10
    assert not inventory.series
    (aside,) = inventory.skipped
    assert aside.path == path
    assert "\n" not in aside.reason
    return aside.reason


def at_image_attributes(path: Path, inserted: bytes) -> Path:
    """Bytes put in front of group 28."""
    data = path.read_bytes()
    at = data.index(struct.pack("<HH", 0x28, 2))
    path.write_bytes(data[:at] + inserted + data[at:])
    return path


# Whole files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"DICM", b"\0" * 128 + b"DICM", b"hello\n" * 100, b"\x08\0\0\0" * 5]
)
def test_files_that_are_not_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert reason(tmp_path / "x").startswith(("not DICOM", "not a DICOM image", "unreadable"))


def test_a_file_truncated_anywhere_is_skipped(tmp_path: Path) -> None:
    whole = write_ct(tmp_path / "x").read_bytes()
    for length in range(0, len(whole), 13):
        (tmp_path / "x").write_bytes(whole[:length])
        assert reason(tmp_path / "x")


def test_a_sparse_file_of_many_gigabytes_costs_nothing(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "x")
    (tmp_path / "zeros").touch()
    with (tmp_path / "zeros").open("r+b") as file:
        file.truncate(20 << 30)
    with path.open("r+b") as file:
        file.truncate(20 << 30)
    inventory = scan(tmp_path)
    assert [item.reason for item in inventory.skipped] == ["not DICOM"]
    inventory.series[0].read_hu(0)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "ünïcødé", "漢字", "a'b\"c", "-rf", b"\xff\xfe".decode("utf8", "surrogateescape")])  # fmt: skip
def test_names_of_every_kind(tmp_path: Path, name: str) -> None:
    write_ct(tmp_path / name / "good")
    (tmp_path / name / name).write_bytes(b"no DICOM at all, but long enough to be looked at" * 5)
    inventory = scan(tmp_path)
    assert [len(series) for series in inventory.series] == [1]
    assert inventory.skipped[0].path.name == name
    inventory.series[0].read_hu(0)


def test_text_that_would_write_on_a_terminal_becomes_one_line(tmp_path: Path) -> None:
    write_ct(tmp_path / "x", SeriesDescription="a\nb\r\tc", PatientID="P\n1")
    (series,) = scan(tmp_path).series
    assert (series.metadata.description, series.patient) == ("a b c", "P 1")


@pytest.mark.parametrize("uid", ["../../out", "/etc/x", "..", ".", "a/b", "1.2\\3", "x" * 500, "1.2.3\n4"])
def test_a_series_uid_that_leads_elsewhere_names_no_folder(tmp_path: Path, uid: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ct_image()
        text = uid.encode()
        image["SeriesInstanceUID"] = pydicom.dataelem.RawDataElement(
            image["SeriesInstanceUID"].tag, "UI", len(text), text, 0, False, True, True
        )
        image.save_as(tmp_path / "x", enforce_file_format=True)
    (series,) = scan(tmp_path).series
    assert (tmp_path / "out" / series.uid).parent == tmp_path / "out"
    assert set(series.uid) <= set("0123456789.")


# Values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Rows", 0), ("Columns", 65535), ("NumberOfFrames", 2**31 - 1), ("NumberOfFrames", -1), ("BitsAllocated", 64),
        ("BitsAllocated", 1), ("BitsStored", 40), ("HighBit", 3), ("PixelRepresentation", 7), ("RescaleSlope", 0),
        ("RescaleSlope", 1e-300), ("RescaleIntercept", 1e300), ("PixelSpacing", [0, 1]), ("PixelSpacing", [1e-9, 1]),
        ("ImageOrientationPatient", [0] * 6), ("ImageOrientationPatient", [1, 0, 0]),
        ("ImagePositionPatient", [1e30, 0, 0]), ("ImagePositionPatient", 7), ("SamplesPerPixel", 3),
    ],
)  # fmt: skip
def test_values_that_no_image_has(tmp_path: Path, keyword: str, value: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_ct(tmp_path / "x", **{keyword: value})
    assert reason(tmp_path / "x")


@pytest.mark.parametrize("text", [b"nan ", b"inf ", b"1e999 ", b"1\\2\\3 ", b"\xff\xfe", b"--1 ", b"0x10"])
@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_numbers_that_are_none(tmp_path: Path, keyword: str, text: bytes) -> None:
    image = ct_image()
    image[keyword] = pydicom.dataelem.RawDataElement(
        image[keyword].tag, "DS", len(text), text, 0, False, True, True
    )
    image.save_as(tmp_path / "x", enforce_file_format=True)
    assert reason(tmp_path / "x")


@pytest.mark.parametrize(
    "keyword", ["AcquisitionNumber", "InstanceNumber", "XRayTubeCurrent", "KVP", "SliceThickness"]
)
def test_broken_values_that_reading_can_do_without(tmp_path: Path, keyword: str) -> None:
    image = ct_image()
    image[keyword] = pydicom.dataelem.RawDataElement(image[keyword].tag, "IS", 4, b"abc ", 0, False, True, True)
    image.save_as(tmp_path / "x", enforce_file_format=True)
    (series,) = scan(tmp_path).series
    assert series.read_hu(0).shape == (ROWS, COLUMNS)


def test_unknown_character_sets_and_unknown_vrs(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "x", SpecificCharacterSet="ISO_IR 999")
    data = path.read_bytes()
    at = data.index(struct.pack("<HH", 0x18, 0x50)) + 4
    path.write_bytes(data[:at] + b"ZZ" + data[at + 2 :])
    (series,) = scan(tmp_path).series
    assert series.slices[0].sop_uid


# Structure ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("depth", [10, 60, 150, 240, 5000])
def test_sequences_in_sequences(tmp_path: Path, depth: int, implicit: bool) -> None:
    """Pydicom recurses; its writer needed time without end from some 250 levels on."""
    path = at_image_attributes(write_ct(tmp_path / "x"), nested_sequence(depth, implicit=implicit))
    begin = time.perf_counter()
    try_file(path, tmp_path, write=True)
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("depth", [60, 240, 400])
def test_nested_sequences_of_known_length(tmp_path: Path, depth: int) -> None:
    value = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value
        value = struct.pack("<HH", 8, 0x1115) + b"SQ\0\0" + struct.pack("<L", len(item)) + item
    path = at_image_attributes(write_ct(tmp_path / "x"), value)
    (series,) = scan(path).series
    with (
        pytest.raises(InputError, match=f"{path}: .*nested more than 50 deep"),
        DerivedWriter(series, tmp_path / "out", Derivation("m")) as writer,
    ):
        writer.write(0, series.read_hu(0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF])
def test_elements_that_say_to_be_longer_than_the_file(tmp_path: Path, length: int) -> None:
    private = struct.pack("<HH", 0x19, 0x10) + b"OB\0\0" + struct.pack("<L", length)
    assert reason(at_image_attributes(write_ct(tmp_path / "x"), private))


def test_enhanced_ct_with_a_wrong_number_of_frames(tmp_path: Path) -> None:
    path = make_enhanced(tmp_path / "in" / "x")
    image = pydicom.dcmread(path)
    image.PerFrameFunctionalGroupsSequence = list(image.PerFrameFunctionalGroupsSequence)[:3]
    image.save_as(path)
    assert reason(path) == "4 frames, but 3 per-frame functional groups"
    image.NumberOfFrames = 2**31 - 1
    image.save_as(path)
    assert "2147483647 frames" in reason(path)


# Bombs -------------------------------------------------------------------------------------------------------


def test_a_deflated_bomb_is_refused(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "x")
    image = ct_image()
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    head = data[: 132 + 12 + struct.unpack("<L", data[140:144])[0]]
    press = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(head + b"".join(press.compress(bytes(1 << 20)) for _ in range(300)) + press.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason(path).endswith("to more than 64 MiB")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 400


def encapsulated(path: Path, code: bytes, syntax: UID, **attributes: object) -> Path:
    image = ct_image(0, **attributes)
    image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = encapsulate([code])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True
    image.save_as(path, enforce_file_format=True)
    return path


def jpeg_2000(rows: int, columns: int, tile: int, parts: int = 1) -> bytes:
    size = struct.pack(">HHLLLLLLLLH", 38 + 3 * parts, 0, columns, rows, 0, 0, tile, tile, 0, 0, parts)
    return b"\xff\x4f\xff\x51" + size + b"\x0f\x01\x01" * parts + bytes(50)


@pytest.mark.parametrize(
    ("code", "syntax", "message"),
    [
        (jpeg_2000(60000, 60000, 60000), JPEG2000Lossless, "60000×60000 pixels, the header says 6×8"),
        (jpeg_2000(6, 8, 6, parts=3), JPEG2000Lossless, "3 colours"),
        (jpeg_2000(6, 8, 0), JPEG2000Lossless, "too many tiles"),
        (b"\xff\x4f\xff\x51", JPEG2000Lossless, "no compressed image"),
        (b"\xff\xd8\xff\xc3\0\x0b\x10\xff\xff\xff\xff\x01\x01\x11\0", JPEGLosslessSV1, "65535×65535 pixels"),
        (b"\xff\xd8" + b"\xff" * 40, JPEGLosslessSV1, "no compressed image"),
        (bytes(64), RLELossless, "cannot be decoded"),
    ],
)
def test_codes_that_claim_another_image(tmp_path: Path, code: bytes, syntax: UID, message: str) -> None:
    path = encapsulated(tmp_path / "x", code, syntax)
    (series,) = scan(path).series
    with pytest.raises(InputError, match=f"^{path}: .*{message}"):
        series.read_hu(0)


def test_codes_with_more_bits_than_the_header_says(tmp_path: Path) -> None:
    """Found by fuzzing: such values were written as they were, and read back as others."""
    image = ct_image()
    cells = np.random.default_rng(0).integers(0, 65536, (ROWS, COLUMNS)).astype(np.uint16)
    image.BitsStored, image.HighBit = 16, 15
    image.compress(JPEGLSLossless, cells)
    image.BitsStored, image.HighBit = 12, 11
    image.save_as(tmp_path / "x", enforce_file_format=True)
    (series,) = scan(tmp_path / "x").series
    np.testing.assert_array_equal(series.read_stored(0), cells & 0xFFF)
    assert try_file(tmp_path / "x", tmp_path, write=True) == "found"


# Codecs ------------------------------------------------------------------------------------------------------


def gdcm_breaker() -> bytes:
    """A lossless JPEG whose scan uses Huffman tables that are not there, cut short."""
    frame = b"\xff\xc3" + struct.pack(">HBHHB", 11, 16, ROWS, COLUMNS, 1) + b"\x01\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xda\0\x08\x01\x01\x77\x09\0\0" + b"\x55\xaa" * 30


def test_a_decoder_that_crashes_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GDCM ended the process on some mutated files; here the decoder process is killed, and the next frame is read."""
    decoder = decoder_process.DecoderProcess()
    monkeypatch.setattr(decoder_process, "_PROCESS", decoder)
    path = encapsulated(tmp_path / "x", gdcm_breaker(), JPEGLosslessSV1)
    (series,) = scan(path).series
    with pytest.raises(InputError, match=f"^{path}: "):
        series.read_hu(0)
    process = decoder._running()
    process.kill()
    process.wait()
    with pytest.raises(InputError, match=f"^{path}: "):
        series.read_hu(0)


def test_a_decoder_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    decoder = decoder_process.DecoderProcess()
    monkeypatch.setattr(decoder_process, "_PROCESS", decoder)
    monkeypatch.setattr(decoder_process, "LIMIT_S", 0.3)
    os.kill(decoder._running().pid, signal.SIGSTOP)
    path = encapsulated(tmp_path / "x", gdcm_breaker(), JPEGLosslessSV1)
    (series,) = scan(path).series
    begin = time.perf_counter()
    with pytest.raises(InputError, match=r"took longer than 0\.3 s"):
        series.read_hu(0)
    assert time.perf_counter() - begin < 10


def test_frames_that_a_classic_image_promises(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "x", NumberOfFrames=10_000)
    assert reason(path) is not None
    assert "Number of Frames is 10000 in a classic CT image" in str(reason(path))

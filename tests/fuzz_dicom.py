"""Seeded mutations of real DICOM files through reading and writing: only our own errors may be raised.

``python tests/fuzz_dicom.py --cases 10000`` runs it in full; ``--first NUMBER --cases 1`` repeats a failing case.
Cases run in a separate process, so that a crash or a hang is seen and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data

from ldct_denoise.errors import LdctDenoiseError
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom.archive import list_files
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.write_settings import WriteSettings

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
#: Base files by name: of the shared data, and of pydicom's own test files.
SEED_LIST = Path(__file__).with_name("fuzz_seeds.txt")
HANG_S, MEMORY_BYTES = 10, 2 << 30
#: One case in so many also writes the series found.
WRITE_EVERY = 5
Rng = np.random.Generator
WORDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff", b"\0\0", b"\x7f\xff", b"\xfe\xff\xdd\xe0", b"\xfe\xff\0\xe0",
         b"\xfe\xff\x0d\xe0", b"SQ", b"UN", b"OB", b"DS", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\\\\\\\\", b"nan ",
         b"1e999", b"\xff\x4f\xff\x51", b"\xff\xd8", b"\xe0\x7f\x10\0")  # fmt: skip


def named_seeds() -> list[tuple[str, Path]]:
    """Kind ("ct" or "other") and path of the base files, by name: independent of what else the folders hold."""
    roots = {"shared": SHARED, "pydicom": Path(pydicom.data.__file__).parent / "test_files"}
    seeds = []
    for line in SEED_LIST.read_text(encoding="utf-8").splitlines():
        kind, name = line.split(" ", 1)
        root, _, relative = name.partition("/")
        seeds.append((kind, roots[root] / relative))
    return seeds


def seeds() -> list[Path]:
    """Base files of the mutations; CT images seven times, because other files are skipped at once."""
    named = named_seeds()
    return [path for _, path in named] + 6 * [path for kind, path in named if kind == "ct"]


def mutated(files: list[Path], number: int, seed: int = 0) -> bytes:
    """Bytes of case ``number``; always the same."""
    rng = np.random.default_rng([seed, number])
    data = bytearray(files[int(rng.integers(len(files)))].read_bytes())
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        data = bytearray(mutation(data, rng, files))
    return bytes(data)


def _offset(data: bytearray, rng: Rng) -> int:
    """A random offset, in the header with a probability of 3/4."""
    end = len(data) if rng.random() < 0.25 else min(len(data), 4096)
    return int(rng.integers(max(end, 1)))


def flip(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    for _ in range(int(rng.integers(1, 8))):
        if data:
            data[_offset(data, rng)] = int(rng.integers(256))
    return data


def pixels(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    """Change bytes of the pixel data, mostly near its beginning, where codestreams have their headers."""
    start = bytes(data).find(b"\xe0\x7f\x10\0")
    for _ in range(int(rng.integers(1, 20))):
        if 0 <= start < len(data):
            reach = min(len(data) - start, 600 if rng.random() < 0.5 else len(data))
            data[start + int(rng.integers(reach))] = int(rng.integers(256))
    return data


def word(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    for _ in range(int(rng.integers(1, 6))):
        at = _offset(data, rng)
        value = WORDS[int(rng.integers(len(WORDS)))]
        data[at : at + len(value)] = value
    return data


def cut(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    return data[: int(rng.integers(len(data) + 1))]


def drop(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    at = _offset(data, rng)
    del data[at : at + int(rng.integers(1, 300))]
    return data


def repeat(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    at = _offset(data, rng)
    data[at:at] = data[at : at + int(rng.integers(1, 300))] * int(rng.integers(1, 20))
    return data


def splice(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    other = files[int(rng.integers(len(files)))].read_bytes()
    return bytearray(data[: _offset(data, rng)] + other[int(rng.integers(len(other))) :])


def element(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    """Overwrite the value or the length of a known element."""
    tag = (0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280008, 0x00280002,
           0x00280030, 0x00200032, 0x00200037, 0x00281052, 0x00281053, 0x00020010, 0x00280120, 0x7FE00010,
           0x52009230, 0x0020000E, 0x00080018, 0x00080005)[int(rng.integers(20))]  # fmt: skip
    at = bytes(data).find(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 128)
    if at >= 0:
        start = at + 4 + int(rng.integers(8))
        noise = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
        data[start : start + len(noise)] = noise if rng.random() < 0.5 else WORDS[int(rng.integers(len(WORDS)))]
    return data


def hostile(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    """A valid header with one impossible value."""
    values: list[tuple[str, object]] = [
        ("Rows", 65535), ("Columns", 0), ("NumberOfFrames", 2**31 - 1), ("NumberOfFrames", -1), ("BitsAllocated", 64),
        ("BitsAllocated", 1), ("BitsStored", 40), ("HighBit", 3), ("PixelRepresentation", 7), ("SamplesPerPixel", 3),
        ("RescaleSlope", 1e-300), ("RescaleIntercept", 1e300), ("PixelSpacing", [0, 1]), ("PixelSpacing", [1e-9, 1]),
        ("ImageOrientationPatient", [0] * 6), ("ImagePositionPatient", [1e30, 0, 0]), ("SeriesInstanceUID", ""),
        ("SOPInstanceUID", "x" * 5000), ("PatientID", "a\nb\r\x1b[31m" * 100), ("ConvolutionKernel", ["K"] * 5000),
        ("SpecificCharacterSet", "ISO_IR 999"), ("PhotometricInterpretation", "PALETTE COLOR"),
        ("ImageType", ["LOCALIZER"] * 500), ("PixelPaddingValue", 65535), ("InstanceNumber", 2**31 - 1),
    ]  # fmt: skip
    keyword, value = values[int(rng.integers(len(values)))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = pydicom.dcmread(io.BytesIO(bytes(data)), force=True)
            setattr(image, keyword, value)
            out = io.BytesIO()
            image.save_as(out, enforce_file_format=False)
    except Exception:  # the seed or an earlier mutation may not be writable
        return data
    return bytearray(out.getvalue())


def nested(data: bytearray, rng: Rng, files: list[Path]) -> bytearray:
    """Insert nested sequences before the image attributes."""
    at = bytes(data).find(struct.pack("<HH", 0x28, 2), 128)
    if at >= 0:
        data[at:at] = nested_sequence(int(10 ** rng.uniform(0, 3.3)), implicit=bool(rng.integers(2)))
    return data


def nested_sequence(depth: int, *, implicit: bool) -> bytes:
    """Referenced Series Sequence (0008,1115) nested in itself, with undefined lengths."""
    opened = struct.pack("<HH", 0x08, 0x1115) + (b"" if implicit else b"SQ\0\0") + b"\xff\xff\xff\xff"
    opened += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return opened * depth + closed * depth


MUTATIONS: tuple[Callable[[bytearray, Rng, list[Path]], bytearray], ...] = (
    flip, word, cut, drop, repeat, splice, nested, hostile, hostile, element, element, element, pixels, pixels, pixels,
)  # fmt: skip


def try_file(path: Path, scratch: Path, write: bool) -> str:
    """Do everything that the package does to a file, and return the outcome in a word.

    Raises
    ------
    Exception
        Any error but our own is a defect.
    """
    try:
        list_files(path)
        inventory = scan(path)
    except LdctDenoiseError as error:
        _require_name(error, path)
        return "refused"
    for item in inventory.skipped:
        assert item.reason, "no reason"
        assert "\n" not in item.reason, f"reason of several lines: {item.reason!r}"
    outcome = "found" if inventory.series else "skipped"
    for series in inventory.series:
        try:
            for index in sorted({0, len(series) - 1}):
                hu = series.read_hu(index)
                assert hu.shape == series.geometry.shape[1:]
                assert hu.dtype == np.float32
                assert series.padding(index).shape == hu.shape
            if write:
                _write_as_it_is(series, scratch)
        except LdctDenoiseError as error:
            _require_name(error, path, scratch)
            outcome = "not readable"
    return outcome


def _require_name(error: LdctDenoiseError, *places: Path) -> None:
    if not any(str(place) in str(error) for place in places) or "\n" in str(error):
        raise AssertionError(f"not one line that names the file: {error}")


def _write_as_it_is(series: Series, scratch: Path) -> None:
    """Write the series as ``apply --strength 0`` does; the stored values must be unchanged."""
    with DerivedWriter(series, scratch / "out", Derivation("fuzz"), WriteSettings(overwrite=True)) as writer:
        for index in range(len(series)):
            writer.write(index, series.read_hu(index))
    (back,) = scan(scratch / "out", include_derived=True).series
    np.testing.assert_array_equal(back.read_stored(0), series.read_stored(0))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_peak() -> None:
    """Reset the peak memory, so that earlier tests in this process do not count."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def run_cases(first: int, count: int, seed: int, note: Callable[[int, str, float], None]) -> None:
    """Run cases in this process; ``note`` receives the number, the outcome, and the seconds."""
    files = seeds()
    _forget_peak()
    held = _peak_bytes()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path, scratch = Path(folder, "case.dcm"), Path(folder)
        for number in range(first, first + count):
            path.write_bytes(mutated(files, number, seed))
            note(number, "started", 0.0)
            begin = time.perf_counter()
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            try:
                outcome = try_file(path, scratch, number % WRITE_EVERY == 0)
            except Exception as error:
                outcome = f"DEFECT {type(error).__name__}: {str(error)[:300]}"
            faulthandler.cancel_dump_traceback_later()
            note(number, outcome, time.perf_counter() - begin)
            taken = _peak_bytes() - held
            if taken > MEMORY_BYTES:
                note(number, f"DEFECT memory of {taken >> 20} MiB", 0.0)
                return


def _child(first: int, count: int, seed: int) -> None:
    def note(number: int, outcome: str, seconds: float) -> None:
        print(json.dumps([number, outcome, round(seconds, 3)]), flush=True)

    run_cases(first, count, seed, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.first, options.cases, options.seed)
        return
    outcomes: Counter[str] = Counter()
    slowest, number, end = (0.0, -1), options.first, options.first + options.cases
    while number < end:
        command = [sys.executable, __file__, "--child", "--first", str(number), "--cases", str(end - number)]
        child = subprocess.Popen(
            [*command, "--seed", str(options.seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout
        assert child.stderr
        state = "started"
        for line in child.stdout:
            number, state, seconds = json.loads(line)
            if state == "started":
                continue
            slowest = max(slowest, (seconds, number))
            outcomes[state.split()[0] if state.startswith("DEFECT") else state] += 1
            if state.startswith("DEFECT"):
                print(f"case {number}: {state}", flush=True)
        trace = child.stderr.read()
        code = child.wait()
        if state == "started":  # it died in this case
            outcomes["DEFECT"] += 1
            print(f"case {number}: DEFECT the process ended with {code}\n{trace[-1500:]}", flush=True)
        number += 1
    print(dict(outcomes), f"slowest case: {slowest[1]} with {slowest[0]:.2f} s")
    sys.exit(1 if outcomes["DEFECT"] else 0)


if __name__ == "__main__":
    main()

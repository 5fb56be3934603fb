"""Seeded mutations of files of every format: they are read, or refused in one line."""

from __future__ import annotations

import gc
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom.fileset import FileSet

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.volume import Volume
from tests.dicom_files import write_ct
from tests.fuzz_dicom import cut, drop, flip, named_seeds, repeat, run_cases, try_file, word

#: Cases of ``fuzz_dicom.py`` in which GDCM ended the process, reduced to the one byte that does it: base file in the
#: shared data, offset, value.
CT_SYNTAXES = "dicom_cases/ct_syntaxes/CTImage.dcm_"
J2K_SERIES = "ct/siemens_abdomen_j2k/CT.1.3.12.2.1107.5.1.4.60064.300000221208081134280000165"
ENDED_THE_PROCESS = [
    (f"{J2K_SERIES}80", 4894, 191),
    (f"{J2K_SERIES}74", 4894, 167),
    (f"{CT_SYNTAXES}JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57.dcm", 7263, 104),
    (f"{CT_SYNTAXES}JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57.dcm", 7263, 213),
    (f"{CT_SYNTAXES}JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50.dcm", 7551, 204),
    (f"{CT_SYNTAXES}JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm", 7100, 117),
    (f"{CT_SYNTAXES}JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm", 7100, 177),
]


def outcomes(first: int, count: int, seed: int) -> Counter[str]:
    seen: Counter[str] = Counter()

    def note(number: int, outcome: str, seconds: float) -> None:
        assert not outcome.startswith("DEFECT"), (number, outcome)
        assert seconds < 10, number
        if outcome != "started":
            seen[outcome] += 1

    run_cases(first, count, seed, note)
    return seen


def test_mutations_of_real_files_raise_nothing_but_our_errors() -> None:
    """A part of the 10 000 cases of ``python tests/fuzz_dicom.py``."""
    absent = [path.name for _, path in named_seeds() if not path.is_file()]
    if absent:
        pytest.skip(f"{len(absent)} of the base files are absent, such as {absent[0]}")
    seen = outcomes(20_000, 150, seed=7)
    assert seen["found"] >= 15
    assert seen["skipped"] >= 60


@pytest.mark.parametrize(("base", "offset", "value"), ENDED_THE_PROCESS)
def test_cases_that_ended_the_process(
    tmp_path: Path, shared_data: Path, base: str, offset: int, value: int
) -> None:
    if not (shared_data / base).is_file():
        pytest.skip(f"{base} is absent")
    data = bytearray((shared_data / base).read_bytes())
    data[offset] = value
    (tmp_path / "case.dcm").write_bytes(data)
    assert try_file(tmp_path / "case.dcm", tmp_path, write=False) == "not readable"


def changed(data: bytes, number: int) -> bytes:
    """One of the mutations that need no DICOM."""
    rng = np.random.default_rng(number)
    mutation = (flip, word, cut, drop, repeat)[number % 5]
    return bytes(mutation(bytearray(data), rng, []))


def survives(path: Path) -> None:
    """Check that a path is read, or refused in one line."""
    message = ""
    try:
        inventory = find_images(path)
        for series in inventory.series:
            assert series.read_hu(0).shape == series.geometry.shape[1:]
    except InputError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["zip", "stored zip", "DICOMDIR"])
def test_mutated_archives(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for number in range(3):
        write_ct(tmp_path / "in" / f"IM{number}", number, StudyDate="20260101", StudyTime="120000", StudyID="1",
                 SeriesNumber=1, AccessionNumber="1")  # fmt: skip
    if kind == "DICOMDIR":
        files = FileSet()
        for path in sorted((tmp_path / "in").iterdir()):
            files.add(path)
        files.write(tmp_path / "disc")
        place = tmp_path / "disc" / "DICOMDIR"
    else:
        place = tmp_path / "study.zip"
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED if kind == "zip" else zipfile.ZIP_STORED) as archive:
            for path in sorted((tmp_path / "in").iterdir()):
                archive.write(path, path.name)
    whole = place.read_bytes()
    before = sorted(tmp_path.iterdir())
    for number in range(200):
        place.write_bytes(changed(whole, number))
        survives(place)
    gc.collect()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_mutated_volumes(tmp_path: Path, suffix: str) -> None:
    write_ct(tmp_path / "in" / "a")
    write_ct(tmp_path / "in" / "b", 1)
    (series,) = scan(tmp_path / "in").series
    path = tmp_path / f"v{suffix}"
    write_volume(path, Volume.of(series), series.geometry)
    whole = path.read_bytes()
    for number in range(200):
        path.write_bytes(changed(whole, number))
        survives(path)

"""Seeded mutations of files of every kind: found and read, or refused in one line."""

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
from tests.fuzz_dicom import cut, drop, flip, repeat, run_cases, word

#: (seed, case) of ``fuzz_dicom.py`` in which GDCM ended the process.
ENDED_THE_PROCESS = [(0, 3933), (0, 5490), (0, 6557), (0, 6565), (0, 7103), (0, 7547), (0, 9029)]


def outcomes(first: int, count: int, seed: int) -> Counter[str]:
    seen: Counter[str] = Counter()

    def note(number: int, outcome: str, seconds: float) -> None:
        assert not outcome.startswith("DEFECT"), (number, outcome)
        assert seconds < 10, number
        if outcome != "started":
            seen[outcome] += 1

    run_cases(first, count, seed, note)
    return seen


def test_mutations_of_real_files_raise_nothing_but_our_errors(shared_data: Path) -> None:
    """A part of the 10 000 cases of ``python tests/fuzz_dicom.py``."""
    assert shared_data
    seen = outcomes(20_000, 150, seed=7)
    assert seen["found"] >= 15
    assert seen["set aside"] >= 60


@pytest.mark.parametrize(("seed", "case"), ENDED_THE_PROCESS)
def test_cases_that_ended_the_process(shared_data: Path, seed: int, case: int) -> None:
    assert shared_data
    assert outcomes(case, 1, seed) == {"not readable": 1}


def changed(data: bytes, number: int) -> bytes:
    """One of the mutations that need no DICOM, seeded."""
    rng = np.random.default_rng(number)
    mutation = (flip, word, cut, drop, repeat)[number % 5]
    return bytes(mutation(bytearray(data), rng, []))


def survives(path: Path) -> None:
    """Found and read, or refused by name."""
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

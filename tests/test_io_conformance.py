"""Proof on real files: no new conformance error, nothing that checkers miss, every reader sees the same HU."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from ldct_denoise.errors import InputError
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from tests.conformance import check_derived

MODEL = Derivation("lir-ct", "ab" * 32)
PYDICOM_CT = ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm")
#: Attributes younger than Debian's dciodvfy (June 2022), which it takes for errors.
YOUNGER = ("(0008,001c)",)
pytestmark = pytest.mark.filterwarnings("ignore")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def sources(shared_data: Path) -> list[Series]:
    """Every CT series of the shared data and of pydicom's test files."""
    cases = [path for path in sorted((shared_data / "dicom_cases").rglob("*")) if path.is_file()]
    places = [
        shared_data / "mayo2016",
        *sorted((shared_data / "ct").iterdir()),
        *cases,
    ]  # cases are twins of each other
    places += [Path(str(get_testdata_file(name))) for name in PYDICOM_CT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [series for place in places for series in scan(place).series]
        return [series for series in found if isinstance(series, Series) and can_be_decoded(series)]


def can_be_decoded(series: Series) -> bool:
    try:
        series.read_stored(0)
    except InputError:
        return False
    return True


def derive(series: Series, output: Path, change: float) -> Path:
    with DerivedWriter(series, output, MODEL) as writer:
        for index in range(len(series)):
            writer.write(index, series.read_hu(index) + np.float32(change))
    return output


@pytest.fixture(scope="module")
def pairs(sources: list[Series], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Series, Path]]:
    """Each source with the series derived from it by a model that adds 7.3 HU."""
    root = tmp_path_factory.mktemp("derived")
    return [(series, derive(series, root / str(number), 7.3)) for number, series in enumerate(sources)]


def read_back(folder: Path) -> Series:
    (series,) = scan(folder, include_derived=True).series
    assert isinstance(series, Series)
    return series


def errors(program: str, *paths: Path) -> set[str]:
    run = subprocess.run([program, *paths], capture_output=True, check=False)
    lines = (run.stdout + run.stderr).decode(errors="replace").splitlines()
    found = {line for line in lines if line.startswith("Error")}
    return {line for line in found if not any(tag in line for tag in YOUNGER)}


def files_of(series: Series) -> list[Path]:
    return sorted({Path(slice_.path) for slice_ in series.slices})


def test_there_are_real_series(sources: list[Series]) -> None:
    assert len(sources) >= 25


def test_an_identity_model_gives_every_stored_value_back(sources: list[Series], tmp_path: Path) -> None:
    for number, series in enumerate(sources):
        output = read_back(derive(series, tmp_path / str(number), 0.0))
        assert len(output) == len(series)
        for index in range(len(series)):
            np.testing.assert_array_equal(output.read_stored(index), series.read_stored(index))
        shutil.rmtree(tmp_path / str(number))


def test_our_checker_finds_nothing(pairs: list[tuple[Series, Path]]) -> None:
    assert {
        series.name: check_derived(series, output) for series, output in pairs if check_derived(series, output)
    } == {}


@needs("dciodvfy")
def test_dciodvfy_finds_no_error_that_the_input_had_not(pairs: list[tuple[Series, Path]]) -> None:
    for series, output in pairs:
        before = set().union(*(errors("dciodvfy", "-new", path) for path in files_of(series)))
        after = set().union(*(errors("dciodvfy", "-new", path) for path in output.iterdir()))
        assert after <= before, series.name


@needs("dcentvfy")
def test_dcentvfy_finds_no_error_that_the_input_had_not(pairs: list[tuple[Series, Path]]) -> None:
    for series, output in pairs:
        before, after = errors("dcentvfy", *files_of(series)), errors("dcentvfy", *output.iterdir())
        assert len(after) <= len(before), (series.name, after)


@needs("dcentvfy")
def test_derived_and_source_agree_on_patient_and_study(pairs: list[tuple[Series, Path]]) -> None:
    for series, output in pairs:
        before = errors("dcentvfy", *files_of(series))
        both = errors("dcentvfy", *files_of(series), *output.iterdir())
        assert len(both) <= len(before), (series.name, both)


def test_simpleitk_reads_the_same_hu_in_the_same_place(pairs: list[tuple[Series, Path]]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    for _, output in pairs:
        derived = read_back(output)
        for index in range(0, len(derived), 5):
            slice_ = derived.slices[index]
            if slice_.frame is not None:
                continue
            image = sitk.ReadImage(str(slice_.path))
            np.testing.assert_array_equal(
                sitk.GetArrayFromImage(image)[0].astype(np.float32), derived.read_hu(index)
            )
            rows, columns = derived.geometry.rows - 1, derived.geometry.columns - 1
            for row, column in ((0, 0), (rows, 0), (0, columns), (rows, columns)):
                ours = derived.geometry.to_lps([index, row, column])
                np.testing.assert_allclose(ours, image.TransformIndexToPhysicalPoint((column, row, 0)), atol=1e-3)


@needs("dcmdump")
def test_dcmtk_reads_the_same_hu(pairs: list[tuple[Series, Path]], tmp_path: Path) -> None:
    for _, output in pairs:
        derived = read_back(output)
        for index in range(0, len(derived), 5):
            slice_ = derived.slices[index]
            if slice_.frame is None:
                np.testing.assert_array_equal(dcmtk_hu(slice_.path, tmp_path), derived.read_hu(index).ravel())


def dcmtk_hu(path: Path, scratch: Path) -> np.ndarray:
    """HU of an uncompressed image by dcmtk alone."""
    tags = {"0028,0100": 16, "0028,0103": 0, "0028,1052": 0.0, "0028,1053": 1.0}
    shown = [argument for tag in tags for argument in ("+P", tag)]
    text = subprocess.run(["dcmdump", "+L", *shown, path], capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        tags[line[1:10]] = float(line.split("#")[0].split(None, 2)[2].strip().strip("[]"))
    subprocess.run(["dcmdump", "-q", "+W", scratch, path], capture_output=True, check=True)
    (raw,) = scratch.glob("*.raw")
    kind = f"<{'i' if tags['0028,0103'] else 'u'}{int(tags['0028,0100']) // 8}"
    cells = np.frombuffer(raw.read_bytes(), kind)
    raw.unlink()
    return (cells * tags["0028,1053"] + tags["0028,1052"]).astype(np.float32)

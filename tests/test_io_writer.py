"""One writer for every format: chosen once, checked before anything is computed, whole or absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.errors import ConfigError, ModelError, OutputError
from ldct_denoise.inference.batch import apply
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.derived.deidentify import public_uid
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_files import is_denoised_volume
from ldct_denoise.io.volume_writer import VolumeWriter, write_volume
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.io.writer import (
    SeriesWriter,
    check_dicom_settings,
    holds_result,
    open_writer,
    output_location,
    series_subfolders,
)
from ldct_denoise.volume import SliceSource
from tests.synthetic import random_volume, shift_model

MODEL = Derivation("shift", "ab" * 32)


@pytest.fixture(params=["dicom", "nifti"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> SliceSource:
    """The same slices as a DICOM series and as a volume file."""
    if request.param == "nifti":
        write_volume(tmp_path / "in.nii.gz", random_volume(), random_volume().geometry)
        return find_images(tmp_path / "in.nii.gz").series[0]
    write_series(random_volume(), tmp_path / "in", SeriesAttributes("P", "1.2.3", 1, "t", series_uid="1.2.3.9"))
    return find_images(tmp_path / "in").series[0]


def write_all(writer: SeriesWriter, source: SliceSource) -> None:
    with writer:
        for index in reversed(range(len(source))):
            writer.write(index, source.read_hu(index))


@pytest.mark.parametrize("format", [None, "nifti"])
@pytest.mark.parametrize("name", ["out", "out.mha"])
def test_the_result_is_where_the_writer_says(
    source: SliceSource, tmp_path: Path, name: str, format: str | None
) -> None:
    settings = WriteSettings(format=format)  # type: ignore[arg-type]
    writer = open_writer(source, tmp_path / name, MODEL, settings)
    write_all(writer, source)
    assert writer.location == output_location(source, tmp_path / name, settings)
    (written,) = find_images(writer.location, include_derived=True).series
    for index in range(len(source)):
        np.testing.assert_array_equal(written.read_hu(index), source.read_hu(index))
    with pytest.raises(OutputError, match="exists"):
        open_writer(source, tmp_path / name, MODEL, settings)
    write_all(open_writer(source, tmp_path / name, MODEL, replace(settings, overwrite=True)), source)


def missing(writer: SeriesWriter, source: SliceSource) -> None:
    with writer:
        writer.write(0, source.read_hu(0))


def misshapen(writer: SeriesWriter, source: SliceSource) -> None:
    with writer:
        writer.write(0, source.read_hu(0)[1:])


def broken_off(writer: SeriesWriter, source: SliceSource) -> None:
    with writer:
        for index in range(len(source)):
            writer.write(index, source.read_hu(index))
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (missing, OutputError, "2 of 3 slices were not written"),
        (misshapen, ModelError, "computed image is"),
        (broken_off, KeyboardInterrupt, None),
    ],
)
def test_what_is_not_complete_does_not_appear(
    source: SliceSource,
    tmp_path: Path,
    use: Callable[[SeriesWriter, SliceSource], None],
    error: type[BaseException],
    message: str | None,
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        use(open_writer(source, tmp_path / "out", MODEL), source)
    assert sorted(path for path in tmp_path.rglob("*") if path != tmp_path / "out") == before


def test_the_source_selects_the_writer(source: SliceSource, tmp_path: Path) -> None:
    is_file = source.name.endswith(".gz")
    writer = open_writer(source, tmp_path / "out", MODEL)
    assert isinstance(writer, VolumeWriter if is_file else DerivedWriter)
    write_all(writer, source)
    assert holds_result(source, tmp_path / "out", MODEL) == (not is_file)
    assert not holds_result(source, tmp_path / "out", replace(MODEL, strength=0.5))
    if is_file:
        assert is_denoised_volume(writer.location)
        simulated = open_writer(source, tmp_path / "low", replace(MODEL, kind="simulated", dose=0.5))
        write_all(simulated, source)
        assert not is_denoised_volume(simulated.location)
        for wrong in (WriteSettings(format="dicom"), WriteSettings(deidentify=True)):
            with pytest.raises(ConfigError, match="not DICOM"):
                open_writer(source, tmp_path / "wrong", MODEL, wrong)


def test_settings_of_dicom_need_a_dicom_series(source: SliceSource, tmp_path: Path) -> None:
    for settings in (
        WriteSettings(compress="rle"),
        WriteSettings(private_tags="remove"),
        WriteSettings(keep_manufacturer=True),
        WriteSettings(convert_enhanced=True),
    ):
        with pytest.raises(ConfigError, match="for DICOM output only"):
            check_dicom_settings("it", [(source, tmp_path / "out.nii")], settings)
    check_dicom_settings("it", [(source, tmp_path / "out.nii")], WriteSettings())


def test_subfolders_are_named_by_uids_and_numbered(source: SliceSource, tmp_path: Path) -> None:
    folders = series_subfolders(tmp_path, [source, source], WriteSettings())
    assert [folder.name for folder in folders] == [source.uid, f"{source.uid}-2"]
    public = series_subfolders(tmp_path, [source], WriteSettings(deidentify=True))
    assert [folder.name for folder in public] == [public_uid(source.uid)]


def test_a_report_of_a_tree_is_refused_before_its_series_is_denoised_volume(tmp_path: Path) -> None:
    for number in (1, 2):
        attributes = SeriesAttributes("P", "1.2.3", number, "t", series_uid=f"1.2.3.{number}")
        write_series(random_volume(), tmp_path / "in" / str(number), attributes)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.2.3.1-report.html").write_text("mine")
    with pytest.raises(Exception, match="1 of 2 series denoised"):
        apply(tmp_path / "in", shift_model(), tmp_path / "out", write_report=lambda *paths: None)
    assert (tmp_path / "out" / "1.2.3.1-report.html").read_text() == "mine"
    assert not (tmp_path / "out" / "1.2.3.1").exists()

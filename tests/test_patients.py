"""Patients by Patient ID, else by the folder that differs; pairs of one scan and reconstruction only."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.config import DataConfig
from ldct_denoise.data.pools import pools_from_paths, pools_from_root
from ldct_denoise.io.dose_labels import LabelledSeries, Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.patients import is_placeholder
from ldct_denoise.io.slice_matching import best_match
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.volume import Geometry
from tests.dicom_files import write_ct


def _labelled(root: Path) -> list[LabelledSeries]:
    return label_series(find_images(root).series, root)


def _patients(root: Path) -> list[str]:
    return sorted({item.patient for item in _labelled(root)})


def _pairs(root: Path) -> list[tuple[str, int]]:
    return sorted((pair.patient, len(pair.indices)) for pair in find_pairs(_labelled(root)))


def _write(root: Path, folder: str, patient: str, study: str, **attributes: object) -> None:
    """Three slices of one series; its UID follows from the folder."""
    uid = f"1.2.826.{abs(hash(folder)) % 10**9}.{abs(hash(study)) % 10**6}"
    given = {"PatientID": patient, "StudyInstanceUID": f"1.2.3.{study}", "SeriesInstanceUID": uid, **attributes}
    for number in range(3):
        write_ct(root / folder / f"{number}.dcm", number, **given)


@pytest.mark.parametrize(
    "patient_id",
    ["", " ", "0", "000", "Anonymous", "ANON", "Anonymized", "anonymised", "UNKNOWN", "PatientID", "Patient ID", "none",
     "N/A", "XXXX", "Anonymous^Patient", "De-Identified", "removed", "-"],
)  # fmt: skip
def test_placeholders_are_no_patient_id(patient_id: str) -> None:
    assert is_placeholder(patient_id)


@pytest.mark.parametrize("patient_id", ["L096", "anon_0001", "12345", "A", "10", "Smith", "LIDC-IDRI-0001", "P1"])
def test_real_ids_are_kept(patient_id: str) -> None:
    assert not is_placeholder(patient_id)


def test_export_folders_do_not_override_the_patient_id(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "field" / "F31_series_folder_is_no_patient"
    assert _pairs(source) == [("ALPHA", 6), ("BETA", 6)]
    assert _patients(source) == ["ALPHA", "BETA"]
    for number, folder in enumerate(sorted(source.glob("layout_a/*/ST001/SE*"))):
        shutil.copytree(folder, tmp_path / f"S{2010 + number}")
    assert _pairs(tmp_path) == [("ALPHA", 6), ("BETA", 6)]
    assert _patients(tmp_path) == ["ALPHA", "BETA"]


def test_a_placeholder_merges_nobody(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "field" / "F33_same_placeholder_id"
    assert _pairs(source) == [("person_one", 4), ("person_two", 4)]
    folders = sorted(source.glob("*/*_Dose"))
    for number, folder in enumerate(folders):  # no folder names anybody
        shutil.copytree(folder, tmp_path / f"S{number + 1}")
    found = _labelled(tmp_path)
    assert len({item.patient for item in found}) == 2
    assert len(find_pairs(found)) == 2
    for pair in find_pairs(found):
        assert pair.low.study_uid == pair.normal.study_uid  # type: ignore[attr-defined]


@pytest.mark.parametrize("patient_id", ["Anonymous", "0", "STUDY7"])
@pytest.mark.parametrize(
    "layout",
    ["{dose}/{who}", "{who}/{dose}", "train/{who}/{dose}_3mm", "{dose}_3mm/{who}/ST001/SE001",
     "3mm B30/{dose}_3mm/{who}", "{who}/abdomen/{dose}", "{dose}/images/{who}"],
)  # fmt: skip
def test_the_folder_that_differs_is_the_patient(tmp_path: Path, layout: str, patient_id: str) -> None:
    """Each dose is a study of its own, as in Mayo 2016; one ID for everything identifies nobody either."""
    for number, who in enumerate(("PatA", "PatB", "person3")):
        for dose in ("low", "normal"):
            folder = layout.format(who=who, dose=dose)
            _write(tmp_path, folder, patient_id, f"1{number}{dose == 'low':d}")
    assert _patients(tmp_path) == ["PatA", "PatB", "person3"]
    assert _pairs(tmp_path) == [("PatA", 3), ("PatB", 3), ("person3", 3)]


def test_volumes_have_the_same_rule(tmp_path: Path) -> None:
    geometry = Geometry.from_affine(np.diag([3.0, 0.7, 0.7, 1.0]), (2, 16, 16))
    for name in ("s0001/ct", "s0002/ct", "PatA/ST001/ct"):
        (tmp_path / name).parent.mkdir(parents=True)
        write_volume(tmp_path / f"{name}.nii.gz", iter(np.full((2, 16, 16), -1000.0)), geometry)
    assert _patients(tmp_path) == ["PatA", "s0001", "s0002"]


def test_what_differs_within_a_study_is_no_patient(tmp_path: Path) -> None:
    for study, who in enumerate(("PatA", "PatB")):
        for name in ("Wonderful_LD", "Marvellous_HD"):
            _write(tmp_path, f"{who}/{name}", "anonymous", str(study))
    assert _patients(tmp_path) == ["PatA", "PatB"]
    assert _pairs(tmp_path) == [("PatA", 3), ("PatB", 3)]


def test_studies_of_one_patient_are_not_paired_with_each_other(tmp_path: Path) -> None:
    for study in ("2019", "2020"):
        for dose in ("Low Dose", "Full Dose"):
            _write(tmp_path, f"{study}/{dose}", "ALPHA", study)
    assert _pairs(tmp_path) == [("ALPHA", 3), ("ALPHA", 3)]
    for pair in find_pairs(_labelled(tmp_path)):
        assert pair.low.study_uid == pair.normal.study_uid  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "2019" / "Low Dose")
    shutil.rmtree(tmp_path / "2020" / "Full Dose")
    assert _pairs(tmp_path) == []
    assert _patients(tmp_path) == ["ALPHA"]


def test_the_patient_survives_explicit_paths(mayo2016: Path) -> None:
    folder = mayo2016 / "L096"
    pools = pools_from_paths([folder / "quarter_3mm_sharp"], [folder / "full_3mm_sharp"], DataConfig())
    assert pools.patients == ("L096",)
    assert [len(pair.indices) for pair in pools.pairs] == [10]


def test_pairs_have_one_slice_thickness(mayo2016: Path, tmp_path: Path) -> None:
    """Folders of 1 mm at the same positions: the pairs of 3 mm do not cross with them."""
    for dose in ("quarter", "full"):
        shutil.copytree(mayo2016 / "L143" / f"{dose}_3mm", tmp_path / "L143" / f"{dose}_3mm")
        thin = tmp_path / "L143" / f"{dose}_1mm"
        for path in sorted((mayo2016 / "L143" / f"{dose}_3mm").iterdir()):
            _with_thickness(path, thin / path.name, 1.0)
    pairs = find_pairs(_labelled(tmp_path))
    assert [len(pair.indices) for pair in pairs] == [7, 7]
    for pair in pairs:
        assert _folders(pair)[0].replace("quarter", "full") == _folders(pair)[1]
    pools = pools_from_root(tmp_path, DataConfig(source_thickness_mm=(1.0,)))
    assert [_folders(pair) for pair in pools.pairs] == [("quarter_1mm", "full_1mm")]
    series = {str(item.series.metadata.path.name): item.series for item in _labelled(tmp_path)}  # type: ignore[union-attr]
    match = best_match(series["quarter_3mm"], [series["full_1mm"], series["full_3mm"]], "reference")
    assert match.second is series["full_3mm"]


def _folders(pair: Pair) -> tuple[str, str]:
    low, normal = (source.metadata.path for source in (pair.low, pair.normal))
    assert low is not None
    assert normal is not None
    return low.name, normal.name


def _with_thickness(source: Path, target: Path, thickness_mm: float) -> None:
    import pydicom

    image = pydicom.dcmread(source)
    image.SliceThickness = thickness_mm
    image.SeriesInstanceUID += ".1"
    image.SOPInstanceUID += ".1"
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(target)


@pytest.mark.parametrize("difference", [{"ConvolutionKernel": "B60f"}, {"PixelSpacing": [0.6, 0.6]}])
def test_pairs_have_one_kernel_and_pixel_spacing(tmp_path: Path, difference: dict[str, object]) -> None:
    _write(tmp_path, "A/low", "A", "1")
    _write(tmp_path, "A/full", "A", "1", **difference)
    assert _pairs(tmp_path) == []


def test_volumes_without_a_thickness_are_paired_by_spacing(tmp_path: Path) -> None:
    for dose in ("low", "full"):
        for spacing_mm, slices in ((1.0, 7), (3.0, 3)):
            geometry = Geometry.from_affine(np.diag([spacing_mm, 0.7, 0.7, 1.0]), (slices, 16, 16))
            path = tmp_path / "A" / f"{dose}_{spacing_mm:g}mm" / "ct.nii.gz"
            path.parent.mkdir(parents=True)
            write_volume(path, iter(np.full((slices, 16, 16), -1000.0)), geometry)
    assert sorted(count for _, count in _pairs(tmp_path)) == [3, 7]

"""Doses are read by whole words, from one table; a user's own words come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldct_denoise.errors import ConfigError
from ldct_denoise.io.dose_labels import label_series
from ldct_denoise.io.dose_words import Dose, DosePatterns, dose_of, without_dose
from ldct_denoise.io.find import find_images
from tests.dicom_files import write_ct

LOW = (
    "low quarter half_dose QuarterDose quarter_3mm low_3mm QDCT LDCT ULDCT LD dose_25 dose25 noisy input low_PatA "
    "PatA_low A_low.nii.gz lowCT L143_QD_3_1.CT.0003.0146.IMA quarter_1mm_B30 lowdose ultra_low_dose LowDose_CT "
    "dose_0.25 25pct_dose_10 Quarter-Dose tenth_dose case01_low ge_thigh_lowdose_241x304 dose_low"
)
NORMAL = (
    "full full_3mm normal HDCT NDCT HD target clean FullDose full_dose NORMAL_DOSE L067_FD_1_SHARP_1.CT.0002 "
    "dose_100 standard_dose PatA_full routine high_dose PatA-normal.nii.gz"
)
NONE = (
    "low_contrast|low kV|low_kVp|low pitch|low_res|Low Energy|low-noise|lower|slow|yellow|Full Spine|full body|Full FOV|"
    "Abdomen Normal|normal liver|Chest Routine|normal_control|half_scan|target recon|a3fd9c|3fd2|9ld1a|fullness|"
    "dose_report|dose_1|Dose 25 mGy|low_to_full|follow_up|high_resolution|LDCT-and-Projection-data|"
    "Low-Dose-CT-Grand-Challenge|Ldé|abnormal|hand"
)


@pytest.mark.parametrize("name", LOW.split())
def test_names_of_low_dose(name: str) -> None:
    assert dose_of(name) is Dose.LOW


@pytest.mark.parametrize("name", NORMAL.split())
def test_names_of_normal_dose(name: str) -> None:
    assert dose_of(name) is Dose.NORMAL


@pytest.mark.parametrize("name", NONE.split("|"))
def test_names_of_no_dose(name: str) -> None:
    assert dose_of(name) is Dose.UNKNOWN
    assert dose_of(name, is_description=True) is Dose.UNKNOWN


@pytest.mark.parametrize(
    ("text", "dose"),
    [
        ("Low Dose Images", Dose.LOW),
        ("Full dose images", Dose.NORMAL),
        ("1.25mm LOW DOSE Full Spine", Dose.LOW),
        ("CHEST LDCT", Dose.LOW),
        ("Quarter 3mm", Dose.LOW),
        ("Lung HD", Dose.UNKNOWN),
        ("Routine Abdomen", Dose.UNKNOWN),
        ("Normal", Dose.NORMAL),
        ("", Dose.UNKNOWN),
    ],
)
def test_a_description_counts_where_it_says_dose_or_nothing_else(text: str, dose: Dose) -> None:
    assert dose_of(text, is_description=True) is dose


def test_names_without_the_dose() -> None:
    names = ("A_low.nii.gz", "full_3mm", "P-1-low", "quarter", "low_contrast", "low_dose_25", "L143_QD_3")
    assert [without_dose(name) for name in names] == ["A", "3mm", "P-1", "", "low_contrast", "", "L143_3"]


def _labels(root: Path, patterns: DosePatterns | None = None) -> dict[str, tuple[Dose, str]]:
    labelled = label_series(find_images(root).series, root, patterns or DosePatterns())
    return {
        str(item.series.metadata.path.relative_to(root)): (item.dose, item.dose_source)
        for item in labelled
        if item.series.metadata.path is not None
    }


def _write(root: Path, *folders: str, **attributes: object) -> None:
    for number, folder in enumerate(folders):
        uids = {"SeriesInstanceUID": f"1.2.3.{number}", "StudyInstanceUID": f"1.2.{number}"}
        for index in range(2):
            write_ct(root / folder / f"{index}.dcm", index, **{**uids, **attributes})


def test_what_decided_is_told_and_a_contradiction_too(tmp_path: Path) -> None:
    _write(tmp_path, "low/A", "scan")
    _write(
        tmp_path, "full/A", SeriesDescription="Low Dose Images", SeriesInstanceUID="1.9", StudyInstanceUID="1.8"
    )
    assert _labels(tmp_path) == {
        "low/A": (Dose.LOW, "folder 'low'"),
        "full/A": (Dose.NORMAL, "folder 'full', against series description 'Low Dose Images'"),
        "scan": (Dose.UNKNOWN, "no dose in description or path"),
    }


def test_a_folder_with_both_doses_states_none(tmp_path: Path) -> None:
    root = tmp_path / "LDCT_study"
    _write(root, "input/A/full_3mm", "input/A/quarter_3mm", "other")
    found = {name: dose for name, (dose, _) in _labels(root).items()}
    assert found == {"input/A/full_3mm": Dose.NORMAL, "input/A/quarter_3mm": Dose.LOW, "other": Dose.UNKNOWN}


def test_body_parts_count_where_both_doses_have_the_name(tmp_path: Path) -> None:
    _write(tmp_path, "chest_low", "chest_full", "Full Spine", "low_contrast", "normal_contrast")
    found = {name: dose for name, (dose, _) in _labels(tmp_path).items()}
    assert found == {
        "chest_low": Dose.LOW,
        "chest_full": Dose.NORMAL,
        "Full Spine": Dose.UNKNOWN,
        "low_contrast": Dose.UNKNOWN,
        "normal_contrast": Dose.UNKNOWN,
    }


def test_ones_own_words_come_first(tmp_path: Path) -> None:
    _write(tmp_path, "A/recon2", "A/recon1", "low/A", "A/recon12")
    found = _labels(tmp_path, DosePatterns(("recon2",), (r"recon1$", r"^low$")))
    assert found == {
        "A/recon2": (Dose.LOW, "--low-pattern 'recon2' in folder 'recon2'"),
        "A/recon1": (Dose.NORMAL, "--normal-pattern 'recon1$' in folder 'recon1'"),
        "low/A": (Dose.NORMAL, "--normal-pattern '^low$' in folder 'low'"),
        "A/recon12": (Dose.UNKNOWN, "no dose in description or path"),
    }
    for wrong in ("(", "", ".*"):
        with pytest.raises(ConfigError, match="pattern"):
            DosePatterns((wrong,))

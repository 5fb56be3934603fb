"""Scans of quality-assurance phantoms: located and measured against the truth that was drawn."""

from __future__ import annotations

import csv
import importlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.phantom_location import locate_phantom
from ldct_denoise.evaluation.phantom_quality import lesion_name
from ldct_denoise.evaluation.phantom_scan import DEFAULT_LESIONS, measure_phantom_scans
from ldct_denoise.evaluation.phantom_sections import find_sections
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.derived.measurement_report import ATTENUATION
from ldct_denoise.phantoms.qa_phantoms import ACR, QA_PHANTOMS, find_qa_phantoms
from ldct_denoise.report.phantom_scan import phantom_sentences, scan_checks, write_phantom_report
from ldct_denoise.report.verdict import ACTIONS
from ldct_denoise.volume import Geometry, SeriesMetadata, Volume
from tests.qa_scans import BLUR_MM, CONTRAST_HU, SPACING_MM, scan_phantom

CATPHAN = find_qa_phantoms("catphan504")[0]
NOISE_HU = 12.0
main = importlib.import_module("ldct_denoise.cli.main").main


@pytest.fixture(scope="module")
def study():
    """A dose series of a Catphan, and a denoiser that halves the variance about the mean of a module's slices."""
    scans = [
        scan_phantom(CATPHAN, noise_hu=NOISE_HU / dose**0.5, current_ma=100 * dose, roll_deg=2.0, seed=seed)
        for seed, dose in enumerate((1.0, 0.25, 0.5))
    ]

    def halve(source):
        hu = np.stack([source.read_hu(index) for index in range(len(source))])
        return hu.mean(axis=0) + (hu - hu.mean(axis=0)) / 2**0.5

    return measure_phantom_scans(scans, "catphan504", halve)


@pytest.mark.parametrize(
    ("phantom", "roll_deg", "is_mirrored"),
    [(phantom, -4.0 + 3 * number, bool(number % 2)) for number, phantom in enumerate(QA_PHANTOMS)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_phantom_is_recognised_and_located(phantom, roll_deg, is_mirrored):
    scan = scan_phantom(phantom, noise_hu=25.0, roll_deg=roll_deg, is_mirrored=is_mirrored)
    found = locate_phantom(scan, QA_PHANTOMS)
    assert (found.phantom.name, found.is_mirrored) == (phantom.name, is_mirrored)
    assert found.roll_deg == pytest.approx(roll_deg, abs=0.1)
    assert found.centre_px(found.origin_mm) == pytest.approx((96.3, 93.6), abs=0.1)
    assert found.origin_mm == pytest.approx(0, abs=2.1)


def test_noise_hu_and_contrast_are_those_that_were_drawn(study):
    assert study.doses == (12.5, 25.0, 50.0)
    for dose, quality in zip((0.25, 0.5, 1.0), study.unprocessed, strict=True):
        true_noise = NOISE_HU / dose**0.5
        assert quality.noise_hu == pytest.approx(true_noise, rel=0.05)
        assert quality.mean_hu == pytest.approx(5.0, abs=1.5)
        assert quality.slice_correlation < 0.03
        assert quality.contrast_hu == pytest.approx(CONTRAST_HU, abs=0.35 * true_noise)
        assert quality.cnr == pytest.approx(abs(quality.contrast_hu) / true_noise, rel=0.3)
        assert quality.linearity.slope == pytest.approx(1, abs=0.01)
        for insert in CATPHAN.inserts:
            assert quality.inserts[insert.name].mean_hu == pytest.approx(insert.nominal_hu, abs=0.6 * true_noise)


def test_resolution_is_that_of_the_known_blur(study):
    known = np.sqrt(np.log(2) / 2) / np.pi / np.hypot(BLUR_MM, SPACING_MM / np.sqrt(12))
    best = study.unprocessed[-1].inserts
    for name in ("air", "Teflon"):
        assert best[name].transfer.frequency_at(0.5) == pytest.approx(known, rel=0.05)
        assert best[name].transfer.contrast_hu == pytest.approx({"air": -1090.0, "Teflon": 910.0}[name], rel=0.03)
    # Polystyrene has 137 HU of contrast to the body, acrylic 25: too little at this noise.
    assert best["acrylic"].transfer is None


def test_half_the_noise_is_worth_twice_the_dose(study):
    at_lowest = study.equivalence[0]
    # An eighth of the variance is in the mean of the eight slices, where the denoiser leaves it.
    assert at_lowest["noise"].dose == pytest.approx(12.5 / (1 / 8 + 7 / 16), rel=0.07)
    for lesion in DEFAULT_LESIONS:
        equal = at_lowest[lesion_name(lesion)]
        assert equal.low < 25.0 < (equal.high if np.isfinite(equal.high) else 50.0)
    # Nothing is extrapolated beyond the measured doses.
    assert np.isnan(study.equivalence[-1]["noise"].dose)


def test_the_report_states_the_dose_equivalence_and_what_to_do(study, tmp_path):
    write_phantom_report(study, tmp_path / "out", {"model": "half"})
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {check["name"] for check in summary["checks"]} == {
        "noise", "mean HU", "noise texture", "resolution", "edge sharpness", "HU linearity", "detectability",
    }  # fmt: skip
    assert {check.name for check in scan_checks(study)} <= set(ACTIONS)
    sentences = phantom_sentences(study)
    # The noise of the lowest dose is worth that of about twice the dose, that of the highest more than was scanned.
    assert re.search(r"denoised at 12\.5 mAs, in mAs: .* by noise alone 2\d", sentences[0])
    assert re.search(r"denoised at 50 mAs, in mAs: .* by noise alone above 50\.", sentences[2])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert sentences[0].partition(":")[0] in page
    assert "detectability by dose" in page


def _cylinder(currents, *, diameters_mm=None, noise=None, side=128, spacing_mm=1.6):
    """A uniform phantom whose slices have these currents, and noise that follows them."""
    rng = np.random.default_rng(1)
    axis = (np.arange(side) - (side - 1) / 2) * spacing_mm
    distance = np.hypot(axis[:, None], axis[None, :])
    diameters_mm = diameters_mm or [180.0] * len(currents)
    noise = noise or [100 / ma**0.5 for ma in currents]
    hu = np.stack(
        [
            np.where(distance < diameter / 2, 50.0, -1000.0) + rng.normal(0, sigma, distance.shape)
            for diameter, sigma in zip(diameters_mm, noise, strict=True)
        ]
    )
    positions = np.array([[axis[0], axis[0], 5.0 * number] for number in range(len(hu))])
    geometry = Geometry(positions, (1, 0, 0), (0, 1, 0), (spacing_mm,) * 2, side, side)
    return Volume(hu, geometry, "u", "p", "cylinder", SeriesMetadata(tube_current_ma=tuple(currents)))


def test_a_series_with_several_currents_is_a_dose_series():
    scan = _cylinder([100.0] * 8 + [80, 60, 50] + [40.0] * 8)
    study = measure_phantom_scans([scan], "auto", lambda source: [source.read_hu(i) for i in range(len(source))])
    assert [len(section.uniform) for section in study.sections] == [6, 6]
    assert (study.doses, study.dose_unit) == ((40.0, 100.0), "mA")
    assert [quality.noise_hu for quality in study.unprocessed] == pytest.approx([15.8, 10.0], rel=0.03)
    assert [equal["noise"].dose for equal in study.equivalence] == pytest.approx([40.0, 100.0], rel=0.02)


def test_no_dose_equivalence_where_it_cannot_hold():
    currents = [100.0] * 6 + [40.0] * 6
    sizes = _cylinder(currents, diameters_mm=[180.0] * 6 + [150.0] * 6)
    rising = _cylinder(currents, noise=[15.0] * 6 + [10.0] * 6)
    one = _cylinder([100.0] * 6)
    unknown = replace(one, metadata=SeriesMetadata())
    reasons = {"size": sizes, "does not fall": rising, "one dose only": one}
    for reason, scan in reasons.items():
        assert reason in measure_phantom_scans([scan], "uniform").no_equivalence
    assert "tube current" in measure_phantom_scans([unknown, unknown], "uniform").no_equivalence
    kernels = [replace(one, metadata=replace(one.metadata, kernel=name)) for name in ("B30f", "D45f")]
    kernels[1] = replace(kernels[1], metadata=replace(kernels[1].metadata, tube_current_ma=(50.0,) * 6))
    assert "differ in kernel (D45f, B30f)" in measure_phantom_scans(kernels, "uniform").no_equivalence


def test_what_is_not_the_phantom_is_refused():
    scan, cylinder = scan_phantom(ACR), _cylinder([100.0] * 6)
    with pytest.raises(InputError, match="not a scan of Catphan 504"):
        find_sections([scan], "catphan504")
    with pytest.raises(InputError, match="not a uniform phantom"):
        find_sections([scan], "uniform")
    with pytest.raises(InputError, match="radius of 75 mm"):
        find_sections([_cylinder([100.0] * 6, diameters_mm=[150.0] * 6)], "acr")
    with pytest.raises(InputError, match="one phantom at a time"):
        find_sections([scan, cylinder], "auto")
    with pytest.raises(ConfigError, match="acr, catphan504"):
        find_qa_phantoms("catphan500")
    half = Volume.of(scan).hu[:8]
    with pytest.raises(InputError, match="ACR"):
        find_sections([Volume(half, scan.geometry.select(range(8)), name="half")], "acr")


def test_the_command_writes_the_evidence_sheet(tmp_path, capsys):
    scan = scan_phantom(ACR)
    attributes = SeriesAttributes(
        patient_id="phantom",
        study_uid="1.2.3",
        series_number=1,
        description="ACR",
        kernel="B30f",
        tube_current_ma=[100.0] * len(scan),
    )
    write_series(scan, tmp_path / "acr", attributes)
    output = tmp_path / "out"
    main(
        [
            "image-quality",
            "--phantom",
            "acr",
            str(tmp_path / "acr"),
            "--model",
            "wavelet",
            "--sr",
            "-o",
            str(output),
        ]
    )
    assert "No dose equivalence: there is one dose only" in capsys.readouterr().out
    summary = json.loads((output / "summary.json").read_text())
    assert summary["phantom"] == ACR.title
    assert summary["sections"][0]["location"]["roll_deg"] == pytest.approx(0, abs=0.1)
    assert set(summary["sections"][0]["images"]) == {"input", "output"}
    with (output / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    noise = {row["image"]: float(row["value"]) for row in rows if row["metric"] == "noise_hu"}
    assert noise["output"] < noise["input"]
    assert {"bone", "low contrast", "lesion 7 mm, -10 HU"} <= {row["region"] for row in rows}
    assert (output / "summary.pdf").read_bytes().startswith(b"%PDF")
    _check_structured_report(output / "sr" / "section-1.dcm", rows)
    assert "task transfer function by insert" in (output / "report.html").read_text(encoding="utf-8")


def _check_structured_report(path, rows):
    """The means of an insert's slices are those of the CSV."""
    sr = pytest.importorskip("highdicom.sr", reason="DICOM SR is written by highdicom (the extra seg)")
    groups = sr.srread(path).content.get_planar_roi_measurement_groups()
    for insert in ACR.inserts:
        of_insert = [group for group in groups if group.tracking_identifier == insert.name]
        means = [group.get_measurements(ATTENUATION)[0].value for group in of_insert]
        (known,) = (
            float(row["value"])
            for row in rows
            if (row["image"], row["region"], row["metric"]) == ("input", insert.name, "hu_mean")
        )
        assert np.mean(means) == pytest.approx(known, abs=2e-3)


def test_options_of_the_simulated_phantom_are_refused_with_scans(tmp_path, capsys):
    for arguments, message in (
        (["--phantom", "acr"], "give the scans"),
        (["--sr"], "belongs to scans"),
        ([str(tmp_path), "--lesion", "liver,7,-10"], "leave them out"),
    ):
        with pytest.raises(SystemExit):
            main(["image-quality", *arguments, "--output", str(tmp_path / "o")])
        assert message in capsys.readouterr().err


def test_the_real_dose_series_has_three_sections(shared_data):
    folder = shared_data / "ct_more" / "ge_atcm_phantom_34_57_115mA"
    if not folder.exists():
        pytest.skip("needs the real phantom scan")
    from ldct_denoise.io.find import find_images

    study = measure_phantom_scans(find_images(folder).series, "uniform")
    assert [round(section.current_ma) for section in study.sections] == [34, 57, 115]
    assert "differ in size" in study.no_equivalence
    assert [quality.noise_hu for quality in study.unprocessed] == pytest.approx([13.9, 15.2, 16.2], abs=0.2)

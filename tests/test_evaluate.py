"""Matching, regions and tables: ``evaluate`` equals a direct computation."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ldct_denoise.errors import ConfigError, InputError, OutputError
from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.evaluation.inserts import Insert
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.find import find_images
from ldct_denoise.io.slice_matching import best_match, match_slices
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.metrics.series_noise import SeriesNoise, measure_slice_noise
from ldct_denoise.regions.body import body_mask
from ldct_denoise.regions.parse import disambiguate_names, parse_region, parse_regions, regions_from_labels
from ldct_denoise.regions.regions import Body, LabelRegion, Sphere, Tissue, WholeImage
from ldct_denoise.regions.tissues import tissue_mask
from ldct_denoise.report.write import write_evaluation
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import read_csv, run_cli


def geometry(slices=4, rows=96, columns=80, spacing=(1.5, 1.25), start=(-50.0, -70.0, 10.0)):
    return Geometry(
        np.array(start) + np.arange(slices)[:, None] * np.array([0, 0, 3.0]),
        (1.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        spacing,
        rows,
        columns,
    )


def patient(slices=4, seed=0, noise_hu=20.0, place=None):
    """An elliptic body of 40 HU in air on a thin table, with white noise."""
    place = place or geometry(slices)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: place.rows, : place.columns]
    body = ((rows - 44) / 34) ** 2 + ((columns - 40) / 32) ** 2 < 1
    hu = np.where(body, 40.0, -1000.0)
    hu[84:87, 5:75] = 100.0
    clean = np.repeat(hu[None], slices, axis=0)
    noise = rng.normal(0, noise_hu, clean.shape)
    return Volume(clean, place, "normal", "P1", "n"), Volume(clean + noise, place, "low", "P1", "l"), body


def test_values_equal_scikit_image():
    normal, low, _ = patient()
    window = WINDOWS["abdomen"]
    result = evaluate(low, normal, plan=MeasurementPlan(windows=[window], regions=[WholeImage()]))
    for index in range(4):
        key = ("low", float(normal.geometry.offsets_mm[index]))
        first, second = (window.clip(v.hu[index].astype(float)) for v in (normal, low))
        psnr = peak_signal_noise_ratio(first, second, data_range=400)
        ssim = structural_similarity(
            first, second, data_range=400, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert result.values("candidate", "abdomen", "image", "psnr")[key] == pytest.approx(psnr, abs=1e-4)
        assert result.values("candidate", "abdomen", "image", "ssim")[key] == pytest.approx(ssim, abs=1e-6)


def test_slices_pair_by_position_not_by_order():
    normal, low, _ = patient()
    order = [2, 0, 3]
    shuffled = replace(low, hu=low.hu[order], geometry=low.geometry.select(order))
    assert match_slices(shuffled.geometry, normal.geometry) == ((0, 2), (1, 0), (2, 3))
    plain = evaluate(low, normal).values("candidate", "abdomen", "body", "rmse")
    other = evaluate(shuffled, normal).values("candidate", "abdomen", "body", "rmse")
    assert all(plain[key] == value for key, value in other.items())
    assert len(other) == 3


def test_slices_of_another_orientation_or_position_do_not_match():
    normal, low, _ = patient()
    moved = replace(low, geometry=geometry(start=(-50.0, -70.0, 11.0)))
    turned = replace(low, geometry=replace(low.geometry, row_direction=(-1.0, 0.0, 0.0)))
    for wrong in (moved, turned):
        with pytest.raises(InputError, match="same position"):
            evaluate(wrong, normal)


def test_the_same_patient_and_kernel_decide_between_references():
    normal, low, _ = patient()
    other = replace(normal, patient="P2")
    assert best_match(low, [other, normal], "reference").second is normal
    with pytest.raises(InputError, match="equally well"):
        best_match(low, [normal, replace(normal, uid="again")], "reference")


def test_a_series_without_partner_is_noted_and_the_others_are_measured():
    normal, low, _ = patient()
    stray = replace(low, uid="stray", name="stray", geometry=geometry(start=(0.0, 0.0, 500.0)))
    result = evaluate([low, stray], normal)
    assert set(result.patients) == {"low"}
    assert result.notes[0].startswith("not measured: stray")


def test_slices_without_partner_are_noted():
    normal, low, _ = patient()
    short = replace(normal, hu=normal.hu[:2], geometry=normal.geometry.select([0, 1]))
    result = evaluate(low, short)
    assert result.notes == ("2 of 4 slices of l have no partner",)


def test_body_excludes_air_and_table():
    _, low, truth = patient(noise_hu=60.0)
    mask = Body().mask(low.geometry, 0, low.hu[0])
    assert not mask[84:87].any()
    assert np.mean(mask == truth) > 0.98


def test_a_body_with_lungs_has_no_holes():
    hu = np.full((300, 300), -1000.0)
    rows, columns = np.mgrid[:300, :300]
    body = (rows - 150) ** 2 + (columns - 150) ** 2 < 120**2
    hu[body] = 30
    hu[(rows - 150) ** 2 + (columns - 110) ** 2 < 30**2] = -850
    mask = Body().mask(geometry(rows=300, columns=300, spacing=(1.0, 1.0)), 0, hu)
    assert np.mean(mask == body) > 0.985
    lung = Tissue("lung").mask(geometry(rows=300, columns=300, spacing=(1.0, 1.0)), 0, hu)
    assert lung.sum() == pytest.approx(np.pi * 27**2, rel=0.02)  # 2 mm of border are none, 1 the blur
    assert not Tissue("bone").mask(geometry(rows=300, columns=300, spacing=(1.0, 1.0)), 0, hu).any()


@pytest.mark.parametrize("spacing", [(0.5, 0.5), (0.8, 1.2)])
def test_a_tissue_excludes_its_border_so_that_blur_does_not_shift_the_mean(spacing):
    hu = np.full((200, 200), -100.0)
    hu[50:150, 60:140] = 60.0
    body = np.ones(hu.shape, dtype=bool)
    muscle = tissue_mask(hu, "soft-tissue", spacing, body)

    half = ndimage.gaussian_filter(hu, [2 / mm for mm in spacing]) >= 0
    far = ndimage.binary_dilation(~half, _disk(2.0, spacing))
    np.testing.assert_array_equal(muscle, ~far)

    blurred = ndimage.gaussian_filter(hu, [0.7 / mm for mm in spacing])
    assert abs((blurred - hu)[muscle].mean()) < 0.001
    assert (blurred - hu)[half].mean() < -0.1  # what the border alone would make of it


def _disk(radius_mm, spacing):
    reach = [int(radius_mm / mm) + 1 for mm in spacing]
    rows, columns = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    return (rows * spacing[0]) ** 2 + (columns * spacing[1]) ** 2 <= radius_mm**2


@pytest.mark.parametrize("padding", [None, -3024.0])
@pytest.mark.parametrize("wall_mm", [9, 20])
@pytest.mark.parametrize("columns", [340, 276])
def test_lungs_behind_a_thin_wall_or_cut_by_the_field_of_view_are_body(columns, wall_mm, padding):
    rows, x = np.mgrid[:340, :columns]
    x = x - (columns - 340) / 2 - 170  # mm from the middle of the chest
    y = rows - 150

    hu = np.full(x.shape, -1000.0)
    chest = (x / 150) ** 2 + (y / 105) ** 2 < 1
    hu[chest] = 30
    lungs = (x / (150 - wall_mm)) ** 2 + ((y + 10) / (95 - wall_mm)) ** 2 < 1  # the back's muscles are thicker
    hu[lungs & (np.abs(x) > 35)] = -860
    hu[(y > 112) & (y < 120) & (np.abs(x) < 150)] = -100  # the table, its cover of foam below
    hu[(y >= 120) & (y < 150) & (np.abs(x) < 150)] = -940
    hu[(y >= 150) & (y < 154) & (np.abs(x) < 150)] = -100
    if padding is not None:
        hu[x**2 + (rows - 170) ** 2 > (min(columns, 340) / 2 - 1) ** 2] = padding
        chest &= hu != padding
    noisy = hu + np.random.default_rng(0).normal(0, 20, hu.shape)
    mask = body_mask(noisy, (1.0, 1.0))
    assert np.mean(mask[chest]) > 0.97
    assert np.mean(mask[~chest]) < 0.03
    assert not mask[268:].any()  # neither foam nor table


def test_a_cushion_away_from_the_body_is_not_body():
    """The cushion has the HU of lungs, and a cover; its corner of the image is not body."""
    rows, columns = np.mgrid[:200, :200]
    hu = np.full((200, 200), -1000.0)
    body = (rows - 130) ** 2 + (columns - 130) ** 2 < 55**2
    hu[body] = 30
    hu[:40, :40] = 0
    hu[4:36, 4:36] = -940
    mask = body_mask(hu, (1.0, 1.0))
    assert not mask[:40, :40].any()
    assert np.mean(mask[body]) > 0.97


def test_real_lungs_are_body(shared_data):
    """The RIDER chest fills the field of view: the chest wall is thin and partly outside."""
    series = find_images(shared_data / "ct" / "ge_riderpilot_chest").series[0]
    for index in (0, 30, 60):
        hu = series.read_hu(index)
        smooth = ndimage.gaussian_filter(hu, 2.0)
        lung = ndimage.binary_erosion(
            (smooth > -900) & (smooth < -750), iterations=6
        )  # not the edges of the table
        assert lung.mean() > 0.01
        assert Body().mask(series.geometry, index, hu)[lung].all()


def test_a_sphere_has_the_right_volume_and_position():
    place = geometry(slices=20, spacing=(1.0, 1.0), rows=60, columns=60, start=(-30.0, -30.0, 0.0))
    ball = Sphere("s", (-2.0, 3.0, 27.0), 12.0)
    masks = np.array([ball.mask(place, index, np.zeros((60, 60))) for index in range(20)])
    assert masks.sum() * 3.0 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.03)
    centre = np.array([place.to_lps(index) for index in np.argwhere(masks)]).mean(axis=0)
    assert centre == pytest.approx([-2, 3, 27], abs=0.2)


def test_labels_of_another_grid_are_at_the_same_position():
    place = geometry(slices=6, spacing=(1.0, 1.0), rows=60, columns=60, start=(-30.0, -30.0, 0.0))
    coarse = Geometry.from_affine(  # runs the other way along columns, 2 mm voxels
        np.array([[0, 0, 2.0, -30], [0, -2.0, 0, 30], [3.0, 0, 0, 0], [0, 0, 0, 1]]), (6, 31, 31)
    )
    voxels = np.argwhere(np.ones(coarse.shape))
    points = (coarse.affine @ np.c_[voxels, np.ones(len(voxels))].T).T[:, :3]
    inside = np.linalg.norm(points[:, :2] - [6, -4], axis=1) < 10
    labels = np.zeros(coarse.shape)
    labels[tuple(voxels[inside].T)] = 3
    (region,) = regions_from_labels(Volume(labels, coarse), "tumour")
    assert region.name == "tumour-3"
    mask = region.mask(place, 2, np.zeros((60, 60)))
    centre = np.array([place.to_lps((2, r, c)) for r, c in np.argwhere(mask)]).mean(axis=0)
    assert centre[:2] == pytest.approx([6, -4], abs=0.6)
    assert mask.sum() == 4 * (labels[2] > 0).sum()  # every coarse voxel covers four fine ones


def test_regions_are_parsed():
    (ball,) = parse_regions("1,-2.5,3,4")
    assert (ball.centre_mm, ball.radius_mm) == ((1.0, -2.5, 3.0), 4.0)
    assert [parse_regions(word)[0].name for word in ("image", "body", "bone")] == ["image", "body", "bone"]
    for wrong in ("1,2,3", "heart", "1,2,3,0", "nan,1,2,3"):
        with pytest.raises(ConfigError):
            parse_regions(wrong)


def test_tables_have_the_contract_columns(tmp_path):
    normal, low, _ = patient()
    half = replace(low, hu=(low.hu + normal.hu) / 2, uid="half")
    result = evaluate(half, normal, low, plan=MeasurementPlan(windows=[WINDOWS["full"], WINDOWS["abdomen"]]))
    write_evaluation(result, tmp_path / "out")
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["series", "position_mm", "model", "window", "region", "metric", "value"]
    assert {row["model"] for row in rows} == {"input", "candidate", "reference"}
    assert {row["region"] for row in rows} == {"image", "body"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["summary"]
    pick = {(e["model"], e["window"], e["region"], e["metric"]): e for e in summary}
    one = pick["candidate", "full", "body", "rmse"]
    values = [float(r["value"]) for r in rows if list(r.values())[2:6] == ["candidate", "full", "body", "rmse"]]
    assert one["n"] == len(values) == 4
    assert one["mean"] == pytest.approx(np.mean(values), rel=1e-5)
    assert one["std"] == pytest.approx(np.std(values), rel=1e-4)
    assert (one["patients"], one["ci95_low"], one["ci95_describes"]) == (1, None, None)
    assert one["mean"] == pytest.approx(pick["input", "full", "body", "rmse"]["mean"] / 2, rel=1e-5)
    assert pick["input", "full", "body", "noise_std"]["mean"] == pytest.approx(20, rel=0.03)


def test_results_are_not_overwritten_by_default(tmp_path):
    normal, low, _ = patient()
    result = evaluate(low, normal)
    write_evaluation(result, tmp_path / "out")
    with pytest.raises(OutputError, match="overwrite"):
        write_evaluation(result, tmp_path / "out")
    write_evaluation(result, tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.csv",
        "report.html",
        "summary.json",
    ]


def test_equal_images_have_infinite_psnr_and_valid_json(tmp_path):
    normal, _, _ = patient()
    result = evaluate(normal, normal)
    assert set(result.values("candidate", "full", "image", "psnr").values()) == {float("inf")}
    assert min(result.values("candidate", "abdomen", "body", "ssim").values()) == pytest.approx(1, abs=1e-6)
    write_evaluation(result, tmp_path)
    assert "Infinity" not in (tmp_path / "summary.json").read_text()


def test_segments_of_a_dicom_seg_are_regions(tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="DICOM SEG is read by highdicom (the extra seg)")
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    from ldct_denoise.io.derived.create import SeriesAttributes, write_series

    normal, _, _ = patient()
    write_series(
        normal,
        tmp_path / "ct",
        SeriesAttributes(
            patient_id="P1",
            study_uid="1.2.3.4",
            series_number=1,
            description="d",
            kernel="K",
            tube_current_ma=[100.0] * 4,
        ),
    )
    sources = sorted(
        (dcmread(path) for path in (tmp_path / "ct").iterdir()), key=lambda d: d.ImagePositionPatient[2]
    )
    mask = np.zeros(normal.hu.shape, dtype=np.uint8)
    mask[1:3, 30:50, 20:35] = 1
    segment = highdicom.seg.SegmentDescription(
        1, "liver lesion", codes.SCT.Tissue, codes.SCT.Tissue, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    seg = highdicom.seg.Segmentation(
        sources, mask, highdicom.seg.SegmentationTypeValues.BINARY, [segment], highdicom.UID(), 2, highdicom.UID(), 1,
        "m", "m", "1", "1",
    )  # fmt: skip
    seg.save_as(tmp_path / "seg.dcm")
    (region,) = parse_regions(str(tmp_path / "seg.dcm"))
    assert region.name == "liver lesion"
    for index in range(4):
        assert np.array_equal(region.mask(normal.geometry, index, normal.hu[index]), mask[index] == 1)


def noise_of(result, model):
    (entry,) = [e for e in result.extra["noise"] if e["model"] == model]
    return entry


def test_noise_spectra_of_white_noise():
    """White noise of 20 HU, halved by the candidate: a flat spectrum of 400 HU²·dx·dy and a profile of −6 dB."""
    place = geometry(12, 192, 192, (1.0, 1.0), (-96, -96, 0))
    rows, columns = np.mgrid[:192, :192]
    clean = np.where((rows - 96) ** 2 + (columns - 96) ** 2 < 85**2, 40.0, -1000.0)
    noise = np.random.default_rng(0).normal(0, 20, (12, 192, 192))
    normal, low, out = (
        Volume(clean + noise * f, place, uid, "P", uid) for f, uid in ((0.25, "n"), (1, "l"), (0.5, "c"))
    )
    result = evaluate(out, normal, low, plan=MeasurementPlan(windows=[WINDOWS["abdomen"]]))
    for model, sigma in (("input", 20), ("candidate", 10), ("reference", 5)):
        entry = noise_of(result, model)
        assert entry["noise_hu"] == pytest.approx(sigma, rel=0.05)
        assert entry["nps_hu2_mm2"][2:] == pytest.approx([sigma**2] * (len(entry["nps_hu2_mm2"]) - 2), rel=0.25)
        assert entry["rois"] == 48
        assert entry["flicker_hu"] == pytest.approx(sigma / 16, rel=0.2)  # mean of 256 independent pixels
    assert noise_of(result, "candidate")["noise_reduction_db"] == pytest.approx(
        [-6.02] * len(entry["nps_hu2_mm2"]), abs=0.01
    )
    assert noise_of(result, "candidate")["against"] == "input"


def test_a_candidate_with_slice_offsets_has_flicker():
    normal, low, _ = patient(8, noise_hu=2)
    jumping = low.with_hu(low.hu + 10 * (-1.0) ** np.arange(8)[:, None, None])
    result = evaluate(replace(jumping, uid="c"), normal, low, plan=MeasurementPlan(windows=[WINDOWS["abdomen"]]))
    assert noise_of(result, "input")["flicker_hu"] < 1
    assert noise_of(result, "candidate")["flicker_hu"] == pytest.approx(20 / 2**0.5, rel=0.05)


def test_candidate_and_input_are_compared_in_pairs():
    normal, low, _ = patient()
    out = replace(low.with_hu(normal.hu + (low.hu - normal.hu) / 2), uid="out")
    result = evaluate(out, normal, low, plan=MeasurementPlan(windows=[WINDOWS["full"]]))
    (entry,) = [e for e in result.extra["paired"] if (e["metric"], e["region"]) == ("psnr", "body")]
    assert (entry["model"], entry["against"], entry["n"]) == ("candidate", "input", 4)
    assert entry["difference_mean"] == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert entry["difference_low"] is entry["wilcoxon_p"] is None  # a few slices of one patient


def test_contrast_to_noise_between_regions():
    normal, low, _ = patient(noise_hu=10)
    bright = low.hu.copy()
    bright[:, 30:50, 30:50] += 50
    inside, outside = Sphere("a", (-50 + 40 * 1.25, -70 + 40 * 1.5, 14.5), 8), Sphere("b", (0.0, 22.0, 14.5), 8)
    result = evaluate(
        replace(low.with_hu(bright), uid="c"),
        normal,
        plan=MeasurementPlan(windows=[WINDOWS["full"]], contrasts=[(inside, outside)]),
    )
    values = list(result.values("candidate", "none", "a | b", "cnr").values())
    assert np.mean(values) == pytest.approx(5, rel=0.1)


def test_patients_are_summarised_and_weighted_equally(tmp_path):
    normal, low, _ = patient(4)
    other_place = geometry(8, start=(-50.0, -70.0, 500.0))
    other, other_low, _ = patient(8, seed=1, noise_hu=60, place=other_place)
    series = [low, replace(other_low, uid="low2", patient="P2")]
    references = [normal, replace(other, uid="normal2", patient="P2")]
    result = evaluate(series, references, plan=MeasurementPlan(windows=[WINDOWS["full"]]))
    write_evaluation(result, tmp_path / "e")
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())

    def only(entries):
        wanted = ("candidate", "full", "body", "rmse")  # air is clipped
        return [e for e in entries if (e["model"], e["window"], e["region"], e["metric"]) == wanted]

    each = {e["patient"]: e for e in only(summary["per_patient"])}
    assert {name: round(e["mean"], -1) for name, e in each.items()} == {"patient 1": 20, "patient 2": 60}
    assert each["patient 2"]["n"] == 8
    (pooled,) = only(summary["summary"])
    assert pooled["patient_mean"] == pytest.approx(40, rel=0.02)
    assert pooled["mean"] == pytest.approx((4 * 20 + 8 * 60) / 12, rel=0.02)
    # Neither 12 slices of two patients nor 8 of one carry an interval.
    assert {pooled[name] for name in ("ci95_low", "ci95_high", "ci95_describes")} == {None}
    assert each["patient 2"]["ci95_low"] is None
    assert "P1" not in (tmp_path / "e" / "summary.json").read_text()


def rods(blur_mm, noise_hu, shift=0.0):
    """Three rods of 100, 200 and 400 HU over a body of 0, blurred."""
    place = geometry(5, 160, 160, (0.8, 0.8), (-64, -64, 0))
    rows, columns = np.mgrid[:640, :640] / 4 - 0.375
    hu = np.zeros((640, 640))
    for x, nominal in ((35, 100.0), (80, 200.0), (125, 400.0)):
        hu[(rows - 80) ** 2 + (columns - x) ** 2 < 12**2] = nominal
    image = ndimage.gaussian_filter(hu.reshape(160, 4, 160, 4).mean(axis=(1, 3)), blur_mm / 0.8)
    noise = np.random.default_rng(0).normal(0, noise_hu, (5, 160, 160))
    return Volume(image + noise + shift, place, f"{blur_mm}", "P", "rods")


def test_inserts_give_resolution_and_linearity(tmp_path):
    sharp, blurred = rods(0.6, 2), rods(1.2, 2, 3.0)
    inserts = [
        Insert.parse(f"{-64 + 0.8 * x},0,6,9.6,{nominal}") for x, nominal in ((35, 100), (80, 200), (125, 400))
    ]
    result = evaluate(blurred, sharp, inserts=inserts, plan=MeasurementPlan(windows=[WINDOWS["full"]]))
    for entry in result.extra["inserts"]:
        sigma = {"candidate": 1.2, "reference": 0.6}[entry["model"]]
        frequency = np.array(entry["frequency_per_mm"])
        known = np.exp(-2 * (np.pi * sigma * frequency) ** 2) * np.sinc(frequency * 0.8)
        inside = frequency < 0.4
        assert np.abs(np.array(entry["ttf"]) - known)[inside].max() < 0.05
        assert entry["contrast_hu"] == pytest.approx(entry["nominal_hu"], rel=0.04)
        assert entry["slices"] == 5
    (line,) = [e for e in result.extra["hu_linearity"] if e["model"] == "candidate"]
    assert line["slope"] == pytest.approx(1, abs=0.01)
    assert line["intercept_hu"] == pytest.approx(3, abs=0.5)
    write_evaluation(result, tmp_path / "e")
    assert "Resolution" in (tmp_path / "e" / "report.html").read_text()
    with pytest.raises(InputError, match="no slice within"):
        evaluate(
            blurred, sharp, inserts=[Insert.parse("0,0,900,9")], plan=MeasurementPlan(windows=[WINDOWS["full"]])
        )
    with pytest.raises(InputError, match=r"insert\(56 0 6 r9.6\): .* not completely inside the image"):
        evaluate(
            blurred, sharp, inserts=[Insert.parse("56,0,6,9.6")], plan=MeasurementPlan(windows=[WINDOWS["full"]])
        )
    with pytest.raises(ConfigError, match="NOMINAL_HU"):
        Insert.parse("1,2,3")


def test_a_centre_that_is_a_pixel_off_costs_no_resolution():
    """The centre is found, f50 is that of the right centre, and the interval holds it."""
    sharp, blurred = rods(0.6, 2), rods(1.2, 2)
    plan = MeasurementPlan(windows=[WINDOWS["full"]])
    at = {name: [Insert.parse(f"{x},{y},6,9.6,200")] for name, x, y in (("right", 0, 0), ("wrong", 1.2, -1.0))}
    right, wrong = (evaluate(blurred, sharp, inserts=at[name], plan=plan).extra["inserts"] for name in at)
    for given, moved in zip(right, wrong, strict=True):
        assert moved["centre_shift_mm"] == pytest.approx(np.hypot(1.2, 1.0), abs=0.1)
        assert moved["f50_per_mm"] == pytest.approx(given["f50_per_mm"], rel=0.02)
        assert moved["f50_low_per_mm"] < given["f50_per_mm"] < moved["f50_high_per_mm"]
        assert moved["mean_hu"] == pytest.approx(given["mean_hu"], abs=0.5)


def test_series_with_the_same_insert_are_measured_separately(tmp_path):
    """A sharp and a soft kernel in one folder, the soft one with fewer columns."""
    sharp, whole = rods(0.6, 2), rods(1.2, 2)
    soft = replace(whole, hu=whole.hu[:, :, :150], geometry=replace(whole.geometry, columns=150))
    inserts = [
        Insert.parse(f"{-64 + 0.8 * x},0,6,9.6,{nominal}") for x, nominal in ((35, 100), (80, 200), (125, 400))
    ]
    both, *alone = (
        evaluate(series, series, inserts=inserts, plan=MeasurementPlan(windows=[WINDOWS["full"]]))
        for series in ([sharp, soft], [sharp], [soft])
    )

    def f50(result):
        found = [e for e in result.extra["inserts"] if (e["model"], e["nominal_hu"]) == ("candidate", 400)]
        return {e["series"]: e["f50_per_mm"] for e in found}

    assert f50(both) == {**f50(alone[0]), **f50(alone[1])}
    for uid, sigma in (("0.6", 0.6), ("1.2", 1.2)):
        assert f50(both)[uid] == pytest.approx(np.sqrt(np.log(2) / 2) / np.pi / sigma, rel=0.1)
    assert [e["slices"] for e in both.extra["inserts"]] == [5] * 12
    lines = [(e["series"], e["model"], e["inserts"]) for e in both.extra["hu_linearity"]]
    assert sorted(lines) == [(uid, model, 3) for uid in ("0.6", "1.2") for model in ("candidate", "reference")]
    write_evaluation(both, tmp_path / "e")
    page = (tmp_path / "e" / "report.html").read_text()
    assert all(f"series {number}: {inserts[2].name}" in page for number in (1, 2))


def test_different_regions_get_different_names():
    place = geometry(1, 8, 8)
    labels = Volume(np.ones(place.shape), place)
    first, second = regions_from_labels(labels, "organ") + regions_from_labels(
        labels.with_hu(labels.hu.copy()), "organ"
    )
    (other,) = regions_from_labels(Volume(np.eye(8)[None], place), "organ")
    given = [Body(), Body(), first, second, other, Tissue("lung"), Tissue("lung")]
    assert [region.name for region in disambiguate_names(given)] == [
        "body", "body", "organ-1", "organ-1", "organ-1-2", "lung", "lung",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="one of"):
        parse_region("nowhere")


def test_a_tissue_with_the_name_of_a_label_is_measured():
    """A SEG's segment "lung" of 6×6 pixels, and then the tissue."""
    normal, low, _ = patient()
    hu = normal.hu.copy()
    hu[:, 35:55, 30:50] = -850
    labels = np.zeros(normal.hu.shape)
    labels[:, 60:66, 40:46] = 1
    segment = LabelRegion("lung", Volume(labels, normal.geometry), 1)
    result = evaluate(
        low, normal.with_hu(hu), plan=MeasurementPlan(windows=[WINDOWS["full"]], regions=[segment, Tissue("lung")])
    )
    means = {region: _only(result.values("reference", "none", region, "hu_mean")) for region in ("lung", "lung-2")}
    assert means == pytest.approx({"lung": 40, "lung-2": -850}, abs=1)
    assert [region.name for region in result.regions] == ["lung", "lung-2"]


def _only(values):
    """The common value of all slices."""
    (value,) = set(values.values())
    return value


def test_masks_with_the_same_file_name_are_distinguished(tmp_path):
    """A lesion of 100 HU and a background of 40, both in a file mask.nii.gz; noise of 10 HU: CNR 6."""
    normal, _, _ = patient()
    hu = normal.hu.copy()
    hu[:, 30:50, 35:55] = 100
    low = replace(normal.with_hu(hu + np.random.default_rng(0).normal(0, 10, hu.shape)), uid="low")
    for name, rows in (("lesion", slice(32, 48)), ("background", slice(55, 70))):
        labels = np.zeros(hu.shape)
        labels[:, rows, 37:53] = 1
        (tmp_path / name).mkdir()
        write_volume(
            tmp_path / name / "mask.nii.gz", Volume(labels, normal.geometry), normal.geometry, labels=True
        )
    lesion, background = (str(tmp_path / name / "mask.nii.gz") for name in ("lesion", "background"))
    pair = parse_region(lesion), parse_region(background)
    result = evaluate(
        low,
        normal.with_hu(hu),
        plan=MeasurementPlan(windows=[WINDOWS["full"]], regions=parse_regions(lesion), contrasts=[pair, pair]),
    )
    assert _only(result.values("reference", "none", "mask-1", "hu_mean")) == 100
    ratios = [row.value for row in result.rows if row.metric == "cnr" and row.model == "candidate"]
    assert ratios == pytest.approx([6] * 4, rel=0.1)  # once for each slice
    assert {row.region for row in result.rows if row.metric == "cnr"} == {"mask-1 | mask-1-2"}
    assert [region.name for region in result.regions] == ["mask-1"]


def test_a_repeated_window_is_measured_once():
    normal, low, _ = patient()
    windows = [Window.parse(text) for text in ("40,400", "40,400.0", "40,400", "abdomen")]
    result = evaluate(low, normal, plan=MeasurementPlan(windows=windows))
    assert [window.name for window in result.windows] == ["40,400", "abdomen"]
    assert {entry["n"] for entry in result.summary()} == {4}
    with pytest.raises(ConfigError, match="same name"):
        evaluate(low, normal, plan=MeasurementPlan(windows=[WINDOWS["abdomen"], Window("abdomen", 50, 400)]))


def test_regions_that_no_slice_holds_are_noted():
    """A sphere in RAS instead of LPS coordinates, alone and in a contrast."""
    normal, low, _ = patient()
    right, mirrored = Sphere("right", (0.0, -4.0, 14.5), 8), Sphere("mirrored", (0.0, -4.0, -14.5), 8)
    result = evaluate(
        low,
        normal,
        plan=MeasurementPlan(regions=[Body(), right, mirrored, Tissue("bone")], contrasts=[(right, mirrored)]),
    )
    assert [note.split(";")[0] for note in result.notes] == [
        "no measured slice holds HU of region bone",
        "no measured slice holds region mirrored",
        "no measured slice holds both regions, with noise in them, of cnr right | mirrored",
    ]
    assert all("LPS mm" in note for note in result.notes[1:])
    assert evaluate(low, normal, plan=MeasurementPlan(regions=[Body(), right])).notes == ()


def test_images_smaller_than_the_window_of_ssim_have_no_ssim(tmp_path):
    place = geometry(2, 8, 10, (1.0, 1.0))
    rng = np.random.default_rng(0)
    normal = Volume(rng.normal(40, 5, (2, 8, 10)), place, "n", "P", "n")
    low = Volume(normal.hu + rng.normal(0, 20, (2, 8, 10)), place, "l", "P", "l")
    result = evaluate(low, normal, plan=MeasurementPlan(regions=[WholeImage()]))
    assert not result.values("candidate", "full", "image", "ssim")
    rmse = result.values("candidate", "full", "image", "rmse")
    assert list(rmse.values()) == pytest.approx(np.sqrt(((low.hu - normal.hu) ** 2).mean(axis=(1, 2))), rel=1e-6)
    assert result.notes == ("2 slices have no SSIM: they are smaller than its window",)
    assert result.lines()[1].split()[4] == "–"
    write_evaluation(result, tmp_path / "out")
    assert "SSIM not measured" in (tmp_path / "out" / "report.html").read_text()


def uniform_series(slices, sigma=20.0):
    """A disk with white noise of 20 HU: reference, input and candidate, 3 mm apart."""
    place = geometry(slices, 128, 128, (1.0, 1.0), (-64, -64, 0))
    rows, columns = np.mgrid[:128, :128]
    clean = np.where((rows - 64) ** 2 + (columns - 64) ** 2 < 58**2, 40.0, -1000.0)
    rng = np.random.default_rng(0)
    make = lambda uid: Volume(clean + rng.normal(0, sigma, (slices, 128, 128)), place, uid, "P", uid)  # noqa: E731
    return make("n"), make("l"), make("c")


def some(volume, indices):
    """Some slices of a series."""
    return replace(volume, hu=volume.hu[indices], geometry=volume.geometry.select(indices))


def test_an_input_that_lacks_slices_has_noise_measurements():
    normal, low, out = uniform_series(12)
    result = evaluate(
        out, normal, some(low, list(range(0, 12, 2))), plan=MeasurementPlan(windows=[WINDOWS["full"]])
    )
    for model in ("input", "candidate", "reference"):
        assert noise_of(result, model)["noise_hu"] == pytest.approx(20, rel=0.03)
        assert noise_of(result, model)["rois"] == 24  # the same for all: of the six slices that all have
    assert noise_of(result, "input")["flicker_hu"] is None  # no neighbours
    assert noise_of(result, "candidate")["flicker_hu"] == pytest.approx(20 / 16, rel=0.15)
    assert result.notes == ("6 of 12 measured slices of c have no input",)


def test_an_input_with_less_noise_than_the_reference_is_noted():
    (quiet, _, out), (_, noisy, _) = uniform_series(6, 10.0), uniform_series(6, 20.0)
    assert evaluate(out, quiet, noisy, plan=MeasurementPlan(windows=[WINDOWS["full"]])).notes == ()
    (note,) = evaluate(out, noisy, quiet, plan=MeasurementPlan(windows=[WINDOWS["full"]])).notes
    assert re.fullmatch(
        r"the input of c has less noise \((9\.\d|10\.\d) HU\) than the reference \((19|20)\.\d HU\): "
        r"were they swapped\?",
        note,
    )


def test_noise_is_accumulated_for_each_image():
    normal, low, _ = uniform_series(4)
    body = Body().mask(normal.geometry, 0, normal.hu[0])
    gathered = SeriesNoise(slice_spacing_mm=3.0)
    for index in range(4):
        images = {"reference": normal.hu[index]} | ({"input": low.hu[index]} if index % 2 else {})
        gathered.add(measure_slice_noise(images, normal.hu[index], body, (1.0, 1.0), 3.0 * index, spectra=True))
    found = gathered.results()
    assert found["input"].rois == 8
    assert found["reference"].rois > 16
    assert found["input"].noise_hu == pytest.approx(20, rel=0.04)


@pytest.mark.parametrize("picked", [range(1, 100, 10), range(33, 43)])
def test_a_longer_reference_does_not_reduce_the_spectra(picked):
    """100 slices of the reference, 10 of the candidate; none of these is at every 5th slice of the reference."""
    normal, _, out = uniform_series(100)
    result = evaluate(some(out, list(picked)), normal, plan=MeasurementPlan(windows=[WINDOWS["full"]]))
    for model in ("candidate", "reference"):
        assert noise_of(result, model)["rois"] > 40
        assert noise_of(result, model)["noise_hu"] == pytest.approx(20, rel=0.03)


def test_a_gap_is_not_flicker():
    """Two runs of four consistent slices, 100 HU apart."""
    normal, low, _ = patient(20, noise_hu=1)
    ends = [*range(4), *range(16, 20)]
    step = np.where(np.arange(20) < 10, 0.0, 100.0)[:, None, None]
    candidate = some(replace(low.with_hu(low.hu + step), uid="c"), ends)
    for reference in (normal, some(normal, ends)):
        assert noise_of(evaluate(candidate, reference), "candidate")["flicker_hu"] < 0.5


@pytest.mark.parametrize("finer", ["candidate", "reference"])
def test_regular_slices_have_flicker_if_one_series_has_more_slices(finer):
    normal, low, _ = patient(20)
    alternate = list(range(0, 20, 2))
    expected = noise_of(evaluate(some(low, alternate), some(normal, alternate)), "candidate")["flicker_hu"]
    pair = (low, some(normal, alternate)) if finer == "candidate" else (some(low, alternate), normal)
    found = evaluate(*pair)
    assert noise_of(found, "candidate")["flicker_hu"] == pytest.approx(expected) == pytest.approx(20 / 16, rel=0.2)


def test_a_scattered_candidate_has_no_flicker_against_a_whole_reference():
    normal, low, _ = patient(60, noise_hu=1)
    scattered = evaluate(some(low, [0, 2, 5, 20, 36, 38, 50]), normal)  # 6 to 48 mm apart, of slices 3 mm apart
    assert noise_of(scattered, "candidate")["flicker_hu"] is None


def test_scattered_slices_have_no_flicker():
    """The slices of L096 are 4 to 108 mm apart; only the two at 4 mm are similar."""
    _, low, _ = patient(10, noise_hu=1)
    offsets = np.cumsum([0.0, 72, 34, 108, 96, 4, 72, 34, 18, 64])
    positions = np.array([-50.0, -70.0, 0.0]) + offsets[:, None] * [0, 0, 1.0]
    place = replace(low.geometry, positions_mm=positions)
    anatomy = 100.0 * np.array([0, 1, 0, 1, 0, 0, 1, 0, 1, 0])[:, None, None]
    candidate = Volume(low.hu + anatomy, place, "c", "P1", "c")
    assert noise_of(evaluate(candidate, replace(candidate, uid="n")), "candidate")["flicker_hu"] < 0.5
    far = [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert noise_of(evaluate(some(candidate, far), some(candidate, far)), "candidate")["flicker_hu"] is None


def test_several_candidates_stand_in_one_table_on_the_same_slices(tmp_path, capsys):
    """Values equal those of each alone; a candidate that lacks a slice is noted; names are checked."""
    normal, low, _ = patient(slices=4)
    better = replace(low.with_hu(normal.hu + 0.5 * (low.hu - normal.hu)), uid="better")
    short = Volume(low.hu[:3], geometry(3), "short", "P1", "s")
    plan = MeasurementPlan(windows=[WINDOWS["abdomen"]], regions=[WholeImage()])
    both = evaluate({"a": better, "b": low, "c": short}, normal, plan=plan)
    for name, source in {"a": better, "b": low, "c": short}.items():
        alone = [row.value for row in evaluate(source, normal, plan=plan).rows if row.metric == "rmse"]
        assert [r.value for r in both.rows if r.model == name and r.metric == "rmse"] == pytest.approx(alone)
    assert any(note.startswith("1 of 4 measured slices") and note.endswith("are not in c") for note in both.notes)
    paired = [entry for entry in both.extra["paired"] if entry["metric"] == "rmse"]
    assert {(entry["model"], entry["against"], entry["n"]) for entry in paired} >= {("b", "a", 4)}

    for name, volume in {"normal": normal, "a": better, "b": low}.items():
        (tmp_path / name).mkdir()
        write_volume(tmp_path / name / "image.nii.gz", volume.hu, volume.geometry)
    command = ["evaluate", tmp_path / "a", f"other={tmp_path / 'b'}", "--reference", tmp_path / "normal"]
    code, out, _ = run_cli(capsys, *command, "--output", tmp_path / "out")
    assert code == 0
    rows = read_csv(tmp_path / "out" / "metrics.csv")
    assert {row["model"] for row in rows} == {"a", "other", "reference"}
    assert "other" in out
    code, _, err = run_cli(capsys, *command, f"a={tmp_path / 'b'}", "--output", tmp_path / "out2")
    assert (code, "'a' is taken" in err) == (2, True)
    code, _, err = run_cli(capsys, "evaluate", "x=none", *command[2:], "--output", tmp_path / "out2")
    assert (code, "none: no such file" in err) == (2, True)

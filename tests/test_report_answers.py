"""First paragraph, identity and charts of reports."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.evaluation.results import Evaluation
from ldct_denoise.evaluation.tables import Measurement
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.derived.derivation import Derivation, stated_model
from ldct_denoise.metrics.checks import check_noise, check_shift, check_texture, signed
from ldct_denoise.regions.regions import WholeImage
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.curve_styles import DARK, DASHES, LIGHT, colour_css, curve_styles
from ldct_denoise.report.identity import Identity, Signature, evaluation_identity, series_code
from ldct_denoise.report.key_slices import attention_slice, key_slice_views
from ldct_denoise.report.noise_resolution import spectrum_ratios
from ldct_denoise.report.numbers import significant
from ldct_denoise.report.page import Page, Table, render
from ldct_denoise.report.pictures import display_window, spread_slice_views
from ldct_denoise.report.verdict import ACTIONS, answer, evaluation_answer, evaluation_checks
from ldct_denoise.volume import SeriesMetadata, Volume
from tests.conftest import ROOT
from tests.synthetic import axial_geometry

#: Light and dark paper of page.css.
PAPER = {"light": "#ffffff", "dark": "#14191f"}
#: Linear RGB as seen with protanopia and deuteranopia; Machado, Oliveira & Fernandes 2009, severity 1.
SEEN = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def linear(colours) -> np.ndarray:
    rgb = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("eye", SEEN)
@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_curves_are_told_apart_with_colour_blindness(colours, eye):
    seen = np.clip(linear(colours) @ np.array(SEEN[eye]).T, 0, 1)
    srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(srgb[None])[0]
    differences = deltaE_ciede2000(lab[:, None], lab[None]) + 1e3 * np.eye(len(lab))
    assert differences.min() > 14


@pytest.mark.parametrize(("theme", "colours"), [("light", LIGHT), ("dark", DARK)])
def test_curves_stand_out_from_the_paper(theme, colours):
    luminance = linear([PAPER[theme], *colours]) @ [0.2126, 0.7152, 0.0722] + 0.05
    contrast = np.maximum(luminance[1:], luminance[0]) / np.minimum(luminance[1:], luminance[0])
    assert contrast.min() > 3
    assert all(colour in colour_css() for colour in colours)


def test_every_name_has_one_style_and_no_two_share_it():
    names = ["reference", "input", "candidate", *(f"model {n}" for n in range(20))]
    styles = curve_styles(names)
    assert len(set(styles.values())) == len(names)
    assert curve_styles(["output"])["output"] == styles["candidate"]
    assert {style.dash for style in styles.values()} == set(DASHES)
    chart = line_chart({"model 1": ([0, 1], [0, 1])}, "x", "y", styles=styles)
    assert chart.count(f'class="c{styles["model 1"].number}"') == 2  # curve and legend


def test_a_logarithmic_axis_is_even_in_decades():
    svg = line_chart({"a": ([0, 1, 2, 3], [1000, 100, 10, 0])}, "x", "y", log_y=True)
    (points,) = re.findall(r'polyline points="([^"]+)"', svg)
    ys = [float(point.split(",")[1]) for point in points.split()]
    assert len(ys) == 3  # zero has no logarithm
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.2)
    assert all(f">{tick}<" in svg for tick in (10, 100, 1000))


def test_spectra_are_divided_by_the_references():
    ratios = spectrum_ratios({"a": ([0, 1], [3.0, 8.0]), "reference": ([0, 1], [6.0, 0.0])}, "reference")
    assert ratios["a"][1][0] == 0.5
    assert np.isnan(ratios["a"][1][1])
    assert spectrum_ratios({"a": ([0], [1.0])}, "reference") == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.97904, "0.979"), (17.204, "17.2"), (-0.31, "-0.310"), (1234.6, "1235"), (99.96, "100"), (0.0, "0"),
     (31.0, "31.0"), (float("inf"), "∞"), (float("nan"), "–"), (1e-9, "1.00e-09")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value, text):
    assert significant(value) == text


def test_signs():
    assert [signed(-0.04, 1), signed(0.3), signed(-45.4), signed(2.25, 1)] == ["0.0", "0", "−45", "+2.2"]


def test_the_answer_names_the_check_its_number_and_what_to_do():
    checks = [check_noise({"soft-tissue": (30.0, 15.0)}), check_shift({"fat": 0.2}), check_texture((-0.2, -0.21))]
    text = answer(checks)
    assert text.startswith("Noise −50 % in soft-tissue; mean HU unchanged (+0.2 HU); ")
    assert "mean noise frequency −20 % (limit −16 %). 1 of 3 checks to review: noise texture." in text
    assert ACTIONS["noise texture"] in text
    assert answer(checks[:2]).endswith("All 2 checks are within the limits. They do not replace a reader.")
    failed = answer([check_shift({"fat": 5.0})])
    assert failed.startswith("Mean HU of fat shifted by +5.0 HU (limit ±1). 1 of 1 checks failed: mean HU.")
    assert failed.endswith("Do not rely on this output before the cause is known.")


def test_every_check_has_an_action():
    """Names of checks as the code states them."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "ldct_denoise").rglob("*.py")]
    names = {name for text in sources for name in re.findall(r'Check\(\s*"([^"]+)"', text)}
    assert {"HU linearity", "noise texture"} <= names
    assert names | {"resolution"} == set(ACTIONS)


def evaluation_of(rmse, shift_hu=0.0, noise=None, frequency=None) -> Evaluation:
    """RMSE by model along z; mean HU of the models shifted; noise (HU) and mean frequency by model."""
    rows = [
        Measurement("A1", float(z), model, "abdomen", "image", "rmse", value)
        for model, along in rmse.items()
        for z, value in enumerate(along)
    ]
    for model in (*rmse, "reference"):
        mean = 40.0 + (0 if model in ("input", "reference") else shift_hu)
        rows.append(Measurement("A1", 0.0, model, "none", "image", "hu_mean", mean))
    entries = [
        {"series": "A1", "model": model, "noise_hu": level, "mean_frequency_per_mm": (frequency or {}).get(model)}
        for model, level in (noise or {}).items()
    ]
    return Evaluation(tuple(rows), {"A1": "A"}, (WINDOWS["abdomen"],), (WholeImage(),), extra={"noise": entries})


def test_an_evaluation_is_answered_as_a_reader_asks():
    noise = {"input": 40.0, "candidate": 10.0, "reference": 20.0}
    frequency = {"input": 0.4, "candidate": 0.3, "reference": 0.4}
    found = evaluation_of({"input": [20.0] * 7, "candidate": [11.0] * 7}, -0.3, noise, frequency)
    text, checks = evaluation_answer(found)
    assert text == (
        "Error −45 % on 7 of 7 slices; mean HU unchanged (−0.3 HU); noise 50 % of the reference's; mean noise "
        "frequency −25.0 % against the reference (limit −16 %). 1 of 4 checks to review: noise texture. "
        f"{ACTIONS['noise texture']}"
    )
    assert [check.status for check in checks] == ["green", "green", "green", "amber"]


@pytest.mark.parametrize(
    ("after", "shift_hu", "statuses", "words"),
    [
        ([11.0] * 6 + [21.0], 0.0, ("amber", "green"), "smaller on 6 of 7 slices only"),
        ([22.0] * 7, 0.0, ("red", "green"), "Error +10 %, smaller on 0 of 7 slices only"),
        ([11.0] * 7, 2.0, ("green", "amber"), "mean HU shifted by +2.0 HU (limit ±1)"),
        ([11.0] * 7, -4.0, ("green", "red"), "mean HU shifted by −4.0 HU (limit ±1)"),
    ],
)
def test_each_fault_is_in_the_answer(after, shift_hu, statuses, words):
    text, checks = evaluation_answer(evaluation_of({"input": [20.0] * 7, "candidate": after}, shift_hu))
    assert tuple(check.status for check in checks) == statuses
    assert words in text
    assert all(ACTIONS[check.name] in text for check in checks if check.status != "green")


def test_a_comparison_is_answered_by_the_smallest_error_and_how_sure_that_is():
    noise = {"input": 40.0, "blur": 10.0, "net": 15.0, "reference": 20.0}
    frequency = {"input": 0.4, "blur": 0.1, "net": 0.4, "reference": 0.4}
    rmse = {"input": [20.0] * 3, "net": [12.0] * 3, "blur": [11.0] * 3}
    text, checks = evaluation_answer(evaluation_of(rmse, 0.0, noise, frequency))
    assert text.startswith("blur has the smallest error of 2 models, but the data are too few to tell it from")
    assert text.endswith("Smallest error without a failed check: net, error −40 % on 3 of 3 slices.")
    assert checks[-1].status == "red"


def test_without_an_input_the_error_is_stated_without_a_change():
    text, _ = evaluation_answer(evaluation_of({"candidate": [11.0] * 7}))
    assert text.startswith("Error 11.0 HU RMSE on 7 slices; no input to compare with; mean HU unchanged")


def volumes(slices=5):
    rng, place = np.random.default_rng(0), axial_geometry(slices, 64, 64, (2.0, 1.0, 1.0))
    clean = np.zeros((slices, 64, 64)) + 40.0
    noise = rng.normal(0, 30, clean.shape)
    about = SeriesMetadata(
        manufacturer="Maker", scanner_model="Scanner 64", kernel="B30f", slice_thickness_mm=3.0, kvp=120.0,
        tube_current_ma=(200.0,) * slices, mas_per_ma=0.5,
    )  # fmt: skip
    derivation = Derivation("lir-ct", "ab" * 32, 0.5)
    make = lambda hu, uid, **more: Volume(hu, place, uid, "SECRET^NAME", uid, metadata=replace(about, **more))  # noqa: E731
    candidate = make(clean + noise / 3, "candidate", derivation=derivation.text)
    return make(clean, "normal"), make(clean + noise, "low", tube_current_ma=(50.0,) * slices), candidate


def test_the_identity_block_says_which_series_scanner_dose_and_model():
    normal, low, candidate = volumes(2)
    result = evaluate(candidate, normal, low, MeasurementPlan(regions=[WholeImage()]))
    identity = evaluation_identity(result, "Report", {"candidate": "series 1"}, Signature("A. Reader", "A site"))
    rows = dict(identity.rows)
    assert rows["author"] == "A. Reader"
    assert rows["site"] == "A site"
    assert rows["series"] == f"series 1 {series_code('low')}"
    assert rows["scanner"] == "Maker Scanner 64, 120 kV"
    assert (rows["kernel"], rows["slice thickness"]) == ("B30f", "3 mm")
    assert rows["dose"] == "input 25 effective mAs; reference 100 effective mAs"
    assert (rows["model"], rows["model SHA-256"]) == ("lir-ct, strength 50%", "ab" * 32)
    assert "ldct-denoise" in rows["versions"]
    assert str(datetime.now().year) in rows["created"]
    assert "SECRET" not in str(identity)
    page = render(Page(identity.title, ("Answer.",), identity=identity.rows))
    assert all(f"<dd>{value}</dd>" in page for value in rows.values())
    assert f"<title>{identity.title}</title>" in page


def test_no_two_reports_have_the_same_title():
    now = datetime(2026, 1, 2, 3, 4, 5)
    titles = {
        Identity(kind, subject, created=when).title
        for kind in ("a", "b")
        for subject in ("series 1", "series 2")
        for when in (now, now.replace(second=6))
    }
    assert len(titles) == 8
    assert series_code("1.2.3") != series_code("1.2.4")


def test_the_stated_model_is_read_back():
    text = Derivation("a model", "0" * 64, 1.0, amount="40% less noise").text
    assert stated_model(text) == ("a model", "0" * 64, "40% less noise")
    assert stated_model(Derivation("nlm").text) == ("nlm", "", "strength 100%")
    assert stated_model("Derived by others; model x sha256 none; HU 0..1") is None


def test_the_viewer_opens_where_the_error_rises_otherwise_in_the_middle():
    normal, low, candidate = volumes()
    worse = candidate.hu.copy()
    worse[1] += 100
    plan, names = MeasurementPlan(regions=[WholeImage()]), {"candidate": "series 1"}
    good = evaluate(candidate, normal, low, plan)
    assert attention_slice(good) is None
    assert key_slice_views(good, names)[1] == 2
    bad = evaluate(candidate.with_hu(worse), normal, low, plan)
    attention = attention_slice(bad)
    views, first = key_slice_views(bad, names, attention)
    assert first == 1
    assert views[first]["label"] == "series 1, z = 2.0 mm"
    assert "z = 2.0 mm" in attention.words
    assert evaluation_checks(bad, "candidate")[0].status == "amber"


@pytest.mark.parametrize(("always", "first", "shown"), [(None, 1, 3), (4, 2, 4), (0, 0, 3)])
def test_a_slice_that_needs_attention_is_shown_and_opens(always, first, shown):
    _, low, candidate = volumes(7)
    at = [{"input": index, "output": index} for index in range(7)]
    views, opens = spread_slice_views({"input": low, "output": candidate}, at, most=3, budget=10**9, always=always)
    assert (opens, len(views)) == (first, shown)
    assert views[opens]["label"] == f"z = {2.0 * (3 if always is None else always):.1f} mm"


def test_pictures_have_a_clinical_window():
    full, lung, abdomen = (WINDOWS[name] for name in ("full", "lung", "abdomen"))
    assert [display_window(given) for given in ([abdomen, full], [full], [lung, full], [abdomen, lung])] == [
        abdomen, abdomen, lung, lung,
    ]  # fmt: skip


def test_the_page_is_structured_for_assistive_technology():
    table = Table("A table", "", ("x",), [[n] for n in range(40)])
    view = {
        "label": "z",
        "rows": 1,
        "columns": 1,
        "origin": [0, 0],
        "spacing_mm": [1, 1],
        "panels": {},
        "masks": {},
    }
    html = render(
        Page(
            "T", ("Answer.", "More."), slice_views=[view] * 5, tables=[table], view_command="ldct-denoise view A B"
        )
    )
    assert '<html lang="en">' in html
    assert html.count("<main>") == html.count("<h1>") == 1
    assert '<p class="answer">Answer.</p>' in html
    assert 'id="slice" min="0" max="4" value="2"' in html
    assert '<input type="checkbox" id="show-rois">' in html  # outlines only if asked for
    assert "<details><summary><h2>A table</h2>" in html  # long tables open on demand
    assert "<code>ldct-denoise view A B</code>" in html

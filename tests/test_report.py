"""The page opens offline in a browser without an error, scrolls, windows and sorts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.evaluation.results import Evaluation
from ldct_denoise.evaluation.tables import Measurement, paired_statistics
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.regions.regions import Body, Sphere, WholeImage
from ldct_denoise.report.apply import write_apply_report
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.evaluation import write_report
from ldct_denoise.report.identity import Signature, evaluation_identity
from ldct_denoise.report.page import _cell
from ldct_denoise.report.pdf import summary_figures
from ldct_denoise.report.pictures import crop_box, decode_hu, encode_hu, save_comparison
from ldct_denoise.report.sentences import sentences
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import axial_geometry

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def volumes(slices=5, rows=160, columns=200):
    rng = np.random.default_rng(0)
    place = Geometry(
        np.arange(slices)[:, None] * np.array([0, 0, 3.0]) + [-100, -80, 0],
        (1, 0, 0),
        (0, 1, 0),
        (1.0, 1.0),
        rows,
        columns,
    )
    y, x = np.mgrid[:rows, :columns]
    clean = np.where(((y - 80) / 60) ** 2 + ((x - 100) / 80) ** 2 < 1, 45.0, -1000.0)
    clean[(y - 80) ** 2 + (x - 60) ** 2 < 100] = 180
    clean = np.stack([clean + index for index in range(slices)])
    noise = rng.normal(0, 30, clean.shape)
    make = lambda hu, uid: Volume(hu, place, uid, "SECRET^NAME", uid)  # noqa: E731
    return make(clean, "normal"), make(clean + noise, "low"), make(clean + noise / 3, "candidate")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    normal, low, candidate = volumes()
    regions = [WholeImage(), Body(), Sphere("lesion", (-40.0, 0.0, 6.0), 8.0)]
    result = evaluate(
        candidate,
        normal,
        low,
        plan=MeasurementPlan(windows=[WINDOWS["full"], WINDOWS["abdomen"]], regions=regions),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(result, path)
    return path


@pytest.fixture(scope="module")
def apply_report(tmp_path_factory) -> Path:
    _, low, candidate = volumes()
    path = tmp_path_factory.mktemp("apply") / "report.html"
    write_apply_report(low, candidate, path, {"model": "test"})
    return path


@pytest.mark.parametrize("slices", [24, 120])
def test_the_report_of_a_long_series_detects_slice_offsets(tmp_path, slices):
    """Slice offsets of 4 HU, with anatomy that changes slowly but strongly along the series."""
    place = axial_geometry(slices, 96, 96, (1.0, 1.0, 1.0))
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[:96, :96] - 47.5
    clean = np.where(np.hypot(rows, columns) < 42, 50.0, -1000.0) + np.zeros((slices, 1, 1))
    for z in range(slices):
        clean[z][np.hypot(rows - 12 * np.cos(z / 24), columns - 12 * np.sin(z / 24)) < 16] = 110
    before = Volume(clean + rng.normal(0, 15, clean.shape), place, "a", "p", "a")
    jumps = rng.normal(0, 4, (slices, 1, 1))
    after = Volume(clean + rng.normal(0, 4, clean.shape) + jumps, place, "b", "p", "b")
    found = {check.name: check for check in write_apply_report(before, after, tmp_path / "r.html").checks}
    assert found["flicker"].status == "red"
    assert found["flicker"].value > 1.5


def test_encoded_pictures_are_decoded_exactly():
    hu = np.random.default_rng(0).integers(-32768, 32767, (31, 17))
    assert np.array_equal(decode_hu(encode_hu(hu), 31, 17), hu)


def test_the_crop_keeps_the_body():
    normal, _, _ = volumes()
    rows, columns = crop_box([normal.hu[0]])
    assert (rows.start, rows.stop) == (13, 148)
    assert normal.hu[0][rows, columns].shape[1] < 200
    assert crop_box([np.full((20, 30), -1000.0)]) == (slice(0, 20), slice(0, 30))


def test_the_page_needs_no_network_and_contains_no_patient_name(report, apply_report):
    for path in (report, apply_report):
        text = path.read_text()
        assert not re.search(r"""(src|href)\s*=\s*(?!"data:image/png;base64,)|https?://|@import""", text)
        assert "SECRET" not in text
        assert "Research use only" in text
        assert path.stat().st_size < 8_000_000


def test_the_summary_states_the_gain(report):
    text = report.read_text()
    assert "5 of 5 slices are closer to the reference" in text
    assert re.search(
        r"candidate: error against the reference −6\d % \(RMSE [\d.]+ → (9\.[5-9]|10\.[0-4])\d HU", text
    )


def evaluation_of(values, **more):
    """From {(series, model, window, metric): values along z}; series ``A1`` belongs to patient ``A``."""
    rows = [
        Measurement(series, float(z), model, window, "image", metric, value)
        for (series, model, window, metric), along in values.items()
        for z, value in enumerate(along)
    ]
    patients = {series: series[0] for series, *_ in values}
    return Evaluation(tuple(rows), patients, (WINDOWS["abdomen"],), (WholeImage(),), **more)


def test_a_change_in_percent_is_of_the_same_mean():
    """Nine slices of one patient and one of another, RMSE halved in each: −50 %."""
    before = {"A1": [2.0] * 9, "B1": [100.0]}
    values = {}
    for series, along in before.items():
        values[series, "input", "abdomen", "rmse"] = along
        values[series, "candidate", "abdomen", "rmse"] = [value / 2 for value in along]
        values[series, "candidate", "abdomen", "psnr"] = [30.0 if series == "A1" else 20.0] * len(along)
        values[series, "candidate", "abdomen", "ssim"] = [0.5] * len(along)
    _, text = sentences(evaluation_of(values))
    assert "error against the reference −50 % (RMSE 51.00 → 25.50 HU);" in text  # means of 2 and 100, of 1 and 50
    assert "PSNR 25.00 dB" in text  # mean of 30 and 20
    assert "10 of 10 slices are closer" in text


def test_infinite_slices_do_not_remove_the_others():
    psnr = {"input": [30.0, 31.0, 32.0, 33.0, np.inf], "candidate": [32.0, 33.5, 34.0, 36.5, np.inf]}
    result = evaluation_of({("A1", model, "abdomen", "psnr"): along for model, along in psnr.items()})
    _, text = sentences(result)
    assert "PSNR 34.00 dB (without 1 of 5 slices, where it is infinite)" in text
    (entry,) = paired_statistics(result.rows, result.patients, ["input", "candidate"])
    assert entry["difference_mean"] == pytest.approx(2.5)
    assert entry["wilcoxon_p"] is entry["difference_low"] is entry["interval_describes"] is None
    assert (entry["n"], entry["infinite"], entry["patients"]) == (4, 1, 1)


def test_a_shift_outside_the_window_is_reported():
    """Air of −1000 and of −997.7 HU is equal in the abdomen window although it differs by 2.3 HU."""
    normal, _, _ = volumes(2)
    air = normal.with_hu(np.full(normal.hu.shape, -1000.0))
    result = evaluate(
        air.with_hu(air.hu + 2.3), air, plan=MeasurementPlan(windows=[WINDOWS["abdomen"]], regions=[WholeImage()])
    )
    _, text = sentences(result)
    assert "PSNR infinite, SSIM 1.0000" in text
    assert "without a window, mean HU differs from the reference by +2.30 HU" in text


@pytest.mark.parametrize(("regions", "notes"), [(0, 0), (12, 3), (12, 30)])
def test_nothing_overlaps_on_the_pdf_pages(regions, notes):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    normal, low, candidate = volumes(1)
    spheres = [Sphere(f"the long name of a region, which is number {n}", (0, 0, 0), 9.0) for n in range(regions)]
    long_notes = [f"note {n}: " + "a series whose name is long has no partner, " * 6 for n in range(notes)]
    result = evaluate(
        candidate,
        normal,
        low,
        plan=MeasurementPlan(windows=list(WINDOWS.values()), regions=[WholeImage(), *spheres], notes=long_notes),
    )
    identity = evaluation_identity(result, "Report", {"candidate": "series 1"}, Signature("A. Reader", "A site"))
    figures = summary_figures(result, identity)
    shown = ""
    for number, figure in enumerate(figures, start=1):
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [text.get_window_extent(renderer) for text in figure.texts]
        boxes += [axis.get_tightbbox(renderer) for axis in figure.axes]
        boxes = [box.shrunk(0.98, 0.98) for box in boxes]
        assert not [(a, b) for n, a in enumerate(boxes) for b in boxes[:n] if a.overlaps(b)]
        assert min(box.y0 for box in boxes) > 0.015 * figure.bbox.height
        assert max(box.x1 for box in boxes) <= 0.95 * figure.bbox.width
        texts = [text.get_text() for text in figure.texts]
        assert f"page {number} of {len(figures)}" in texts
        shown += " ".join(" ".join(texts).split())
    assert len(figures[0].axes) >= 6  # pictures, enlarged squares
    assert all(f"note {n}:" in shown for n in range(notes))
    assert "A. Reader" in shown


@pytest.mark.parametrize("names", [("abdomen", "full"), ("full",), ("lung", "full")])
def test_the_pdf_shows_pictures_in_a_clinical_window(names):
    normal, low, candidate = volumes(1)
    result = evaluate(candidate, normal, low, plan=MeasurementPlan(windows=[WINDOWS[name] for name in names]))
    figures = summary_figures(result, evaluation_identity(result, "Report", {"candidate": "series 1"}))
    window = WINDOWS["lung" if "lung" in names else "abdomen"]
    limits = {image.get_clim() for axis in figures[0].axes for image in axis.images}
    assert limits == {(window.low_hu, window.high_hu)}
    titles = [axis.get_title() for axis in figures[0].axes if not axis.images]
    assert titles == ["noise power spectrum, HU²·mm²", "noise power relative to the reference"]
    assert all(axis.get_yscale() == "log" for axis in figures[0].axes if not axis.images)


def test_columns_are_as_wide_as_their_names():
    name = "sphere(-10.4 -5.5 7.5 r14.4)"
    values = {"psnr": [np.inf, 30.0], "ssim": [np.nan], "rmse": [4.0], "hu_bias": [-1.25]}
    rows = tuple(
        Measurement("A1", float(z), "candidate", "abdomen", name, metric, value)
        for metric, along in values.items()
        for z, value in enumerate(along)
    )
    result = Evaluation(rows, {"A1": "A"}, (WINDOWS["abdomen"],), (Sphere(name, (-10.4, -5.5, 7.5), 14.4),))
    head, line = result.lines()
    assert line == f"abdomen {name} candidate        inf       nan      4.00     -1.25"
    assert [head.index(word) for word in ("window", "region", "model")] == [0, 8, 37]
    assert len(head) == len(line)


def test_patient_ids_are_shown_if_asked_for(tmp_path):
    normal, low, _ = volumes(2)
    write_report(evaluate(low, normal), tmp_path / "r.html", include_patient_ids=True)
    assert "SECRET^NAME" in (tmp_path / "r.html").read_text()


def test_a_cell_distinguishes_missing_and_infinite_values():
    shown = [_cell(value) for value in (None, float("nan"), float("inf"), float("-inf"), 1234.5678, 3, "x")]
    assert shown == ["–", "–", "∞", "−∞", "1235", "3", "x"]


def test_a_chart_holds_its_points():
    svg = line_chart({"a": ([0, 1, 2], [3, 5, float("nan")]), "<b>": ([0], [4])}, "x", "y", dots=True)
    assert svg.count("<circle") == 3
    assert "<b>" not in svg
    assert line_chart({"a": ([], [])}, "x", "y") == ""


def test_the_legend_is_above_the_plot() -> None:
    """A curve that ends in the upper right corner."""
    svg = line_chart({name: ([0, 1], [0, 1]) for name in "abc"}, "x", "y")
    names_y = [float(y) for y in re.findall(r'y="([\d.]+)" text-anchor="end" class="legend"', svg)]
    curves_y = [
        float(point.split(",")[1]) for line in re.findall(r'points="([^"]+)"', svg) for point in line.split()
    ]
    assert len(names_y) == 3
    assert max(names_y) < min(curves_y)


PROBE = """
<script>
const failures = [];
window.addEventListener("error", (event) => failures.push(event.message));
window.addEventListener("unhandledrejection", (event) => failures.push(String(event.reason)));
async function probe() {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const until = async (test) => { for (let i = 0; i < 100 && !test(); i++) await wait(30); };
  const hash = (c) => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.reduce((a, v) => (a * 31 + v) | 0, 7);
  const result = {};
  await until(() => document.body.dataset.drawn === "0");
  const canvas = () => document.querySelector("#panels canvas");
  result.panels = [...document.querySelectorAll("#panels figcaption")].map((f) => f.textContent).join("|");
  const first = hash(canvas());
  const slider = document.getElementById("slice");
  slider.value = 1; slider.dispatchEvent(new Event("input"));
  await until(() => document.body.dataset.drawn === "1"); await wait(60);
  result.scrolled = hash(canvas()) !== first;
  const second = hash(canvas()), preset = document.getElementById("preset");
  preset.value = [...preset.options].find((o) => o.text === "bone").value; preset.dispatchEvent(new Event("change")); await wait(120);
  result.windowed = hash(canvas()) !== second && document.getElementById("width").value === "1800";
  const third = hash(canvas());
  canvas().dispatchEvent(new WheelEvent("wheel", { deltaY: -1, ctrlKey: true, clientX: 100, clientY: 300, cancelable: true })); await wait(120);
  result.zoomed = hash(canvas()) !== third;
  const draw = document.getElementById("draw-circle"); draw.checked = true;
  document.getElementById("reset").click(); await wait(120);
  const box = canvas().getBoundingClientRect(), mm = 10 * box.width / slides[1].columns;  // ten pixels of 1 mm
  const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, buttons: 1 };
  canvas().dispatchEvent(new PointerEvent("pointerdown", at));
  canvas().dispatchEvent(new PointerEvent("pointermove", { ...at, clientX: at.clientX + mm })); await wait(120);
  result.circle = document.getElementById("circle-text").textContent;
  const pixels = slides[1].hu[Object.keys(slides[1].hu)[0]];
  result.hu = pixels[Math.floor(slides[1].rows / 2) * slides[1].columns + Math.floor(slides[1].columns / 2)];
  const wanted = (h) => h.textContent === "mean" || h.textContent.startsWith("noise after");
  const table = [...document.querySelectorAll("table.sortable")].find((t) => [...t.querySelectorAll("th")].some(wanted));
  const heads = [...table.querySelectorAll("th")], column = heads.findIndex(wanted);
  const read = () => [...table.tBodies[0].rows].map((r) => Number(r.cells[column].dataset.value)).filter((v) => !isNaN(v));
  heads[column].click();
  const up = read(); heads[column].click(); const down = read();
  result.sorted = up.every((v, i) => !i || v >= up[i - 1]) && down.every((v, i) => !i || v <= down[i - 1]);
  const odd = document.createElement("table");
  odd.innerHTML = "<thead><tr><th>x</th></tr></thead><tbody></tbody>";
  for (const text of ["4.9", "–", "-1", "4.828"]) {
    const cell = odd.tBodies[0].insertRow().insertCell();
    cell.textContent = text;
    if (text !== "–") cell.dataset.value = text;
  }
  const order = () => { sortBy(odd, 0, odd.querySelector("th")); return [...odd.tBodies[0].rows].map((r) => r.textContent).join(" "); };
  result.orders = [order(), order()];
  result.failures = failures;
  document.title = "RESULT" + JSON.stringify(result);
}
window.addEventListener("load", probe);
</script>
"""


def browse(path: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: the page is not tried in a browser")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    command = [CHROMIUM, *quiet, f"--user-data-dir={profile}", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", ["report", "apply_report"])
def test_it_works_in_a_browser(name, request, tmp_path):
    import html
    import json

    page = tmp_path / "page.html"
    page.write_text(request.getfixturevalue(name).read_text().replace("</header>", "</header>" + PROBE, 1))
    done = browse(page, tmp_path / "profile", "--virtual-time-budget=20000", "--dump-dom")
    found = re.search(r"<title>RESULT(.*?)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    result = json.loads(html.unescape(found.group(1)))
    assert result["failures"] == []
    for what in ("scrolled", "windowed", "zoomed", "sorted"):
        assert result[what], what
    expected = (
        "input|candidate|reference|candidate − reference" if name == "report" else "input|output|input − output"
    )
    assert result["panels"] == expected
    assert result["orders"] == ["-1 4.828 4.9 –", "4.9 4.828 -1 –"]
    # A circle in the flat middle of the body, which has 46 or, on the slice before last, 49 HU.
    radius, pixels = re.match(r"Circle, radius ([\d.]+) mm, (\d+) pixels", result["circle"]).groups()
    assert float(radius) == pytest.approx(10, abs=0.1)
    assert int(pixels) == pytest.approx(np.pi * 100, rel=0.05)
    means = re.findall(r"(\w+) ([\d.]+) ± ([\d.]+) HU", result["circle"])
    first, second = (float(spread) for _, _, spread in means[:2])
    assert first == pytest.approx(30, rel=0.15)
    assert second == pytest.approx(10, rel=0.15)


def test_a_picture_is_drawn(tmp_path):
    from PIL import Image

    normal, low, candidate = volumes(1)
    save_comparison(
        tmp_path / "c.png", {"a": low.hu[0], "b": candidate.hu[0], "c": normal.hu[0]}, WINDOWS["abdomen"]
    )
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width > picture.height > 300

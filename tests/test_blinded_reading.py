"""Blinded reading: contents of the page, what the browser keeps and exports, unblinding, and the summary."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.evaluation.reader_study import CRITERIA, Ratings, ReaderStudy, Reading, ReadingKey
from ldct_denoise.metrics.statistics import weighted_kappa
from ldct_denoise.report.blinded_reading import BlindedReading
from ldct_denoise.volume import Volume
from tests.chromium import Chromium
from tests.synthetic import axial_geometry

SLICES = 8


def flat(value_hu: float, slices: int = SLICES, side: int = 96) -> Volume:
    """Every slice has one value: 100 × index, and an offset that tells the kinds apart."""
    place = axial_geometry(slices, side, side, (2.0, 1.0, 1.0))
    hu = np.zeros(place.shape) + 100 * np.arange(slices)[:, None, None] + value_hu
    return Volume(hu, place, f"{value_hu}", "Patient-Name", f"Series-Name {value_hu}")


def ratings_csv(
    path: Path, session: str, reader: str, scores: dict[int, int], criterion: str = "preference"
) -> Path:
    lines = [",".join(["session", "reader", "reading", *CRITERIA])]
    for number, score in scores.items():
        given = [str(score) if name == criterion else "" for name in CRITERIA]
        lines.append(",".join([session, reader, str(number), *given]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_page_holds_neither_key_nor_names_nor_order(tmp_path):
    cases = [(flat(0), flat(7)), (flat(30), flat(37))]
    reading = BlindedReading(cases, ("low-kind", "denoised-kind"), slices_per_case=6, seed=3)
    reading.write_page(tmp_path / "reading.html", tmp_path / "key.json")
    html = (tmp_path / "reading.html").read_text()
    for secret in (
        "low-kind",
        "denoised-kind",
        "Patient-Name",
        "Series-Name",
        "swapped",
        "z = ",
        'id="difference',
    ):
        assert secret not in html
    slides = json.loads(re.search(r'id="slides" type="application/json">(.*?)</script>', html, re.S)[1])
    assert [slide["label"] for slide in slides] == [f"reading {n} of 12" for n in range(1, 13)]
    assert {tuple(slide["panels"]) for slide in slides} == {("A", "B")}
    key = ReadingKey.read(tmp_path / "key.json")
    assert sum(one.swapped for one in key.readings) == 6  # each kind is A in half of the readings
    assert sorted(one.case for one in key.readings) == [1] * 6 + [2] * 6
    assert [one.case for one in key.readings] != sorted(one.case for one in key.readings)
    for number, one in enumerate(key.readings, 1):
        pair = reading.pair(number)
        first = pair["B" if one.swapped else "A"]
        assert first[0, 0] == 100 * one.slice_index + (0 if one.case == 1 else 30)
        assert abs(pair["A"] - pair["B"]).max() == 7


def test_the_session_is_that_of_images_order_and_seed(tmp_path):
    def session(first: Volume, **settings: object) -> str:
        return BlindedReading([(first, flat(7))], ("a", "b"), **settings).key.session

    assert session(flat(0), seed=1) == session(flat(0), seed=1)
    assert len({session(flat(0), seed=1), session(flat(0), seed=2), session(flat(1), seed=1)}) == 3
    assert session(flat(0)) != session(flat(0))  # drawn, where no seed is given
    reading = BlindedReading([(flat(0), flat(7))], ("a", "b"))
    reading.write_page(tmp_path / "p.html", tmp_path / "key.json")
    reading.write_page(tmp_path / "p.html", tmp_path / "key.json")
    with pytest.raises(OutputError, match="key of another session"):
        BlindedReading([(flat(0), flat(7))], ("a", "b")).write_page(tmp_path / "q.html", tmp_path / "key.json")


def test_slices_are_paired_by_position():
    first = flat(0, 4, 4)
    backwards = Volume(first.hu[::-1], first.geometry.select([3, 2, 1, 0]))
    reading = BlindedReading([(first, backwards)], ("first", "backwards"), seed=0)
    for number in range(1, 5):
        assert len({image.mean() for image in reading.pair(number).values()}) == 1
    short = Volume(first.hu[:2], first.geometry.select([0, 1]))
    assert BlindedReading([(first, short)], ("first", "short"), indices=[[1]]).pair(1)["A"].mean() == 100
    with pytest.raises(InputError, match="case 1 has no partner of slice 2, 3"):
        BlindedReading([(first, short)], ("first", "short"), indices=[range(4)])
    far = Volume(first.hu[:3], axial_geometry(4, 4, 4, (0.3, 1.0, 1.0)).select([1, 2, 3]))
    with pytest.raises(InputError, match="no slice position in common"):
        BlindedReading([(first, far)], ("a", "b"))
    with pytest.raises(InputError, match="1 cases, slices of 2"):
        BlindedReading([(first, short)], ("a", "b"), indices=[[0], [1]])


KEY = ReadingKey("abc", ("low", "denoised"), tuple(Reading(1 + n // 2, n, n % 2 == 1) for n in range(8)))


def test_ratings_of_another_session_or_damaged_ones_are_refused(tmp_path):
    good = ratings_csv(tmp_path / "r.csv", "abc", "Dr A", {1: 2, 2: 2, 3: 0})
    rows = KEY.unblinded(KEY.read_ratings(good))
    assert [(row["score"], row["better"]) for row in rows] == [(2, "denoised"), (-2, "low"), (0, "equal")]
    assert [(row["case"], row["slice"]) for row in rows] == [(1, 0), (1, 1), (2, 2)]
    for name, text, words in (
        ("other", good.read_text().replace("abc", "xyz"), "session xyz, not to abc"),
        ("unknown", good.read_text() + "abc,Dr A,9,,,,,,1\n", "reading '9'"),
        ("twice", good.read_text() + "abc,Dr A,1,,,,,,1\n", "reading '1' occurs twice"),
        ("score", good.read_text().replace(",0\n", ",3\n"), "score '3'"),
        ("readers", good.read_text() + "abc,Dr B,5,,,,,,1\n", "2 readers"),
        ("columns", "reading,choice\n1,A\n", "not the ratings of a blinded reading"),
        ("empty", "", "not the ratings of a blinded reading"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
        with pytest.raises(InputError, match=words):
            KEY.read_ratings(tmp_path / f"{name}.csv")
    with pytest.raises(InputError, match="not the key"):
        ReadingKey.read(good)
    with pytest.raises(InputError, match="two files of the reader Dr A"):
        ReaderStudy(KEY, [KEY.read_ratings(good), KEY.read_ratings(good)])
    with pytest.raises(InputError, match="nothing was rated"):
        ReaderStudy(KEY, [Ratings("Dr A", {1: {}})])


def test_the_summary_gives_scores_interval_and_agreement(tmp_path):
    """Four cases of two readings; as seen, reading 2n is swapped, so a score there favours the other kind."""
    KEY.write(tmp_path / "key.json")
    one = ratings_csv(tmp_path / "1.csv", "abc", "Dr A", {1: 1, 2: -1, 3: 2, 4: -2, 5: 1, 6: -1, 7: 0, 8: 0})
    two = ratings_csv(tmp_path / "2.csv", "abc", "Dr B", {1: 1, 2: -1, 3: 1, 4: -1, 5: 1, 6: -1, 7: 0, 8: 1})
    study = ReaderStudy.read(tmp_path / "key.json", [one, two])
    (found,) = study.summary()
    assert found.criterion == "preference"
    assert (found.n_ratings, found.n_readings, found.n_cases) == (16, 8, 4)
    assert (found.first, found.equal, found.second) == (1 / 16, 3 / 16, 12 / 16)
    # Means of the cases: 1, 1.5, 1, -0.25; Student's t with 3 degrees of freedom (3.1824).
    means = np.array([1, 1.5, 1, -0.25])
    half = 3.182446 * means.std(ddof=1) / 2
    assert found.score.mean == pytest.approx(means.mean())
    assert (found.score.low, found.score.high) == pytest.approx(
        (means.mean() - half, means.mean() + half), rel=1e-5
    )
    assert found.same == 5 / 8
    assert found.kappa == pytest.approx(weighted_kappa([1, -1, 2, -2, 1, -1, 0, 0], [1, -1, 1, -1, 1, -1, 0, 1]))
    text = "\n".join(study.lines())
    assert "denoised better 75%" in text
    assert "readers agree in 62%" in text
    study.write_csv(tmp_path / "unblinded.csv")
    with (tmp_path / "unblinded.csv").open() as file:
        assert [row["better"] for row in csv.DictReader(file)].count("denoised") == 12
    (single,) = ReaderStudy(KEY, [study.ratings[0]]).summary()
    assert (single.kappa, single.same) == (None, None)
    few = ReaderStudy(KEY, [Ratings("Dr A", {1: {"noise": 1}})])
    assert "no interval" in few.lines()[1]


def test_kappa_with_quadratic_weights():
    """Two categories: the plain kappa of Cohen 1960; three: by the table of weights, written out."""
    first, second = [0] * 25 + [1] * 25, [0] * 20 + [1] * 5 + [0] * 10 + [1] * 15
    assert weighted_kappa(first, second) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    first, second = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    weights = np.array([[1, 0.75, 0], [0.75, 1, 0.75], [0, 0.75, 1]])
    table = np.zeros((3, 3))
    np.add.at(table, (first, second), 1 / 6)
    observed, chance = (weights * table).sum(), (weights * np.outer(table.sum(1), table.sum(0))).sum()
    assert weighted_kappa(first, second) == pytest.approx((observed - chance) / (1 - chance))
    assert weighted_kappa([0, 1, 2], [0, 1, 2]) == 1
    assert np.isnan(weighted_kappa([1, 1], [1, 1]))


#: Streams decode slowly, the first slowest, so that decoding ends after that of pairs that were asked for later.
SLOW = """
{
  let streams = 0;
  const fast = Response.prototype.arrayBuffer;
  Response.prototype.arrayBuffer = async function () {
    const delay = Math.max(20, 400 - 60 * streams++);
    await new Promise((done) => setTimeout(done, delay));
    return fast.call(this);
  };
}
"""
EXPORT = """(async () => {
  let exported = null;
  URL.createObjectURL = (blob) => { exported = blob.text(); return "#"; };
  document.getElementById("export").click();
  return await exported;
})()"""


def begin(browser: Chromium, reader: str) -> None:
    browser.run(f"find('reader').value = {json.dumps(reader)}; find('start').requestSubmit()")


def exported(browser: Chromium) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(browser.run(EXPORT))))


@pytest.mark.slow
def test_a_reader_rates_by_keys_and_goes_on_after_a_reload(tmp_path):
    reading = BlindedReading([(flat(0), flat(7))], ("low", "denoised"), seed=1)
    page = tmp_path / "reading.html"
    reading.write_page(page, tmp_path / "key.json")
    with Chromium(1200, 1000) as browser:
        browser.open(page.as_uri())
        assert browser.run("find('reading').hidden")  # nothing is rated without a name
        begin(browser, 'Dr "A", 1')
        browser.wait("document.body.dataset.drawn === '0'")
        for key in "123455":
            browser.key(key)
        assert browser.run("find('rating-state').textContent") == "1 of 8 complete"
        browser.key("n")
        browser.wait("document.body.dataset.drawn === '1'")
        browser.key("ArrowDown")
        browser.key("5")  # texture
        browser.click(*browser.middle("[name=preference][value='-1']"))
        before = browser.run("`${view.level},${view.width}`")
        browser.key("w")
        assert browser.run("`${view.level},${view.width}`") != before

        browser.open(page.as_uri() + "?again")
        assert browser.run("find('reader').value") == 'Dr "A", 1'
        begin(browser, 'Dr "A", 1')
        assert browser.run("find('rating-state').textContent") == "1 of 8 complete"
        browser.wait("document.body.dataset.drawn === '1'")  # the first that is not complete
        (tmp_path / "r.csv").write_text(browser.run(EXPORT))
        assert "7 incomplete" in browser.run("find('rating-state').textContent")
        ratings = reading.key.read_ratings(tmp_path / "r.csv")
        assert ratings.reader == 'Dr "A", 1'
        assert ratings.scores == {
            1: {"noise": -2, "texture": -1, "sharpness": 0, "artefacts": 1, "confidence": 2, "preference": 2},
            2: {"texture": 2, "preference": -1},
        }

        browser.open(page.as_uri() + "?other")
        begin(browser, "Dr B")  # sees none of the ratings of another reader
        assert exported(browser) == []

        # A notebook's cell is a sandbox, where a page has no storage.
        forbidden = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no storage'); } })"
        browser.open(page.as_uri() + "?sandbox", before=forbidden)
        begin(browser, "Dr C")
        browser.wait("document.body.dataset.drawn === '0'")
        browser.key("4")
        assert "keeps nothing" in browser.run("find('kept').textContent")
        assert [row["noise"] for row in exported(browser)] == ["1"]
        assert browser.failures == []


@pytest.mark.slow
def test_a_rating_is_of_the_pair_that_was_shown(tmp_path):
    """Wheel and keys in fast turns: a key rates the pair on the screen, or nothing while none is."""
    page = tmp_path / "reading.html"
    reading = BlindedReading([(flat(0), flat(7))], ("a", "b"), seed=1)
    reading.write_page(page, tmp_path / "key.json")
    with Chromium(900, 1600) as browser:
        browser.open(page.as_uri(), before=SLOW)
        begin(browser, "r")
        browser.run("""{
            view.level = 400; view.width = 1000; find("preset").value = "";
            window.log = [];
            const plain = rate;
            rate = (score) => {
              const canvas = document.querySelector("#panels canvas");
              const grey = canvas?.getContext("2d").getImageData(48, 48, 1, 1).data[0];
              log.push([find("rating").disabled, Math.round((grey / 255 * 1000 - 100) / 100)]);
              plain(score);
            };
        }""")
        browser.wait("document.body.dataset.drawn === '0'")
        x, y = browser.middle("#panels canvas")
        for turn in (2, -1, 3, -2):
            browser.wheel(x, y, turn)
            browser.key("4")
        browser.run("new Promise((done) => setTimeout(done, 1500))")
        browser.key("4")
        rated = {reading.key.readings[int(row["reading"]) - 1].slice_index for row in exported(browser)}
        assert rated == {index for disabled, index in browser.run("log") if not disabled} != set()
        assert browser.failures == []

"""The report's viewer shows, and reads HU from, the slice that was asked for last, however slowly slices decode."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.regions.regions import Sphere
from ldct_denoise.report.interactive import review
from ldct_denoise.volume import Geometry, Volume
from tests.chromium import Chromium

pytestmark = pytest.mark.slow

#: The first slices decode slowest, so that their decoding ends after that of slices that were asked for later.
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
SLICES, ROWS, COLUMNS = 8, 96, 96


def flat_slices(offset_hu: float) -> Volume:
    """Every slice has one value, from which its index can be read: 100 × index, and an offset."""
    geometry = Geometry(
        np.arange(SLICES)[:, None] * np.array([0, 0, 2.0]), (1, 0, 0), (0, 1, 0), (1.0, 1.0), ROWS, COLUMNS
    )
    hu = np.zeros((SLICES, ROWS, COLUMNS)) + 100 * np.arange(SLICES)[:, None, None] + offset_hu
    return Volume(hu, geometry, f"{offset_hu}", "patient", "flat")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("review") / "review.html"
    html = review({"input": flat_slices(0), "output": flat_slices(7)}).html
    opens_at = f'max="{SLICES - 1}" value="'
    assert f'{opens_at}{SLICES // 2}"' in html  # the middle; the tests start at the first slice
    path.write_text(html.replace(f'{opens_at}{SLICES // 2}"', f'{opens_at}0"'))
    return path


GREY = """document.querySelectorAll("#panels canvas")[0].getContext("2d").getImageData(48, 48, 1, 1).data[0]"""


def shown_hu(browser: Chromium) -> float:
    """HU of the first panel's pixels as drawn, by the window of level 400 and width 1000 (a grey level is 4 HU)."""
    return browser.run(GREY) / 255 * 1000 - 100


def open_fresh(page: Path) -> Chromium:
    """A browser whose page has been asked for its first slice, which is still being decoded."""
    browser = Chromium(900, 1600)
    browser.open(page.as_uri(), before=SLOW)
    browser.run("view.level = 400, view.width = 1000, document.getElementById('preset').value = ''")
    return browser


@pytest.mark.parametrize("notches", [(3, -3), (5, -2), (7, -7, 4), (1, 1, 1, -1)])
def test_fast_wheel_turns_end_at_the_right_slice(page, notches):
    with open_fresh(page) as browser:
        browser.wait("document.querySelector('#panels canvas')")
        x, y = browser.middle("#panels canvas")
        for turn in notches:
            browser.wheel(x, y, turn)
        wanted = sum(notches)
        browser.wait(f"document.body.dataset.drawn === '{wanted}'")
        browser.run("new Promise((done) => setTimeout(done, 1500))")  # whatever still decodes has ended
        assert browser.run("view.slide") == wanted
        assert browser.run("document.body.dataset.drawn") == str(wanted)
        assert browser.run("document.getElementById('slice-label').textContent") == f"z = {2 * wanted:.1f} mm"
        assert shown_hu(browser) == pytest.approx(100 * wanted, abs=4)
        browser.mouse("mouseMoved", x + 1, y + 1)
        text = browser.run("document.getElementById('cursor').textContent")
        assert text.endswith(f"input {100 * wanted} | output {100 * wanted + 7} HU")
        assert browser.failures == []


def test_the_cursor_reads_the_slice_that_is_shown(page):
    """While another slice decodes, the picture and the read-out stay together."""
    with open_fresh(page) as browser:
        browser.wait("document.body.dataset.drawn === '0'")
        x, y = browser.middle("#panels canvas")
        browser.run("goto(6)")
        for step in range(40):
            browser.mouse("mouseMoved", x + step % 5, y)
            grey, text = browser.run(f"[{GREY}, document.getElementById('cursor').textContent]")
            if not text:  # another slice was drawn since the mouse moved
                continue
            read_hu = int(re.search(r"input (-?\d+)", text)[1])
            assert grey / 255 * 1000 - 100 == pytest.approx(read_hu, abs=4)
            if read_hu == 600:
                break
        assert read_hu == 600
        assert browser.failures == []


def test_a_slice_is_decoded_once(page):
    """However often it is asked for while it is being decoded."""
    with open_fresh(page) as browser:
        browser.wait("document.body.dataset.drawn === '0'")
        counted = "let decoded = 0; const plain = decodeHu; decodeHu = (...all) => (decoded++, plain(...all));"
        browser.run(f"{counted} for (let i = 0; i < 20; i++) goto(5)")
        browser.wait("document.body.dataset.drawn === '5'")
        assert browser.run("decoded") == 2  # of input and output


def test_keys_of_a_focused_image_scroll_zoom_and_set_the_window(page):
    with open_fresh(page) as browser:
        browser.wait("document.body.dataset.drawn === '0'")
        browser.run("document.querySelector('#panels canvas').focus()")
        for key, slide in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", SLICES - 1), ("Home", 0)):
            browser.key(key)
            browser.wait(f"document.body.dataset.drawn === '{slide}'")
        presets = browser.run("[...document.getElementById('preset').options].map((one) => one.value)")
        browser.key("2")
        assert browser.run("`${view.level},${view.width}`") == presets[1]
        browser.key("+")
        assert browser.run("view.zoom") == pytest.approx(1.2)
        browser.key("0")
        assert browser.run("view.zoom") == 1
        label = browser.run("document.activeElement.getAttribute('aria-label')")
        assert label.startswith("input, z = 0.0 mm, level")
        assert browser.failures == []


def test_outlines_are_drawn_only_when_asked_for_with_a_legend(tmp_path):
    first, path = flat_slices(0), tmp_path / "review.html"
    path.write_text(review({"input": first, "output": flat_slices(7)}, [Sphere("liver", (48, 48, 8), 20)]).html)
    coloured = """(() => {
      const { data } = document.querySelector("#panels canvas").getContext("2d").getImageData(0, 0, 96, 96);
      return data.filter((value, i) => i % 4 === 0 && value !== data[i + 2]).length;
    })()"""
    with Chromium(900, 1600) as browser:
        browser.open(path.as_uri())
        browser.wait(f"document.body.dataset.drawn === '{SLICES // 2}'")
        assert browser.run(coloured) == 0
        assert browser.run("document.getElementById('legend').hidden")
        browser.click(*browser.middle("#show-rois"))
        browser.wait(f"{coloured} > 100")
        assert browser.run("document.getElementById('legend').textContent") == "liver"

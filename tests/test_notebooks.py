"""Every notebook runs from top to bottom, contains no output, and equals its paired script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.errors import InputError
from ldct_denoise.regions.regions import Sphere
from ldct_denoise.report.interactive import review, roi_numbers
from ldct_denoise.report.pictures import decode_hu
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SCRIPTS = sorted(NOTEBOOKS.glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(script, tmp_path):
    environment = {**os.environ, "LDCT_DENOISE_HEADLESS": "1", "MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_the_script_without_output(script):
    jupytext = pytest.importorskip("jupytext", reason="jupytext pairs notebooks with scripts; it is not installed")
    notebook, paired = jupytext.read(script.with_suffix(".ipynb")), jupytext.read(script)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in paired.cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_the_viewer_shows_the_positions_that_all_series_have():
    place = axial_geometry(6, 32, 32, (1.0, 1.0, 1.0))
    rng = np.random.default_rng(0)
    low = Volume(rng.normal(0, 30, place.shape), place)
    out = Volume(rng.normal(0, 10, (4, 32, 32)), place.select([4, 3, 2, 1]))
    viewer = review({"input": low, "output": out}, [Sphere("sphere", (16.0, 16.0, 3.0), 4.0)])
    slides = json.loads(re.search(r'id="slides">(.*?)</script>', viewer.html).group(1))
    assert [slide["label"] for slide in slides] == [f"z = {z:.1f} mm" for z in (4, 3, 2, 1)]
    assert all(list(slide["panels"]) == ["input", "output"] for slide in slides)
    shown = decode_hu(slides[0]["panels"]["input"], slides[0]["rows"], slides[0]["columns"])
    assert np.abs(shown - low.hu[4]).max() <= 0.5
    assert "sphere" in slides[1]["masks"]
    assert viewer._repr_html_().startswith("<iframe srcdoc=")
    with pytest.raises(InputError, match="no slice position in common"):
        review(
            {
                "input": low,
                "output": Volume(np.zeros((1, 8, 8)), axial_geometry(1, 8, 8, (3.0, 1.0, 1.0))),
            }
        )


@pytest.mark.parametrize("centre", [(2.0, 2.0, 500.0), (900.0, 2.0, 1.0)])
def test_a_sphere_outside_the_series_holds_no_pixel(centre):
    place = axial_geometry(4, 8, 8, (1.0, 1.0, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = roi_numbers({"a": Volume(np.full(place.shape, 40.0), place)}, Sphere("s", centre, 1.2))["a"]
    assert found["pixels"] == 0
    assert np.isnan([found["mean_hu"], found["std_hu"]]).all()
    inside = roi_numbers({"a": Volume(np.full(place.shape, 40.0), place)}, Sphere("s", (2.0, 2.0, 1.0), 1.2))["a"]
    assert inside == {"mean_hu": 40.0, "std_hu": 0.0, "pixels": 7.0}

"""The card of a model as a table: on the command line, in the documentation, and for a model of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from ldct_denoise.cli.main import cli

from ldct_denoise.errors import ModelError
from ldct_denoise.models.card_table import MAX_CHARACTERS, card_rows, markdown
from ldct_denoise.models.catalogue import model_card, shipped_models
from ldct_denoise.models.trained import load_model, save_model

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "models.md"


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_have_ten_lines_that_the_page_repeats(name: str) -> None:
    rows = model_card(name)
    assert len(rows) == 10
    assert all(value and len(value) <= MAX_CHARACTERS for _, value in rows)
    assert not any("not measured" in value for _, value in rows)
    assert markdown(rows) in PAGE.read_text(encoding="utf-8")
    shown = CliRunner().invoke(cli, ["models", name, "--json"])
    assert json.loads(shown.output) == dict(rows)
    assert rows[0][0] in CliRunner().invoke(cli, ["models", name]).output


def test_a_model_of_ones_own_shows_its_pools_and_its_validation(tmp_path: Path) -> None:
    card = {
        "pools": {"normal_slices": 12, "low_slices": 3, "training_patients": ["A"]},
        "validation": {"input_noise_ratio": 2.0, "noise_ratio": 0.9, "hu_bias_fat": 0.24},
        "envelope": {"kernels": ["B30f"], "kvp": [120.0, 120.0], "pixel_spacing_mm": [0.7, 0.82]},
    }
    save_model(tmp_path / "model.safetensors", "lir", load_model("lir-ct-small").method, card)
    rows = dict(model_card(tmp_path))
    assert rows["training data"] == "12 normal-dose and 3 low-dose slices of 1 patient"
    assert rows["noise and gain"].startswith("2.00 → 0.90 of normal dose's noise")
    assert rows["HU accuracy"].startswith("fat +0.2 HU")
    assert rows["envelope"] == "B30f; 120 kV; 0.7–0.82 mm pixels"
    assert rows["detectability"].startswith("not measured")
    assert all(
        len(value) <= MAX_CHARACTERS
        for _, value in card_rows("x" * 200, {"figures": {"noise texture": "y" * 200}})
    )


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"none")
    for name, says in (
        ("nothing", "shipped model"),
        (str(tmp_path / "a.safetensors"), "not a model file"),
        (str(tmp_path), "has no"),
    ):
        with pytest.raises(ModelError, match=says):
            model_card(name)

"""The estimated duration of a run."""

from __future__ import annotations

from ldct_denoise.config import load_config
from ldct_denoise.distributed import join_world
from ldct_denoise.training.duration import LONG_RUN_STEPS, duration_notes
from tests.synthetic import tiny_config


def test_long_runs_say_how_long_they_take() -> None:
    tiny = tiny_config(iterations=6)
    long = tiny.model_copy(update={"training": tiny.training.model_copy(update={"iterations": 100_000})})
    with join_world("cpu") as world:
        assert duration_notes(tiny, world, True) == []
        (note,) = duration_notes(long, world, True)
    assert note.startswith("100000 steps take about ")
    assert load_config("lir-paper").training.iterations >= LONG_RUN_STEPS

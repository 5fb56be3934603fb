"""Progress and log lines of the command line: one console owns both."""

from __future__ import annotations

import importlib
import io
import logging
import re

import pytest
from rich.console import Console

from ldct_denoise.training.progress import Progress

terminal = importlib.import_module("ldct_denoise.cli.terminal")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error is a terminal of 80 columns."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80, height=40, color_system=None)
    monkeypatch.setattr(terminal, "stderr", lambda: console)
    return text


def visible(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_lines_and_log_never_share_a_line_with_the_bar(screen: io.StringIO) -> None:
    terminal.log_to_stderr(True)
    handler = terminal._Lines()
    logger = logging.getLogger("ldct_denoise.test")
    logger.addHandler(handler)
    with terminal.progress_bar("denoising") as bar:
        bar(1, 3, "series 1")
        terminal.say("a note of [brackets] and \x1b[31mcolour")
        logger.warning("a warning")
        bar(2, 3, "a note that is far too long for the rest of a line of eighty columns, and is cut")
    logger.removeHandler(handler)
    lines = [line for part in visible(screen.getvalue()).split("\n") for line in part.split("\r") if line.strip()]
    assert "a note of [brackets] and  [31mcolour" in [line.strip() for line in lines]
    assert any(line.strip().endswith("a warning") for line in lines)
    assert not any("elapsed" in line and ("warning" in line or "brackets" in line) for line in lines)
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"denoising .* 2/3 0:00 elapsed .*…", line) for line in lines)


def test_stages_are_named_and_elapsed_and_remaining_told_apart(screen: io.StringIO) -> None:
    with terminal.progress_bar("loading the model") as bar:
        count = bar.counting("denoising")
        bar.stage("reading headers")
        count(1, 4)
        (task,) = bar._bars.tasks
        assert (task.description, task.completed, task.total) == ("denoising", 1, 4)
        bar._bars.refresh()
    shown = visible(screen.getvalue())
    assert shown.index("loading the model") < shown.index("reading headers") < shown.index("denoising")
    assert "0:00 elapsed" in shown
    assert [terminal.duration(s) for s in (0, 62, 3725)] == ["0:00", "1:02", "1:02:05"]


def test_losses_and_validations_stand_in_one_table(screen: io.StringIO) -> None:
    with terminal.TrainingDisplay().shown() as display:
        display(Progress(0, 40, 0.0, message="6 files are skipped", activity="preparing"))
        for step in (10, 20, 30, 40):
            values = {"pair_psnr_db": 30 + step / 10, "noise_ratio": 1.0}
            display(Progress(step, 40, 1.0, message="summary", validation=values, activity="validating"))
            display(Progress(step, 40, 1.0, losses={"l2": 1 / step}))
        display(Progress(40, 40, 1.0, message="the weights of step 40 are kept (best)", activity="validating"))
    shown = visible(screen.getvalue())
    last = [line.split() for line in shown.splitlines()[-5:] if line.strip()]
    assert ["step", "20", "30", "40"] in last  # the last three validations
    assert ["pair_psnr_db", "32", "33", "34"] in last
    assert ["loss:", "l2", "0.05", "0.03333", "0.025"] in last
    assert "step 0: 6 files are skipped" in shown
    assert "summary" not in shown  # it is in the table


def test_without_a_terminal_validations_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    console = Console(file=text, width=80)
    monkeypatch.setattr(terminal, "stderr", lambda: console)
    with terminal.TrainingDisplay().shown() as display:
        display(Progress(10, 40, 1.0, message="held-out pairs PSNR 31.00 dB", validation={"psnr": 31.0}))
    assert "step 10: held-out pairs PSNR 31.00 dB" in text.getvalue()

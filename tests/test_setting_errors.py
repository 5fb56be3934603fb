"""Messages about settings name the option or the line of the file, say what is wrong, and suggest the closest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldct_denoise import methods
from ldct_denoise.config import load_config
from ldct_denoise.errors import ConfigError, ModelError
from ldct_denoise.models.trained import load_model
from tests.synthetic import run_cli


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.iterations=abc", "training.iterations: must be a whole number, not 'abc'"),
        ("training.iterations=0", "training.iterations: must be at least 1, not 0"),
        ("data.augment=perhaps", "data.augment: must be true or false, not 'perhaps'"),
        ("data.patch_size=33", "data.patch_size: must be a multiple of 16, not 33"),
        ("data.sigma=[1]", "data.sigma.1: is missing"),
        ("training=5", "training: must be a section of settings, not 5"),
        ("data.noise_model=npss", "not 'npss'; did you mean 'nps'?"),
        ("training.learning_rat=1", "no such setting; did you mean 'learning_rate'?"),
        ("patch_size=64", "patch_size: no such setting; did you mean 'data.patch_size'?"),
        ("settings.base_chanels=4", "settings.base_chanels: no such setting; did you mean 'base_channels'?"),
        ("settings.base_channels=0", "settings.base_channels: must be at least 4, not 0"),
    ],
)
def test_a_change_is_named_with_its_problem(change: str, message: str) -> None:
    with pytest.raises(ConfigError) as problem:
        load_config("lir-quick", [change], methods.names(), methods.check_settings)
    assert str(problem.value).startswith(f"--set {change}: ")
    assert message in str(problem.value)
    assert "permitted" not in str(problem.value)


def test_the_line_of_the_file_that_is_to_blame(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("base: lir-quick\ntraining:\n  iterations: 7\n  batch_size: -2\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: site.yaml\n# a remark\ntraining:\n  learning_rate: -1\n  batch_size: 4\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml, line 4: training\.learning_rate: must be greater than 0"):
        load_config(str(mine))
    mine.write_text("base: site.yaml\n")
    with pytest.raises(ConfigError, match=r"site\.yaml, line 4: training\.batch_size: must be at least 1, not -2"):
        load_config(str(mine))
    mine.write_text("base: site.yaml\ntraining: {batch_size: 4}\nsettings:\n  loss_weights:\n    tisue: 1\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml, line 5: settings\.loss_weights\.tisue: .*did you mean"):
        load_config(str(mine), (), methods.names(), methods.check_settings)
    mine.write_text("base: site.yaml\ntraining: {batch_size: 4}\npretraining:\n  training:\n    iterations: 0\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml, line 5: pretraining\.training\.iterations: must be at"):
        load_config(str(mine))
    # A change on the command line comes last: it is to blame, and not the file.
    with pytest.raises(ConfigError, match=r"^--set training\.batch_size=0: "):
        load_config(str(mine), ["training.batch_size=0"])


def test_names_that_are_misspelt_are_answered_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'lir-quick'"):
        load_config("lir-quik")
    with pytest.raises(ModelError, match="did you mean 'bilateral'"):
        load_model("bilatral:sigma=3")
    with pytest.raises(ModelError, match="did you mean 'redcnn'"):
        methods.find("redcn")
    code, _, error = run_cli(capsys, "inspct", "/tmp")
    assert (code, error.strip()) == (2, "error: no command is called 'inspct'; did you mean 'inspect'?")
    with pytest.raises(ModelError) as problem:
        load_model("something-else-entirely")
    assert "did you mean" not in str(problem.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ldct-denoise app", {"apply"}),
        ("ldct-denoise apply --model lir", {"lir-ct", "lir-ct-small"}),
        ("ldct-denoise models bil", {"bilateral"}),
        ("ldct-denoise train --config lir-ct", {"lir-ct", "lir-ct-small", "lir-ct-gpu"}),
        ("ldct-denoise train --set training.lr", {"training.lr_schedule=", "training.lr_step_size="}),
    ],
)
def test_the_shell_completes_names(words: str, expected: set[str]) -> None:
    from click.shell_completion import BashComplete
    from ldct_denoise.cli.main import cli

    given = words.split()
    completer = BashComplete(cli, {}, "ldct-denoise", "_LDCT_DENOISE_COMPLETE")
    assert {item.value for item in completer.get_completions(given[1:-1], given[-1])} == expected

"""The step of a router: mercure's folders, settings and exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from ldct_denoise.cli.serve import command

from ldct_denoise.errors import ConfigError, InputError, OutputError
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.node.folder import denoise_folder, step_settings
from tests.conformance import check_derived
from tests.node_peers import NAME, make_series, wait_for

pytestmark = pytest.mark.filterwarnings("ignore")


def task(folder: Path, settings: object) -> None:
    (folder / "task.json").write_text(json.dumps({"id": "1", "process": {"settings": settings}}))


@pytest.fixture
def mercure(tmp_path: Path) -> tuple[Path, Path]:
    """Two series, flat, under mercure's names, with the rule's settings; an output folder that exists."""
    source, output = tmp_path / "in", tmp_path / "out"
    for folder in (source, output):
        folder.mkdir()
    for number in (1, 2):
        for image in make_series(tmp_path / f"made{number}", "1.2.3", number, slices=3):
            image.rename(source / f"1.2.3.{number}#{image.name}")
    task(source, {"model": "bilateral", "strength": 0.5})
    return source, output


def test_every_image_gets_its_derived_one_flat_in_the_output(mercure: tuple[Path, Path]) -> None:
    source, output = mercure
    before = {path: path.read_bytes() for path in source.iterdir()}
    written = denoise_folder(source, output, step_settings(source))
    assert sorted(output.iterdir()) == sorted(written)
    assert len(written) == 6
    assert {path.name.split("#")[0] for path in written} == {"1.2.3.1-denoised", "1.2.3.2-denoised"}
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    images = [pydicom.dcmread(path) for path in written]
    assert len({image.SOPInstanceUID for image in images}) == 6
    assert all("bilateral 50%" in image.SeriesDescription for image in images)


def test_the_derived_series_conform(mercure: tuple[Path, Path], tmp_path: Path) -> None:
    source, output = mercure
    denoise_folder(source, output, step_settings(source))
    for series in scan(source).series:
        alone = tmp_path / series.uid
        alone.mkdir()
        for path in output.glob(f"{series.uid}-denoised#*.dcm"):
            path.rename(alone / path.name)
        assert check_derived(series, alone) == []


def test_command_line_options_override_the_task(mercure: tuple[Path, Path]) -> None:
    assert step_settings(mercure[0], strength=0.25).strength == 0.25
    assert step_settings(mercure[0], strength=0.25).model == "bilateral"


@pytest.mark.parametrize("settings", [{"strength": 2}, {"strenght": 0.5}, {"device": "tpu"}, "text", [1]], ids=str)
def test_a_wrong_task_is_named(tmp_path: Path, settings: object) -> None:
    task(tmp_path, settings)
    with pytest.raises(ConfigError, match=r"task\.json"):
        step_settings(tmp_path)


def test_as_mercure_starts_it(mercure: tuple[Path, Path]) -> None:
    source, output = mercure
    run = CliRunner().invoke(command, [], env={"MERCURE_IN_DIR": str(source), "MERCURE_OUT_DIR": str(output)})
    assert run.exit_code == 0, run.output
    assert sorted(run.stdout.splitlines()) == sorted(str(path) for path in output.iterdir())
    assert len(run.stdout.splitlines()) == 6


def test_without_ct_images_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "note.txt").write_text("hello")
    with pytest.raises(InputError, match="no CT series"):
        denoise_folder(tmp_path / "in", tmp_path / "out", step_settings(tmp_path / "in"))
    with pytest.raises(InputError, match="no such folder"):
        denoise_folder(tmp_path / "absent", tmp_path / "out", step_settings(tmp_path))


def test_a_second_run_overwrites_nothing(mercure: tuple[Path, Path]) -> None:
    source, output = mercure
    written = denoise_folder(source, output, step_settings(source))
    before = [path.read_bytes() for path in written]
    with pytest.raises(OutputError, match="holds denoised images already"):
        denoise_folder(source, output, step_settings(source))
    assert [path.read_bytes() for path in written] == before
    assert sorted(output.iterdir()) == sorted(written)


@pytest.mark.parametrize("arguments", [[], ["a.yaml", "--folder", "a", "b"], ["a.yaml", "--strength", "1"]])
def test_the_command_line_is_one_thing_or_the_other(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "a.yaml").write_text("{}")
    with CliRunner().isolated_filesystem(tmp_path):
        Path("a.yaml").write_text("{}")
        run = CliRunner().invoke(command, arguments, env={"MERCURE_IN_DIR": None})
    assert run.exit_code == 2


def test_nothing_from_a_header_is_logged(
    mercure: tuple[Path, Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    source, output = mercure
    for file in source.glob("*.dcm"):
        image = pydicom.dcmread(file)
        image.add(pydicom.DataElement("StudyInstanceUID", "UI", f"1.2.03.{NAME}", validation_mode=0))
        image.save_as(file)
    caplog.clear()
    denoise_folder(source, output, step_settings(source))
    captured = capfd.readouterr()
    assert len(list(output.iterdir())) == 6
    assert NAME not in caplog.text + captured.err + captured.out


def step_at_work(source: Path, output: Path) -> subprocess.Popen[bytes]:
    """The step in a process of its own, once it writes; slow, so that it can be stopped."""
    script = f"""
import time, ldct_denoise.node.folder as step
from ldct_denoise.cli.main import main
write = step.apply_series
step.apply_series = lambda *given, **named: (write(*given, **named), time.sleep(60))
main(["serve", "--folder", {str(source)!r}, {str(output)!r}])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    wait_for(lambda: bool(list(output.rglob("0003.dcm"))) or process.poll() is not None)
    assert process.poll() is None, process.stderr.read().decode()
    return process


@pytest.mark.slow
def test_sigterm_leaves_nothing_half_done(mercure: tuple[Path, Path]) -> None:
    with step_at_work(*mercure) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        assert b"stopped" in process.stderr.read()
    assert list(mercure[1].iterdir()) == []


@pytest.mark.slow
def test_the_rest_of_a_killed_step_is_deleted_at_the_next_start(mercure: tuple[Path, Path]) -> None:
    source, output = mercure
    with step_at_work(source, output) as process:
        process.kill()
    (left,) = (path for path in output.iterdir() if path.is_dir())  # its lock file lies next to it
    assert list(left.rglob("*.dcm"))
    written = denoise_folder(source, output, step_settings(source))
    assert sorted(output.iterdir()) == sorted(written)

"""The package works where Python lacks `fcntl` and `resource`, as on Windows: both are blocked in a new process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from ldct_denoise.io import process_limits
from ldct_denoise.io.volume_writer import write_volume
from tests.synthetic import run_program, water_disc

ROOT = Path(__file__).parent.parent
BLOCKED = "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None; "


def run_without(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)


def test_every_module_is_imported_without_them() -> None:
    done = run_without(
        "import importlib, pkgutil, ldct_denoise\n"
        "for found in pkgutil.walk_packages(ldct_denoise.__path__, 'ldct_denoise.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)\n"
        "assert ldct_denoise.io.process_limits.peak_memory_bytes() == 0\n"
        "assert not ldct_denoise.io.process_limits.limit_memory(1)\n"
    )
    assert done.returncode == 0, done.stderr


def test_apply_denoises_a_batch_without_them(tmp_path: Path) -> None:
    for name in "ab":
        volume = water_disc(name, 10, slices=2, side=64)
        write_volume(tmp_path / "in" / f"{name}.nii.gz", iter(volume.hu), volume.geometry)
    code = "from ldct_denoise.cli.main import main; main()"
    done = run_without(code, "apply", tmp_path / "in", "-o", tmp_path / "out", "--model", "bilateral")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out-ledger.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP of torch's build for Linux")
@pytest.mark.parametrize(("chosen", "sleep"), [({}, True), ({"OMP_WAIT_POLICY": "ACTIVE"}, False)])
def test_waiting_threads_of_apply_sleep_unless_the_user_chose(
    chosen: dict[str, str], sleep: bool, tmp_path: Path
) -> None:
    volume = water_disc("a", 10, slices=2, side=64)
    write_volume(tmp_path / "a.nii.gz", iter(volume.hu), volume.geometry)
    own = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "from ldct_denoise.cli.main import main; main()"
    command = [sys.executable, "-c", code, "apply", str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        env=own | chosen | {"OMP_DISPLAY_ENV": "VERBOSE"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert ("GOMP_SPINCOUNT = '0'" in done.stderr) == sleep


def test_a_command_whose_extra_is_missing_names_it_in_one_line(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    assert run_program("serve", "--init", rules).returncode == 0
    code = "import sys; sys.modules['pynetdicom'] = None; from ldct_denoise.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", str(rules)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: pynetdicom is not installed; pip install 'ldct-denoise[node]'\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_refuses_an_old_python_before_it_installs_anything(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")  # as the check of the version ends there
    old.chmod(0o755)
    command = ["make", "lint", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode != 0
    assert f"error: {old} is not Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_peak_memory_grows() -> None:
    before = process_limits.peak_memory_bytes()
    block = np.ones(2**24)
    assert process_limits.peak_memory_bytes() >= before > 10**7
    assert block.any()


@pytest.mark.skipif(os.name != "posix", reason="needs fcntl")
def test_no_module_imports_them_unguarded() -> None:
    users = [
        path
        for path in (ROOT / "ldct_denoise").rglob("*.py")
        if any(line in ("import fcntl", "import resource") for line in path.read_text().splitlines())
    ]
    assert users == []


def test_the_installed_versions_satisfy_the_declared_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [Requirement(text) for text in project["dependencies"]]
    assert {"Pillow", "filelock"} <= {one.name for one in requirements}
    for one in requirements:
        assert one.specifier.contains(version(one.name), prereleases=True), one


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_kept_for_the_next_feature_map() -> None:
    """Blocks as large as a feature map at full resolution come from memory that the process has already touched."""
    code = (
        "import resource, sys, numpy as np\n"
        "from ldct_denoise.io.process_limits import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': assert keep_freed_memory()\n"
        "fill = lambda: np.empty(32 * 512 * 512, np.float32).fill(1)\n"
        "fill()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(8): fill()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {
        how: int(
            subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout
        )
        for how in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 4

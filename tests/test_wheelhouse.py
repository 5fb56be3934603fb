"""Into a hospital: a wheelhouse, an installation without network, and the Dockerfile gone through step by step.

No container engine is at hand, so the Dockerfile's RUN lines run here, its paths moved into a folder of the test. Its
``pip install`` runs twice: as it stands but dry (everything is found and fits, nothing is unpacked: that takes
minutes on a busy disk), then for our own wheel alone, beside the packages of the environment that runs the tests.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ldct_denoise.node.rules import Rules
from tests.conftest import ROOT
from tests.node_peers import free_ports, identity_rule, make_series, settings

SOURCES = (
    "ldct_denoise",
    "cli",
    "configs",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "Makefile",
    "requirements.lock",
    "requirements-node.lock",
)
#: The user of the image; pip must look nowhere but where the Dockerfile says.
USER_ID = 10001
OFFLINE = {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, of all stages."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def arguments(instruction: str) -> list[str]:
    return [text for name, text in dockerfile() if name == instruction]


def without_network(command: list[str]) -> list[str]:
    """The same command where the machine can take the network away from it."""
    cut = ["unshare", "--net"]
    possible = shutil.which("unshare") and subprocess.run([*cut, "true"], capture_output=True).returncode == 0
    return [*cut, *command] if possible else command


def clean_environment(**more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "VIRTUAL"))
    }
    return kept | OFFLINE | more


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ldct-deploy-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def wheelhouse(place: Path) -> Path:
    """What ``make wheelhouse`` makes of a copy of the sources."""
    probe = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(place / "probe"),
        "click",
    ]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("no package index can be reached")
    source = place / "source"
    source.mkdir()
    for name in SOURCES:
        item = ROOT / name
        if item.is_dir():
            shutil.copytree(item, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(item, source / name)
    # The environment that runs this test is the one that builds: `-o` keeps make from making another.
    ready = Path(sys.prefix) / ".ready"
    made = subprocess.run(
        ["make", "-o", str(ready), "wheelhouse", f"VENV={sys.prefix}"], cwd=source, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return source / "wheelhouse"


@pytest.fixture(scope="module")
def installed(place: Path, wheelhouse: Path) -> Path:
    """The image's file system, as far as the RUN lines that install make it."""
    shutil.move(wheelhouse, place / "wheelhouse")
    (place / "opt").mkdir()
    for command in arguments("RUN"):
        if "useradd" in command:  # makes the user; not on this machine
            continue
        moved = command.replace("/opt/", f"{place}/opt/").replace("/wheelhouse", f"{place}/wheelhouse")
        moved = moved.replace(" /requirements-node.lock", f" {ROOT / 'requirements-node.lock'}")
        moved = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", moved)
        if "pip install" in moved:
            found = run_offline(moved.replace("--quiet", "--dry-run"))
            assert "Would install" in found
            with (place / "would-install").open("a") as would:
                would.write(found)
            if not moved.endswith(" ldct-denoise"):
                continue
        run_offline(moved)
    (own,) = (place / "opt" / "ldct-denoise").glob("lib/python*/site-packages")
    (own / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return place / "opt" / "ldct-denoise"


def run_offline(command: str) -> str:
    """What a shell command says, without network or pip's settings."""
    run = subprocess.run(
        without_network(["bash", "-euc", command]), env=clean_environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
    return run.stdout


def run_image(installed: Path, place: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The ENTRYPOINT with a command, without network, and as the image's user where this one may become it."""
    (entrypoint,) = (json.loads(text) for text in arguments("ENTRYPOINT"))
    own = dict(item.split("=", 1) for text in arguments("ENV") for item in shlex.split(text))
    own["PATH"] = own["PATH"].replace("/opt/ldct-denoise", str(installed))
    line = [*entrypoint, *command]
    become = ["setpriv", "--reuid", str(USER_ID), "--regid", str(USER_ID), "--clear-groups"]
    python = str(installed / "bin" / "python")
    if shutil.which("setpriv") and subprocess.run([*become, python, "-V"], capture_output=True).returncode == 0:
        line = [*become, *line]
    return subprocess.run(
        without_network(line), env=own | environment, cwd="/tmp", capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_a_wheelhouse_installs_with_the_index_switched_off(installed: Path, place: Path) -> None:
    names = {path.name.split("-")[0] for path in (place / "wheelhouse").glob("*.whl")}
    assert {"ldct_denoise", "torch", "pynetdicom", "pydicom"} <= names
    assert not {name for name in names if "nvidia" in name or name in ("triton", "torchvision")}
    assert all(path.suffix == ".whl" for path in (place / "wheelhouse").iterdir())
    would = (place / "would-install").read_text()
    for name in ("torch-", "ldct-denoise-", "pynetdicom-", "python-gdcm-"):
        assert name in would.replace("ldct_denoise-", "ldct-denoise-")
    assert run_image(installed, place, "--version").stdout.startswith("ldct-denoise, version")
    where = subprocess.run(
        [str(installed / "bin" / "python"), "-c", "import ldct_denoise.node as node; print(node.__file__)"],
        capture_output=True, text=True, cwd="/tmp",
    )  # fmt: skip
    assert where.stdout.startswith(str(installed))


@pytest.mark.slow
def test_the_image_is_mercure_s_step_by_default(installed: Path, place: Path) -> None:
    source, output = place / "in", place / "out"
    make_series(source, "1.2.3", 1, slices=3)
    (source / "task.json").write_text(json.dumps({"process": {"settings": {"model": "bilateral"}}}))
    output.mkdir()
    output.chmod(0o777)
    (default,) = (json.loads(text) for text in arguments("CMD"))
    run = run_image(installed, place, *default, MERCURE_IN_DIR=str(source), MERCURE_OUT_DIR=str(output))
    assert run.returncode == 0, run.stderr
    assert len(list(output.glob("*.dcm"))) == 3


@pytest.mark.slow
def test_the_image_tries_the_rules_of_a_node(installed: Path, place: Path) -> None:
    destinations = {"pacs": {"host": "127.0.0.1", "port": 104, "ae_title": "PACS"}}
    rules = settings(
        place / "spool", free_ports(1)[0], destinations=destinations, rules=[identity_rule("pacs", model="lir-ct")]
    )
    (place / "rules.yaml").write_text(yaml.safe_dump(rules))
    run = run_image(installed, place, "serve", "--check", str(place / "rules.yaml"))
    assert run.returncode == 1, run.stderr  # no network, no destination
    assert "is valid. Rules: 1; destinations: 1." in run.stdout
    assert "warning: destination pacs: network is unreachable" in run.stdout


def test_the_dockerfile_is_of_known_parts_and_not_for_root() -> None:
    lines = dockerfile()
    known = {"ARG", "FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL"}
    known |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in lines} <= known
    assert [image.split()[0] for image in arguments("FROM")] == ["${BASE}"] * 2  # may be pinned by digest
    copied_alone = {"wheelhouse", "requirements-node.lock"}
    assert {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"} == copied_alone
    assert arguments("USER") == [f"{USER_ID}:{USER_ID}"]
    assert f"useradd --uid {USER_ID} " in " ".join(arguments("RUN"))
    for copied in arguments("COPY"):
        source = copied.split()[-2]
        assert source in copied_alone or copied.startswith("--from=install "), copied
    installs = [command for command in arguments("RUN") if "pip install" in command]
    assert all("--no-index" in command for command in installs)
    others = [
        command for command in installs if not re.search(r"/wheelhouse (torch|--no-deps ldct-denoise)$", command)
    ]
    assert len(others) == 1
    assert "--require-hashes --no-deps --requirement /requirements-node.lock" in others[0]
    assert not re.search(r"https?://(?!127\.0\.0\.1)|curl|wget|apt", (ROOT / "Dockerfile").read_text())
    assert lines.index(("USER", f"{USER_ID}:{USER_ID}")) < [name for name, _ in lines].index("ENTRYPOINT")


def test_the_image_s_health_check_asks_the_default_status_port() -> None:
    (check,) = arguments("HEALTHCHECK")
    assert f"http://127.0.0.1:{Rules.model_fields['status_port'].default}/health" in check


def test_the_node_s_lock_has_a_hash_for_every_package_it_needs() -> None:
    """The same versions as requirements.lock, and all that the package and the extras of the node name."""
    text = re.sub(r"\\\n", " ", (ROOT / "requirements-node.lock").read_text())
    locked = dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)(?=.* --hash=sha256:[0-9a-f]{64})", text, re.MULTILINE))
    assert len(locked) == sum(bool(re.match("[a-z]", line)) for line in text.splitlines())
    lines = (ROOT / "requirements.lock").read_text().lower().replace("_", "-").splitlines()
    # pip freeze leaves out setuptools, which torch needs
    assert {name for name, version in locked.items() if f"{name}=={version}" not in lines} == {"setuptools"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *project["optional-dependencies"]["node"],
    ]
    names = {re.match(r"[\w.-]+", item)[0].lower().replace("_", "-") for item in needed}  # type: ignore[index]
    assert names - locked.keys() == {"torch"}

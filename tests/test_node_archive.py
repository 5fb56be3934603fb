"""``ldct-denoise serve`` as a process beside a real archive: interleaved series, kill −9, an archive that is down."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ldct_denoise.node.rules import Rules
from ldct_denoise.node.serve import Node
from tests.conftest import ROOT
from tests.node_peers import (
    IDENTIFIER,
    LOOPBACK,
    NAME,
    NodeProcess,
    Orthanc,
    free_ports,
    identity_rule,
    make_series,
    running,
    settings,
    storescu,
    tool,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings("ignore")
#: Attributes younger than Debian's dciodvfy (June 2022), which it takes for errors.
YOUNGER = ("(0008,001c)",)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    tool("Orthanc")
    archive = Orthanc(*free_ports(2), tmp_path / "orthanc")
    archive.start()
    yield archive
    archive.stop()


def by_cstore(orthanc: Orthanc) -> dict[str, object]:
    return {"host": LOOPBACK, "port": orthanc.dicom_port, "ae_title": "ORTHANC", "timeout_s": 10}


def by_stow(orthanc: Orthanc) -> dict[str, object]:
    if not Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so").exists():
        pytest.skip("Orthanc's DICOMweb plugin (orthanc-dicomweb) is not installed")
    return {"stow": f"http://{LOOPBACK}:{orthanc.http_port}/dicom-web/studies", "timeout_s": 10}


def node_for(tmp_path: Path, destination: dict[str, object], **changes: object) -> NodeProcess:
    rules = settings(
        tmp_path / "spool",
        free_ports(1)[0],
        destinations={"archive": destination},
        rules=[identity_rule("archive")],
        **changes,
    )
    return NodeProcess(tmp_path, rules)


def interleaved(tmp_path: Path, slices: int = 4, size: int = 48) -> list[Path]:
    """Three series of one study, image by image in turn."""
    series = [make_series(tmp_path / f"in{number}", "1.2.3", number, slices, size) for number in (1, 2, 3)]
    return [file for group in zip(*series, strict=True) for file in group]


def check_archive(orthanc: Orthanc, sent: list[Path], tmp_path: Path) -> None:
    """One derived image for each image sent, with its pixels, in as many series; valid, and stored once."""
    images = orthanc.images()
    sources = {str(image.SOPInstanceUID): image for image in map(pydicom.dcmread, sent)}
    made_of = Counter(str(image.SourceImageSequence[0].ReferencedSOPInstanceUID) for image in images)
    assert made_of == Counter(sources.keys())
    series = {str(image.SeriesInstanceUID) for image in images}
    assert len(series) == len({str(image.SeriesInstanceUID) for image in sources.values()})
    for image in images:
        source = sources[str(image.SourceImageSequence[0].ReferencedSOPInstanceUID)]
        assert list(image.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert image.StudyInstanceUID == source.StudyInstanceUID
        np.testing.assert_array_equal(image.pixel_array, source.pixel_array)
    stored = [change for change in orthanc.changes() if change["ChangeType"] == "NewInstance"]
    assert len(stored) == len(sent)
    assert dciodvfy_errors(images, tmp_path) <= dciodvfy_errors(list(sources.values()), tmp_path)


def dciodvfy_errors(images: list[pydicom.Dataset], tmp_path: Path) -> set[str]:
    if shutil.which("dciodvfy") is None:
        return set()
    found: set[str] = set()
    for image in images:
        image.save_as(tmp_path / "check.dcm")
        told = subprocess.run(["dciodvfy", "-new", str(tmp_path / "check.dcm")], capture_output=True, text=True)
        lines = (told.stdout + told.stderr).splitlines()
        found |= {line for line in lines if line.startswith("Error") and not any(y in line for y in YOUNGER)}
    return found


def test_three_interleaved_series_come_out_once_each(orthanc: Orthanc, tmp_path: Path) -> None:
    sent = interleaved(tmp_path)
    node = node_for(tmp_path, by_cstore(orthanc))
    with running(node):
        assert storescu(node.port, sent).returncode == 0
        wait_for(lambda: len(orthanc.instances()) == len(sent))
        wait_for(lambda: not list((tmp_path / "spool").rglob("*.dcm")))
        assert node.stop() == 0
    check_archive(orthanc, sent, tmp_path)
    log = node.log.read_text()
    assert log.count("images denoised") == 3
    for secret in (NAME, IDENTIFIER, "1.2.3", "low dose", "Traceback"):
        assert secret not in log
    assert re.search(r"INFO LDCT listens on 127\.0\.0\.1", log)


@pytest.mark.slow
def test_killed_at_every_stage_it_comes_to_the_same_end(orthanc: Orthanc, tmp_path: Path) -> None:
    sent = interleaved(tmp_path, slices=8, size=192)
    spool = tmp_path / "spool"
    node = node_for(tmp_path, by_cstore(orthanc), complete={"quiet_s": 2.0, "released_s": 2.0})

    def received() -> int:
        return len(list((spool / "incoming").rglob("*.dcm")))

    with running(node):
        sender = subprocess.Popen(
            [tool("storescu"), "-v", "-aet", "CT1", "-aec", "LDCT", LOOPBACK, str(node.port), *map(str, sent)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        wait_for(lambda: received() >= 5)
        node.kill()
        acknowledged = sender.communicate(timeout=30)[0].count("Received Store Response (Success)")
        assert 0 < acknowledged < len(sent)
        assert received() >= acknowledged
        node.start()
        assert storescu(node.port, sent).returncode == 0
        wait_for(lambda: bool(list((spool / "working").rglob("*.dcm"))))
        node.kill()
        node.start()
        wait_for(lambda: 0 < sum(len(file.read_text().split()) for file in spool.rglob("*.sent")) < len(sent))
        node.kill()
        node.start()
        wait_for(lambda: len(orthanc.instances()) == len(sent))
        wait_for(lambda: not list(spool.rglob("*.dcm")))
    check_archive(orthanc, sent, tmp_path)
    assert not list((spool / "dead-letter").iterdir())


def test_stow_to_an_archive_that_was_down(orthanc: Orthanc, tmp_path: Path) -> None:
    sent = interleaved(tmp_path, slices=2)
    node = Node(Rules(**node_for(tmp_path, by_stow(orthanc)).rules))
    orthanc.stop()
    node.start()
    try:
        assert storescu(node.rules.port, sent).returncode == 0
        wait_for(lambda: node.counters.get("send_failures", "archive") > 0)
        orthanc.start()
        wait_for(lambda: len(orthanc.instances()) == len(sent))
    finally:
        node.stop(0.1)
    check_archive(orthanc, sent, tmp_path)


def test_orthanc_routes_to_the_node_by_the_script_of_the_documents(tmp_path: Path) -> None:
    tool("Orthanc")
    port, *ports = free_ports(3)
    orthanc = Orthanc(*ports, tmp_path / "orthanc")
    (tmp_path / "ldct.lua").write_text(documented("lua", "how-to/pacs.md"))
    asked = json.loads(documented("json", "how-to/pacs.md"))
    orthanc.more = {
        "DicomModalities": {
            name: [title, host, port] for name, (title, host, _) in asked["DicomModalities"].items()
        },
        "LuaScripts": [str(tmp_path / "ldct.lua")],
        "StableAge": 1,
    }
    rules = node_for(tmp_path, by_cstore(orthanc)).rules | {"port": port, "accept": [{"ae_title": "ORTHANC"}]}
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=3)
    orthanc.start()
    node = Node(Rules(**rules))
    node.start()
    try:
        assert storescu(orthanc.dicom_port, files, called="ORTHANC").returncode == 0
        wait_for(lambda: len(orthanc.instances()) == 6)
        # The derived series becomes stable in its turn, and does not go round again.
        wait_for(lambda: sum(change["ChangeType"] == "StableSeries" for change in orthanc.changes()) == 2)
        assert node.counters.get("images_received") == 3
    finally:
        node.stop(0.1)
        orthanc.stop()


def documented(language: str, name: str) -> str:
    """The first block of a language in a document."""
    text = (ROOT / "docs" / name).read_text()
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]

"""Series pulled from a real archive by accession number: C-FIND with C-GET or C-MOVE, QIDO-RS with WADO-RS."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
import yaml

from ldct_denoise.errors import InputError
from ldct_denoise.node.multipart import boundary_of, read_parts
from ldct_denoise.node.pull import add_pulls, list_pulls
from ldct_denoise.node.serve import Node
from tests.node_peers import (
    IDENTIFIER,
    LOOPBACK,
    Orthanc,
    Receiver,
    free_ports,
    identity_rule,
    make_series,
    settings,
    storescu,
    tool,
    wait_for,
)
from tests.synthetic import run_cli

pytestmark = pytest.mark.filterwarnings("ignore")
Start = Callable[..., Node]


@pytest.fixture
def archive() -> Iterator[Receiver]:
    receiver = Receiver(free_ports(1)[0]).start()
    yield receiver
    receiver.stop()


def fill(orthanc: Orthanc, folder: Path) -> dict[str, set[str]]:
    """Three CT series, of two accession numbers, and an MR series; the UIDs of the CT images by accession number."""
    uids: dict[str, set[str]] = {"A1": set(), "A2": set()}
    files = []
    for number, accession in enumerate(("A1", "A1", "A2", "A1"), 1):
        for file in make_series(folder / str(number), f"1.2.{accession[1]}", number, slices=2):
            image = pydicom.dcmread(file)
            image.AccessionNumber = accession
            if number == 4:
                image.Modality = "MR"
            else:
                uids[accession].add(str(image.SOPInstanceUID))
            image.save_as(file)
            files.append(file)
    assert storescu(orthanc.dicom_port, files, called="ORTHANC").returncode == 0
    return uids


def sources(orthanc: Orthanc) -> dict[str, dict[str, object]]:
    pacs = {"host": LOOPBACK, "port": orthanc.dicom_port, "ae_title": "ORTHANC", "timeout_s": 10}
    web = {"dicomweb": f"http://{LOOPBACK}:{orthanc.http_port}/dicom-web", "timeout_s": 10}
    return {"get": pacs, "move": pacs | {"retrieve": "move"}, "web": web}


def made_from(archive: Receiver) -> set[str]:
    return {str(image.SourceImageSequence[0].ReferencedSOPInstanceUID) for image in archive.received}


def test_series_are_pulled_denoised_and_delivered(start: Start, archive: Receiver, tmp_path: Path) -> None:
    """By each way in turn; the archive is down at first, and an unknown accession number fails for good."""
    tool("Orthanc")
    port = free_ports(1)[0]
    orthanc = Orthanc(*free_ports(2), tmp_path / "orthanc")
    orthanc.more = {"DicomModalities": {"ldct": ["LDCT", LOOPBACK, port]}}
    node = start(
        port=port,
        accept=[{"ae_title": "ORTHANC"}],
        sources=sources(orthanc),
        destinations={"archive": archive.destination},
        rules=[identity_rule("archive")],
    )
    add_pulls(node.spool.root, "get", ["A1"])
    wait_for(lambda: node.counters.get("pull_failures") > 0)
    (waiting,) = list_pulls(node.spool.root)
    assert (waiting.state, waiting.reason) == ("waiting", "connection refused: nothing listens on its port")
    try:
        orthanc.start()
        uids = fill(orthanc, tmp_path / "in")
        add_pulls(node.spool.root, "get", ["A1"])  # it failed if it was carried out before the images were there
        wait_for(lambda: made_from(archive) == uids["A1"])
        wait_for(lambda: not list_pulls(node.spool.root))
        add_pulls(node.spool.root, "move", ["A2"])
        wait_for(lambda: made_from(archive) == uids["A1"] | uids["A2"])
        wait_for(lambda: not list_pulls(node.spool.root))
        assert len(archive.received) == 6
        add_pulls(node.spool.root, "get", ["UNKNOWN"])
        wait_for(lambda: any(one.state == "failed" for one in list_pulls(node.spool.root)))
        assert [one.accession_number for one in list_pulls(node.spool.root)] == ["UNKNOWN"]
        (failed,) = list_pulls(node.spool.root)
        assert failed.reason == "no CT series with this accession number"
        assert "1 pulls failed" in node.health()["problems"]
    finally:
        orthanc.stop()


def test_series_are_pulled_by_dicomweb(start: Start, archive: Receiver, tmp_path: Path) -> None:
    if not Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so").exists():
        pytest.skip("Orthanc's DICOMweb plugin (orthanc-dicomweb) is not installed")
    orthanc = Orthanc(*free_ports(2), tmp_path / "orthanc")
    orthanc.start()
    try:
        uids = fill(orthanc, tmp_path / "in")
        node = start(
            sources=sources(orthanc),
            destinations={"archive": archive.destination},
            rules=[identity_rule("archive")],
        )
        add_pulls(node.spool.root, "web", ["A1"])
        wait_for(lambda: made_from(archive) == uids["A1"])
        wait_for(lambda: not list_pulls(node.spool.root))
        assert {str(image.PatientID) for image in archive.received} == {IDENTIFIER}
        assert node.counters.get("pulled_series") == 2
    finally:
        orthanc.stop()


def test_the_command_asks_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = settings(tmp_path / "spool", 11112, sources={"pacs": {"host": "h", "port": 104, "ae_title": "PACS"}})
    rules, numbers = tmp_path / "rules.yaml", tmp_path / "numbers.txt"
    rules.write_text(yaml.safe_dump(content))
    numbers.write_text("A 2\n\nA3\n")
    (tmp_path / "spool").mkdir()
    for state in ("incoming", "ready", "outgoing", "dead-letter"):
        (tmp_path / "spool" / state).mkdir()

    def run(*arguments: str) -> str:
        _, out, error = run_cli(capsys, "node", *arguments)
        return out + error

    assert "3 requests" in run("pull", str(rules), "pacs", "A1", "--file", str(numbers))
    assert {one.accession_number for one in list_pulls(tmp_path / "spool")} == {"A1", "A 2", "A3"}
    listed = run("list", str(rules))
    assert "from pacs" in listed
    assert "A 2" in listed
    assert "no source 'web'; known: pacs" in run("pull", str(rules), "web", "A1")
    assert "1 to 16 characters" in run("pull", str(rules), "pacs", "*")


# Multipart messages -----------------------------------------------------------------------------------------------

BOUNDARY = b"x1"
PARTS = [b"DICM" * 50_000, b"", b"\r\n--x", b"a--x1 within a line"]
MESSAGE = (
    b"".join(b"--x1\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in PARTS) + b"--x1--"
)


class Drip(io.BytesIO):
    """A stream that gives few bytes at a time."""

    def read(self, size: int = -1, /) -> bytes:
        return super().read(min(size, 7) if self.tell() > len(PARTS[0]) else size)


@pytest.mark.parametrize("stream", [io.BytesIO, Drip])
def test_parts_are_read_as_they_were_written(stream: type[io.BytesIO]) -> None:
    assert list(read_parts(stream(MESSAGE), BOUNDARY, 1 << 20)) == PARTS
    assert boundary_of('multipart/related; type="application/dicom"; boundary="x1"') == BOUNDARY


@pytest.mark.parametrize("length", [0, 3, 30, 1000, len(MESSAGE) - 3])
def test_a_message_that_ends_too_early_is_refused(length: int) -> None:
    with pytest.raises(InputError, match="ends too early"):
        list(read_parts(io.BytesIO(MESSAGE[:length]), BOUNDARY, 1 << 20))


def test_a_part_beyond_the_limit_is_refused() -> None:
    with pytest.raises(InputError, match="more than 100000 bytes"):
        list(read_parts(io.BytesIO(MESSAGE), BOUNDARY, 100_000))
    with pytest.raises(InputError, match="no multipart"):
        boundary_of("text/html")

"""Storage commitment with real peers: nothing is deleted before it is given, and senders get a true answer."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE, build_role, evt, sop_class
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from ldct_denoise.node.serve import Node
from tests.conftest import ROOT
from tests.node_peers import (
    LOOPBACK,
    Orthanc,
    Receiver,
    free_ports,
    identity_rule,
    make_series,
    storescu,
    tool,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings("ignore")
Start = Callable[..., Node]
CALLERS = [{"ae_title": "CT1"}, {"ae_title": "ORTHANC"}, {"ae_title": "ARCHIVE"}]


def orthanc_beside(node_port: int, folder: Path) -> Orthanc:
    tool("Orthanc")
    orthanc = Orthanc(*free_ports(2), folder)
    orthanc.more = {"DicomModalities": {"ldct": ["LDCT", LOOPBACK, node_port]}}
    orthanc.start()
    return orthanc


def received_images(node: Node) -> int:
    return len(list((node.spool.root / "kept").rglob("*.dcm")))


def is_idle(node: Node) -> bool:
    return not any(node.spool.counts().values())


class Archive(Receiver):
    """A receiver that takes requests for storage commitment and reports what it is told to, when it is told to."""

    def __init__(self, node_port: int) -> None:
        super().__init__(free_ports(1)[0])
        self.node_port, self.asked = node_port, []

    def start(self) -> Archive:
        entity = AE("ARCHIVE")
        entity.add_supported_context(pydicom.uid.CTImageStorage)
        entity.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self._server = entity.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)
        return self

    def _action(self, event: object) -> tuple[int, None]:
        self.asked.append(event.action_information)
        return 0x0000, None

    def report(self, failed: int = 0, ae_title: str = "ARCHIVE", request: int = -1) -> int:
        """Report the result of a request: the first images failed."""
        asked = self.asked[request]
        result = pydicom.Dataset()
        result.TransactionUID = asked.TransactionUID
        result.ReferencedSOPSequence = asked.ReferencedSOPSequence[failed:]
        if failed:
            result.FailedSOPSequence = asked.ReferencedSOPSequence[:failed]
            for item in result.FailedSOPSequence:
                item.FailureReason = 0x0110
        entity = AE(ae_title)
        entity.add_requested_context(StorageCommitmentPushModel)
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
        association = entity.associate(LOOPBACK, self.node_port, ae_title="LDCT", ext_neg=roles)
        answer, _ = association.send_n_event_report(
            result, 2 if failed else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        association.release()
        return answer.Status


@pytest.fixture
def site(start: Start) -> Iterator[tuple[Node, Archive]]:
    """A node whose archive is asked for commitment, once a second where it does not answer."""
    port = free_ports(1)[0]
    archive = Archive(port).start()
    to_archive = archive.destination | {"commitment": True, "commitment_wait_s": 1}
    node = start(port=port, accept=CALLERS, destinations={"archive": to_archive}, rules=[identity_rule("archive")])
    yield node, archive
    archive.stop()


def test_orthanc_commits_before_anything_is_deleted(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    orthanc = orthanc_beside(port, tmp_path / "orthanc")
    to_orthanc = {"host": LOOPBACK, "port": orthanc.dicom_port, "ae_title": "ORTHANC", "commitment": True}
    try:
        node = start(port=port, accept=CALLERS, destinations={"pacs": to_orthanc}, rules=[identity_rule("pacs")])
        assert storescu(port, make_series(tmp_path / "in", "1.2.3", 1, slices=3)).returncode == 0
        wait_for(lambda: node.counters.get("committed", "pacs") == 3)
        wait_for(lambda: is_idle(node))
        assert len(orthanc.instances()) == 3
        assert received_images(node) == 0
        (key,) = (folder.name for folder in node.spool.memory.root.iterdir())
        assert node.spool.memory.committed(key, "pacs") == node.spool.memory.sent(key, "pacs")
    finally:
        orthanc.stop()


def test_sources_and_results_stay_until_commitment_is_given(site: tuple[Node, Archive], tmp_path: Path) -> None:
    node, archive = site
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=3)
    storescu(node.rules.port, files)
    wait_for(lambda: len(archive.asked) >= 1)
    assert node.spool.counts()["outgoing"] == 1
    kept = {str(pydicom.dcmread(file).SOPInstanceUID) for file in (node.spool.root / "kept").rglob("*.dcm")}
    assert kept == {str(pydicom.dcmread(file).SOPInstanceUID) for file in files}
    assert archive.report(ae_title="ORTHANC") == 0x0110  # another peer cannot commit for the archive
    wait_for(lambda: len(archive.asked) >= 2)  # unanswered, it is asked again
    assert archive.report(request=0) == 0x0110  # of a request that was replaced
    assert received_images(node) == 3
    assert archive.report() == 0x0000
    wait_for(lambda: is_idle(node))
    assert received_images(node) == 0
    assert len(archive.received) == 3


def test_what_is_not_committed_is_sent_again(site: tuple[Node, Archive], tmp_path: Path) -> None:
    node, archive = site
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=3))
    wait_for(lambda: len(archive.asked) == 1)
    lost = str(archive.asked[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    assert archive.report(failed=1) == 0x0000
    wait_for(lambda: len(archive.asked) == 2)
    assert [item.ReferencedSOPInstanceUID for item in archive.asked[1].ReferencedSOPSequence] == [lost]
    assert archive.uids.count(lost) == 2
    assert len(archive.received) == 4
    archive.report()
    wait_for(lambda: is_idle(node))


def test_without_commitment_it_becomes_a_dead_letter_with_its_sources(start: Start, tmp_path: Path) -> None:
    archive = Archive(0).start()
    to_archive = archive.destination | {"commitment": True, "commitment_wait_s": 0.1}
    node = start(
        destinations={"archive": to_archive},
        rules=[identity_rule("archive")],
        retry={"first_s": 0.1, "longest_s": 0.1, "give_up_h": 0.3 / 3600},
    )
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    wait_for(lambda: node.spool.counts()["dead-letter"] == 1)
    assert received_images(node) == 2
    (note,) = (node.spool.root / "dead-letter").glob("*.json")
    assert "no result of storage commitment in time" in json.loads(note.read_text())["reason"]
    archive.stop()


def ask(orthanc: Orthanc, uids: list[str]) -> str:
    """Let Orthanc ask the node for storage commitment; the path of its result."""
    body = json.dumps({"DicomInstances": [[pydicom.uid.CTImageStorage, uid] for uid in uids]}).encode()
    url = f"http://{LOOPBACK}:{orthanc.http_port}/modalities/ldct/storage-commitment"
    with urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=10) as answer:
        return json.loads(answer.read())["Path"]


def test_a_sender_learns_which_of_its_originals_arrived(start: Start, tmp_path: Path) -> None:
    """Orthanc asks the node: pending while the archive is down, then success; failure for what is unknown."""
    port = free_ports(1)[0]
    orthanc = orthanc_beside(port, tmp_path / "orthanc")
    archive = Receiver(free_ports(1)[0])
    sender = {"ae_title": "ORTHANC", "commitment": {"port": orthanc.dicom_port}}
    try:
        node = start(
            port=port,
            accept=[{"ae_title": "CT1"}, sender],
            destinations={"archive": archive.destination},
            rules=[{"ignore": True, "originals_to": ["archive"]}],
        )
        files = make_series(tmp_path / "in", "1.2.3", 1, slices=2)
        uids = [str(pydicom.dcmread(file).SOPInstanceUID) for file in files]
        storescu(port, files)
        known, unknown = ask(orthanc, uids), ask(orthanc, [*uids, "1.2.3.4.5"])
        wait_for(lambda: node.counters.get("send_failures", "archive") > 0)
        assert orthanc.get(known)["Status"] == "Pending"
        archive.start()
        wait_for(lambda: orthanc.get(known)["Status"] != "Pending")
        wait_for(lambda: orthanc.get(unknown)["Status"] != "Pending")
        assert orthanc.get(known)["Status"] == "Success"
        found = orthanc.get(unknown)
        assert found["Status"] == "Failure"
        assert [(item["SOPInstanceUID"], item["FailureReason"]) for item in found["Failures"]] == [
            ("1.2.3.4.5", 0x0112)
        ]
        wait_for(lambda: not list((node.spool.root / "commitments").iterdir()))
    finally:
        archive.stop()
        orthanc.stop()


def test_a_caller_without_a_port_for_results_is_refused(start: Start) -> None:
    node = start()
    entity = AE("CT1")
    entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate(LOOPBACK, node.rules.port, ae_title="LDCT")
    request = pydicom.Dataset()
    request.TransactionUID = "1.2.3"
    request.ReferencedSOPSequence = [pydicom.Dataset()]
    request.ReferencedSOPSequence[0].ReferencedSOPClassUID = pydicom.uid.CTImageStorage
    request.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"
    answer, _ = association.send_n_action(
        request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    association.release()
    assert answer.Status == 0x0110
    assert not list((node.spool.root / "commitments").iterdir())


def test_the_conformance_statement_names_the_services_that_are_accepted(start: Start) -> None:
    """Of all SOP classes that pynetdicom knows; 128 fit into one association."""
    node = start()
    known = [uid for _, uid in inspect.getmembers(sop_class, lambda item: isinstance(item, sop_class.SOPClass))]
    accepted: set[str] = set()
    for first in range(0, len(known), 128):
        entity = AE("CT1")
        for uid in known[first : first + 128]:
            entity.add_requested_context(uid)
        association = entity.associate(LOOPBACK, node.rules.port, ae_title="LDCT")
        accepted |= {str(context.abstract_syntax) for context in association.accepted_contexts}
        if association.is_established:
            association.release()
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    rows = [row for row in hooks.node_services().splitlines() if row.endswith("| yes |")]
    stated = {re.search(r"`([\d.]+)`", row)[1] for row in rows}
    stated |= set(re.findall(r"`([\d.]+)`", hooks.storage_classes()))
    assert accepted == stated

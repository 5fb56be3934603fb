"""The audit trail: messages by the schema of PS3.15, over syslog, none lost while the repository is down."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pydicom
import pytest

from ldct_denoise.models.trained import load_model
from ldct_denoise.node.audit_message import EVENTS, Participant, StudyObject, audit_message
from ldct_denoise.node.serve import Node
from tests.node_peers import (
    IDENTIFIER,
    LOOPBACK,
    NAME,
    Receiver,
    echoscu,
    free_ports,
    identity_rule,
    make_series,
    storescu,
    wait_for,
)
from tests.test_node_security import certificates

pytestmark = pytest.mark.filterwarnings("ignore")
Start = Callable[..., Node]
CODE = {"csd-code", "codeSystemName", "originalText"}
#: The RELAX NG schema of PS3.15 A.5.1: required attributes, optional ones, children with their smallest number.
SCHEMA: dict[str, tuple[set[str], set[str], list[tuple[str, int]]]] = {
    "AuditMessage": (
        set(), set(),
        [("EventIdentification", 1), ("ActiveParticipant", 1), ("AuditSourceIdentification", 1),
         ("ParticipantObjectIdentification", 0)],
    ),
    "EventIdentification": (
        {"EventDateTime", "EventOutcomeIndicator"}, {"EventActionCode"},
        [("EventID", 1), ("EventTypeCode", 0), ("EventOutcomeDescription", 0)],
    ),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
        [("RoleIDCode", 0)],
    ),
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}, [("AuditSourceTypeCode", 0)]),
    "AuditSourceTypeCode": ({"csd-code"}, set(), []),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"}, {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole"},
        [("ParticipantObjectIDTypeCode", 1), ("ParticipantObjectName", 1), ("ParticipantObjectDetail", 0),
         ("ParticipantObjectDescription", 0)],
    ),
    "ParticipantObjectDetail": ({"type", "value"}, set(), []),
    "ParticipantObjectDescription": (set(), set(), [("Accession", 0), ("SOPClass", 0)]),
    "Accession": ({"Number"}, set(), []),
    "SOPClass": ({"NumberOfInstances"}, {"UID"}, []),
    "ParticipantObjectName": (set(), set(), []),
    "EventOutcomeDescription": (set(), set(), []),
    **dict.fromkeys(
        ("EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode"), (CODE, {"displayName"}, [])
    ),
}  # fmt: skip


def check(element: ElementTree.Element) -> None:
    required, optional, children = SCHEMA[element.tag]
    assert required <= set(element.attrib) <= required | optional, element.tag
    names = [child.tag for child in element]
    order = [name for name, _ in children]
    assert names == sorted(names, key=order.index)
    for name, least in children:
        assert names.count(name) >= least
    for child in element:
        check(child)


class Repository:
    """Takes syslog messages over TLS or TCP (RFC 5425) or UDP."""

    def __init__(
        self, port: int, certificate: tuple[str, str] | None = None, kind: int = socket.SOCK_STREAM
    ) -> None:
        self.port, self.messages = port, []
        self._socket = socket.socket(type=kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, port))
        self._context = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        if kind == socket.SOCK_STREAM:
            self._socket.listen()
        self._serve = self._streams if kind == socket.SOCK_STREAM else self._datagrams
        threading.Thread(target=self._serve, daemon=True).start()

    def _streams(self) -> None:
        while True:
            try:
                connection = self._socket.accept()[0]
                if self._context:
                    connection = self._context.wrap_socket(connection, server_side=True)
                with connection, connection.makefile("rb") as stream:
                    while length := b"".join(iter(lambda: stream.read(1).strip(), b"")):
                        self.messages.append(stream.read(int(length)).decode())
            except OSError:
                if self._socket.fileno() < 0:
                    return

    def _datagrams(self) -> None:
        while True:
            try:
                self.messages.append(self._socket.recv(65536).decode())
            except OSError:
                return

    def stop(self) -> None:
        self._socket.close()

    @property
    def events(self) -> list[ElementTree.Element]:
        """The messages, checked against the formats of syslog and of the schema."""
        found = []
        for message in self.messages:
            header, text = message.split("\ufeff")
            pattern = r"<85>1 \d{4}-\d\d-\d\dT[\d:.]+[+-]\d\d:\d\d \S+ ldct-denoise \d+ DICOM\+RFC3881 - "
            assert re.fullmatch(pattern, header)
            found.append(ElementTree.fromstring(text))
            check(found[-1])
        return found

    def named(self, event: str) -> list[ElementTree.Element]:
        code = EVENTS[event][0]
        return [item for item in self.events if item.find("EventIdentification/EventID").get("csd-code") == code]


def details(event: ElementTree.Element) -> dict[str, str]:
    return {
        item.get("type"): base64.b64decode(item.get("value")).decode()
        for item in event.iter("ParticipantObjectDetail")
    }


def participants(event: ElementTree.Element) -> dict[str, str]:
    """AE title by role."""
    return {
        item.find("RoleIDCode").get("originalText"): (item.get("AlternativeUserID") or "").partition("=")[2]
        for item in event.iter("ActiveParticipant")
    }


@pytest.fixture
def archive() -> Iterator[Receiver]:
    receiver = Receiver(free_ports(1)[0]).start()
    yield receiver
    receiver.stop()


def test_study_model_checksum_time_and_destination_are_in_the_trail(
    start: Start, archive: Receiver, tmp_path: Path
) -> None:
    """Over TLS; the repository is down at first, and gets everything once it is there."""
    authority, certificate, _ = certificates(tmp_path)
    port = free_ports(1)[0]
    node = start(
        audit={"host": "localhost", "port": port, "tls": {"authority": authority}},
        destinations={"archive": archive.destination},
        rules=[identity_rule("archive", originals_to=["archive"])],
    )
    began = datetime.now(UTC)
    assert storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=3)).returncode == 0
    assert echoscu(node.rules.port, caller="INTRUDER") != 0
    wait_for(lambda: len(archive.received) == 6)
    wait_for(lambda: node.counters.get("audit_failures") > 0)
    repository = Repository(port, certificate)
    wait_for(lambda: len(repository.named("transferred")) == 3)
    node.stop(0.2)
    wait_for(lambda: len(repository.named("activity")) == 2)
    repository.stop()
    received, originals, derived = sorted(repository.named("transferred"), key=lambda item: len(details(item)))
    assert participants(received) == {"Source Role ID": "CT1", "Destination Role ID": "LDCT"}
    assert participants(originals) == participants(derived) == {
        "Source Role ID": "LDCT", "Destination Role ID": "ARCHIVE"
    }  # fmt: skip
    for event in (received, originals, derived):
        ids = [item.get("ParticipantObjectID") for item in event.iter("ParticipantObjectIdentification")]
        assert ids == ["1.2.3", IDENTIFIER]
        assert [item.get("NumberOfInstances") for item in event.iter("SOPClass")] == ["3"]
        moment = datetime.fromisoformat(event.find("EventIdentification").get("EventDateTime"))
        assert 0 <= (moment - began).total_seconds() < 60
        assert event.find("EventIdentification").get("EventOutcomeIndicator") == "0"
    model = load_model("bilateral")
    (made,) = repository.named("accessed")
    for event in (made, derived):
        assert (details(event)["model"], details(event)["model-sha256"]) == ("bilateral", model.checksum)
        assert details(event)["series-1"] in {str(image.SeriesInstanceUID) for image in archive.received}
    (alert,) = repository.named("alert")
    assert participants(alert)["Source Role ID"] == "INTRUDER"
    assert alert.find("EventIdentification").get("EventOutcomeIndicator") == "8"
    assert NAME not in "".join(repository.messages)
    assert not list((node.spool.root / "audit").iterdir())


def test_a_delivery_that_failed_is_reported_as_such(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    repository = Repository(port, kind=socket.SOCK_DGRAM)
    refusing = Receiver(free_ports(1)[0], status=0xC000).start()
    node = start(
        audit={"host": LOOPBACK, "port": port, "transport": "udp"},
        destinations={"archive": refusing.destination},
        rules=[identity_rule("archive")],
    )
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    wait_for(lambda: len(repository.named("transferred")) == 2)
    failed = repository.named("transferred")[-1]
    assert failed.find("EventIdentification").get("EventOutcomeIndicator") == "8"
    assert failed.findtext("EventIdentification/EventOutcomeDescription") == (
        "2 of 2 images refused: C-STORE status 0xC000"
    )
    repository.stop()
    refusing.stop()


def test_without_the_setting_nothing_is_written(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(destinations={"archive": archive.destination}, rules=[identity_rule("archive")])
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    wait_for(lambda: len(archive.received) == 2)
    node.stop(0.2)
    assert not (node.spool.root / "audit").exists()


def test_old_messages_that_cannot_be_sent_are_deleted(start: Start) -> None:
    audit = {"host": LOOPBACK, "port": free_ports(1)[0], "transport": "tcp", "keep_days": 1e-6}
    node = start(audit=audit)
    wait_for(lambda: not list((node.spool.root / "audit").iterdir()))
    assert node.counters.get("audit_messages") == 0


def test_texts_of_a_hostile_header_stay_data() -> None:
    hostile = '</AuditMessage>"&\x1b<x'
    text = audit_message(
        "transferred", "C", datetime.now(UTC), "LDCT", (Participant(hostile, "source", "10.1.2.3"),),
        study=StudyObject("1.2", hostile, hostile, {pydicom.uid.CTImageStorage: 1}, {"model": hostile}),
    )  # fmt: skip
    root = ElementTree.fromstring(text)
    check(root)
    assert details(root)["model"] == hostile
    assert root.find("ActiveParticipant").get("NetworkAccessPointTypeCode") == "2"

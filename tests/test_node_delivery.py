"""Delivery image by image: what counts as stored, what is tried again, and what holds back nothing."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ldct_denoise.node.counters import Counters
from ldct_denoise.node.deliver import Deliverer, settle
from ldct_denoise.node.records import Delivery, Record
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.spool import Spool
from ldct_denoise.node.stow_answer import StowAnswer, parse_stow_answer
from tests.dicom_files import write_ct
from tests.node_peers import LOOPBACK, Receiver, free_ports, identity_rule, settings

pytestmark = pytest.mark.filterwarnings("ignore")
BATCH = "k-a.1"
UIDS = ("1.2.1", "1.2.2", "1.2.3")
Reply = tuple[int, bytes]


class Delivering:
    """A deliverer with one batch of three images, whose attempts follow each other at once."""

    def __init__(self, folder: Path, destination: dict[str, object]) -> None:
        rules = settings(folder / "spool", 11112, destinations={"a": destination}, rules=[identity_rule("a")])
        self.rules = Rules(**rules | {"retry": {"first_s": 1e-9, "longest_s": 1e-9}})
        self.spool = Spool(self.rules.spool, self.rules.limits)
        self.counters = Counters()
        for number, uid in enumerate(UIDS):
            write_ct(self.spool.folder("outgoing", BATCH) / f"{number}.dcm", number, SOPInstanceUID=uid)
        self.spool.set_record(BATCH, Record(deliveries={"a": Delivery()}))
        self.deliverer = Deliverer("a", self.rules, self.spool, self.counters, threading.Event())

    def attempt(self) -> Delivery:
        self.deliverer.run_once()
        return self.spool.record(BATCH).deliveries["a"]

    @property
    def sent(self) -> set[str]:
        return set(self.spool.memory.sent("k-a", "a"))

    def settled(self) -> str:
        settle(self.spool, self.rules, self.counters)
        return next((state for state, count in self.spool.counts().items() if count), "deleted")


class StowServer:
    """A DICOMweb server whose answer to an image is decided by a function of its SOP Instance UID."""

    def __init__(self, reply: Callable[[str], Reply]) -> None:
        self.reply, self.posted = reply, []
        stow = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                uid = re.search(rb"\x08\x00\x18\x00UI..([0-9.]+)", body, re.DOTALL)[1].decode()
                stow.posted.append(uid)
                status, answer = stow.reply(uid)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *given: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.destination = {"stow": f"http://{LOOPBACK}:{self._server.server_port}/studies", "timeout_s": 5}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def stow() -> Iterator[StowServer]:
    server = StowServer(stored_json)
    yield server
    server.stop()


def as_json(sequence: str, uid: str, **reason: int) -> bytes:
    item = {"00081155": {"vr": "UI", "Value": [uid]}}
    item |= {tag.strip("_"): {"vr": "US", "Value": [value]} for tag, value in reason.items()}
    return json.dumps({sequence: {"vr": "SQ", "Value": [item]}}).encode()


def as_xml(sequence: str, uid: str, **reason: int) -> bytes:
    values = {"00081155": uid} | {tag.strip("_"): value for tag, value in reason.items()}
    item = "".join(
        f'<DicomAttribute tag="{tag}" vr="UI"><Value number="1">{value}</Value></DicomAttribute>'
        for tag, value in values.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
        f'<DicomAttribute tag="{sequence}" vr="SQ"><Item number="1">{item}</Item></DicomAttribute></NativeDicomModel>'
    ).encode()


def stored_json(uid: str) -> Reply:
    return 200, as_json("00081199", uid)


STORED, FAILED = "00081199", "00081198"
NOT_STORED: dict[str, Callable[[str], Reply]] = {
    "login page": lambda uid: (200, b"<!DOCTYPE html><html><body>Please log in<form></form></body></html>"),
    "page without a type": lambda uid: (200, b"<html><p>Welcome</p></html>"),
    "empty": lambda uid: (200, b""),
    "no content": lambda uid: (204, b""),
    "json of something else": lambda uid: (200, b'{"status": "ok"}'),
    "json list": lambda uid: (200, b"[1, 2]"),
    "deep json": lambda uid: (200, b"[" * 100_000),
    "another image": lambda uid: (200, as_json(STORED, "1.2.99")),
    "accepted, failed in xml": lambda uid: (202, as_xml(FAILED, uid, _00081197=0xC000)),
    "failed in xml with 200": lambda uid: (200, as_xml(FAILED, uid, _00081197=0x0110)),
    "failed in json": lambda uid: (202, as_json(FAILED, uid, _00081197=0xA700)),
    "failed without a reason": lambda uid: (202, as_json(FAILED, uid)),
    "refused": lambda uid: (409, as_json(FAILED, uid, _00081197=0xA900)),
    "not authorized": lambda uid: (401, b""),
    "broken": lambda uid: (500, as_json(STORED, uid)),
    "moved": lambda uid: (302, b""),
}


@pytest.mark.parametrize("case", NOT_STORED)
def test_only_an_image_that_the_server_names_as_stored_is_stored(
    tmp_path: Path, stow: StowServer, case: str
) -> None:
    delivering = Delivering(tmp_path, stow.destination)
    stow.reply = NOT_STORED[case]
    for _ in range(3):
        assert delivering.attempt().state == "waiting"
    assert delivering.sent == set()
    assert delivering.settled() == "outgoing"
    stow.reply = stored_json
    assert delivering.attempt().state == "sent"
    assert delivering.sent == set(UIDS)
    assert delivering.settled() == "deleted"


@pytest.mark.parametrize("answer", [as_json, as_xml])
def test_an_answer_in_json_or_xml_that_names_the_image_means_stored(
    tmp_path: Path, stow: StowServer, answer: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    delivering = Delivering(tmp_path, stow.destination)
    stow.reply = lambda uid: (200, answer(STORED, uid, _00081196=0xB000))
    if answer is as_xml:
        stow.reply = lambda uid: (409, answer(FAILED, uid, _00081197=0x0111))
    assert delivering.attempt().state == "sent"
    assert delivering.sent == set(UIDS)
    assert delivering.counters.get("send_warnings", "a") == 3
    assert caplog.text.count("3 images stored with warning") == 1


def test_an_image_that_a_web_server_refuses_holds_back_no_other(tmp_path: Path, stow: StowServer) -> None:
    delivering = Delivering(tmp_path, stow.destination)
    for refusal in ("refused", "accepted, failed in xml", "login page", "broken"):
        delivering.spool.set_record(BATCH, Record(deliveries={"a": Delivery()}))
        for note in (delivering.spool.root / "series").rglob("*.sent"):
            note.unlink()
        stow.reply = lambda uid, refusal=refusal: (NOT_STORED[refusal] if uid == UIDS[0] else stored_json)(uid)
        delivering.attempt()
        assert delivering.attempt().state == "waiting"
        assert delivering.sent == set(UIDS[1:]), refusal


def test_entities_in_an_answer_are_not_expanded() -> None:
    body = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "1.2.1">]><a>&b;</a>'
    assert parse_stow_answer(body) == StowAnswer()


class Choosy(Receiver):
    """A C-STORE receiver that answers each image with a status of its own, or breaks the association."""

    def __init__(self, statuses: dict[str, int | None]) -> None:
        super().__init__(free_ports(1)[0])
        self.statuses = statuses
        self.asked: list[str] = []

    def _store(self, event: object) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.asked.append(uid)
        status = self.statuses.get(uid, 0)
        if status is None:
            event.assoc.abort()
            return 0x0110
        self.status = status
        return super()._store(event)


@pytest.fixture
def choosy() -> Iterator[Choosy]:
    receiver = Choosy({})
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.mark.parametrize("status", [0x0110, 0xA700, 0xA7FF])
def test_an_image_that_fails_for_now_holds_back_no_other(tmp_path: Path, choosy: Choosy, status: int) -> None:
    choosy.statuses = {UIDS[0]: status}
    delivering = Delivering(tmp_path, choosy.destination)
    delivery = delivering.attempt()
    assert delivering.sent == set(UIDS[1:])
    assert (delivery.state, delivery.reason) == (
        "waiting",
        f"1 of 3 images not stored: C-STORE status 0x{status:04X}",
    )
    assert delivering.attempt().state == "waiting"
    choosy.statuses = {}
    assert delivering.attempt().state == "sent"
    assert choosy.asked == [*UIDS, UIDS[0], UIDS[0]]  # only what failed is sent again
    assert delivering.settled() == "deleted"


def test_an_image_at_which_the_association_breaks_holds_back_no_other(tmp_path: Path, choosy: Choosy) -> None:
    choosy.statuses = {UIDS[0]: None}
    delivering = Delivering(tmp_path, choosy.destination)
    delivering.attempt()
    assert delivering.attempt().state == "waiting"
    assert delivering.sent == set(UIDS[1:])


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_warnings_and_repeats_are_stored_logged_and_counted(
    tmp_path: Path, choosy: Choosy, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ldct_denoise")
    choosy.statuses = dict.fromkeys(UIDS[:2], status)
    delivering = Delivering(tmp_path, choosy.destination)
    assert delivering.attempt().state == "sent"
    assert delivering.sent == set(UIDS)
    assert delivering.counters.get("send_warnings", "a") == 2
    assert delivering.counters.get("send_failures", "a") == 0
    assert f"2 images stored with warning 0x{status:04X}" in caplog.text
    assert delivering.settled() == "deleted"


def test_a_final_refusal_waits_for_the_images_that_are_tried_again(tmp_path: Path, choosy: Choosy) -> None:
    choosy.statuses = {UIDS[0]: 0xA900, UIDS[1]: 0xA700}
    delivering = Delivering(tmp_path, choosy.destination)
    assert delivering.attempt().state == "waiting"
    choosy.statuses = {UIDS[0]: 0xA900}
    assert delivering.attempt().state == "failed"
    assert delivering.sent == set(UIDS[1:])
    assert delivering.settled() == "dead-letter"

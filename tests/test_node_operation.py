"""The node over months: full disks, clocks, lost records, corrected patients, operators and monitors."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
import yaml
from click.testing import CliRunner
from ldct_denoise.cli.main import cli, main

from ldct_denoise.errors import ConfigError, InputError, OutputError
from ldct_denoise.io.dicom.instance import InstanceUIDs, read_instance_uids
from ldct_denoise.node import reachability
from ldct_denoise.node.clock import Arrivals, Waits
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.deliver import Deliverer, settle
from ldct_denoise.node.destinations import make_sender
from ldct_denoise.node.health import Health
from ldct_denoise.node.operator import list_batches, perform, request
from ldct_denoise.node.records import Delivery, Record, RememberedRule
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.serve import Node, check
from ldct_denoise.node.settings import DimseDestination, Limits
from ldct_denoise.node.spool import Spool
from ldct_denoise.node.storage_scp import printable
from ldct_denoise.node.worker import Worker
from tests.dicom_files import write_ct
from tests.node_peers import (
    CALLER,
    LOOPBACK,
    Receiver,
    echoscu,
    free_ports,
    http_status,
    identity_rule,
    make_series,
    settings,
    storescu,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings("ignore")
LIMITS = Limits(free_gib=0)
STOW = {"a": {"stow": "http://h/studies"}}


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", LIMITS)
    yield spool
    spool.close()


def receive(spool: Spool, number: int = 1, series: str = "1.2.3", data: bytes = b"x") -> str:
    return spool.receive(InstanceUIDs(f"{series}.{number}", series, "1.2"), data)


# Series that are sent again --------------------------------------------------------------------------------------


class Site:
    """A worker and a deliverer that share a spool, driven by hand."""

    def __init__(self, folder: Path, archive: Receiver) -> None:
        content = settings(folder / "spool", 11112, destinations={"a": archive.destination})
        self.rules = Rules(**content | {"rules": [identity_rule("a")]})
        self.spool = Spool(self.rules.spool, self.rules.limits)
        self.counters, stop = Counters(), threading.Event()
        self.worker = Worker(self.rules, self.spool, self.counters, stop)
        self.deliverer = Deliverer("a", self.rules, self.spool, self.counters, stop)

    def bring(self, files: list[Path]) -> str:
        (key,) = {self.spool.receive(read_instance_uids(file), file.read_bytes()) for file in files}
        self.spool.complete(key)
        while self.worker.run_once() or self.deliverer.run_once():
            pass
        settle(self.spool, self.rules, self.counters)
        return key


@pytest.fixture
def archive() -> Iterator[Receiver]:
    receiver = Receiver(free_ports(1)[0]).start()
    yield receiver
    receiver.stop()


def test_only_what_differs_is_delivered_again(tmp_path: Path, archive: Receiver) -> None:
    site = Site(tmp_path, archive)
    files = [write_ct(tmp_path / str(n), n, PatientID="WRONG") for n in range(3)]
    key = site.bring(files)
    site.bring(files)
    assert len(archive.received) == 3
    for file in files:
        image = pydicom.dcmread(file)
        image.PatientID = "RIGHT"
        image.save_as(file)
    site.bring(files)
    assert [str(image.PatientID) for image in archive.received] == ["WRONG"] * 3 + ["RIGHT"] * 3
    # An archive keeps what it has under a UID, so that the corrected images need other ones.
    assert len(set(archive.uids)) == 6
    assert len({str(image.SeriesInstanceUID) for image in archive.received}) == 2
    site.bring(files)
    assert len(archive.received) == 6
    image = pydicom.dcmread(files[0])
    image.StudyDescription = "changed"
    image.save_as(files[0])
    site.bring(files)
    assert len(archive.received) == 7
    assert archive.uids[6] in archive.uids[3:6]
    perform(site.spool, "forget", key)
    site.bring(files)
    assert len(archive.received) == 10
    site.spool.close()


# Records ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": b"",
    "a list": b"[]",
    "deliveries of another kind": b'{"deliveries": []}',
    "a number as text": b'{"attempts": "many"}',
    "not UTF-8": b"\xff\xfe",
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_record_is_set_aside_and_its_deliveries_begin_anew(tmp_path: Path, content: bytes) -> None:
    rules = Rules(**settings(tmp_path / "spool", 11112, destinations=STOW, rules=[identity_rule("a")]))
    spool = Spool(rules.spool, rules.limits)
    for batch in ("k-a.1", "k-b.2"):
        write_ct(spool.folder("outgoing", batch) / "0001.dcm")
        spool.memory.remember_rule(batch.partition(".")[0], RememberedRule("of another day", 0, ("a",)))
    spool.set_record("k-b.2", Record(deliveries={"a": Delivery(state="sent")}))
    (spool.root / "records" / "k-a.1.json").write_bytes(content)
    settle(spool, rules, Counters())
    assert spool.batches("outgoing") == ["k-a.1"]
    assert spool.record("k-a.1").deliveries == {"a": Delivery()}
    assert spool.unreadable_records() == 1
    assert Health(spool).content([], {}, 1e12, associations=0)["problems"] == ["1 unreadable records"]
    spool.close()


def test_fields_of_a_newer_version_are_ignored(spool: Spool) -> None:
    content = {"attempts": 2, "colour": "red", "deliveries": {"a": {"state": "sent", "speed": 1}}, "version": 7}
    (spool.root / "records" / "k.1.json").write_text(json.dumps(content))
    assert spool.record("k.1") == Record(attempts=2, deliveries={"a": Delivery(state="sent")}, version=7)


def test_a_batch_without_any_trace_of_its_destinations_is_a_dead_letter(tmp_path: Path) -> None:
    rules = Rules(**settings(tmp_path / "spool", 11112, destinations=STOW, rules=[identity_rule("a")]))
    spool = Spool(rules.spool, rules.limits)
    write_ct(spool.folder("outgoing", "k-a.1") / "0001.dcm")
    counters = Counters()
    settle(spool, rules, counters)
    assert spool.batches("dead-letter") == ["k-a.1"]
    assert counters.get("series", "dead letter") == 1
    spool.close()


def test_a_spool_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Spool(tmp_path / "spool", LIMITS).close()
    (tmp_path / "spool" / "version").write_text("99\n")
    with pytest.raises(OutputError, match="newer version"):
        Spool(tmp_path / "spool", LIMITS)


def test_thousands_of_waiting_batches_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Rules(**settings(tmp_path / "spool", 11112, destinations=STOW, rules=[identity_rule("a")]))
    spool = Spool(rules.spool, rules.limits)
    for number in range(300):
        spool.folder("outgoing", f"k-{number}.{number}").mkdir()
        record = Record(deliveries={"a": Delivery(attempts=1, next_try=time.time() + 1e4)})
        (spool.root / "records" / f"k-{number}.{number}.json").write_text(
            json.dumps(vars(record) | {"deliveries": {"a": vars(record.deliveries["a"])}})
        )
    deliverer = Deliverer("a", rules, spool, Counters(), threading.Event())
    assert not deliverer.run_once()
    assert spool.counts()["outgoing"] == 300
    with monkeypatch.context() as closed:  # from now on no file is opened and no folder is listed
        closed.setattr(Path, "read_bytes", None)
        closed.setattr(os, "scandir", None)
        assert not deliverer.run_once()
        assert spool.counts()["outgoing"] == 300
    spool.close()


# Disk and clock --------------------------------------------------------------------------------------------------


def test_on_a_full_disk_deliveries_are_noted_and_make_room(
    tmp_path: Path, archive: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the reserve is left: each image is delivered once, and the batch goes."""
    site = Site(tmp_path, archive)
    write = os.fsync

    def full_while_reserved(descriptor: int) -> None:
        if (site.spool.root / "reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(descriptor)

    for number in range(3):
        write_ct(site.spool.folder("outgoing", "k-a.1") / f"{number}.dcm", number)
    site.spool.set_record("k-a.1", Record(deliveries={"a": Delivery()}))
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", full_while_reserved)
        assert site.deliverer.run_once()
        settle(site.spool, site.rules, site.counters)
    assert len(archive.received) == len(set(archive.uids)) == 3
    assert site.spool.counts() == dict.fromkeys(("incoming", "ready", "outgoing", "dead-letter"), 0)
    site.spool.tidy(30)
    assert (site.spool.root / "reserve").exists()
    site.spool.close()


class Clock:
    """A system clock that can be set, and a monotonic one that goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.system, self.monotonic = 1e9, 0.0
        monkeypatch.setattr(time, "time", lambda: self.system)
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)

    def passes(self, seconds: float) -> None:
        self.system += seconds
        self.monotonic += seconds


@pytest.mark.parametrize("step", [-7200.0, 0.0, 7200.0])
def test_a_wait_does_not_change_with_the_clock(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    clock, waits = Clock(monkeypatch), Waits()
    until = clock.system + 60
    assert not waits.is_over("batch", until, 1800)
    clock.system += step
    clock.passes(59)
    assert not waits.is_over("batch", until, 1800)
    clock.passes(2)
    assert waits.is_over("batch", until, 1800)


def test_a_wait_from_before_the_clock_was_set_back_is_at_most_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waits = Clock(monkeypatch), Waits()
    until = clock.system + 1e6
    assert not waits.is_over("batch", until, 1800)
    clock.passes(1801)
    assert waits.is_over("batch", until, 1800)


@pytest.mark.parametrize("step", [-7200.0, 0.0, 7200.0])
def test_the_quiet_time_of_a_series_does_not_change_with_the_clock(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    clock, arrivals = Clock(monkeypatch), Arrivals()
    first = int(clock.system * 1e9)
    assert arrivals.last_change("series", first) == pytest.approx(clock.monotonic)
    clock.system += step
    clock.passes(10)
    assert arrivals.last_change("series", first) == pytest.approx(0)
    assert arrivals.last_change("series", int(clock.system * 1e9)) == pytest.approx(10)


# What is missing, and what is told --------------------------------------------------------------------------------


def test_missing_slices_are_warned_of_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rules = Rules(**settings(tmp_path / "spool", 11112, destinations=STOW, rules=[identity_rule("a")]))
    spool, counters = Spool(rules.spool, rules.limits), Counters()
    files = [write_ct(tmp_path / str(n), n) for n in range(6)]
    broken = pydicom.dcmread(files[2])
    broken.PixelData = broken.PixelData[:20]
    broken.save_as(files[2])
    (key,) = {spool.receive(read_instance_uids(file), file.read_bytes()) for file in files}
    batch = spool.complete(key)
    Worker(rules, spool, counters, threading.Event()).run_once()
    record = spool.record(batch)
    assert (record.images, record.skipped) == (5, 1)
    assert record.incomplete == "1 of 6 images missing (lost slice); 1 of 1 stacks with uneven spacing"
    assert counters.get("incomplete_series") == 1
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING" and "incomplete" in r.getMessage()]
    assert warning.getMessage() == f"{batch}: the derived series is incomplete: {record.incomplete}"
    spool.close()


def test_health_tells_what_needs_a_person(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(spool)
    assert health.content([], {"a": None}, 60, associations=0)["status"] == "ok"
    batch = spool.complete(receive(spool))
    os.rename(spool.folder("ready", batch), spool.folder("outgoing", batch))
    spool.set_record(batch, Record(deliveries={"a": Delivery(attempts=3, reason="timed out")}))
    content = health.content([], {"a": time.monotonic()}, 60, associations=0)
    assert (content["status"], content["destinations"]["a"]["waiting"]) == ("ok", 1)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    content = health.content([], {"a": now}, 60, associations=0)
    assert content["status"] == "degraded"
    assert content["problems"] == ["batches wait in outgoing for more than 1 min", "a fails: timed out"]
    assert content["destinations"]["a"]["last_success_s_ago"] == pytest.approx(61, abs=0.2)
    assert 61 <= content["oldest_batch_s"] < 70
    spool.dead_letter("outgoing", batch, "refused")
    assert health.content([], {}, 60, associations=0)["problems"] == ["1 dead letters"]
    assert health.content(["work"], {}, 60, associations=0)["status"] == "failed"


def test_reasons_are_words() -> None:
    port = free_ports(1)[0]
    assert reachability.connection_problem(LOOPBACK, port, 2, None).startswith("connection refused")
    assert "DNS" in reachability.connection_problem("no-such-host.invalid", 104, 2, None)
    strict = Receiver(port).start()
    destination = {"host": LOOPBACK, "port": port, "ae_title": "OTHER"}
    try:
        strict._server.ae.require_called_aet = True
        problem = make_sender(DimseDestination(**destination), "LDCT").check()
        assert problem.startswith("association rejected: called ae title not recognised")
        strict._server.ae.require_called_aet = False
        strict._server.contexts = []
        assert "not accepted" in make_sender(DimseDestination(**destination), "LDCT").check() or problem
    finally:
        strict.stop()
    with socket.create_server((LOOPBACK, port)):
        mute = DimseDestination(**destination, timeout_s=0.3)
        assert make_sender(mute, "LDCT").check() == "no answer to the association request"
    assert printable("A\nB\x1b[0m" + "C" * 40) == "A?B?[0mCCCCCCCCC"


def test_check_contacts_the_destinations(
    tmp_path: Path, archive: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_ports(1)[0]
    down = {"host": LOOPBACK, "port": port, "ae_title": "DOWN"}
    content = settings(tmp_path / "spool", 11112, destinations={"up": archive.destination, "down": down})
    archive._server.ae.add_supported_context("1.2.840.10008.1.1")
    archive._server.contexts = archive._server.ae.supported_contexts
    rules = Rules(**content | {"rules": [identity_rule("up", "down")]})
    assert check(rules) == []
    assert [line.split(":")[0] for line in check(rules, contact=True)] == ["destination down"]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(content | {"rules": [identity_rule("up", "down")]}))
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--check", str(file)])
    assert stopped.value.code == 1
    assert "warning: destination down: connection refused" in capsys.readouterr().out


# Callers ----------------------------------------------------------------------------------------------------------


def test_other_objects_are_discarded_when_asked(start: Callable[..., Node], tmp_path: Path) -> None:
    node = start(other_objects="discard", complete={"quiet_s": 100, "released_s": 100})
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=2)
    other = pydicom.dcmread(files[0])
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "1.2.9"
    del other.PixelData
    other.save_as(tmp_path / "sr.dcm")
    assert storescu(node.rules.port, [files[0], tmp_path / "sr.dcm", files[1]]).returncode == 0
    assert node.counters.get("images_received") == 2
    assert node.counters.get("images_discarded") == 1
    assert len(list(node.spool.root.rglob("*.dcm"))) == 2


def test_silent_connections_do_not_keep_others_out(start: Callable[..., Node]) -> None:
    node = start(limits={"free_gib": 0.01, "associations": 1, "negotiation_s": 60})
    silent = [socket.create_connection((LOOPBACK, node.rules.port)) for _ in range(4)]
    time.sleep(0.3)
    assert echoscu(node.rules.port) == 0
    for connection in silent:
        connection.close()


def test_new_rules_are_used_without_a_restart(
    start: Callable[..., Node], tmp_path: Path, archive: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    node = start()
    assert echoscu(node.rules.port, caller="CT2") != 0
    content = settings(tmp_path / "spool", node.rules.port, accept=[{"ae_title": CALLER}, {"ae_title": "CT2"}])
    node.use(
        Rules(**content | {"destinations": {"archive": archive.destination}, "rules": [identity_rule("archive")]})
    )
    assert echoscu(node.rules.port, caller="CT2") == 0
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    wait_for(lambda: len(archive.received) == 2)
    before = node.rules
    node.use(Rules(**content | {"port": free_ports(1)[0]}))
    node.use(Rules(**content | {"rules": [identity_rule("a", model="nosuch")], "destinations": STOW}))
    assert node.rules is before
    assert "port: changed only by a restart" in caplog.text
    assert "nosuch" in caplog.text


def test_a_receiver_that_never_answers_does_not_keep_the_node_from_stopping(
    start: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldct_denoise.node.serve.FINISH_S", 1.0)
    with socket.create_server((LOOPBACK, 0)) as mute:
        destination = {"host": LOOPBACK, "port": mute.getsockname()[1], "ae_title": "MUTE", "timeout_s": 600}
        node = start(destinations={"mute": destination}, rules=[identity_rule("mute")])
        storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
        wait_for(lambda: node.spool.counts()["outgoing"] == 1)
        time.sleep(0.3)
        started = time.monotonic()
        node.stop(0.2)
        assert time.monotonic() - started < 10
    assert Spool(node.spool.root, LIMITS).counts()["outgoing"] == 1


# Operators --------------------------------------------------------------------------------------------------------


def test_an_operator_lists_and_handles_batches(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", LIMITS)
    file = write_ct(tmp_path / "a", AccessionNumber="ACC1")
    uids = read_instance_uids(file)
    key = spool.receive(uids, file.read_bytes())
    spool.close()
    run = CliRunner().invoke
    listed = run(cli, ["node", "list", str(spool.root), "--json"])
    (batch,) = json.loads(listed.output)
    assert (batch["state"], batch["accession_number"], batch["images"]) == ("incoming", "ACC1", 1)
    result = run(cli, ["node", "complete", str(spool.root), "ACC1"])
    assert result.exit_code == 0, result.output
    (item,) = list_batches(spool.root)
    assert item.state == "ready"
    spool = Spool(spool.root, LIMITS)
    spool.set_record(item.batch, Record(attempts=3, reason="why"))
    spool.dead_letter("ready", item.batch, "a reason that quotes the image")
    spool.close()
    shown = json.loads(run(cli, ["node", "show", str(spool.root), uids.series_uid]).output)
    assert shown[0]["reason"] == "a reason that quotes the image"
    assert "tried again (ready)" in run(cli, ["node", "retry", str(spool.root)]).output
    assert list_batches(spool.root)[0].state == "ready"
    with pytest.raises(InputError, match="nothing in the spool fits"):
        request(spool.root, "retry", "1.2.3.4.5.6")
    with pytest.raises(InputError, match="name a batch"):
        request(spool.root, "forget")
    with pytest.raises(InputError, match="no spool"):
        list_batches(tmp_path)
    spool = Spool(spool.root, LIMITS)
    spool.memory.mark_sent(key, "pacs", "1.2.3", "d")
    assert perform(spool, "forget", uids.study_uid) == [f"{key}: deliveries forgotten"]
    assert spool.memory.sent(key, "pacs") == {}
    spool.close()


def test_a_running_node_does_what_an_operator_asks(start: Callable[..., Node], tmp_path: Path) -> None:
    node = start(complete={"quiet_s": 1000, "released_s": 1000}, status_port=free_ports(1)[0])
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    (line,) = request(node.spool.root, "complete", "1.2.3")
    assert line.endswith(": complete")
    wait_for(lambda: node.counters.get("series", "ignored") == 1)
    base = f"http://{LOOPBACK}:{node.rules.status_port}"
    status, page = http_status(f"{base}/")
    assert status == 200
    assert "Nothing is waiting" in page
    storescu(node.rules.port, make_series(tmp_path / "in2", "1.2.4", 1, slices=2))
    (key,) = [series.key for series in node.spool.incoming()]
    assert key in http_status(f"{base}/")[1]
    assert post(base, f"action=complete&target={key}&token=wrong") == 403
    assert node.spool.counts()["incoming"] == 1
    token = (node.spool.root / "token").read_text().strip()
    assert (node.spool.root / "token").stat().st_mode & 0o077 == 0
    assert post(base, f"action=complete&target={key}&token={token}") == 200
    wait_for(lambda: node.counters.get("series", "ignored") == 2)
    assert post(base, "x" * 5000) == 413
    with socket.create_connection((LOOPBACK, node.rules.status_port)) as plain:
        plain.sendall(b"HEAD /health HTTP/1.0\r\n\r\n")
        assert plain.makefile("rb").read().split(b"\r\n\r\n", 1)[1] == b""


def post(url: str, body: str) -> int:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/", body.encode()), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_starting_file_can_be_loaded_and_is_never_overwritten(tmp_path: Path) -> None:
    from ldct_denoise.node.rules import load_rules

    path = tmp_path / "rules.yaml"
    assert CliRunner().invoke(cli, ["serve", "--init", str(path)]).exit_code == 0
    assert load_rules(path).rules[1].send_to == ("pacs",)
    result = CliRunner().invoke(cli, ["serve", "--init", str(path)])
    assert isinstance(result.exception, OutputError)


def test_certificates_that_have_ended_are_refused_and_those_that_end_soon_are_reported(tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def certificate(name: str, days: int) -> Path:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1)
        builder = builder.not_valid_before(now - timedelta(100)).not_valid_after(now + timedelta(days))
        signed = builder.sign(key, hashes.SHA256())
        path = tmp_path / name
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return path

    assert reachability.check_certificates([certificate("good", 365)]) == []
    (line,) = reachability.check_certificates([certificate("soon", 10)])
    assert "ends on" in line
    with pytest.raises(ConfigError, match="renew"):
        reachability.check_certificates([certificate("ended", -1)])
    (tmp_path / "none").write_text("no certificate")
    with pytest.raises(ConfigError, match="no certificate can be read"):
        reachability.check_certificates([tmp_path / "none"])

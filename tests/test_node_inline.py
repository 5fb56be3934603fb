"""The node in the way from scanner to archive: originals go on, several outputs, urgent series first."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE

from ldct_denoise.inference.series import WRITE_BEHIND
from ldct_denoise.io.dicom.instance import read_instance_uids
from ldct_denoise.node import early
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.deliver import Deliverer, settle
from ldct_denoise.node.records import Delivery, Record
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.serve import Node
from ldct_denoise.node.spool import ORIGINALS, Spool
from ldct_denoise.node.worker import Worker
from tests.dicom_files import write_ct
from tests.node_peers import (
    LOOPBACK,
    Receiver,
    free_ports,
    identity_rule,
    make_series,
    settings,
    storescu,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings("ignore")
Start = Callable[..., Node]


@pytest.fixture
def archive() -> Iterator[Receiver]:
    receiver = Receiver(free_ports(1)[0]).start()
    yield receiver
    receiver.stop()


class Site:
    """A worker and a deliverer that share a spool, driven by hand."""

    def __init__(self, folder: Path, archive: Receiver, rules: list[dict[str, object]]) -> None:
        content = settings(folder / "spool", 11112, destinations={"a": archive.destination}, rules=rules)
        self.rules = Rules(**content)
        self.spool = Spool(self.rules.spool, self.rules.limits)
        self.counters, stop = Counters(), threading.Event()
        self.worker = Worker(self.rules, self.spool, self.counters, stop)
        self.deliverer = Deliverer("a", self.rules, self.spool, self.counters, stop)

    def bring(self, files: list[Path]) -> str:
        (key,) = {self.spool.receive(read_instance_uids(file), file.read_bytes()) for file in files}
        return self.spool.complete(key)

    def finish(self) -> None:
        while self.worker.run_once() or self.deliverer.run_once():
            pass
        settle(self.spool, self.rules, self.counters)


def uids(files: list[Path]) -> set[str]:
    return {str(pydicom.dcmread(file).SOPInstanceUID) for file in files}


def test_originals_go_on_unchanged_also_those_that_are_not_denoised(
    start: Start, archive: Receiver, tmp_path: Path
) -> None:
    node = start(
        destinations={"archive": archive.destination},
        rules=[
            {"match": {"SeriesNumber": "2"}, "ignore": True, "originals_to": ["archive"]},
            identity_rule("archive", originals_to=["archive"]),
        ],
    )
    files = [make_series(tmp_path / f"in{number}", "1.2.3", number, slices=2) for number in (1, 2)]
    scout = write_ct(tmp_path / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert storescu(node.rules.port, [*files[0], *files[1], scout]).returncode == 0
    wait_for(lambda: len(archive.received) == 7)
    originals = {str(image.SOPInstanceUID): image for image in archive.received}
    for file in (*files[0], *files[1], scout):
        sent = pydicom.dcmread(file)
        assert originals[str(sent.SOPInstanceUID)] == sent
    derived = [image for image in archive.received if image.ImageType[0] == "DERIVED"]
    assert {str(image.SourceImageSequence[0].ReferencedSOPInstanceUID) for image in derived} == uids(files[0])
    wait_for(lambda: not any(node.spool.counts().values()))
    assert node.counters.get("series", "originals delivered") == 3


def test_originals_do_not_wait_for_a_series_that_cannot_be_denoised(archive: Receiver, tmp_path: Path) -> None:
    site = Site(tmp_path, archive, [identity_rule("a", originals_to=["a"])])
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=2)
    for file in files:
        image = pydicom.dcmread(file)
        image.PixelData = image.PixelData[:100]
        image.save_as(file)
    site.bring(files)
    site.finish()
    assert set(archive.uids) == uids(files)
    assert site.spool.counts()["dead-letter"] == 1


def test_originals_are_routed_while_another_series_is_denoised(archive: Receiver, tmp_path: Path) -> None:
    site = Site(tmp_path, archive, [identity_rule("a", originals_to=["a"])])
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=2)
    batch = site.bring(files)
    assert site.worker.router.run_once()
    assert not site.worker.router.run_once()
    assert site.spool.batches("ready") == [batch]
    assert site.deliverer.run_once()
    assert set(archive.uids) == uids(files)
    size = sum(file.stat().st_size for file in site.spool.root.rglob("*") if file.name == files[0].name)
    assert site.spool.measure() < size + 2.5 * sum(file.stat().st_size for file in files)  # links, not copies
    site.finish()
    assert len(archive.received) == 4


def test_a_kill_after_routing_sends_originals_once(archive: Receiver, tmp_path: Path) -> None:
    site = Site(tmp_path, archive, [identity_rule("a", originals_to=["a"])])
    batch = site.bring(make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    site.spool.forward_originals(batch, ["a"], 1)  # then killed before the record was written
    site.spool.close()
    again = Site(tmp_path, archive, [identity_rule("a", originals_to=["a"])])
    again.deliverer.run_once()
    settle(again.spool, again.rules, again.counters)
    assert not again.spool.batches("outgoing")
    again.finish()
    assert len(archive.received) == 4
    assert not any(again.spool.counts().values())


def test_a_lost_record_of_originals_knows_their_destinations(archive: Receiver, tmp_path: Path) -> None:
    site = Site(tmp_path, archive, [{"ignore": True, "originals_to": ["a"]}])
    batch = site.bring(make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    site.worker.run_once()
    (site.spool.root / "records" / f"{batch}{ORIGINALS}.json").write_text("{")
    site.spool.close()
    again = Site(tmp_path, archive, [{"ignore": True, "originals_to": ["a"]}])
    settle(again.spool, again.rules, again.counters)
    again.finish()
    assert len(archive.received) == 2


def test_other_objects_are_forwarded(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(
        other_objects="forward",
        destinations={"archive": archive.destination},
        rules=[identity_rule("archive", originals_to=["archive"])],
    )
    report = pydicom.Dataset()
    report.SOPClassUID, report.SOPInstanceUID = pydicom.uid.BasicTextSRStorage, "1.2.3.9.1"
    report.StudyInstanceUID, report.SeriesInstanceUID, report.Modality = "1.2.3", "1.2.3.9", "SR"
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    entity = AE("CT1")
    entity.add_requested_context(pydicom.uid.BasicTextSRStorage, pydicom.uid.ExplicitVRLittleEndian)
    association = entity.associate(LOOPBACK, node.rules.port, ae_title="LDCT")
    assert association.send_c_store(report).Status == 0
    association.release()
    wait_for(lambda: archive.uids == ["1.2.3.9.1"])
    wait_for(lambda: not any(node.spool.counts().values()))


def test_several_outputs_are_series_of_their_own(archive: Receiver, tmp_path: Path) -> None:
    outputs = [{"model": "bilateral", "strength": 0}, {"model": "bilateral", "strength": 1}]
    site = Site(tmp_path, archive, [{"outputs": outputs, "send_to": ["a"]}])
    site.bring(make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    site.finish()
    series = {str(image.SeriesInstanceUID): image for image in archive.received}
    assert (len(series), len(set(archive.uids))) == (2, 4)
    assert {int(image.SeriesNumber) for image in series.values()} == {101, 102}
    assert {str(image.SeriesDescription) for image in series.values()} == {
        "low dose 1 LDCT-denoised bilateral 0%",
        "low dose 1 LDCT-denoised bilateral 100%",
    }


def test_phases_of_one_series_have_their_own_number_and_description(archive: Receiver, tmp_path: Path) -> None:
    """Also where the second arrives later, and images of the first once more after it."""
    site = Site(tmp_path, archive, [identity_rule("a")])
    phases = []
    for phase in range(2):
        files = make_series(tmp_path / f"in{phase}", "1.2.3", 1, slices=3)
        for number, file in enumerate(files):
            image = pydicom.dcmread(file)
            image.AcquisitionNumber, image.InstanceNumber = phase + 1, 3 * phase + number + 1
            image.AcquisitionTime = f"1200{phase}0"
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.1.{phase}.{number}"
            image.save_as(file)
        phases.append(files)
    for files in (phases[0][:2], phases[1], phases[0][2:]):
        site.bring(files)
        site.finish()
    found = {(str(i.SeriesInstanceUID), int(i.SeriesNumber), str(i.SeriesDescription)) for i in archive.received}
    label = "low dose 1 LDCT-denoised bilateral 0%"
    assert {item[1:] for item in found} == {(101, label), (102, f"{label} #2")}
    assert (len(found), len(archive.received)) == (2, 6)


# Priority --------------------------------------------------------------------------------------------------------


def test_a_sender_s_high_priority_and_a_rule_s_come_first(archive: Receiver, tmp_path: Path) -> None:
    rules = [identity_rule("a", match={"SeriesNumber": "3"}, priority="low"), identity_rule("a")]
    site = Site(tmp_path, archive, rules)
    batches = [site.bring(make_series(tmp_path / f"in{n}", "1.2.3", n, slices=2)) for n in (3, 1, 2)]
    site.spool.memory.mark_urgent(batches[2].partition(".")[0])
    while site.worker.router.run_once():
        pass
    assert site.spool.by_priority("ready") == [batches[2], batches[1], batches[0]]
    while site.worker.run_once():
        pass
    site.finish()
    assert [int(image.SeriesNumber) for image in archive.received[::2]] == [201, 101, 301]


def test_the_priority_of_c_store_is_noted_and_passed_on(start: Start, tmp_path: Path) -> None:
    archive = Receiver(free_ports(1)[0]).start()
    seen: list[int] = []
    archive._store = lambda event: seen.append(event.request.Priority) or 0  # type: ignore[method-assign]
    archive.stop()
    archive.start()
    node = start(destinations={"archive": archive.destination}, rules=[identity_rule("archive")])
    entity = AE("CT1")
    entity.add_requested_context(pydicom.uid.CTImageStorage)
    association = entity.associate(LOOPBACK, node.rules.port, ae_title="LDCT")
    for file in make_series(tmp_path / "in", "1.2.3", 1, slices=2):
        assert association.send_c_store(file, priority=1).Status == 0
    association.release()
    wait_for(lambda: len(seen) == 2)
    assert seen == [1, 1]
    archive.stop()


@pytest.mark.parametrize(("done", "is_interrupted"), [(1, True), (3, False)])
def test_a_series_in_its_first_half_waits_for_an_urgent_one(
    archive: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int, is_interrupted: bool
) -> None:
    site = Site(tmp_path, archive, [identity_rule("a")])
    slow = site.bring(make_series(tmp_path / "in1", "1.2.3", 1, slices=4))
    check, order = site.worker._check_stop, []

    def bring_an_urgent_one(batch: str, slices: int, total: int) -> None:
        order.append(batch)
        if batch == slow and slices == done and not (tmp_path / "in2").exists():
            key = site.bring(make_series(tmp_path / "in2", "1.2.3", 2, slices=2)).partition(".")[0]
            site.spool.memory.mark_urgent(key)
            site.worker.router.run_once()
        check(batch, slices, total)

    monkeypatch.setattr(site.worker, "_check_stop", bring_an_urgent_one)
    site.finish()
    assert (order.count(slow) > 4) is is_interrupted
    assert len(archive.received) == 6
    assert not any(site.spool.counts().values())


def test_sending_makes_way_for_an_urgent_batch(archive: Receiver, tmp_path: Path) -> None:
    site = Site(tmp_path, archive, [identity_rule("a")])
    for batch, priority in (("k-a.1", 1), ("k-b.2", 0)):
        for number in range(3):
            uid = f"1.2.{priority}.{number}"
            write_ct(site.spool.folder("working", batch) / f"{number}.dcm", number, SOPInstanceUID=uid)
    site.spool._move("working", "k-a.1", "outgoing", "k-a.1")
    for batch, priority in (("k-a.1", 1), ("k-b.2", 0)):
        site.spool.set_record(batch, Record(priority=priority, deliveries={"a": Delivery()}))
    note = site.deliverer._note

    def bring_the_urgent_one(*given: object) -> None:
        note(*given)
        if (site.spool.root / "working" / "k-b.2").is_dir():
            site.spool._move("working", "k-b.2", "outgoing", "k-b.2")

    site.deliverer._note = bring_the_urgent_one  # type: ignore[method-assign]
    while site.deliverer.run_once():
        pass
    assert archive.uids == ["1.2.1.0", "1.2.0.0", "1.2.0.1", "1.2.0.2", "1.2.1.1", "1.2.1.2"]


# Speed -----------------------------------------------------------------------------------------------------------


def outgoing(site: Site, batch: str, count: int) -> None:
    for number in range(count):
        write_ct(site.spool.folder("outgoing", batch) / f"{number}.dcm", number, SOPInstanceUID=f"1.2.{number}")
    site.spool.set_record(batch, Record(deliveries={"a": Delivery()}))


def test_images_of_a_batch_share_several_associations(archive: Receiver, tmp_path: Path) -> None:
    together, lock, counts = threading.Barrier(3), threading.Lock(), Counter[int]()
    store = archive._store

    def slow_store(event: object) -> int:
        with lock:
            counts[id(event.assoc)] += 1
            is_first = counts[id(event.assoc)] == 1
        if is_first:
            together.wait(20)  # only three associations at once get past this
        return store(event)

    archive.stop()
    archive._store = slow_store  # type: ignore[method-assign]
    archive.start()
    archive.more = {"associations": 3}
    site = Site(tmp_path, archive, [identity_rule("a")])
    outgoing(site, "k-a.1", 7)
    site.finish()
    assert sorted(archive.uids) == [f"1.2.{number}" for number in range(7)]
    assert sorted(counts.values()) == [2, 2, 3]
    assert not any(site.spool.counts().values())


def test_an_association_that_breaks_holds_back_no_other(archive: Receiver, tmp_path: Path) -> None:
    store, broken = archive._store, []

    def break_once(event: object) -> int:
        if event.dataset.SOPInstanceUID == "1.2.1" and not broken:
            broken.append(1)
            event.assoc.abort()
        return store(event)

    archive.stop()
    archive._store = break_once  # type: ignore[method-assign]
    archive.start()
    archive.more = {"associations": 2}
    site = Site(tmp_path, archive, [identity_rule("a")])
    outgoing(site, "k-a.1", 6)
    site.deliverer.run_once()
    sent = set(site.spool.memory.sent("k-a", "a"))
    assert sent == {"1.2.0", "1.2.2", "1.2.4"}
    wait_for(lambda: site.deliverer.run_once())
    site.finish()
    assert len(set(archive.uids)) == 6
    assert not any(site.spool.counts().values())


@pytest.fixture
def eager(archive: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose destination takes images early, and whose series wait for that at their last slice."""
    monkeypatch.setattr(early, "GATHER_S", 0.01)
    archive.more = {"while_denoising": True}
    site = Site(tmp_path, archive, [identity_rule("a")])

    def wait_for_the_archive(batch: str, done: int, total: int) -> None:
        if done == total:
            wait_for(lambda: len(archive.received) >= total - WRITE_BEHIND - 1)

    monkeypatch.setattr(site.worker, "_check_stop", wait_for_the_archive)
    return site


def test_images_are_sent_while_their_series_is_denoised(archive: Receiver, eager: Site, tmp_path: Path) -> None:
    eager.bring(make_series(tmp_path / "in", "1.2.3", 1, slices=8))
    assert eager.worker.run_once()
    assert 3 <= len(archive.received) < 8
    assert eager.spool.counts()["outgoing"] == 1
    eager.finish()
    assert (len(archive.uids), len(set(archive.uids))) == (8, 8)
    assert not any(eager.spool.counts().values())


def test_a_series_that_fails_after_images_were_sent_says_so(
    archive: Receiver, eager: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, wait = eager, eager.worker._check_stop

    def fail(batch: str, done: int, total: int) -> None:
        wait(batch, done, total)
        if done == total:
            raise ValueError("a bug")

    monkeypatch.setattr(site.worker, "_check_stop", fail)
    batch = site.bring(make_series(tmp_path / "in", "1.2.3", 1, slices=8))
    site.finish()
    reason = json.loads((site.spool.root / "dead-letter" / f"{batch}.json").read_text())["reason"]
    assert re.fullmatch(r"ValueError: a bug; a has \d images of the unfinished series", reason)
    monkeypatch.undo()  # tried again it sends the rest, and nothing twice
    site.spool.retry(batch)
    site.finish()
    assert (len(archive.uids), len(set(archive.uids))) == (8, 8)

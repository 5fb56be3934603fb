"""The node between real peers on loopback: receiving, denoising, sending on, and what it refuses."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.inference.series import apply_series
from ldct_denoise.io.dicom.instance import read_instance_uids
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.inventory import Exclusion
from ldct_denoise.node import worker as work
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.deliver import Deliverer, settle
from ldct_denoise.node.operator import request
from ldct_denoise.node.records import MAX_ATTEMPTS, Delivery, Record
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.serve import Node, check
from ldct_denoise.node.spool import Spool
from ldct_denoise.node.worker import Worker
from tests.conformance import check_derived
from tests.dicom_files import cells, write_ct
from tests.enhanced_file import make_enhanced
from tests.node_peers import (
    IDENTIFIER,
    LOOPBACK,
    NAME,
    Receiver,
    echoscu,
    free_ports,
    http_status,
    identity_rule,
    make_series,
    settings,
    storescu,
    tool,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings("ignore")
Start = Callable[..., Node]


@pytest.fixture
def archive() -> Iterator[Receiver]:
    receiver = Receiver(free_ports(1)[0]).start()
    yield receiver
    receiver.stop()


def to_archive(archive: Receiver, **rule: object) -> dict[str, object]:
    return {"destinations": {"archive": archive.destination}, "rules": [identity_rule("archive", **rule)]}


def idle(node: Node) -> bool:
    counts = node.spool.counts()
    return not (counts["incoming"] or counts["ready"] or counts["outgoing"])


def test_a_series_comes_back_derived_and_conforming(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive, strength=1))
    assert echoscu(node.rules.port) == 0
    assert storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1)).returncode == 0
    wait_for(lambda: len(archive.received) == 4)
    (tmp_path / "out").mkdir()
    for number, image in enumerate(archive.received):
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image.save_as(tmp_path / "out" / f"{number}.dcm", enforce_file_format=True)
    (source,) = scan(tmp_path / "in").series
    assert check_derived(source, tmp_path / "out") == []
    (derived,) = scan(tmp_path / "out", include_derived=True).series
    assert not np.array_equal(derived.read_hu(1), source.read_hu(1))
    wait_for(lambda: idle(node))
    assert node.spool.counts()["dead-letter"] == 0


def test_images_are_on_disk_as_they_were_sent(start: Start, tmp_path: Path) -> None:
    node = start(complete={"quiet_s": 100, "released_s": 100})
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=2)
    assert storescu(node.rules.port, files).returncode == 0
    stored = {str(image.SOPInstanceUID): image for image in map(pydicom.dcmread, node.spool.root.rglob("*.dcm"))}
    for file in files:
        sent = pydicom.dcmread(file)
        assert stored[str(sent.SOPInstanceUID)] == sent
    assert node.counters.get("images_received") == 2


def test_compressed_images_are_taken_and_denoised(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive))
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=2)
    plain = {str(image.SOPInstanceUID): image.pixel_array for image in map(pydicom.dcmread, files)}
    for file in files:
        image = pydicom.dcmread(file)
        image.compress(pydicom.uid.JPEGLSLossless, generate_instance_uid=False)
        image.save_as(file)
    from pynetdicom import AE

    entity = AE("CT1")
    entity.add_requested_context(pydicom.uid.CTImageStorage, pydicom.uid.JPEGLSLossless)
    association = entity.associate(LOOPBACK, node.rules.port, ae_title="LDCT")
    assert [association.send_c_store(pydicom.dcmread(file)).Status for file in files] == [0, 0]
    association.release()
    wait_for(lambda: len(archive.received) == 2)
    for image in archive.received:
        source = str(image.SourceImageSequence[0].ReferencedSOPInstanceUID)
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        np.testing.assert_array_equal(image.pixel_array, plain[source])


def test_enhanced_ct_comes_back_enhanced(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive))
    source = make_enhanced(tmp_path / "in" / "enhanced.dcm")
    assert storescu(node.rules.port, [source]).returncode == 0
    wait_for(lambda: len(archive.received) == 1)
    (image,), sent = archive.received, pydicom.dcmread(source)
    assert image.SOPClassUID == pydicom.uid.EnhancedCTImageStorage
    assert (image.NumberOfFrames, image.PixelData) == (sent.NumberOfFrames, sent.PixelData)
    assert image.SOPInstanceUID != sent.SOPInstanceUID


def test_a_full_disk_is_waited_for(
    start: Start, archive: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(**to_archive(archive))
    with monkeypatch.context() as full:
        full.setattr(node.spool, "is_tight", lambda size=0: size == 0)
        full.setattr("ldct_denoise.node.worker.apply_series", no_space)
        storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
        wait_for(lambda: len(attempts_to_write) >= 5)
        assert node.spool.counts()["dead-letter"] == 0
    wait_for(lambda: len(archive.received) == 2)


attempts_to_write: list[object] = []


def no_space(*given: object, **named: object) -> None:
    attempts_to_write.append(given)
    raise OutputError("working: cannot be written (No space left on device)")


def test_a_full_disk_is_waited_for_without_a_limit_of_free_room(
    start: Start,
    archive: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also for Enhanced CT, whose frames are gathered in a file first."""
    node = start(**to_archive(archive), limits={"free_gib": 0})
    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", no_room)
        storescu(node.rules.port, [make_enhanced(tmp_path / "in" / "enhanced.dcm")])
        wait_for(lambda: caplog.text.count("no room on the spool's disk") > MAX_ATTEMPTS)
        assert node.spool.counts()["dead-letter"] == 0
    wait_for(lambda: len(archive.received) == 1)


def no_room(*given: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def offline(folder: Path, files: list[Path], **rule: object) -> tuple[Spool, str]:
    """A spool with one batch, worked on until nothing more is to be done."""
    content = settings(folder / "spool", 11112, destinations={"a": {"stow": "http://h/studies"}})
    rules = Rules(
        **content | {"rules": [identity_rule("a", **rule)], "retry": {"first_s": 1e-9, "longest_s": 1e-9}}
    )
    spool = Spool(rules.spool, rules.limits)
    worker = Worker(rules, spool, Counters(), threading.Event())
    batch = batch_of(spool, files)
    while worker.run_once():
        pass
    return spool, batch


def batch_of(spool: Spool, files: list[Path]) -> str:
    (key,) = {spool.receive(read_instance_uids(file), file.read_bytes()) for file in files}
    return spool.complete(key)


def dead_letter(spool: Spool, batch: str) -> str:
    return json.loads((spool.root / "dead-letter" / f"{batch}.json").read_text())["reason"]


def two_phases(folder: Path) -> tuple[list[Path], list[Path]]:
    """Two acquisitions of three slices at the same places, under one Series Instance UID."""
    return tuple(
        [write_ct(folder / f"{phase}-{number}", number, AcquisitionNumber=phase) for number in range(3)]
        for phase in (1, 2)
    )


@pytest.mark.parametrize("late", [0, 1])
def test_late_images_of_two_stacks_join_their_own(tmp_path: Path, late: int) -> None:
    phases = two_phases(tmp_path)
    whole, growing = phases[1 - late], phases[late]
    content = settings(tmp_path / "spool", 11112, destinations={"a": {"stow": "http://h/studies"}})
    rules = Rules(**content | {"rules": [identity_rule("a")]})
    for batch in ([*whole, *growing[:2]], growing[2:]):  # each a life of the node
        spool = Spool(rules.spool, rules.limits)
        batch_of(spool, batch)
        Worker(rules, spool, Counters(), threading.Event()).run_once()
        spool.close()
    derived = [pydicom.dcmread(file) for file in (rules.spool / "outgoing").rglob("*.dcm")]
    found = {(image.SeriesInstanceUID, image.AcquisitionNumber) for image in derived}
    assert (len(derived), len(found), len({uid for uid, _ in found})) == (6, 2, 2)


def sharing_uids(folder: Path, kind: str) -> list[Path]:
    """Six different images: of one SOP Instance UID, or of two doses that share their UIDs."""
    if kind == "one uid":
        return [write_ct(folder / str(number), number, SOPInstanceUID="1.2.3.4") for number in range(6)]
    return [
        write_ct(
            folder / f"{dose}-{number}", number,
            SOPInstanceUID=f"1.2.3.{number}", PixelData=(cells(number) + dose).tobytes(),
        )
        for dose in (0, 5)
        for number in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["one uid", "two doses"])
@pytest.mark.parametrize("late", [0, 3, 4])
def test_images_that_share_a_sop_uid_all_survive(tmp_path: Path, kind: str, late: int) -> None:
    files = sharing_uids(tmp_path, kind)
    content = settings(tmp_path / "spool", 11112, destinations={"a": {"stow": "http://h/studies"}})
    rules = Rules(**content | {"rules": [identity_rule("a")]})
    batches = [files[: 6 - late], files[6 - late :], files] if late else [files, files]
    for batch in batches:  # each a life of the node; the last one sends everything again
        spool = Spool(rules.spool, rules.limits)
        batch_of(spool, batch)
        Worker(rules, spool, Counters(), threading.Event()).run_once()
        spool.close()
    assert spool.batches("dead-letter") == []
    derived = [pydicom.dcmread(file) for file in (rules.spool / "outgoing").rglob("*.dcm")]
    pixels = {str(image.SOPInstanceUID): image.PixelData for image in derived}
    assert set(pixels.values()) == {pydicom.dcmread(file).PixelData for file in files}
    assert len(pixels) == 6
    series = {(image.SeriesInstanceUID, image.PixelData) for image in derived}
    assert len(series) == 6
    assert len({uid for uid, _ in series}) == (1 if kind == "one uid" else 2)


def test_what_apply_warns_of_is_in_the_record_and_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = [write_ct(tmp_path / str(number), number * (4 if number == 2 else 1)) for number in range(3)]
    spool, batch = offline(tmp_path, far)
    (warning,) = spool.record(batch).warnings
    assert "mm apart" in warning
    assert f"{batch}: {warning}" in caplog.text
    spool.close()
    refused, again = offline(tmp_path / "strict", far, strict=True)
    assert warning in dead_letter(refused, again)


def test_a_rule_can_take_values_for_hu(tmp_path: Path) -> None:
    stored = {"PixelData": (cells(0) // 4).tobytes(), "RescaleIntercept": 0, "RescaleType": "OD"}
    files = [write_ct(tmp_path / str(number), number, **stored) for number in range(3)]
    spool, batch = offline(tmp_path, files)
    assert spool.counts() == dict.fromkeys(("incoming", "ready", "outgoing", "dead-letter"), 0)
    spool.close()
    spool, batch = offline(tmp_path / "assumed", files, assume_hu=True)
    assert spool.record(batch).images == 3
    assert any("--assume-hu" in warning for warning in spool.record(batch).warnings)


def rule_batches(spool_folder: Path, rules: list[dict[str, object]], *batches: list[Path]) -> list[int]:
    """Number of the rule that each batch fell under; -1 where it was ignored. Each batch is a life of the node."""
    content = settings(spool_folder, 11112, destinations={"a": {"stow": "http://h/studies"}})
    chosen = []
    for files in batches:
        loaded = Rules(**content | {"rules": rules})
        spool = Spool(loaded.spool, loaded.limits)
        batch = batch_of(spool, files)
        Worker(loaded, spool, Counters(), threading.Event()).run_once()
        assert spool.batches("dead-letter") == []
        chosen.append(spool.record(batch).rule)
        spool.close()
    return chosen


LOCALIZER = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ConvolutionKernel": "T20", "SliceThickness": "1"}
BY_KERNEL = [
    {"match": {"ConvolutionKernel": "T*"}, "ignore": True},
    identity_rule("a", match={"SliceThickness": "<2"}),
    identity_rule("a", match={"ConvolutionKernel": "B*"}),
]


@pytest.mark.parametrize("place", range(7))
def test_a_localizer_among_the_slices_does_not_choose_their_rule(tmp_path: Path, place: int) -> None:
    files = [
        write_ct(tmp_path / str(n), n, ConvolutionKernel="B30f", SliceThickness="5")
        for n in range(7)
        if n != place
    ]
    # The place of its file in the folder depends on its UID.
    files.insert(place, write_ct(tmp_path / "loc", 20, SOPInstanceUID=f"1.2.{place}", **LOCALIZER))
    assert rule_batches(tmp_path / "spool", BY_KERNEL, files) == [3]
    derived = [pydicom.dcmread(file) for file in (tmp_path / "spool" / "outgoing").rglob("*.dcm")]
    assert len(derived) == 6


def test_late_images_fall_under_the_rule_of_their_series(tmp_path: Path) -> None:
    files = [write_ct(tmp_path / str(n), n, ConvolutionKernel="B30f", SliceThickness="5") for n in range(3)]
    late = [write_ct(tmp_path / "late", 3, ConvolutionKernel="T20", SliceThickness="1")]
    assert rule_batches(tmp_path / "spool", BY_KERNEL, files, late) == [3, 3]
    changed = [identity_rule("a", match={"ConvolutionKernel": "T*"}), *BY_KERNEL]
    assert rule_batches(tmp_path / "spool", changed, late) == [1]


def test_an_ignored_series_stays_ignored_when_more_of_it_comes(tmp_path: Path) -> None:
    first = [write_ct(tmp_path / "1", 1, ConvolutionKernel="T20", SliceThickness="5")]
    late = [write_ct(tmp_path / "2", 2, ConvolutionKernel="B30f", SliceThickness="5")]
    assert rule_batches(tmp_path / "spool", BY_KERNEL, first, late) == [-1, -1]


def test_a_localizer_that_comes_first_does_not_choose_the_rule(tmp_path: Path) -> None:
    localizer = [write_ct(tmp_path / "loc", 20, **LOCALIZER)]
    files = [write_ct(tmp_path / str(n), n, ConvolutionKernel="B30f", SliceThickness="5") for n in range(3)]
    assert rule_batches(tmp_path / "spool", BY_KERNEL, localizer, files) == [-1, 3]


def test_the_rule_of_most_images_decides(tmp_path: Path) -> None:
    kernels = ["T20", "B30f", "B30f", "B30f"]
    files = [
        write_ct(tmp_path / str(n), n, ConvolutionKernel=k, SliceThickness="5") for n, k in enumerate(kernels)
    ]
    assert rule_batches(tmp_path / "spool", BY_KERNEL, files) == [3]


def test_no_derived_image_stays_of_a_series_that_cannot_be_denoised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def first_alone(*given: object, **named: object) -> None:
        if written:
            raise InputError("the second stack cannot be decoded")
        written.append(apply_series(*given, **named))
        assert len(list(written[0].iterdir())) == 3

    monkeypatch.setattr(work, "apply_series", first_alone)
    first, second = two_phases(tmp_path)
    spool, batch = offline(tmp_path, [*first, *second])
    assert "cannot be decoded" in dead_letter(spool, batch)
    assert list((spool.root / "working").iterdir()) == []


def test_an_image_that_cannot_be_compressed_is_a_dead_letter_at_once(tmp_path: Path) -> None:
    cells = np.full((6, 8), 0x8400, np.uint16)  # an overlay in bit 15
    spool, batch = offline(tmp_path, [write_ct(tmp_path / "a", PixelData=cells.tobytes())], compress="jpegls")
    assert "an overlay lies in the unused bits" in dead_letter(spool, batch)
    assert spool.record(batch).attempts == 1


def test_a_dead_letter_after_several_attempts_names_the_last_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*given: object, **named: object) -> None:
        raise OutputError("working: cannot be written (Read-only file system)")

    monkeypatch.setattr(work, "apply_series", read_only)
    spool, batch = offline(tmp_path, [write_ct(tmp_path / "a")])
    assert dead_letter(spool, batch).endswith("the last error: working: cannot be written (Read-only file system)")


def test_an_unreadable_derived_image_does_not_block_other_batches(archive: Receiver, tmp_path: Path) -> None:
    rules = Rules(**settings(tmp_path / "spool", 11112, **to_archive(archive)))
    spool = Spool(rules.spool, rules.limits)
    for batch in ("k-a.1", "k-b.2", "k-c.3"):
        write_ct(spool.folder("outgoing", batch) / "000" / "0001.dcm", SOPInstanceUID=f"1.2.{batch[-1]}")
        spool.set_record(batch, Record(deliveries={"archive": Delivery()}))
    (spool.folder("outgoing", "k-a.1") / "000" / "0001.dcm").write_bytes(b"")
    headless = spool.folder("outgoing", "k-b.2") / "000" / "0001.dcm"
    image = pydicom.dcmread(headless)
    del image.file_meta.MediaStorageSOPClassUID
    image.save_as(headless)
    deliverer = Deliverer("archive", rules, spool, Counters(), threading.Event())
    while deliverer.run_once():
        pass
    settle(spool, rules, Counters())
    assert archive.uids == ["1.2.3"]
    assert spool.batches("dead-letter") == ["k-a.1", "k-b.2"]
    for batch in spool.batches("dead-letter"):
        assert "a derived image in the spool cannot be read" in dead_letter(spool, batch)


def test_an_unexpected_error_does_not_block_other_batches(
    archive: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Rules(**settings(tmp_path / "spool", 11112, **to_archive(archive), retry={"first_s": 60}))
    spool = Spool(rules.spool, rules.limits)
    for batch in ("k-a.1", "k-b.2"):
        write_ct(spool.folder("outgoing", batch) / "0001.dcm")
        spool.set_record(batch, Record(deliveries={"archive": Delivery()}))
    deliverer = Deliverer("archive", rules, spool, Counters(), threading.Event())
    with monkeypatch.context() as broken:
        broken.setattr(deliverer._sender, "send", lambda files, priority: 1 / 0)
        deliverer.run_once()
    assert deliverer.run_once()
    assert [spool.record(batch).deliveries["archive"].state for batch in ("k-a.1", "k-b.2")] == ["waiting", "sent"]
    assert spool.record("k-a.1").deliveries["archive"].reason == "ZeroDivisionError"


def test_rules_choose_by_attributes(start: Start, archive: Receiver, tmp_path: Path) -> None:
    other = Receiver(free_ports(1)[0]).start()
    node = start(
        destinations={"archive": archive.destination, "other": other.destination},
        rules=[
            {"match": {"SeriesDescription": "* 3"}, "ignore": True},
            identity_rule("other", match={"SeriesNumber": ">1"}, compress="rle"),
            identity_rule("archive", "other"),
        ],
    )
    for number in (1, 2, 3):
        storescu(node.rules.port, make_series(tmp_path / f"in{number}", "1.2.3", number, slices=2))
    wait_for(lambda: len(archive.received) == 2 and len(other.received) == 4)
    wait_for(lambda: node.counters.get("series", "ignored") == 1)
    assert {int(image.SeriesNumber) for image in archive.received} == {101}
    assert {int(image.SeriesNumber) for image in other.received} == {101, 201}
    other.stop()


def test_a_series_that_comes_twice_is_delivered_once(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive))
    files = make_series(tmp_path / "in", "1.2.3", 1)
    storescu(node.rules.port, files)
    wait_for(lambda: len(archive.received) == 4)
    storescu(node.rules.port, files)
    wait_for(lambda: node.counters.get("images_already_sent") == 4)
    wait_for(lambda: idle(node))
    assert len(set(archive.uids)) == len(archive.uids) == 4


def test_late_images_join_the_derived_series(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive))
    files = make_series(tmp_path / "in", "1.2.3", 1)
    storescu(node.rules.port, files[:3])
    wait_for(lambda: len(archive.received) == 3)
    storescu(node.rules.port, files[3:])
    wait_for(lambda: len(archive.received) == 4)
    for keyword in ("SeriesInstanceUID", "SeriesDate", "SeriesTime", "SeriesNumber"):
        assert len({str(image[keyword].value) for image in archive.received}) == 1, keyword


def test_a_study_waits_until_all_of_it_is_quiet(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive), complete={"unit": "study", "quiet_s": 1.5, "released_s": 1.0})
    first, second = (make_series(tmp_path / f"in{n}", "1.2.3", n, slices=2) for n in (1, 2))
    storescu(node.rules.port, first)
    wait_for(lambda: node.counters.get("images_received") == 2)
    storescu(node.rules.port, second)
    assert node.counters.get("series", "denoised") == 0
    wait_for(lambda: len(archive.received) == 4)
    again = make_series(tmp_path / "in3", "1.2.3", 3, slices=2)
    storescu(node.rules.port, again)
    wait_for(lambda: len(archive.received) == 6)


def test_a_destination_that_is_down_blocks_no_other_and_gets_all_later(
    start: Start, archive: Receiver, tmp_path: Path
) -> None:
    down = Receiver(free_ports(1)[0])
    node = start(
        destinations={"archive": archive.destination, "down": down.destination},
        rules=[identity_rule("archive", "down")],
    )
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1))
    wait_for(lambda: len(archive.received) == 4 and node.counters.get("send_failures", "down") >= 2)
    assert node.spool.counts()["outgoing"] == 1
    down.start()
    wait_for(lambda: len(down.received) == 4 and idle(node))
    assert sorted(down.uids) == sorted(archive.uids)
    assert len(archive.received) == 4
    down.stop()


def test_dcmtk_s_storescp_takes_what_it_missed(start: Start, tmp_path: Path) -> None:
    program, (port,), output = tool("storescp"), free_ports(1), tmp_path / "taken"
    output.mkdir()
    destination = {"host": LOOPBACK, "port": port, "ae_title": "STORESCP", "timeout_s": 5}
    node = start(destinations={"dcmtk": destination}, rules=[identity_rule("dcmtk")])
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=3))
    wait_for(lambda: node.counters.get("send_failures", "dcmtk") >= 1)
    with subprocess.Popen([program, "-od", str(output), str(port)]) as receiver:
        try:
            wait_for(lambda: len(list(output.iterdir())) == 3 and idle(node))
        finally:
            receiver.terminate()
    assert all(pydicom.dcmread(file).ImageType[0] == "DERIVED" for file in output.iterdir())


def test_a_stopping_node_leaves_the_series_for_the_next_start(
    start: Start, archive: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(**to_archive(archive, strength=1))
    go_on = Worker._check_stop

    def wait_and_go_on(worker: Worker, done: int, total: int, name: str) -> None:
        node.stopping.wait(60)  # after the first slice, however quick the model is
        go_on(worker, done, total, name)

    monkeypatch.setattr(Worker, "_check_stop", wait_and_go_on)
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=12))
    wait_for(lambda: bool(list((node.spool.root / "working").rglob("*.dcm"))))
    node.stop(0.1)
    monkeypatch.undo()
    assert archive.received == []
    (batch,) = node.spool.batches("ready")
    assert node.spool.record(batch).attempts == 0
    assert not list((node.spool.root / "working").rglob("*.dcm"))
    start(**to_archive(archive, strength=1))
    wait_for(lambda: len(archive.received) == 12)


def test_an_unreadable_slice_is_left_out_and_counted(start: Start, archive: Receiver, tmp_path: Path) -> None:
    held = Receiver(free_ports(1)[0])
    node = start(destinations={"held": held.destination}, rules=[identity_rule("held")])
    files = make_series(tmp_path / "in", "1.2.3", 1)
    odd = pydicom.dcmread(files[1])
    del odd.ImagePositionPatient
    odd.save_as(files[1])
    storescu(node.rules.port, files)
    wait_for(lambda: node.counters.get("send_failures", "held") > 0)
    record = node.spool.record(node.spool.batches("outgoing")[0])
    assert (record.images, record.skipped) == (3, 1)


def test_a_destination_without_room_is_tried_again(start: Start, tmp_path: Path) -> None:
    full = Receiver(free_ports(1)[0], status=0xA700).start()
    node = start(**to_archive(full))
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1))
    wait_for(lambda: node.counters.get("send_failures", "archive") >= 2)
    full.status = 0x0000
    wait_for(lambda: len(full.received) == 4 and idle(node))
    full.stop()


def test_a_final_refusal_is_a_dead_letter_that_can_be_requeued(start: Start, tmp_path: Path) -> None:
    strict = Receiver(free_ports(1)[0], status=0xA900).start()
    node = start(**to_archive(strict))
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1))
    wait_for(lambda: node.spool.counts()["dead-letter"] == 1)
    (note,) = (node.spool.root / "dead-letter").glob("*.json")
    assert "archive: 4 of 4 images refused: C-STORE status 0xA900" in note.read_text()
    assert len(list((node.spool.root / "dead-letter").rglob("*.dcm"))) == 4
    strict.status = 0x0000
    assert len(request(node.spool.root, "retry")) == 1
    wait_for(lambda: len(strict.received) == 4 and idle(node))
    strict.stop()


@pytest.mark.parametrize("compress", [None, "jpegls", "j2k", "rle"])
def test_images_are_sent_in_the_transfer_syntax_that_the_peer_accepts(
    start: Start, tmp_path: Path, compress: str | None
) -> None:
    basic = Receiver(free_ports(1)[0], syntaxes=[pydicom.uid.ImplicitVRLittleEndian]).start()
    node = start(**to_archive(basic, compress=compress))
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=2)
    enhanced = make_enhanced(tmp_path / "multiframe" / "enhanced.dcm")
    plain = {str(image.SOPInstanceUID): image.pixel_array for image in map(pydicom.dcmread, [*files, enhanced])}
    storescu(node.rules.port, [*files, enhanced])
    wait_for(lambda: len(basic.received) == 3 and idle(node))
    for image in basic.received:
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        pixels = image.pixel_array
        assert any(np.array_equal(pixels, expected) for expected in plain.values())
    assert len(set(basic.uids)) == 3
    basic.stop()


def test_a_transfer_syntax_that_is_not_accepted_is_reported(start: Start, tmp_path: Path) -> None:
    odd = Receiver(free_ports(1)[0], syntaxes=[pydicom.uid.JPEG2000Lossless]).start()
    node = start(**to_archive(odd, compress="jpegls"))
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    wait_for(lambda: node.spool.counts()["dead-letter"] == 1)
    (note,) = (node.spool.root / "dead-letter").glob("*.json")
    assert "2 of 2 images refused: storage class or transfer syntax not accepted" in note.read_text()
    odd.stop()


def test_after_long_enough_it_gives_up(start: Start, tmp_path: Path) -> None:
    nobody = Receiver(free_ports(1)[0])
    node = start(**to_archive(nobody), retry={"first_s": 0.1, "longest_s": 0.1, "give_up_h": 0.5 / 3600})
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1))
    wait_for(lambda: node.spool.counts()["dead-letter"] == 1)
    assert node.counters.get("send_failures", "archive") >= 2


def test_images_not_meant_to_be_denoised_are_left_alone(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive))
    changes = [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"DerivationDescription": "ldct-denoise 1.0: denoised"},
        {"ImageType": ["DERIVED", "SECONDARY", "MIP"]},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
        {"RescaleType": "MGML"},
        PROTOCOL,
    ]
    files = [make_series(tmp_path / f"in{n}", "1.2.3", n, slices=1)[0] for n in range(len(changes))]
    for file, change in zip(files, changes, strict=True):
        image = pydicom.dcmread(file)
        for keyword, value in change.items():
            setattr(image, keyword, value)
        image.save_as(file)
    storescu(node.rules.port, files)
    wait_for(lambda: node.counters.get("series", "ignored") == len(changes))
    assert idle(node)
    assert node.spool.counts()["dead-letter"] == 0
    assert archive.received == []


PROTOCOL = {"SeriesDescription": "Patient Protocol", "ImageType": ["DERIVED", "SECONDARY", "OTHER"]}


@pytest.mark.parametrize(
    ("images", "is_ignored"),
    [
        ([{"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}], True),
        ([PROTOCOL, {"RescaleType": "MGML"}], True),
        ([{"EchoTime": 30} | dict.fromkeys(("RescaleType", "KVP", "ConvolutionKernel", "XRayTubeCurrent"))], True),
        ([{"ImagePositionPatient": None}], False),
        ([{"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {"Rows": 7}], False),
    ],
    ids=["localizer", "protocol and unit", "MR", "no position", "localizer and truncated slice"],
)
def test_the_kind_of_an_exclusion_routes_a_series_not_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[dict[str, object]], is_ignored: bool
) -> None:
    words = property(lambda self: "in other words", lambda self, text: None)
    monkeypatch.setattr(Exclusion, "text", words, raising=False)
    files = [write_ct(tmp_path / str(number), number, **image) for number, image in enumerate(images)]
    spool, batch = offline(tmp_path, files)
    assert spool.counts() == dict.fromkeys(("incoming", "ready", "outgoing"), 0) | {"dead-letter": not is_ignored}
    if not is_ignored:
        assert dead_letter(spool, batch) == "no CT image that can be denoised: in other words"


def test_a_series_that_cannot_be_denoised_does_not_block_others(
    start: Start, archive: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(**to_archive(archive))
    bad, good = (make_series(tmp_path / f"in{n}", "1.2.3", n, slices=2) for n in (1, 2))
    for file in bad:
        image = pydicom.dcmread(file)
        image.PixelData = image.PixelData[:100]
        image.save_as(file)
    storescu(node.rules.port, [*bad, *good])
    wait_for(lambda: len(archive.received) == 2 and node.spool.counts()["dead-letter"] == 1)
    assert {int(image.SeriesNumber) for image in archive.received} == {201}


def test_a_series_that_kills_the_node_becomes_a_dead_letter(
    start: Start, archive: Receiver, tmp_path: Path
) -> None:
    node = start(**to_archive(archive), complete={"quiet_s": 0.5, "released_s": 0.5})
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=2)
    node.stopping.set()  # nothing is worked on any more
    storescu(node.rules.port, files)
    batch = node.spool.complete(node.spool.incoming()[0].key)
    for _ in range(3):  # each a life of the node that ended in this batch
        with node.spool.update_record(batch) as record:
            record.attempts += 1
    node._worker.run_once()
    assert node.spool.counts()["dead-letter"] == 1
    node.stop(0.1)


def test_nothing_in_the_log_names_a_patient(
    start: Start,
    archive: Receiver,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="ldct_denoise")  # whatever an earlier `serve` of this process chose
    node = start(**to_archive(archive), status_port=free_ports(1)[0])
    good = make_series(tmp_path / "good", "1.2.3", 1, slices=2)
    broken = make_series(tmp_path / "broken", "1.2.3", 2, slices=2)
    for file in broken:
        image = pydicom.dcmread(file)
        image.PixelData = image.PixelData[:10]
        image.ProtocolName = NAME * 10  # too long: pydicom quotes it in a warning
        image.save_as(file)
    storescu(node.rules.port, [*good, *broken])
    wait_for(lambda: len(archive.received) == 2 and node.spool.counts()["dead-letter"] == 1)
    told = http_status(f"http://{LOOPBACK}:{node.rules.status_port}/metrics")[1]
    node.stop(0.2)
    ours = "".join(f"{r.name} {r.getMessage()}\n" for r in caplog.records if r.name.startswith("ldct_denoise"))
    assert "images denoised" in ours
    captured = capfd.readouterr()
    for text in (ours, told, captured.err, captured.out):
        for secret in (NAME, IDENTIFIER, "1.2.3.1", "low dose"):
            assert secret not in text


def test_health_and_counters_on_loopback(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive), status_port=free_ports(1)[0])
    base = f"http://{LOOPBACK}:{node.rules.status_port}"
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=2))
    wait_for(lambda: len(archive.received) == 2 and idle(node))
    status, health = http_status(f"{base}/health")
    assert status == 200
    assert json.loads(health)["status"] == "ok"
    metrics = http_status(f"{base}/metrics")[1]
    for line in (
        "ldct_node_images_received_total 2",
        'ldct_node_images_sent_total{destination="archive"} 2',
        'ldct_node_series_total{outcome="delivered"} 1',
        'ldct_node_batches{state="dead-letter"} 0',
    ):
        assert line in metrics.splitlines()
    assert http_status(f"{base}/etc/passwd")[0] == 404
    node._receiver._server.shutdown()
    wait_for(lambda: http_status(f"{base}/health")[0] == 503)
    node.stopping.set()
    node._status.stop()


def test_rules_are_tried_before_use(tmp_path: Path) -> None:
    from ldct_denoise.errors import ConfigError, ModelError

    content = settings(tmp_path / "spool", 11112, destinations={"a": {"stow": "http://h/studies"}})
    check(Rules(**content | {"rules": [identity_rule("a")]}))
    with pytest.raises(ModelError, match="nosuch"):
        check(Rules(**content | {"rules": [identity_rule("a", model="nosuch")]}))
    missing = {"a": {"stow": "http://h/studies", "authorization_file": str(tmp_path / "none")}}
    with pytest.raises(ConfigError, match="authorization_file"):
        check(Rules(**content | {"destinations": missing}))
    with pytest.raises(ConfigError, match="tls"):
        check(Rules(**content | {"tls": {"certificate": str(tmp_path / "c"), "key": str(tmp_path / "k")}}))
    assert not (tmp_path / "spool").exists()


def test_a_repeat_is_the_same_file(start: Start, archive: Receiver, tmp_path: Path) -> None:
    node = start(**to_archive(archive))
    storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1))
    series = node.spool.root / "series"  # a note is written after the archive has answered: wait for the notes
    wait_for(lambda: sum(len(note.read_text().split()) for note in series.rglob("*.sent")) == 8)
    for note in series.rglob("*.sent"):
        note.unlink()
    storescu(node.rules.port, sorted((tmp_path / "in").iterdir()))
    wait_for(lambda: len(archive.received) == 8)
    assert archive.received[:4] == archive.received[4:]

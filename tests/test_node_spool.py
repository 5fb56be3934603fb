"""The spool: nothing acknowledged is lost, nothing is done twice, and nobody's name is in a path."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from ldct_denoise.errors import OutputError
from ldct_denoise.io.dicom.instance import InstanceUIDs
from ldct_denoise.node.completion import Completion
from ldct_denoise.node.names import series_key
from ldct_denoise.node.records import Delivery
from ldct_denoise.node.settings import CompletionSettings, Limits
from ldct_denoise.node.spool import IncomingSeries, Spool

LIMITS = Limits(free_gib=0)


def identity(number: int, series: str = "1.2.3") -> InstanceUIDs:
    return InstanceUIDs(f"{series}.{number}", series, "1.2")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", LIMITS)


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*.dcm"))


def test_images_of_a_series_gather_and_become_a_batch(spool: Spool) -> None:
    keys = {spool.receive(identity(number), b"%d" % number) for number in range(3)}
    assert len(keys) == 1
    batch = spool.complete(keys.pop())
    assert contents(spool.folder("ready", batch)) == [b"0", b"1", b"2"]
    assert spool.counts() == {"incoming": 0, "ready": 1, "outgoing": 0, "dead-letter": 0}


def test_an_image_received_twice_is_one(spool: Spool) -> None:
    spool.receive(identity(1), b"first")
    key = spool.receive(identity(1), b"first")
    assert contents(spool.folder("ready", spool.complete(key))) == [b"first"]


def test_different_images_of_one_sop_uid_are_kept_in_the_order_of_arrival(spool: Spool) -> None:
    images = [b"%d" % number for number in range(12)]
    for image in (*images, images[3]):
        key = spool.receive(identity(1), image)
    folder = spool.folder("ready", spool.complete(key))
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == images


def test_late_images_make_a_second_batch_with_the_same_creation_time(spool: Spool) -> None:
    first = spool.complete(spool.receive(identity(1), b"1"))
    before = spool.memory.created(first.partition(".")[0])
    time.sleep(0.01)
    second = spool.complete(spool.receive(identity(2), b"2"))
    assert spool.batches("ready") == [first, second]
    assert spool.memory.created(second.partition(".")[0]) == before


def test_a_killed_node_finds_its_work_again(spool: Spool) -> None:
    done = spool.complete(spool.receive(identity(1), b"1"))
    spool.folder("working", done).mkdir()
    (spool.folder("working", done) / "a.dcm").write_bytes(b"derived")
    waiting = spool.complete(spool.receive(identity(1, "1.9"), b"2"))
    growing = spool.receive(identity(1, "1.8"), b"3")
    # Killed here: one batch handed over but not yet let go, one image half received, one batch half denoised.
    os.rename(spool.folder("working", done), spool.folder("outgoing", done))
    (spool.root / "receiving" / "half").write_bytes(b"ha")
    spool.folder("working", waiting).mkdir()
    spool.close()

    again = Spool(spool.root, LIMITS)
    assert again.batches("outgoing") == [done]
    assert again.batches("ready") == [waiting]
    assert [series.key for series in again.incoming()] == [growing]
    assert not list((again.root / "receiving").iterdir())
    assert not list((again.root / "working").iterdir())


def test_two_nodes_cannot_share_a_spool(spool: Spool) -> None:
    with pytest.raises(OutputError, match="another node uses it"):
        Spool(spool.root, LIMITS)


def test_a_full_spool_refuses(tmp_path: Path) -> None:
    small = Spool(tmp_path / "small", Limits(spool_gib=100 / 2**30, free_gib=0))
    small.receive(identity(1), b"x" * 90)
    with pytest.raises(OutputError, match="spool_gib"):
        small.receive(identity(2), b"x" * 20)
    crowded = Spool(tmp_path / "crowded", Limits(free_gib=10**6))
    with pytest.raises(OutputError, match="are free"):
        crowded.receive(identity(1), b"x")


def test_a_refused_image_leaves_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", no_space)
        with pytest.raises(OutputError, match="No space left"):
            spool.receive(identity(1), b"x" * 90)
    assert not list((spool.root / "receiving").iterdir())
    assert contents(spool.root) == []


def test_sent_images_are_known_even_after_a_torn_line(spool: Spool) -> None:
    (spool.root / "series" / "k").mkdir()
    (spool.root / "series" / "k" / "pacs.sent").write_text("1.2.3\n1.2")
    spool.memory.mark_sent("k", "pacs", "1.2.4", "abc")
    assert {"1.2.3": "", "1.2.4": "abc"}.items() <= spool.memory.sent("k", "pacs").items()
    assert spool.memory.sent("k", "other") == {}


def test_a_dead_letter_has_a_reason_and_returns_to_its_former_state(spool: Spool) -> None:
    batch = spool.complete(spool.receive(identity(1), b"1"))
    with spool.update_record(batch) as record:
        record.attempts = 3
        record.deliveries = {"pacs": Delivery(attempts=9, state="failed"), "web": Delivery(state="sent")}
    spool.dead_letter("ready", batch, "no slices")
    assert spool.counts()["dead-letter"] == 1
    assert "no slices" in (spool.root / "dead-letter" / f"{batch}.json").read_text()
    assert spool.retry(batch) == "ready"
    assert not list((spool.root / "dead-letter").iterdir())
    assert spool.batches("ready") == [batch]
    assert spool.record(batch).attempts == 0
    assert spool.record(batch).deliveries == {"pacs": Delivery(), "web": Delivery(state="sent")}


def test_old_memories_go_but_not_those_of_series_at_work(spool: Spool) -> None:
    old, busy = series_key(identity(1, "1.5")), spool.receive(identity(1), b"1")
    for key in (old, busy):
        spool.memory.created(key)
        os.utime(spool.root / "series" / key / "created", (1, 1))
    spool.tidy(days=30)
    assert [folder.name for folder in (spool.root / "series").iterdir()] == [busy]


def test_paths_are_anonymous_and_private(spool: Spool) -> None:
    spool.receive(InstanceUIDs("1.2.3.4.5", "../../etc/passwd", "1.2"), b"x")
    names = [path.name for path in spool.root.rglob("*")]
    assert not [name for name in names if "1.2.3" in name or "passwd" in name]
    assert spool.root.stat().st_mode & 0o077 == 0
    assert not (spool.root.parent / "etc").exists()


def series(key: str, last: float) -> IncomingSeries:
    return IncomingSeries(key, last)


def test_quiet_makes_a_series_complete() -> None:
    completion = Completion(CompletionSettings(quiet_s=60, released_s=5))
    assert completion.complete_series([series("s-1", 100)], 159) == []
    assert completion.complete_series([series("s-1", 100)], 160) == ["s-1"]


def test_a_release_makes_it_complete_sooner_but_only_of_all_that_sent_it() -> None:
    completion = Completion(CompletionSettings(quiet_s=60, released_s=5))
    completion.image_received("s-1", 1)
    completion.image_received("s-1", 2)
    completion.association_ended(1, released=True)
    assert completion.complete_series([series("s-1", 100)], 106) == []
    completion.association_ended(2, released=True)
    assert completion.complete_series([series("s-1", 100)], 104) == []
    assert completion.complete_series([series("s-1", 100)], 106) == ["s-1"]


def test_after_an_abort_only_quiet_counts() -> None:
    completion = Completion(CompletionSettings(quiet_s=60, released_s=5))
    completion.image_received("s-1", 1)
    completion.association_ended(1, released=False)
    assert completion.complete_series([series("s-1", 100)], 130) == []
    assert completion.complete_series([series("s-1", 100)], 160) == ["s-1"]


def test_a_study_waits_for_all_its_series() -> None:
    completion = Completion(CompletionSettings(unit="study", quiet_s=60, released_s=5))
    growing = [series("a-1", 100), series("a-2", 140), series("b-1", 100)]
    assert completion.complete_series(growing, 165) == ["b-1"]
    assert sorted(completion.complete_series(growing, 200)) == ["a-1", "a-2", "b-1"]

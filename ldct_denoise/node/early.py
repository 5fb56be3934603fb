"""Send derived images while the rest of their series is still denoised.

This only saves time: stored images are noted as always, and the delivery of the finished batch sends the rest.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.instance import read_instance_uids
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.deliver import digest_of
from ldct_denoise.node.destinations import make_sender
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.sending import Outcome, Unreachable
from ldct_denoise.node.spool import Spool

log = logging.getLogger("ldct_denoise.node")

#: Images that are finished within this time share an association, s.
GATHER_S = 2.0


class EarlyDelivery:
    """Sends the images of one batch to the destinations that take them early; a context manager.

    Parameters
    ----------
    batch : str
    send_to : sequence of str
        Destinations of its rule; those without ``while_denoising`` are left out.
    rules : Rules
    spool : Spool
    counters : Counters
    """

    def __init__(self, batch: str, send_to: Sequence[str], rules: Rules, spool: Spool, counters: Counters) -> None:
        names = [name for name in send_to if rules.destinations[name].while_denoising]
        self._streams = [_Stream(batch, name, rules, spool, counters) for name in names]

    def __enter__(self) -> EarlyDelivery:
        return self

    def __exit__(self, *error: object) -> None:
        for stream in self._streams:
            stream.end()

    def add(self, file: Path) -> None:
        """Send a finished derived image."""
        for stream in self._streams:
            stream.files.put(file)

    @property
    def sent(self) -> dict[str, int]:
        """Number of images that each destination has taken, by its name."""
        return {stream.name: stream.sent for stream in self._streams if stream.sent}


class _Stream:
    """Sends images to one destination in a thread of its own, until it fails."""

    def __init__(self, batch: str, name: str, rules: Rules, spool: Spool, counters: Counters) -> None:
        self.name, self.sent = name, 0
        self.files: queue.Queue[Path | None] = queue.Queue()
        self._batch, self._spool, self._counters = batch, spool, counters
        self._sender = make_sender(rules.destinations[name], rules.ae_title)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"early-{name}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Send no more; the delivery of the batch sends what is left."""
        self._ended.set()
        self.files.put(None)
        self._thread.join(5.0)
        if self._thread.is_alive():
            self._sender.cancel()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                files = self._gather()
                if files:
                    self._send(files)
        except (Unreachable, InputError, OSError) as error:
            reason = str(error) if isinstance(error, Unreachable) else type(error).__name__
            log.info("%s: %s: not sent while denoising: %s", self._batch, self.name, reason)

    def _gather(self) -> list[Path]:
        """The next finished images, with those that follow within a short time."""
        first = self.files.get()
        self._ended.wait(GATHER_S)
        files = [first]
        while not self.files.empty():
            files.append(self.files.get())
        return [file for file in files if file is not None]

    def _send(self, files: Sequence[Path]) -> None:
        key = self._batch.partition(".")[0]
        priority = self._spool.peek(self._batch).priority
        known = self._spool.memory.sent(key, self.name)
        facts = {file: (read_instance_uids(file).sop_uid, digest_of(file)) for file in files}
        files = [file for file, (uid, digest) in facts.items() if known.get(uid) != digest]
        if not files:
            return
        for file, answer in self._sender.send(files, priority):
            if answer.outcome is Outcome.STORED:
                self._spool.memory.mark_sent(key, self.name, *facts[file])
                self._counters.add("images_sent", destination=self.name)
                self.sent += 1
            if self._ended.is_set():
                return

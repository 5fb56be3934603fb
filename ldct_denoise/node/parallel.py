"""Send the images of one batch over several associations at once."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ldct_denoise.node.sending import Answer, Sender, Unreachable

#: An answer, the error with which an association ended, or None where it ended well.
_Event = tuple[Path, Answer] | Exception | None


class ParallelSender:
    """Shares images between senders of the same destination (see :class:`ldct_denoise.node.sending.Sender`).

    Parameters
    ----------
    senders : sequence of Sender
    """

    def __init__(self, senders: Sequence[Sender]) -> None:
        self._senders = senders

    def send(self, files: Sequence[Path], priority: int = 1) -> Iterator[tuple[Path, Answer]]:
        """See :class:`ldct_denoise.node.sending.Sender`; the order of the answers is free.

        If one association fails, the others send their images first.
        """
        parts = [files[start :: len(self._senders)] for start in range(len(self._senders))]
        events: queue.Queue[_Event] = queue.Queue()
        stop = threading.Event()
        threads = [
            threading.Thread(target=_send_part, args=(sender, part, priority, events, stop), daemon=True)
            for sender, part in zip(self._senders, parts, strict=True)
            if part
        ]
        for thread in threads:
            thread.start()
        errors: list[Exception] = []
        try:
            running = len(threads)
            while running:
                event = events.get()
                if isinstance(event, tuple):
                    yield event
                    continue
                running -= 1
                errors += [event] if event is not None else []
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    def cancel(self) -> None:
        """See :class:`ldct_denoise.node.sending.Sender`."""
        for sender in self._senders:
            sender.cancel()

    def check(self) -> str:
        """See :class:`ldct_denoise.node.sending.Sender`."""
        return self._senders[0].check()


def _send_part(
    sender: Sender, files: Sequence[Path], priority: int, events: queue.Queue[_Event], stop: threading.Event
) -> None:
    answered = 0
    try:
        with contextlib.closing(sender.send(files, priority)) as answers:  # type: ignore[type-var]
            for answer in answers:
                events.put(answer)
                answered += 1
                if stop.is_set():
                    break
    except Exception as error:  # of the network, or a bug; the thread that reads the events raises it
        if isinstance(error, Unreachable) and error.image is None and answered < len(files):
            error.image = files[answered]
        events.put(error)
    else:
        events.put(None)

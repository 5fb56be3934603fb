"""How every kind of destination answers to an image that is sent to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

#: C-STORE statuses and failure reasons with which the destination has the image (PS3.4 B.2.3, PS3.7 C).
STORED_WITH_WARNING = {
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class",
    0x0001: "optional attributes not supported",
    0x0107: "attribute list error",
    0x0116: "attribute value out of range",
    0x0111: "had it already",
}


class Unreachable(Exception):
    """A destination cannot accept images now. The message names no image.

    Parameters
    ----------
    message : str
        The reason.
    image : Path, optional
        The image that may be the cause; by default the first one without an answer.
    """

    def __init__(self, message: str, image: Path | None = None) -> None:
        super().__init__(message)
        self.image = image


class Outcome(Enum):
    """State of an image at a destination after it was sent."""

    STORED = "stored"
    RETRY = "retry"
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """A destination's answer to one image.

    Parameters
    ----------
    outcome : Outcome
        Stored; not stored this time; or never to be stored.
    reason : str
        Warning of a stored image, empty without one; otherwise the reason of the failure. Names no image.
    """

    outcome: Outcome
    reason: str = ""


class Sender(Protocol):
    """Sends images to a destination."""

    def send(self, files: Sequence[Path], priority: int = 1) -> Iterator[tuple[Path, Answer]]:
        """Send images one after the other; an image that is not stored does not end it.

        Parameters
        ----------
        files : sequence of Path
        priority : int
            0 high, 1 medium, 2 low.

        Yields
        ------
        Path
            The image.
        Answer

        Raises
        ------
        Unreachable
            If the destination is down. The answers yielded before hold.
        """
        ...

    def cancel(self) -> None:
        """Abort a running transmission, from another thread."""
        ...

    def check(self) -> str:
        """Ask the destination whether it is there; return the reason where it is not, else an empty text."""
        ...


def stored_with_warning(status: int) -> Answer:
    """An answer that means: stored, with this warning."""
    return Answer(Outcome.STORED, f"0x{status:04X} ({STORED_WITH_WARNING.get(status, 'warning')})")

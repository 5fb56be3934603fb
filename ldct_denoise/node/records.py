"""Records of the spool: for every batch, the attempts to denoise it and the state of its deliveries."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from ldct_denoise.node.durable_files import write_text

#: Version of the spool's layout and of its records. A newer version may add fields; older nodes ignore them.
VERSION = 1
#: A batch becomes a dead letter after this many attempts that ended with the node or the disk.
MAX_ATTEMPTS = 3


@dataclass
class Delivery:
    """State of the delivery of a batch to one destination.

    Parameters
    ----------
    attempts : int
        Failed attempts since the last progress.
    failing_s : float
        Seconds waited between them.
    next_try : float
        Time of the next attempt, seconds since 1970.
    reason : str
        Reason of the last failure.
    state : str
        ``waiting``, ``sent`` or ``failed``.
    transaction_uid : str
        Of the request for storage commitment that is not answered yet; empty without one.
    """

    attempts: int = 0
    failing_s: float = 0.0
    next_try: float = 0.0
    reason: str = ""
    state: str = "waiting"
    transaction_uid: str = ""


@dataclass
class Record:
    """Attempts, results and deliveries of a batch.

    Parameters
    ----------
    attempts : int
        Attempts to denoise it that did not end.
    not_before : float
        Earliest time of the next attempt, seconds since 1970.
    rule : int
        Number of the rule that decided, from 1; 0 if none fitted, -1 before.
    rules_digest : str
        Digest of the rules among which it was chosen; empty before.
    priority : int
        0 high, 1 medium, 2 low.
    keep_received : bool
        Whether the received images stay until the batch is delivered.
    model, checksum : str
        Name of the model, and SHA-256 of its parameters; several are separated by commas.
    images, skipped : int
        Number of images denoised, and of received images that were skipped.
    incomplete : str
        Kinds of images that are missing from the derived series, in words; empty if none is.
    former_state : str
        State of a dead letter before it became one.
    reason : str
        Reason of the last failure to denoise it.
    warnings : list of str
        Problems of its series, and how they differ from the images that the model was trained on.
    deliveries : dict from str to Delivery
        By destination.
    version : int
        :data:`VERSION` of the node that wrote it.
    """

    attempts: int = 0
    not_before: float = 0.0
    rule: int = -1
    rules_digest: str = ""
    priority: int = 1
    keep_received: bool = False
    model: str = ""
    checksum: str = ""
    images: int = 0
    skipped: int = 0
    incomplete: str = ""
    former_state: str = ""
    reason: str = ""
    warnings: list[str] = field(default_factory=list)
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    version: int = VERSION


@dataclass(frozen=True)
class RememberedRule:
    """The rule that decided for a series.

    Parameters
    ----------
    rules_digest : str
        Digest of all rules at that time; see :attr:`ldct_denoise.node.rules.Rules.rules_digest`.
    index : int or None
        Index of the rule; None if none fitted.
    send_to : tuple of str
        Names of its destinations.
    """

    rules_digest: str
    index: int | None
    send_to: tuple[str, ...] = ()


def record_path(root: Path, batch: str) -> Path:
    """File of the record of a batch."""
    return root / "records" / f"{batch}.json"


def read_record(root: Path, batch: str, *, set_aside: bool = True) -> Record:
    """Read the record of a batch of the spool ``root``.

    Unknown fields are ignored: a newer version wrote them. A record that cannot be read is renamed to
    ``<batch>.json.unreadable``, so that it neither stops the node nor is lost to whoever looks for the cause.

    Parameters
    ----------
    root : Path
    batch : str
    set_aside : bool
        False to leave an unreadable record where it is, for a process that must not change the spool.

    Returns
    -------
    Record
        An empty one where there is none or it cannot be read.
    """
    path = record_path(root, batch)
    try:
        return _adapter().validate_json(path.read_bytes())
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, RecursionError):
        with contextlib.suppress(OSError):  # if the disk itself fails, the batch goes on without its record
            if set_aside:
                os.replace(path, path.with_name(f"{path.name}.unreadable"))
        return Record()


def write_record(root: Path, batch: str, record: Record) -> None:
    """Write the record of a batch.

    Parameters
    ----------
    root : Path
        The spool.
    batch : str
    record : Record
    """
    record.version = VERSION
    write_text(record_path(root, batch), json.dumps(asdict(record)))


@cache
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)

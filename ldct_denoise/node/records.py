"""Records of the spool: for every batch, the attempts to denoise it and the state of its deliveries."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ldct_denoise.node.durable_files import write_text


@dataclass
class Delivery:
    """State of the delivery of a batch to one destination.

    Parameters
    ----------
    attempts : int
        Failed attempts since the last progress.
    first_failure, next_try : float
        Time of the first of them, and time of the next attempt, seconds since 1970.
    reason : str
        Reason of the last failure.
    state : str
        ``waiting``, ``sent`` or ``failed``.
    """

    attempts: int = 0
    first_failure: float = 0.0
    next_try: float = 0.0
    reason: str = ""
    state: str = "waiting"


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
        Number of the rule that decided, from 1; -1 before.
    model : str
        Name of the model.
    images, skipped : int
        Number of images denoised, and of received images that were skipped.
    former_state : str
        State of a dead letter before it became one.
    reason : str
        Reason of the last failure to denoise it.
    deliveries : dict from str to Delivery
        By destination.
    """

    attempts: int = 0
    not_before: float = 0.0
    rule: int = -1
    model: str = ""
    images: int = 0
    skipped: int = 0
    former_state: str = ""
    reason: str = ""
    deliveries: dict[str, Delivery] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Record:
        """Restore a record from what :func:`dataclasses.asdict` gave."""
        deliveries = {name: Delivery(**values) for name, values in content.pop("deliveries", {}).items()}
        return cls(**content, deliveries=deliveries)


@dataclass(frozen=True)
class RememberedRule:
    """The rule that decided for a series.

    Parameters
    ----------
    rules_digest : str
        Digest of all rules at that time; see :attr:`ldct_denoise.node.rules.Rules.rules_digest`.
    index : int or None
        Index of the rule; None if none fitted.
    """

    rules_digest: str
    index: int | None


def read_record(root: Path, batch: str) -> Record:
    """Read the record of a batch of the spool ``root``; an empty one where there is none or it cannot be read."""
    try:
        return Record.from_dict(json.loads((root / "records" / f"{batch}.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
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
    write_text(root / "records" / f"{batch}.json", json.dumps(asdict(record)))

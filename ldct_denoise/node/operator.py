"""Actions of an operator: list batches, try them again, forget deliveries, close series.

A command acts on the spool itself where no node runs; a running node is asked by a file in ``requests/``, so that
one process alone changes the spool.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.io.dicom.instance import attribute_values
from ldct_denoise.node.durable_files import write_text
from ldct_denoise.node.names import study_key
from ldct_denoise.node.records import Delivery, read_record
from ldct_denoise.node.settings import Limits
from ldct_denoise.node.spool import STATES, Spool, SpoolInUse

Action = Literal["retry", "resend", "forget", "complete"]
ACTIONS: tuple[Action, ...] = get_args(Action)
#: Time that a running node has to answer a request, s.
ANSWER_S = 15.0
_SHOWN = ("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "StudyDate", "SeriesNumber", "Modality")


@dataclass(frozen=True)
class BatchStatus:
    """A batch of the spool, for an operator.

    Parameters
    ----------
    batch, state : str
        Name and state.
    age_s : float
        Seconds since its folder last changed.
    images : int
        Number of images in its folder.
    reason : str
        Why it is not done.
    deliveries : dict from str to str
        State of each delivery, with the reason of its last failure.
    study_uid, series_uid, accession_number, study_date, series_number : str
        Of its first image; empty where that cannot be read.
    """

    batch: str
    state: str
    age_s: float
    images: int
    reason: str
    deliveries: dict[str, str]
    study_uid: str = ""
    series_uid: str = ""
    accession_number: str = ""
    study_date: str = ""
    series_number: str = ""

    def is_meant_by(self, target: str) -> bool:
        """Whether a name, UID or accession number means this batch."""
        key = self.batch.partition(".")[0]
        names = {self.batch, key, self.study_uid, self.series_uid, self.accession_number}
        return bool(target) and target in names


def list_batches(root: Path) -> list[BatchStatus]:
    """All batches of a spool; also while a node runs.

    Raises
    ------
    InputError
        If ``root`` is no spool.
    """
    if not all((root / state).is_dir() for state in STATES):
        raise InputError(f"{root}: no spool of a node; give the rules file, or the folder that its `spool` names")
    return list(_batches(root))


def _batches(root: Path) -> Iterator[BatchStatus]:
    for state in STATES:
        for folder in sorted(item for item in (root / state).iterdir() if item.is_dir()):
            try:
                files = sorted(file for file in folder.rglob("*") if file.is_file())
                age_s = max(time.time() - folder.stat().st_mtime, 0.0)
            except OSError:
                continue  # moved on meanwhile
            record = read_record(root, folder.name, set_aside=False)
            deliveries = {
                name: f"{delivery.state}{f': {delivery.reason}' if delivery.reason else ''}"
                for name, delivery in record.deliveries.items()
            }
            reason = record.reason or record.incomplete
            if state == "dead-letter":
                reason = _dead_letter_reason(folder) or reason
            shown = _shown(files[0]) if files else {}
            yield BatchStatus(folder.name, state, age_s, len(files), reason, deliveries, **shown)


def _dead_letter_reason(folder: Path) -> str:
    try:
        return str(json.loads(folder.with_name(f"{folder.name}.json").read_text())["reason"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _shown(file: Path) -> dict[str, str]:
    try:
        values = attribute_values(file, _SHOWN)
    except InputError:
        return {}
    names = {"StudyInstanceUID": "study_uid", "SeriesInstanceUID": "series_uid"}
    names |= {"AccessionNumber": "accession_number", "StudyDate": "study_date", "SeriesNumber": "series_number"}
    return {name: "\\".join(values[keyword]) for keyword, name in names.items()}


def request(root: Path, action: Action, target: str = "") -> list[str]:
    """Do something with batches: by the running node, or directly where none runs.

    * ``retry`` moves dead letters back and tries waiting batches at once.
    * ``resend`` also sends again what destinations have.
    * ``forget`` forgets what was delivered of a series, so that it is delivered again when it is received again.
    * ``complete`` closes a series that may still grow.

    Parameters
    ----------
    root : Path
        The spool.
    action : {"retry", "resend", "forget", "complete"}
    target : str
        Batch, series key, Study or Series Instance UID, or accession number; empty for all, which ``forget`` and
        ``resend`` do not accept.

    Returns
    -------
    list of str
        One line for every batch or series that was changed.

    Raises
    ------
    InputError
        If ``root`` is no spool, or nothing fits the target.
    OutputError
        If a running node does not answer.
    """
    list_batches(root)
    try:
        spool = Spool(root, Limits())  # type: ignore[call-arg]
    except SpoolInUse:
        return _ask(root, action, target)
    try:
        return perform(spool, action, target)
    finally:
        spool.close()


def perform(spool: Spool, action: Action, target: str = "") -> list[str]:
    """Do what :func:`request` describes, in the process that has the spool.

    Parameters
    ----------
    spool : Spool
    action : {"retry", "resend", "forget", "complete"}
    target : str

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If nothing fits the target.
    """
    if not target and action in ("resend", "forget"):
        raise InputError(f"{action}: name a batch, a UID or an accession number")
    found = [item for item in list_batches(spool.root) if not target or item.is_meant_by(target)]
    if action == "forget":
        return _forget(spool, {item.batch.partition(".")[0] for item in found} or _keys(spool, target), target)
    lines = []
    for item in found:
        if action == "complete" and item.state == "incoming":
            lines.append(f"{spool.complete(item.batch)}: complete")
        elif action in ("retry", "resend") and item.state in ("dead-letter", "ready", "outgoing"):
            if action == "resend":
                spool.memory.forget_sent(item.batch.partition(".")[0])
            lines.append(f"{item.batch}: {_try_again(spool, item, send_all=action == 'resend')}")
    if not lines and target:
        raise InputError(f"{action}: nothing in the spool fits {target!r}; `node list` shows what is there")
    return lines


def _try_again(spool: Spool, item: BatchStatus, send_all: bool) -> str:
    state = spool.retry(item.batch) if item.state == "dead-letter" else item.state
    with spool.update_record(item.batch) as record:
        record.not_before = 0.0
        for name, delivery in record.deliveries.items():
            if send_all or delivery.state != "sent":
                record.deliveries[name] = Delivery()
    return f"tried again ({state})"


def _forget(spool: Spool, keys: set[str], target: str) -> list[str]:
    lines = [f"{key}: deliveries forgotten" for key in sorted(keys) if spool.memory.forget_sent(key)]
    if not lines:
        raise InputError(f"forget: nothing is remembered of {target!r}")
    return lines


def _keys(spool: Spool, target: str) -> set[str]:
    """Keys of remembered series by their own name, or by the UID of their study or series."""
    names = {folder.name for folder in spool.memory.root.iterdir()}
    return {
        name for name in names if target in (name, name.split("-")[0]) or name.split("-")[0] == study_key(target)
    }


def _ask(root: Path, action: Action, target: str) -> list[str]:
    """Ask the running node, and wait for its answer."""
    path = root / "requests" / f"{time.time_ns()}-{secrets.token_hex(4)}.json"
    answer = path.with_suffix(".answer")
    write_text(path, json.dumps({"action": action, "target": target}))
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        if answer.exists():
            content = json.loads(answer.read_text())
            answer.unlink(missing_ok=True)
            if content["error"]:
                raise InputError(content["error"])
            return list(map(str, content["lines"]))
        time.sleep(0.1)
    path.unlink(missing_ok=True)
    raise OutputError(f"{root}: the node that uses this spool does not answer; look at its log")


def answer_requests(spool: Spool) -> None:
    """Do what operators have asked for in ``requests/``, in the process that has the spool."""
    for path in sorted((spool.root / "requests").glob("[!.]*.json")):
        lines: list[str] = []
        problem = ""
        try:
            content = json.loads(path.read_text())
            if content["action"] not in ACTIONS:
                raise InputError(f"no action {content['action']!r}")
            lines = perform(spool, content["action"], str(content["target"]))
        except InputError as error:
            problem = str(error)
        except (OSError, ValueError, LookupError, TypeError):
            problem = "the request cannot be read"
        path.unlink(missing_ok=True)
        write_text(path.with_suffix(".answer"), json.dumps({"lines": lines, "error": problem}))


def as_json(batches: list[BatchStatus]) -> str:
    """Batches for machines."""
    return json.dumps([asdict(batch) for batch in batches], indent=1)

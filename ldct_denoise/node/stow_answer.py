"""Read the answer of a STOW-RS server: which images it reports as stored, and why it did not store the others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from xml.etree import ElementTree

#: Sequences and their attributes (PS3.18 10.5.3).
_REFERENCED_SOP, _FAILED_SOP = "00081199", "00081198"
_SOP_UID, _WARNING_REASON, _FAILURE_REASON = "00081155", "00081196", "00081197"


@dataclass(frozen=True)
class StowAnswer:
    """Images that a STOW-RS answer reports as stored and as failed, by SOP Instance UID.

    Parameters
    ----------
    stored : dict from str to int or None
        The images in Referenced SOP Sequence (0008,1199), with their Warning Reason.
    failed : dict from str to int or None
        The images in Failed SOP Sequence (0008,1198), with their Failure Reason.
    """

    stored: dict[str, int | None] = field(default_factory=dict)
    failed: dict[str, int | None] = field(default_factory=dict)


def parse_stow_answer(body: bytes) -> StowAnswer:
    """Parse an answer in the DICOM JSON Model (PS3.18 F) or the Native DICOM Model (XML, PS3.19 A.1).

    Returns
    -------
    StowAnswer
        Empty where the body is neither of them, such as the page of a login form.
    """
    try:
        return _read_xml(body) if body.lstrip(b"\xef\xbb\xbf\t\r\n ").startswith(b"<") else _read_json(body)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, ElementTree.ParseError):
        return StowAnswer()


def _read_json(body: bytes) -> StowAnswer:
    content = json.loads(body)
    dataset = content[0] if isinstance(content, list) else content

    def reasons(sequence: str, reason: str) -> dict[str, int | None]:
        items = dataset.get(sequence, {}).get("Value", [])
        return _by_uid([(_json_value(item, _SOP_UID), _json_value(item, reason)) for item in items])

    return StowAnswer(reasons(_REFERENCED_SOP, _WARNING_REASON), reasons(_FAILED_SOP, _FAILURE_REASON))


def _json_value(item: dict[str, dict[str, list[object]]], tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _read_xml(body: bytes) -> StowAnswer:
    if b"<!" in body.replace(b"<!--", b""):  # a document type may define entities that expand to any size
        return StowAnswer()
    root = ElementTree.fromstring(body)

    def reasons(sequence: str, reason: str) -> dict[str, int | None]:
        path = f"./{{*}}DicomAttribute[@tag='{sequence}']/{{*}}Item"
        return _by_uid([(_xml_value(item, _SOP_UID), _xml_value(item, reason)) for item in root.findall(path)])

    return StowAnswer(reasons(_REFERENCED_SOP, _WARNING_REASON), reasons(_FAILED_SOP, _FAILURE_REASON))


def _xml_value(item: ElementTree.Element, tag: str) -> str:
    return (item.findtext(f"./{{*}}DicomAttribute[@tag='{tag}']/{{*}}Value") or "").strip()


def _by_uid(items: list[tuple[str, str]]) -> dict[str, int | None]:
    """Reasons by SOP Instance UID; None where there is none."""
    return {uid.strip("\0 "): int(reason) if reason else None for uid, reason in items if uid}

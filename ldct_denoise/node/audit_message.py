"""Audit messages of DICOM (PS3.15 A.5), which succeed those of RFC 3881."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from xml.etree import ElementTree

#: Codes of events, by name (PS3.16 CID 400, 401, 403).
EVENTS = {
    "activity": ("110100", "Application Activity"),
    "accessed": ("110103", "DICOM Instances Accessed"),
    "transferred": ("110104", "DICOM Instances Transferred"),
    "alert": ("110113", "Security Alert"),
    "start": ("110120", "Application Start"),
    "stop": ("110121", "Application Stop"),
    "authentication": ("110126", "Node Authentication"),
}
#: Codes of roles (PS3.16 CID 402).
ROLES = {
    "application": ("110150", "Application"),
    "destination": ("110152", "Destination Role ID"),
    "source": ("110153", "Source Role ID"),
}
_STUDY = ("110180", "DCM", "Study Instance UID")
_PATIENT = ("2", "RFC-3881", "Patient Number")
#: Characters that XML 1.0 does not allow.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Outcome of an event (PS3.15 A.5.1).
SUCCESS, SERIOUS_FAILURE = 0, 8


@dataclass(frozen=True)
class Participant:
    """A process that takes part in an event.

    Parameters
    ----------
    ae_title : str
        Empty where it has none.
    role : {"application", "destination", "source"}
    host : str
        Its name or address; empty for none.
    is_requestor : bool
        Whether it started the event.
    user_id : str
        By default ``ae_title``.
    """

    ae_title: str
    role: Literal["application", "destination", "source"]
    host: str = ""
    is_requestor: bool = False
    user_id: str = ""


@dataclass(frozen=True)
class StudyObject:
    """The study that an event is about, and its patient.

    Parameters
    ----------
    study_uid, patient_id, accession_number : str
    instances : mapping from str to int
        Number of images by SOP Class UID.
    details : mapping from str to str
        Further facts, by name: model, checksum, series.
    """

    study_uid: str
    patient_id: str = ""
    accession_number: str = ""
    instances: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)


def audit_message(
    event: str,
    action: Literal["C", "R", "U", "D", "E"],
    time: datetime,
    source_id: str,
    participants: tuple[Participant, ...],
    *,
    event_type: str = "",
    study: StudyObject | None = None,
    failure: str = "",
) -> str:
    """An audit message in XML.

    Parameters
    ----------
    event : str
        Key of :data:`EVENTS`.
    action : {"C", "R", "U", "D", "E"}
        Create, read, update, delete, execute.
    time : datetime
        Of the event; with a time zone.
    source_id : str
        Name of the node among the sources of audit messages.
    participants : tuple of Participant
    event_type : str
        Key of :data:`EVENTS`; empty for none.
    study : StudyObject, optional
    failure : str
        Reason why the event failed; empty where it did not.

    Returns
    -------
    str
    """
    root = ElementTree.Element("AuditMessage")
    identification = ElementTree.SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=time.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=str(SERIOUS_FAILURE if failure else SUCCESS),
    )
    _code(identification, "EventID", *_dcm(EVENTS[event]))
    if event_type:
        _code(identification, "EventTypeCode", *_dcm(EVENTS[event_type]))
    if failure:
        ElementTree.SubElement(identification, "EventOutcomeDescription").text = failure
    for participant in participants:
        _add_participant(root, participant)
    source = ElementTree.SubElement(root, "AuditSourceIdentification", AuditSourceID=source_id)
    ElementTree.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    if study is not None:
        _add_study(root, study)
    for element in root.iter():
        element.attrib = {name: _NO_XML.sub("\ufffd", value) for name, value in element.attrib.items()}
        element.text = element.text and _NO_XML.sub("\ufffd", element.text)
    return ElementTree.tostring(root, encoding="unicode")


def _add_participant(root: ElementTree.Element, participant: Participant) -> None:
    attributes = {
        "UserID": participant.user_id or participant.ae_title or participant.host,
        "UserIsRequestor": "true" if participant.is_requestor else "false",
    }
    if participant.ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={participant.ae_title}"
    if participant.host:
        is_address = participant.host.replace(".", "").isdigit() or ":" in participant.host
        attributes["NetworkAccessPointID"] = participant.host
        attributes["NetworkAccessPointTypeCode"] = "2" if is_address else "1"
    element = ElementTree.SubElement(root, "ActiveParticipant", attributes)
    _code(element, "RoleIDCode", *_dcm(ROLES[participant.role]))


def _add_study(root: ElementTree.Element, study: StudyObject) -> None:
    element = _add_object(root, study.study_uid, _STUDY, type_code="2", role="3")
    for name, value in study.details.items():
        encoded = base64.b64encode(value.encode()).decode()
        ElementTree.SubElement(element, "ParticipantObjectDetail", type=name, value=encoded)
    description = ElementTree.SubElement(element, "ParticipantObjectDescription")
    if study.accession_number:
        ElementTree.SubElement(description, "Accession", Number=study.accession_number)
    for class_uid, count in study.instances.items():
        ElementTree.SubElement(description, "SOPClass", UID=class_uid, NumberOfInstances=str(count))
    _add_object(root, study.patient_id, _PATIENT, type_code="1", role="1")


def _add_object(
    root: ElementTree.Element, object_id: str, kind: tuple[str, str, str], *, type_code: str, role: str
) -> ElementTree.Element:
    element = ElementTree.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=object_id,
        ParticipantObjectTypeCode=type_code,
        ParticipantObjectTypeCodeRole=role,
    )
    _code(element, "ParticipantObjectIDTypeCode", *kind)
    ElementTree.SubElement(element, "ParticipantObjectName")  # required by the schema; names no patient
    return element


def _dcm(code: tuple[str, str]) -> tuple[str, str, str]:
    return code[0], "DCM", code[1]


def _code(parent: ElementTree.Element, name: str, value: str, system: str, meaning: str) -> None:
    ElementTree.SubElement(parent, name, {"csd-code": value, "codeSystemName": system, "originalText": meaning})

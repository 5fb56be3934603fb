"""De-identify a header by the Basic Application Level Confidentiality Profile (PS3.15 E.2).

Table E.1-1 of the standard, as distributed by the package ``dicom-anonymizer``, states which attribute is removed,
emptied or replaced. The actions are implemented here: they descend into every sequence, and the same UID is always
replaced by the same new UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.io.dicom.uids import derived_uid

EDITION = "2026c"
TABLE = f"dicomanonymizer.dicom_anonymization_databases.dicomfields_{EDITION}"
#: Actions of Table E.1-1a; where they depend on the attribute's type, the one that keeps every file valid.
ACTIONS = {
    "X_TAGS": "remove",
    "Z_TAGS": "empty",
    "X_Z_TAGS": "empty",
    "D_TAGS": "dummy",
    "Z_D_TAGS": "dummy",
    "X_D_TAGS": "dummy",
    "X_Z_D_TAGS": "dummy",
    "U_TAGS": "uid",
    "X_Z_U_STAR_TAGS": "uid",
}
#: Dummy values by VR; other text becomes DUMMY_TEXT.
DUMMIES: dict[str, object] = {
    "DA": "19700101",
    "TM": "000000",
    "DT": "19700101000000",
    "AS": "000Y",
    "DS": "0",
    "IS": "0",
    "UR": "http://anonymized.invalid",
    **dict.fromkeys(("FD", "FL", "SS", "US", "SL", "UL", "SV", "UV"), 0),
    **dict.fromkeys(("OB", "OW", "OD", "OF", "OL", "OV", "UN"), b""),
}
DUMMY_TEXT = "ANONYMIZED"
#: Kept although the table lists it: its items contain codes, no identity, and Enhanced CT requires it.
STRUCTURAL = {"AcquisitionContextSequence"}


def public_uid(uid: str) -> str:
    """The UID that replaces ``uid`` in de-identified files; always the same one."""
    return derived_uid("de-identified", uid)


def check_burned_in(header: Dataset) -> None:
    """Refuse an image with burned-in annotation, which the profile does not allow to share.

    Raises
    ------
    InputError
    """
    if header.get("BurnedInAnnotation") == "YES":
        uid = header.get("SOPInstanceUID")
        raise InputError(f"{uid}: has burned-in annotation, which de-identification cannot remove; leave it out")


def remove_identity(header: Dataset) -> None:
    """Apply the basic profile to a header and all its sequences, and remove private attributes.

    Parameters
    ----------
    header : Dataset
        Changed in place.

    Raises
    ------
    ConfigError
        If the package with the profile's table is not installed.
    InputError
        If the image has burned-in annotation.
    """
    check_burned_in(header)
    _clean(header, *_table())
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = f"PS3.15 {EDITION} Basic Profile by ldct-denoise"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    header.DeidentificationMethodCodeSequence = Sequence([code])
    header.LongitudinalTemporalInformationModified = "REMOVED"


def _table() -> tuple[Mapping[int, str], Mapping[tuple[int, int], str]]:
    """Action by tag, and by (tag, mask) for the repeating groups 50xx and 60xx."""
    try:
        table = import_module(TABLE)
    except ImportError:
        raise ConfigError(
            "--deidentify needs the package dicom-anonymizer: pip install 'ldct-denoise[deid]'"
        ) from None
    single: dict[int, str] = {}
    repeating: dict[tuple[int, int], str] = {}
    for name, action in ACTIONS.items():
        for group, element, *mask in getattr(table, name):
            tag = group << 16 | element
            if mask:
                repeating[tag, mask[0] << 16 | mask[1]] = action
            else:
                single[tag] = action
    return single, repeating


def _clean(dataset: Dataset, single: Mapping[int, str], repeating: Mapping[tuple[int, int], str]) -> None:
    for tag in list(dataset.keys()):
        action = "remove" if tag.is_private else single.get(tag)
        if action is None:
            action = next((act for (base, mask), act in repeating.items() if tag & mask == base & mask), None)
        if action == "remove":
            del dataset[tag]
            continue
        if action is not None:
            _apply(dataset, tag, action)
        if dataset.get_item(tag).VR == "SQ":
            for item in dataset[tag].value or []:
                _clean(item, single, repeating)


def _apply(dataset: Dataset, tag: BaseTag, action: str) -> None:
    element = dataset[tag]
    if element.keyword in STRUCTURAL:
        return
    if element.VR == "SQ":
        if action == "empty":
            element.value = Sequence()
    elif action == "empty":
        element.value = b"" if isinstance(element.value, bytes) else None
    elif element.VR == "UI":
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        element.value = [public_uid(str(value)) for value in values if value]
    else:
        element.value = DUMMIES.get(element.VR, DUMMY_TEXT)

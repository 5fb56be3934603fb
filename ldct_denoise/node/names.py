"""Names of series and images in the spool and in the log: hashes of UIDs, so that no path names a patient."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ldct_denoise.io.dicom.instance import InstanceUIDs


def series_key(uids: InstanceUIDs) -> str:
    """Name of a series in the spool and in the log: hashes of the Study and the Series Instance UID."""
    return f"{study_key(uids.study_uid)}-{_digest(uids.study_uid, uids.series_uid)[:16]}"


def study_key(study_uid: str) -> str:
    """Part of :func:`series_key` that all series of a study share."""
    return _digest(study_uid)[:10]


def image_stem(sop_uid: str) -> str:
    """Start of the name of every file that holds an image with this SOP Instance UID."""
    return _digest(sop_uid)[:32]


def file_of_image(folder: Path, sop_uid: str, data: bytes) -> Path:
    """File of an image: the one that holds it already, or a new one that sorts behind those of the same UID.

    Parameters
    ----------
    folder : Path
        Folder of its series.
    sop_uid : str
    data : bytes
        The DICOM file.

    Returns
    -------
    Path
    """
    first = folder / f"{image_stem(sop_uid)}.dcm"
    if not first.exists() or (first.stat().st_size == len(data) and first.read_bytes() == data):
        return first
    content = hashlib.sha256(data).hexdigest()[:16]
    others = list(folder.glob(f"{first.stem}_*.dcm"))
    known = (path for path in others if path.stem.endswith(content))
    return next(known, folder / f"{first.stem}_{len(others) + 1:05d}_{content}.dcm")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()

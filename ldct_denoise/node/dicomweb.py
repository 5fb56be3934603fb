"""Find and retrieve series of a DICOMweb server by QIDO-RS and WADO-RS (PS3.18 10.4, 10.6)."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from ldct_denoise.errors import InputError
from ldct_denoise.node.multipart import boundary_of, read_parts
from ldct_denoise.node.reachability import describe
from ldct_denoise.node.sending import Unreachable
from ldct_denoise.node.settings import ClientTLS, WebSource
from ldct_denoise.node.tls import client_tls, read_secret

_STUDY, _SERIES, _MODALITY = "0020000D", "0020000E", "00080060"
#: Largest answer of a query, bytes.
_MAX_ANSWER = 1 << 26


def find_series(source: WebSource, accession_number: str) -> list[tuple[str, str]]:
    """Study and Series Instance UIDs of the CT series with an accession number.

    Raises
    ------
    ConfigError
        If TLS or authorization files cannot be used.
    Unreachable
        If the server does not answer as DICOMweb asks.
    """
    found = []
    for study in _query(source, f"/studies?{urlencode({'AccessionNumber': accession_number})}"):
        uid = _value(study, _STUDY)
        for series in _query(source, f"/studies/{quote(uid)}/series?Modality=CT"):
            if _value(series, _MODALITY) in ("CT", ""):
                found.append((uid, _value(series, _SERIES)))
    return found


def retrieve_series(source: WebSource, study_uid: str, series_uid: str, max_bytes: int) -> Iterator[bytes]:
    """Retrieve a series, image by image, in the transfer syntax in which the server has it.

    Parameters
    ----------
    source : WebSource
    study_uid, series_uid : str
    max_bytes : int
        Largest size of an image.

    Yields
    ------
    bytes
        A DICOM file.

    Raises
    ------
    ConfigError
        If TLS or authorization files cannot be used.
    Unreachable
        If the server does not answer as DICOMweb asks; the images yielded before are complete.
    """
    path = f"/studies/{quote(study_uid)}/series/{quote(series_uid)}"
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    try:
        with _open(source, path, accept) as answer:
            yield from read_parts(answer, boundary_of(answer.headers.get("Content-Type", "")), max_bytes)
    except InputError as error:
        raise Unreachable(f"WADO-RS: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"WADO-RS: {_reason(error)}") from None


def _query(source: WebSource, path: str) -> list[dict[str, Any]]:
    try:
        with _open(source, path, "application/dicom+json") as answer:
            body = answer.read(_MAX_ANSWER)
            content = json.loads(body) if answer.status != 204 and body else []
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"QIDO-RS: {_reason(error)}") from None
    except ValueError:
        raise Unreachable("QIDO-RS: an answer that is not DICOM JSON") from None
    if not isinstance(content, list):
        raise Unreachable("QIDO-RS: an answer that is no list")
    return [item for item in content if isinstance(item, dict)]


def _open(source: WebSource, path: str, accept: str) -> Any:
    headers = {"Accept": accept}
    if secret := read_secret(source.authorization_file):
        headers["Authorization"] = secret
    request = urllib.request.Request(f"{source.dicomweb.rstrip('/')}{path}", headers=headers)
    tls = client_tls(source.tls or ClientTLS()) if source.dicomweb.startswith("https") else None  # type: ignore[call-arg]
    return urllib.request.urlopen(request, timeout=source.timeout_s, context=tls)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"answer {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return describe(error.reason)
    return describe(error)


def _value(item: dict[str, Any], tag: str) -> str:
    try:
        return str(item[tag]["Value"][0])
    except (LookupError, TypeError):
        return ""

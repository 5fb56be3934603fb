"""Why a destination cannot be reached, in words, and the dates of certificates."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from ldct_denoise.errors import ConfigError
from ldct_denoise.node.settings import DimseDestination


def connection_problem(host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None) -> str:
    """Try to connect, and return why it fails; an empty text where it does not.

    Parameters
    ----------
    host : str
    port : int
    timeout_s : float
        Time limit.
    tls : ssl.SSLContext, optional
        For a TLS handshake after the connection.

    Returns
    -------
    str
        Names neither an image nor a patient.
    """
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as plain:
            if tls:
                with tls.wrap_socket(plain, server_hostname=host):
                    pass
    except OSError as error:
        return describe(error)
    return ""


def describe(error: BaseException) -> str:
    """A network error in words."""
    if isinstance(error, socket.gaierror):
        return "host name not known (DNS)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'handshake failed'}".lower().replace("tls", "TLS", 1).replace("_", " ")
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens on its port"
    if isinstance(error, ConnectionError):
        return "connection closed by the destination"
    return (error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__).lower()


def rejection(association: Any) -> str:
    """Why an association was rejected (PS3.8 9.3.4), in words."""
    answer = association.acceptor.primitive
    try:
        return f"association rejected: {answer.reason_str} ({answer.source_str}, {answer.result_str})".lower()
    except (AttributeError, ValueError):
        return "association rejected"


def echo_problem(destination: DimseDestination, calling_ae_title: str, tls: ssl.SSLContext | None) -> str:
    """Send C-ECHO (PS3.4 Annex A), and return why it fails; an empty text where it does not.

    Parameters
    ----------
    destination : DimseDestination
    calling_ae_title : str
    tls : ssl.SSLContext, optional

    Returns
    -------
    str
    """
    problem = connection_problem(destination.host, destination.port, destination.timeout_s, tls)
    if problem:
        return problem
    entity = AE(calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = destination.timeout_s
    entity.add_requested_context(Verification)
    association = entity.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        tls_args=(tls, destination.host) if tls else None,
    )
    if not association.is_established:
        return rejection(association) if association.is_rejected else "no answer to the association request"
    try:
        status = association.send_c_echo()
    except (RuntimeError, ValueError):
        return "C-ECHO is not accepted"
    finally:
        association.release()
    return "" if "Status" in status and status.Status == 0 else "no success in answer to C-ECHO"


def check_certificates(files: Iterable[Path], warn_days: int = 30) -> list[str]:
    """Check the dates of PEM certificates.

    Parameters
    ----------
    files : iterable of Path
        Each with one or more certificates.
    warn_days : int
        A certificate that ends within so many days is reported.

    Returns
    -------
    list of str
        One line for every certificate that ends soon.

    Raises
    ------
    ConfigError
        If a file cannot be read, or a certificate is not valid today.
    """
    now, lines = datetime.now(UTC), []
    for file in files:
        try:
            found = x509.load_pem_x509_certificates(file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"tls: {file}: no certificate can be read ({type(error).__name__})") from None
        for certificate in found:
            first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not first <= now <= last:
                raise ConfigError(f"tls: {file}: valid from {first:%Y-%m-%d} to {last:%Y-%m-%d} only; renew it")
            if (last - now).days < warn_days:
                lines.append(f"{file}: its certificate ends on {last:%Y-%m-%d}")
    return lines

"""TLS contexts and secrets of the node, from the files that its settings name."""

from __future__ import annotations

import ssl
from pathlib import Path

from ldct_denoise.errors import ConfigError
from ldct_denoise.node.settings import ClientTLS, ServerTLS


def server_tls(settings: ServerTLS) -> ssl.SSLContext:
    """Create a TLS context (1.2 or later; PS3.15 B.9, B.10).

    Callers must present a certificate where the settings name an authority.

    Raises
    ------
    ConfigError
        If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        if settings.authority:
            context.load_verify_locations(settings.authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise ConfigError(
            f"tls: {settings.certificate} and its key cannot be used ({error.strerror or error})"
        ) from None
    return context


def client_tls(settings: ClientTLS) -> ssl.SSLContext:
    """Create a TLS context (1.2 or later) that checks the destination's name and certificate.

    Raises
    ------
    ConfigError
        If a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"tls of a destination: its files cannot be used ({reason})") from None
    return context


def read_secret(path: Path | None) -> str:
    """Content of a file with a secret; empty without a file.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    if path is None:
        return ""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"authorization_file {path}: cannot be read ({error.strerror})") from None

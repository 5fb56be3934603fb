"""Deterministic unique identifiers: the same input, model and settings give the same UID."""

from __future__ import annotations

import hashlib
import uuid

#: Identifies this implementation in File Meta Information (PS3.10 7.1); drawn at random once, then fixed.
IMPLEMENTATION_CLASS_UID = "2.25.259603317741586210459226829163411174529"


def derived_uid(*parts: object) -> str:
    """Derive a UID from ``parts``: equal parts give equal UIDs, different parts different ones.

    The first 128 bits of SHA-256 become a UUID of version 8 (RFC 9562), written under the root 2.25 as PS3.5 B.2
    allows; this needs no registration and gives at most 44 characters.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    value = int.from_bytes(digest[:16], "big")
    value = value & ~(0xF << 76) | 0x8 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return f"2.25.{uuid.UUID(int=value).int}"

"""Unique identifiers that the same input, model and settings always give again (so that a repeat is harmless)."""

from __future__ import annotations

import hashlib
import uuid

#: Names our implementation in File Meta Information (PS3.10 7.1); random once, then fixed.
IMPLEMENTATION_CLASS_UID = "2.25.259603317741586210459226829163411174529"


def derived_uid(*parts: object) -> str:
    """A UID made from ``parts``: equal parts give the equal UID, different parts a different one.

    The first 128 bits of SHA-256 become a UUID of version 8 (RFC 9562), written under the root 2.25 as
    PS3.5 B.2 allows; no registration, at most 44 characters.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    value = int.from_bytes(digest[:16], "big")
    value = value & ~(0xF << 76) | 0x8 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return f"2.25.{uuid.UUID(int=value).int}"

"""Cut text without breaking its characters, whatever its character set.

A Value Representation limits characters (PS3.5 6.2), but validators and old archives count bytes, with the escape
sequences of ISO 2022: both stay within the limit. pydicom decodes text of an undeclared multi-byte character set
byte by byte; its characters are kept whole too, and an open ISO 2022 escape is closed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from pydicom.charset import convert_encodings, default_encoding, encode_string
from pydicom.dataset import Dataset

ESCAPE = "\x1b"
TO_ASCII = "\x1b(B"
#: Escape sequences of ISO 2022 after which a character has two bytes in G0 (JIS X 0208 and 0212).
TWO_BYTES = ("\x1b$@", "\x1b$B", "\x1b$(D")
ONE_BYTE = (TO_ASCII, "\x1b(J", "\x1b(I")
#: Zero-width joiner and variation selectors, which belong to the character before.
JOINERS = ("\u200d", "\ufe0e", "\ufe0f")


def cut_text(text: str, limit: int, dataset: Dataset) -> str:
    """The beginning of ``text`` that has at most ``limit`` characters, and bytes once encoded.

    Parameters
    ----------
    text : str
        As pydicom decodes it.
    limit : int
    dataset : Dataset
        States the Specific Character Set.

    Returns
    -------
    str
        ``text`` itself where it fits; an escape sequence that it leaves open is closed.
    """
    encodings = _encodings(dataset)
    raw = _is_undeclared(text, encodings)
    if _fits(_closed(text, raw), limit, encodings):
        return _closed(text, raw)
    ends = _byte_ends(text) if raw else _character_ends(text)
    low, high = 0, len(ends)  # the first `low` characters fit, `high` and more do not
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(_closed(text[: ends[middle]], raw), limit, encodings):
            low = middle
        else:
            high = middle
    return _closed(text[: ends[low]], raw)


def _encodings(dataset: Dataset) -> list[str]:
    try:
        return list(convert_encodings(dataset.get("SpecificCharacterSet") or None))
    except Exception:  # pydicom may fail in any way on unknown names
        return [default_encoding]


def _fits(text: str, limit: int, encodings: Sequence[str]) -> bool:
    if len(text) > limit:
        return False
    try:
        return len(encode_string(text, encodings)) <= limit
    except Exception:  # not encodable: written with replacements, one byte each
        return True


def _is_undeclared(text: str, encodings: Sequence[str]) -> bool:
    """Whether the text has bytes of a character set that is not stated, or escapes that could not be decoded."""
    if ESCAPE in text:
        return True
    if list(encodings) != [default_encoding]:
        return False
    return any("\x80" <= character <= "\xff" for character in text)


def _character_ends(text: str) -> list[int]:
    """Positions between characters, each with its combining marks; the first is 0."""
    starts = [
        at
        for at, character in enumerate(text)
        if not at or not (unicodedata.combining(character) or character in JOINERS or text[at - 1] == "\u200d")
    ]
    return [*starts, len(text)]


def _byte_ends(text: str) -> list[int]:
    """Positions between characters of text that pydicom decoded byte by byte; the first is 0."""
    if ESCAPE in text:
        return _escaped_ends(text)
    raw = text.encode("latin-1", "replace")
    try:
        decoded = raw.decode("utf-8")
    except UnicodeDecodeError:
        return _double_byte_ends(raw)
    ends = [0]
    for character in decoded:
        ends.append(ends[-1] + len(character.encode()))
    return ends


def _double_byte_ends(raw: bytes) -> list[int]:
    """GBK, Big5, Shift JIS, EUC: a high byte begins a pair."""
    ends = [0]
    while ends[-1] < len(raw):
        ends.append(min(len(raw), ends[-1] + (2 if raw[ends[-1]] >= 0x80 else 1)))
    return ends


def _escaped_ends(text: str) -> list[int]:
    ends, at, width = [0], 0, 1
    while at < len(text):
        sequence = next((one for one in (*TWO_BYTES, *ONE_BYTE) if text.startswith(one, at)), "")
        if sequence:
            width = 2 if sequence in TWO_BYTES else 1
            at += len(sequence)
        else:
            at += width
            ends.append(min(at, len(text)))
    return [*ends, len(text)] if ends[-1] < len(text) else ends


def _closed(text: str, raw: bool) -> str:
    """Text that ends in ASCII: an escape sequence that is open at the end is closed."""
    last = max((text.rfind(one), one) for one in (*TWO_BYTES, *ONE_BYTE)) if raw else (-1, "")
    return text + TO_ASCII if last[0] >= 0 and last[1] in TWO_BYTES else text

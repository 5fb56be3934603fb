"""Read attribute values that may be missing, empty or multi-valued."""

from __future__ import annotations

from math import isfinite
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

#: Our derivation descriptions begin with this name; the second text separates them from the source's own.
PRODUCT = "ldct-denoise"
DERIVATION_SEPARATOR = " | before: "


def as_list(value: Any) -> list[Any]:
    """Values of an attribute as a list; pydicom does not wrap a single value."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (MultiValue, list, tuple)) else [value]


def text(header: Dataset, keyword: str) -> str:
    """An optional attribute as one line of at most 256 characters; empty where it is absent or broken."""
    try:
        joined = " ".join(map(str, as_list(header.get(keyword))))
        return " ".join(joined.split())[:256]
    except Exception:  # pydicom may fail in any way on damaged bytes
        return ""


def values(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Values of an attribute in upper case; none where it is absent or broken."""
    try:
        return tuple(str(one).strip().upper() for one in as_list(header.get(keyword)))
    except Exception:  # pydicom may fail in any way on damaged bytes
        return ()


def number(header: Dataset, keyword: str) -> float | None:
    """An attribute as a single finite number; None where it is absent or broken."""
    try:
        value = float(header.get(keyword))  # type: ignore[arg-type]
    except Exception:  # pydicom may fail in any way on damaged bytes
        return None
    return value if isfinite(value) else None

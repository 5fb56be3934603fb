"""Read attribute values that may be missing, empty or multi-valued."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

PRODUCT = "ldct-denoise"


#: Stands between our derivation description and that of the source.
EARLIER = " | before: "


def several(value: Any) -> list[Any]:
    """The values of an attribute as a list; pydicom gives a single one bare, and a text is a sequence too."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (MultiValue, list, tuple)) else [value]


def text(header: Dataset, keyword: str) -> str:
    """An attribute as one line, "" where it is absent or broken: for what a slice can do without."""
    try:
        told = " ".join(map(str, several(header.get(keyword))))
        return " ".join(told.split())[:256]
    except Exception:  # whatever pydicom makes of broken bytes
        return ""


def values(header: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of an attribute, upper case; none where it is absent or broken."""
    try:
        return tuple(str(one).strip().upper() for one in several(header.get(keyword)))
    except Exception:  # whatever pydicom makes of broken bytes
        return ()


def number(header: Dataset, keyword: str) -> float | None:
    """A single finite number, None where it is absent or broken."""
    try:
        value = float(header.get(keyword))  # type: ignore[arg-type]
    except Exception:  # whatever pydicom makes of broken bytes
        return None
    return value if np.isfinite(value) else None

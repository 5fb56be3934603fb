"""How numbers are written in reports and tables."""

from __future__ import annotations

import math


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; at least all digits before the point.

    An exponent is used below 0.0001 only. Values that are not finite are written as ``–`` and ``∞``.
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:.{max(decimals, 0)}f}"


def between(limits: tuple[float, float], digits: int = 3) -> str:
    """Two limits as ``17.1–19.4``; one number where they agree within 3 %, and ``< 19.4`` where the lower is 0."""
    low, high = limits
    if low <= 0 < high:
        return f"< {significant(high, digits)}"
    if high <= 1.03 * low or math.isnan(low):
        return significant(high, digits)
    return f"{significant(low, digits)}–{significant(high, digits)}"

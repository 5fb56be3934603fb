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

"""Colour and dash of every name in the charts of a report, safe for colour blindness, on light and dark paper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Colours on light and on dark paper. The smallest CIEDE2000 difference of two is above 14 for normal vision,
#: protanopia and deuteranopia; every contrast to the paper is above 3 (WCAG 1.4.11).
LIGHT = ("#1c2633", "#b87a00", "#1f4fe0", "#800000", "#d46a80", "#1595d4", "#aa0080", "#aa4055")
DARK = ("#edf2f7", "#e8a200", "#6f9bff", "#aa6a00", "#ea80aa", "#80eaaa", "#ea15aa", "#00956a")
#: Dashes as SVG writes them, in multiples of the line's width; the first is a solid line.
DASHES = ("", "5 2", "7 2 1.5 2", "1.5 2", "9 3")
#: Roles that have the same style in every report: number of the colour and of the dash.
ROLES = {
    "reference": (0, 0), "normal dose": (0, 0),
    "input": (1, 1), "before": (1, 1), "unprocessed": (1, 1),
    "candidate": (2, 0), "output": (2, 0), "after": (2, 0), "denoised": (2, 0),
}  # fmt: skip
FIRST_FREE = 3


class CurveStyle(NamedTuple):
    """Style of a curve.

    Parameters
    ----------
    number : int
        Index of the colour in :data:`LIGHT` and :data:`DARK`; class ``c0``, ``c1``, … of the page.
    dash : str
        Lengths of dashes and gaps; empty for a solid line.
    """

    number: int
    dash: str

    @property
    def colour(self) -> str:
        """Colour on light paper, such as a PDF page."""
        return LIGHT[self.number]


def curve_styles(names: Iterable[str]) -> dict[str, CurveStyle]:
    """Styles of all names of a report: fixed ones for input, output and reference, others in their order.

    Colours repeat after five other names, always with another dash.
    """
    styles: dict[str, CurveStyle] = {}
    others = 0
    free = len(LIGHT) - FIRST_FREE
    for name in dict.fromkeys(names):
        if name in ROLES:
            colour, dash = ROLES[name]
        else:
            colour, dash = FIRST_FREE + others % free, (others + others // free) % len(DASHES)
            others += 1
        styles[name] = CurveStyle(colour, DASHES[dash])
    return styles


def colour_css() -> str:
    """Style sheet of the colours, with the reader's choice of light or dark paper."""

    def variables(colours: Iterable[str]) -> str:
        return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))

    classes = "\n".join(
        f".c{number} {{ stroke: var(--c{number}); }} circle.c{number} {{ fill: var(--c{number}); }}"
        for number in range(len(LIGHT))
    )
    return (
        f":root {{ {variables(LIGHT)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}\n{classes}\n"
    )

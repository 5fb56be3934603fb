"""Line charts as inline SVG, which need no library and print well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1b6ca8", "#c8553d", "#3c8d53", "#7b5ea7", "#b8860b", "#4a4a4a", "#2a9d8f", "#9c3d6e")
WIDTH, HEIGHT = 620, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 26, 44
#: Height of one line of the legend.
NAME = 15

Curve = tuple[Sequence[float], Sequence[float]]


def line_chart(
    curves: Mapping[str, Curve], x_label: str, y_label: str, title: str = "", dots: bool = False
) -> str:
    """Draw named curves as an SVG chart.

    Parameters
    ----------
    curves : mapping from name to (x, y)
        Points that are not finite are left out.
    x_label, y_label : str
        Axis labels with units.
    title : str
    dots : bool
        Mark every point.

    Returns
    -------
    str
        SVG; empty if there is no finite point.
    """
    points = {name: _finite(curve) for name, curve in curves.items()}
    everything = [point for curve in points.values() for point in curve]
    if not everything:
        return ""
    # The legend is above the plot, where it cannot cover a curve.
    top = TOP + NAME * len(points)
    height = HEIGHT + NAME * len(points)
    x_ticks = _ticks(min(x for x, _ in everything), max(x for x, _ in everything))
    y_ticks = _ticks(min(y for _, y in everything), max(y for _, y in everything))

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def up(y: float) -> float:
        return height - BOTTOM - (height - top - BOTTOM) * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title or y_label)}">',
        f'<text x="{LEFT}" y="15" class="title">{escape(title)}</text>',
    ]
    for tick in y_ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_ticks:
        parts.append(
            f'<text x="{across(tick):.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{tick:.4g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(14 {height / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    for number, (name, curve) in enumerate(points.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if dots:
            parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.6" fill="{colour}"/>' for x, y in curve]
        y = TOP + 8 + NAME * number
        parts.append(
            f'<text x="{WIDTH - RIGHT - 4}" y="{y}" text-anchor="end" fill="{colour}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _finite(curve: Curve) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(*curve, strict=True) if math.isfinite(x) and math.isfinite(y)]


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round tick values that enclose the range."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]

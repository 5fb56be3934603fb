"""Line charts as inline SVG, which need no library and print well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from ldct_denoise.report.curve_styles import CurveStyle, curve_styles

WIDTH, HEIGHT = 620, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 26, 44
#: Height of one line of the legend, and length of its sample of the curve.
LEGEND_LINE, LEGEND_SAMPLE = 15, 34
#: Points below the largest value by more than this factor are left out of a logarithmic axis.
LOG_RANGE = 1e4

Curve = tuple[Sequence[float], Sequence[float]]
Points = list[tuple[float, float]]


def line_chart(
    curves: Mapping[str, Curve],
    x_label: str,
    y_label: str,
    title: str = "",
    dots: bool = False,
    *,
    log_y: bool = False,
    styles: Mapping[str, CurveStyle] | None = None,
) -> str:
    """Draw named curves as an SVG chart.

    Parameters
    ----------
    curves : mapping from name to (x, y)
        Points that are not finite are left out; on a logarithmic axis also those that are not positive or below a
        ten-thousandth of the largest.
    x_label, y_label : str
        Axis labels with units.
    title : str
    dots : bool
        Mark every point.
    log_y : bool
        Logarithmic vertical axis.
    styles : mapping from name to CurveStyle, optional
        Styles that the names have in the other charts of the report; by default
        :func:`~ldct_denoise.report.curve_styles.curve_styles` of the names of this chart.

    Returns
    -------
    str
        SVG; empty if there is no finite point.
    """
    points = {name: _finite(curve, log_y) for name, curve in curves.items()}
    if log_y:
        top_value = max((y for curve in points.values() for _, y in curve), default=0.0)
        points = {name: [p for p in curve if p[1] * LOG_RANGE >= top_value] for name, curve in points.items()}
    everything = [point for curve in points.values() for point in curve]
    if not everything:
        return ""
    styles = {**curve_styles(points), **(styles or {})}
    # The legend is above the plot, where it cannot cover a curve.
    top, height = TOP + LEGEND_LINE * len(points), HEIGHT + LEGEND_LINE * len(points)
    x_ticks = _ticks(min(x for x, _ in everything), max(x for x, _ in everything))
    low, high = min(y for _, y in everything), max(y for _, y in everything)
    y_ticks = _log_ticks(low, high) if log_y else _ticks(low, high)

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def up(y: float) -> float:
        first, last, value = (math.log10(v) if log_y else v for v in (y_ticks[0], y_ticks[-1], y))
        return height - BOTTOM - (height - top - BOTTOM) * (value - first) / (last - first)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title or y_label)}">',
        f'<text x="{LEFT}" y="15" class="title">{escape(title)}</text>',
    ]
    for tick in y_ticks:
        y = up(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{across(tick):.1f}" y="{height - 28}" text-anchor="middle">{tick:.4g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="translate(14 {height / 2}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(y_label)}</text>')
    for number, (name, curve) in enumerate(points.items()):
        line = _line(styles[name])
        parts.append(f'<polyline points="{" ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve)}" {line}/>')
        if dots:
            dot = f'r="2.6" class="c{styles[name].number}"'
            parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" {dot}/>' for x, y in curve]
        parts.append(_legend_line(name, line, TOP + 8 + LEGEND_LINE * number))
    return "".join([*parts, "</svg>"])


def _line(style: CurveStyle) -> str:
    """Attributes of a curve."""
    dash = " ".join(f"{2 * float(length):g}" for length in style.dash.split())
    return f'fill="none" class="c{style.number}" stroke-width="2"' + (
        f' stroke-dasharray="{dash}"' if dash else ""
    )


def _legend_line(name: str, line: str, y: float) -> str:
    """A name with a sample of its curve, right-aligned."""
    end = WIDTH - RIGHT - 4
    return (
        f'<line x1="{end - LEGEND_SAMPLE}" x2="{end}" y1="{y - 4}" y2="{y - 4}" {line}/>'
        f'<text x="{end - LEGEND_SAMPLE - 8}" y="{y}" text-anchor="end" class="legend">{escape(name)}</text>'
    )


def _finite(curve: Curve, positive: bool) -> Points:
    points = [(x, y) for x, y in zip(*curve, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return [(x, y) for x, y in points if y > 0] if positive else points


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round tick values that enclose the range."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Decades that enclose the range; where it is shorter than two decades, 1, 2 and 5 of each."""
    factors = (1, 2, 5) if high < 100 * low else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    values = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
    first = max(number for number, value in enumerate(values) if value <= low * (1 + 1e-9))
    last = min(number for number, value in enumerate(values) if value >= high * (1 - 1e-9))
    return values[first : max(last, first + 1) + 1]

"""Line charts as inline SVG: no library, no script, colours from the page's style sheet.

Coordinates inside a chart are SVG user units; the page scales the whole picture to its column.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = 4  # --series-1 to --series-4 of the style sheet
WIDTH, HEIGHT = 330, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 22, 34
_MOST_POINTS = 600
_MOST_HOVERS = 60


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: shown in the legend and on hover.
        x, y: equally many finite numbers, x ascending.
        colour: number of a colour of the style sheet (``--series-<colour>``).
        faint: drawn thin and pale, without hover titles: raw values behind a smoothed line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 1
    faint: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r}: {len(self.x)} x but {len(self.y)} y")


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean over ``window`` neighbours centred on each value; fewer of them at the ends."""
    data = np.asarray(values, dtype=float)
    half = max(0, window // 2)
    total = np.concatenate([[0.0], np.cumsum(data)])
    index = np.arange(len(data))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(data))
    return ((total[last] - total[first]) / (last - first)).tolist()


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover ``low``..``high``: steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_label(value: float, largest: float | None = None) -> str:
    """A short number: ``0.25``, ``1500``, ``2e-5``.

    ``largest`` is the greatest value of the axis, so that its labels are all of one form.
    """
    largest = abs(value if largest is None else largest)
    if value != 0 and not 5e-3 <= largest < 1e5:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.4g}"


def line_chart(series: Sequence[Series], *, title: str, x_label: str = "step") -> str:
    """An SVG figure: axes with ticks, a legend where there is more than one line, hover titles.

    The vertical axis begins at 0 (or at the smallest value where that is negative) and ends at the
    largest value of the lines that are not faint, so that one outlier does not flatten the rest;
    faint lines are cut off there.

    Raises:
        ValueError: no series, or none with a value.
    """
    solid = [s for s in series if len(s.x)]
    if not solid:
        raise ValueError(f"chart {title!r} has nothing to show")
    leading = [s for s in solid if not s.faint] or solid
    x_ticks = nice_ticks(min(s.x[0] for s in solid), max(s.x[-1] for s in solid))
    y_ticks = nice_ticks(min(0.0, *(min(s.y) for s in solid)), max(max(s.y) for s in leading))
    x_range = (min(s.x[0] for s in solid), max(s.x[-1] for s in solid))
    frame = _Frame(x_range, (y_ticks[0], y_ticks[-1]))
    inside = [x for x in x_ticks if x_range[0] <= x <= x_range[1]]
    name = html.escape(title)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">',
        *_axes(frame, inside, y_ticks, x_label),
        *(_line(frame, s) for s in sorted(solid, key=lambda s: not s.faint)),
        *(_hovers(frame, s) for s in solid if not s.faint),
    ]
    if len(solid) > 1:
        parts.append(_legend(solid))
    return "".join(parts) + "</svg>"


class _Frame:
    """From values to SVG units, and the box that the lines live in."""

    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        low, high = self._x
        share = (value - low) / (high - low) if high > low else 0.5
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self._y
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return self.bottom - share * (self.bottom - self.top)


def _axes(
    frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str
) -> list[str]:
    parts = []
    for value in y_ticks:
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{frame.left} {y:.1f}H{frame.right}"/>')
        parts.append(
            f'<text class="tick" x="{frame.left - 7}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{tick_label(value, y_ticks[-1])}</text>"
        )
    for value in x_ticks:
        parts.append(
            f'<text class="tick" x="{frame.x(value):.1f}" y="{frame.bottom + 15}" '
            f'text-anchor="middle">{tick_label(value)}</text>'
        )
    parts.append(f'<path class="axis" d="M{frame.left} {frame.bottom}H{frame.right}"/>')
    parts.append(
        f'<text class="tick" x="{(frame.left + frame.right) / 2}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{html.escape(x_label)}</text>'
    )
    return parts


def _thin(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return sorted({int(i) for i in np.linspace(0, count - 1, most).round()})


def _line(frame: _Frame, series: Series) -> str:
    chosen = _thin(len(series.x), _MOST_POINTS)
    points = " ".join(f"{frame.x(series.x[i]):.1f},{frame.y(series.y[i]):.1f}" for i in chosen)
    kind = "line faint" if series.faint else "line"
    return f'<polyline class="{kind} s{series.colour}" points="{points}"/>'


def _hovers(frame: _Frame, series: Series) -> str:
    parts = []
    for i in _thin(len(series.x), _MOST_HOVERS):
        x, y = series.x[i], series.y[i]
        words = html.escape(f"{series.name}, {tick_label(x)}: {y:.4g}")
        parts.append(
            f'<circle class="hover s{series.colour}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" '
            f'r="7"><title>{words}</title></circle>'
        )
    return "".join(parts)


def _legend(series: Sequence[Series]) -> str:
    parts, right = [], float(WIDTH - _RIGHT)
    for item in reversed(series):
        name = html.escape(item.name)
        kind = "line faint" if item.faint else "line"
        left = right - 5.6 * len(item.name) - 20
        parts.append(f'<path class="{kind} s{item.colour}" d="M{left:.0f} 7h14"/>')
        parts.append(f'<text class="tick" x="{left + 19:.0f}" y="10.5">{name}</text>')
        right = left - 12
    return "".join(parts)

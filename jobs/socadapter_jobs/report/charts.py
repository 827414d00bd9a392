"""Small inline SVG charts: lines, calibration, intervals. Colours come from the page's style sheet by class.

Made here rather than with a plotting library: the page follows light and dark, stays small, and the train image needs
nothing more. Each function is pure and returns markup whose texts are escaped. Called by `page`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from socadapter_jobs.report.words import count, decimal, signed

Point = tuple[float, float]
_WIDTH, _HEIGHT = 560.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 14.0, 40.0
_MOST_POINTS = 300


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. `kind` is a class of the style sheet, which sets colour and dashes."""

    name: str
    points: Sequence[Point]
    kind: str


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of an interval chart."""

    label: str
    value: float
    low: float
    high: float
    better: bool | None
    """Whether the whole interval lies on the good side of zero; None where it crosses zero."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps data to the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = _WIDTH
    height: float = _HEIGHT

    def at(self, point: Point) -> Point:
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0])
        up = (point[1] - self.y[0]) / (self.y[1] - self.y[0])
        return (
            _LEFT + across * (self.width - _LEFT - _RIGHT),
            self.height - _BOTTOM - up * (self.height - _TOP - _BOTTOM),
        )


def lines(title: str, curves: Sequence[Line], x_label: str = "step", y_range: Point | None = None) -> Markup:
    """Curves over a common axis, with a legend below. Empty where no curve has a point."""
    drawn = [Line(curve.name, _thinned(curve.points), curve.kind) for curve in curves if curve.points]
    if not drawn:
        return Markup("")
    every = [point for curve in drawn for point in curve.points]
    frame = _Frame(
        _span([x for x, _ in every], padded=False), y_range or _span([y for _, y in every] + _zero_if_near(every))
    )
    body = _axes(frame, x_label) + Markup("").join(_curve(frame, curve) for curve in drawn)
    legend = Markup('<div class="legend">{}</div>').format(
        Markup("").join(
            Markup('<span class="key {}"><svg width="26" height="8"><path d="M1 4H25"/></svg>{}</span>').format(
                curve.kind, curve.name
            )
            for curve in drawn
        )
    )
    return _figure(title, frame, body, legend)


def reliability(bins: Sequence[tuple[float, float, int]], escalate_at: float | None) -> Markup:
    """Claimed probability of an attack against the observed share; the size of a dot is the number of alerts."""
    if not bins:
        return Markup("")
    frame = _Frame((0.0, 1.0), (0.0, 1.0), 420.0, 320.0)
    body = _axes(frame, "claimed probability of an attack")
    body += Markup('<path class="ideal" d="{}"/>').format(_path([frame.at((0, 0)), frame.at((1, 1))]))
    if escalate_at is not None and 0.0 < escalate_at < 1.0:
        foot, head = frame.at((escalate_at, 0)), frame.at((escalate_at, 1))
        body += Markup('<path class="threshold" d="{}"/><text class="note" x="{:.1f}" y="{:.1f}">{}</text>').format(
            _path([foot, head]), foot[0] + 5, head[1] + 11, f"escalate from {decimal(escalate_at, 2)}"
        )
    most = max(n for _, _, n in bins) or 1
    for claimed, observed, n in bins:
        x, y = frame.at((claimed, observed))
        body += Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(
            x, y, 3 + 9 * math.sqrt(n / most), f"claimed {claimed:.2f}, observed {observed:.2f}, {n} alerts"
        )
    return _figure("Observed share of attacks over the claimed probability", frame, body, Markup(""))


def intervals(title: str, bars: Sequence[Interval]) -> Markup:
    """Differences with their 95 % intervals around zero."""
    if not bars:
        return Markup("")
    label_width, row = 190.0, 30.0
    width, height = 640.0, row * len(bars) + 34.0
    most = max(max(abs(bar.low), abs(bar.high), abs(bar.value)) for bar in bars) * 1.08 or 1.0

    def x(value: float) -> float:
        return label_width + (value + most) / (2 * most) * (width - label_width - 20.0)

    parts = [Markup('<path class="zero" d="M{0:.1f} 4V{1:.1f}"/>').format(x(0.0), height - 24)]
    parts += [_tick(x(tick), height - 6, signed(tick, 2) if tick else "0") for tick in _ticks(-most, most, 5)]
    for index, bar in enumerate(bars):
        y = row * index + row / 2 + 2
        kind = "unsure" if bar.better is None else "better" if bar.better else "worse"
        parts.append(
            Markup(
                '<g class="interval {}"><title>{}</title>'
                '<text class="label" x="0" y="{:.1f}">{}</text>'
                '<path d="M{:.1f} {:.1f}H{:.1f}"/><circle cx="{:.1f}" cy="{:.1f}" r="5"/></g>'
            ).format(
                kind,
                f"{bar.label}: {signed(bar.value)}, 95 % interval {signed(bar.low)} to {signed(bar.high)}",
                y + 4,
                bar.label,
                x(bar.low),
                y,
                x(bar.high),
                x(bar.value),
                y,
            )
        )
    return _figure(title, _Frame((0, 1), (0, 1), width, height), Markup("").join(parts), Markup(""))


def _figure(title: str, frame: _Frame, body: Markup, legend: Markup) -> Markup:
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption>'
        '<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}" style="max-width:{:.0f}px">{}</svg>{}</figure>'
    ).format(title, frame.width, frame.height, title, frame.width, body, legend)


def _axes(frame: _Frame, x_label: str) -> Markup:
    parts = []
    for tick in _ticks(*frame.y, 5):
        left, right = frame.at((frame.x[0], tick)), frame.at((frame.x[1], tick))
        parts.append(Markup('<path class="grid" d="{}"/>').format(_path([left, right])))
        parts.append(_tick(left[0] - 7, left[1] + 4, _tick_text(tick), "end"))
    for tick in _ticks(*frame.x, 6):
        foot = frame.at((tick, frame.y[0]))
        parts.append(_tick(foot[0], foot[1] + 16, _tick_text(tick)))
    corner, end = frame.at((frame.x[0], frame.y[0])), frame.at((frame.x[1], frame.y[0]))
    parts.append(Markup('<path class="axis" d="{}"/>').format(_path([corner, end])))
    parts.append(_tick((corner[0] + end[0]) / 2, frame.height - 5, x_label))
    return Markup("").join(parts)


def _tick(x: float, y: float, words: str, anchor: str = "middle") -> Markup:
    return Markup('<text class="tick" text-anchor="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(anchor, x, y, words)


def _curve(frame: _Frame, curve: Line) -> Markup:
    places = [frame.at((x, min(max(y, frame.y[0]), frame.y[1]))) for x, y in curve.points]
    body = Markup('<path class="curve {}" d="{}"><title>{}</title></path>').format(
        curve.kind, _path(places), escape(curve.name)
    )
    if len(places) <= 30:
        for (x, y), (step, value) in zip(places, curve.points, strict=True):
            body += Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="2.6"><title>{}</title></circle>').format(
                curve.kind, x, y, f"{curve.name} at {count(step)}: {decimal(value)}"
            )
    return body


def _path(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most `_MOST_POINTS` points, each the mean of its neighbours."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    width = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _zero_if_near(points: Sequence[Point]) -> list[float]:
    """Zero belongs on the axis where the values come near it, so that a small change does not look like a large one."""
    values = [y for _, y in points]
    low, high = min(values), max(values)
    return [0.0] if 0 <= low <= 0.5 * high or 0.5 * low <= high <= 0 else []


def _span(values: Sequence[float], *, padded: bool = True) -> Point:
    low, high = min(values), max(values)
    if high - low < 1e-12:
        return (low - 0.5, high + 0.5)
    pad = 0.05 * (high - low) if padded else 0.0
    return (low if low == 0 else low - pad, high + pad)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between `low` and `high`, about as many as `wanted`."""
    rough = (high - low) / wanted
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1, 2, 2.5, 5, 10) if factor * scale >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_text(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")

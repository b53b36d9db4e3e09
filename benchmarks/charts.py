"""Draws the saved numbers of `make scale` as SVG: `python -m benchmarks.charts FOLDER DOCS_FOLDER`."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 72  # the margins around the plot
COLOURS = ("#9a3412", "#0369a1", "#ea8a4b", "#5bb0dc", "#4d7c0f", "#7e22ce", "#a16207", "#be185d")
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart of some figures by the number of Functions or triggers. `limit` is the goal, as a dashed line."""

    name: str
    title: str
    by: str  # a field of Size
    figures: Mapping[str, str]  # the shown name of each number
    limit: float | None = None


_KINDS = ("http", "cron", "nats", "kafka")
_FUNCTION, _HTTP = (
    "edit of a Function until its Deployment is written",
    "edit of an HTTP trigger until every replica serves it",
)
CHARTS = (
    Chart(
        "scale-function-edit",
        "Edit of a Function until its Deployment is written, in seconds",
        "functions",
        {f"{_FUNCTION}, p50": "p50", f"{_FUNCTION}, p99": "p99"},
        2,
    ),
    Chart(
        "scale-trigger-edit",
        "Edit of an HTTP trigger until every replica serves it, in seconds",
        "triggers",
        {f"{_HTTP}, p50": "p50", f"{_HTTP}, p99": "p99"},
        2,
    ),
    Chart(
        "scale-trigger-cpu",
        "CPU of both replicas until all triggers are ready, in seconds",
        "triggers",
        {f"{name} triggers: CPU until all are ready": name for name in ("http", "cron")},
    ),
    Chart(
        "scale-memory",
        "Most memory of a replica, in MiB",
        "triggers",
        {f"{name} triggers: peak memory": name for name in _KINDS} | {"functions: peak memory": "functions"},
        256,
    ),
)


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: python -m benchmarks.charts FOLDER DOCS_FOLDER", file=sys.stderr)
        return 2
    saved, docs = Path(sys.argv[1]), Path(sys.argv[2])
    runs = [json.loads(file.read_text()) for file in sorted(saved.glob("*.json"))]
    docs.mkdir(parents=True, exist_ok=True)
    for chart in CHARTS:
        (docs / f"{chart.name}.svg").write_text(svg(chart, lines_of(chart, runs)))
    return 0


def lines_of(chart: Chart, runs: Sequence[Mapping[str, object]]) -> dict[str, Points]:
    """The points of each line: a figure before or after. A figure that a run lacks leaves a gap."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        size, numbers = run["size"], run["numbers"]
        assert isinstance(size, Mapping)
        assert isinstance(numbers, Mapping)
        for number, shown in chart.figures.items():
            if number in numbers:
                lines.setdefault(f"{shown} {run['label']}", []).append((size[chart.by], numbers[number]))
    order = [f"{shown} {label}" for label in ("before", "after") for shown in chart.figures.values()]
    return {name: sorted(lines[name]) for name in order if name in lines}


def svg(chart: Chart, lines: Mapping[str, Points]) -> str:
    """The chart as an SVG document. The title of each point has its value."""
    points = [point for line in lines.values() for point in line]
    most_x = max((x for x, _ in points), default=1.0)
    top, step = _scale(max([y for _, y in points] + ([chart.limit] if chart.limit else [0.0])))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + wide * x / most_x, TOP + high * (1 - y / top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12" role="img">',
        f"<title>{escape(chart.title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="14" fill="#111">{escape(chart.title)}</text>',
    ]
    for number in range(round(top / step) + 1):
        _, y = at(0, number * step)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{number * step:g}</text>')
    for x in sorted({x for x, _ in points}):
        left, bottom = at(x, 0)
        parts.append(f'<text x="{left:.1f}" y="{bottom + 16:.1f}" text-anchor="middle" fill="#444">{x:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{TOP + high + 32}" text-anchor="end" fill="#444">{chart.by}</text>')
    if chart.limit:
        _, y = at(0, chart.limit)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#111" stroke-dasharray="4 4"/>')
        parts.append(f'<text x="{LEFT + 4}" y="{y - 4:.1f}" fill="#111">goal {chart.limit:g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        parts += _line(name, [at(*point) for point in line], line, COLOURS[number % len(COLOURS)])
        left, bottom = LEFT + 140 * (number % 4), HEIGHT - 26 + 16 * (number // 4)
        parts.append(
            f'<rect x="{left}" y="{bottom - 9}" width="10" height="10" fill="{COLOURS[number % len(COLOURS)]}"/>'
        )
        parts.append(f'<text x="{left + 14}" y="{bottom}" fill="#111">{escape(name)}</text>')
    return "\n".join((*parts, "</svg>\n"))


def _line(name: str, places: Points, values: Points, colour: str) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    found = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for (x, y), (size, value) in zip(places, values, strict=True):
        said = f"<title>{escape(name)}, {size:g}: {value:.3g}</title>"
        found.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">{said}</circle>')
    return found


def _scale(most: float) -> tuple[float, float]:
    """The upper end of an axis, and the distance of its marks: 1, 2 or 5 times a power of ten."""
    rough = (most or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return step * math.ceil((most or 1.0) / step), step


if __name__ == "__main__":
    sys.exit(main())

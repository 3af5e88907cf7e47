"""The picture of a run: throughput on a logarithmic scale, and latency at half load. SVG by hand; opens nothing."""

from __future__ import annotations

import math
from typing import Any, Final
from xml.sax.saxutils import escape

WIDTH, LEFT, BAR, GAP = 860, 230, 16, 6
COLOURS: Final = {"echo": "#9a9a9a", "PyKMIP": "#c26a3d"}
OURS: Final = "#2f6fab"
TEXT: Final = 'font-family="sans-serif" font-size="12"'


def draw(found: dict[str, Any]) -> str:
    """Return the SVG of a run's JSON."""
    results = found["results"]
    bars = {n: r["operations_s"] for n, r in results.items() if "half load" not in n}
    half = {n: r for n, r in results.items() if "half load" in n}
    out: list[str] = []
    y = 24
    out.append(_text(8, y, f"Operations a second, one core ({found['machine']['cpu']}), logarithmic", weight="bold"))
    low, high = 0.5, math.log10(max(bars.values())) * 1.02
    for name, value in bars.items():
        y += BAR + GAP
        width = max(1.0, (math.log10(max(value, 10)) - low) / (high - low) * (WIDTH - LEFT - 90))
        colour = next((c for word, c in COLOURS.items() if name.startswith(word)), OURS)
        out.append(_text(LEFT - 8, y, name, anchor="end"))
        out.append(f'<rect x="{LEFT}" y="{y - 12}" width="{width:.0f}" height="{BAR}" fill="{colour}"/>')
        out.append(_text(LEFT + width + 6, y, f"{value:,.0f}"))
    y += 44
    if half:
        out.append(_text(8, y, "Latency at half of the saturated load, open loop, microseconds", weight="bold"))
        most = max(r["p999_us"] for r in half.values())
        for name, result in half.items():
            for label, key, colour in (
                ("p50", "p50_us", OURS),
                ("p99", "p99_us", "#6fa3d0"),
                ("p99.9", "p999_us", "#b5cfe8"),
            ):
                y += BAR + GAP
                width = max(1.0, result[key] / most * (WIDTH - LEFT - 90))
                out.append(_text(LEFT - 8, y, f"{name.removesuffix(' at half load')} {label}", anchor="end"))
                out.append(f'<rect x="{LEFT}" y="{y - 12}" width="{width:.0f}" height="{BAR}" fill="{colour}"/>')
                out.append(_text(LEFT + width + 6, y, f"{result[key]:,.0f}"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 24}" viewBox="0 0 {WIDTH} {y + 24}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *out, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" {TEXT}>{escape(text)}</text>'

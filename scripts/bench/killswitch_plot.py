"""The picture of the kill switch's figures: a histogram of each run, logarithmic. SVG by hand; opens nothing."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final
from xml.sax.saxutils import escape

__all__ = ["draw", "histogram"]

#: Upper ends of the histogram's bins in ms. Below 0: the gate was closed before the answer was here.
EDGES: Final = (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
NAMES: Final = (f"<= {EDGES[0]}", *(f"{edge}" for edge in EDGES[1:]), f"> {EDGES[-1]}")
SHOWN: Final = "answer to gate closed (ms)"
LEFT, STEP, TALL, GAP = 60, 40, 110, 62
TEXT: Final = 'font-family="sans-serif" font-size="11"'


def histogram(values: list[float]) -> dict[str, int]:
    """Return how many values lie in each bin, by the bin's upper end; empty bins are left out."""
    counts = [0] * len(NAMES)
    for value in values:
        counts[bisect_left(EDGES, value)] += 1
    return {name: count for name, count in zip(NAMES, counts, strict=True) if count}


def draw(runs: list[dict[str, Any]]) -> str:
    """Return the SVG: one panel a run, shares of all closings, with p50 and p99 in words."""
    out: list[str] = []
    y = 20
    for run in runs:
        bins, figures = run["histogram"].get(SHOWN, {}), run.get(SHOWN)
        if figures is None:
            continue
        title = (f"{SHOWN}: {run['custodians']} custodians, {run['backlog']:,} routine events before them. "
                 f"p50 {figures['p50']} ms, p99 {figures['p99']} ms, n {figures['n']:,}")  # fmt: skip
        out.append(_text(8, y, title, weight="bold"))
        most = max(bins.values())
        for i, name in enumerate(NAMES):
            tall = bins.get(name, 0) / most * TALL
            x = LEFT + i * STEP
            colour = "#2f6fab" if i <= EDGES.index(50) else "#c26a3d"
            out.append(
                f'<rect x="{x}" y="{y + 12 + TALL - tall:.1f}" width="{STEP - 3}" height="{tall:.1f}" fill="{colour}"/>'
            )
            out.append(_text(x + STEP / 2, y + TALL + 26, name, anchor="middle"))
            if bins.get(name):
                share = _text(x + STEP / 2, y + 8 + TALL - tall, f"{bins[name]:,}", anchor="middle")
                out.append(share)
        y += TALL + GAP
    width = LEFT + STEP * len(NAMES) + 20
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *out, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-weight="{weight}" {TEXT}>{escape(text)}</text>'

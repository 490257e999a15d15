"""Rows of compression -> a picture: accuracy against latency, one point a step, its marker as large as the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtkit._optional import require
from trtkit.bundle.compression import CompressionRow, shared_metric
from trtkit.errors import SpecError
from trtkit.files import atomic_path
from trtkit.pipeline.label_places import Box, place_labels
from trtkit.quant.budget.plot import require_plot

__all__ = ["plot_tradeoff"]

_LARGEST = 500.0
"""Area of the marker of the largest model, in points squared."""
_SMALLEST = 12.0
_LOGARITHMIC = 4.0
"""From this ratio of the largest to the smallest value on, the horizontal axis is logarithmic."""


def plot_tradeoff(rows: Sequence[CompressionRow], path: Path) -> None:
    """Draw the score of each step against its latency, joined in order; against its size where no latency was measured.

    A step stands at its FP32 latency, and at its INT8 latency where it has no other. Steps without a score, or
    without a latency where others have one, are left out, and the title counts them. Labels are kept apart for up to
    about 15 steps.

    Args:
        rows: As they follow each other, the starting model first.
        path: .png, .svg or .pdf to write.

    Raises:
        SpecError: No row has a score, they have several metrics, or the file cannot be written.
        MissingDependencyError: matplotlib is absent.
    """
    figures = require_plot(path)
    metric = shared_metric(rows)
    scored = [row for row in rows if row.score is not None]
    timed = [row for row in scored if _latency(row)]
    shown = timed or scored
    if not shown:
        raise SpecError(f"None of {len(rows)} compression rows has a score, so there is no trade-off to draw. "
                        "Compress with something to evaluate on")
    figure = figures.Figure(figsize=(9, 5.5), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot(facecolor="white")
    x = [_latency(row) or row.size_bytes / 1e6 for row in shown]
    y = [100 * (row.score or 0.0) for row in shown]
    largest = max(row.size_bytes for row in shown) or 1
    areas = [max(_LARGEST * row.size_bytes / largest, _SMALLEST) for row in shown]
    int8 = [row.fp32_ms is None and row.int8_ms is not None for row in shown]
    axes.plot(x, y, color="#b8cbe0", linewidth=1.2, zorder=1)
    colors = ["#c06030" if each else "#4878a8" for each in int8]
    axes.scatter(x, y, s=areas, zorder=2, linewidths=1.2, edgecolors=colors,
                 facecolors=[f"{each}80" for each in colors])
    axes.margins(0.16)
    if min(x) > 0 and max(x) / min(x) >= _LOGARITHMIC:
        _logarithmic(axes)
    axes.set_xlabel(_axis(timed, int8))
    axes.set_ylabel(f"{metric or 'score'}, %")
    axes.grid(color="#d8d8d8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    left_out = f"; {len(rows) - len(shown)} of {len(rows)} steps not measured" if len(shown) < len(rows) else ""
    axes.set_title(f"Area of a marker: size, the largest {largest / 1e6:.3g} MB{left_out}", fontsize=9, loc="left")
    _label(figure, axes, list(zip(x, y)), areas, [f"{row.step} ({row.size_bytes / 1e6:.3g} MB)" for row in shown])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower()[1:], dpi=150)


def _latency(row: CompressionRow) -> float | None:
    return row.int8_ms if row.fp32_ms is None else row.fp32_ms


def _axis(timed: Sequence[CompressionRow], int8: Sequence[bool]) -> str:
    if not timed:
        return "size, MB"
    if any(int8):
        return "latency, ms (INT8)" if all(int8) else "latency, ms (blue: FP32, orange: INT8)"
    return "latency, ms (FP32)"


def _logarithmic(axes: Any) -> None:
    """Label 1, 2 and 5 times powers of ten, as plain numbers."""
    ticker = require("matplotlib.ticker", extra="plot", feature="A plot")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _label(figure: Any, axes: Any, points: list[tuple[float, float]], areas: Sequence[float],
           names: Sequence[str]) -> None:
    """Write each name near its point, with a thin line to its marker; in pixels, after the layout is done."""
    figure.draw_without_rendering()
    pixel = figure.dpi / 72
    radii = [math.sqrt(area / math.pi) for area in areas]
    centers = [(float(x), float(y)) for x, y in axes.transData.transform(points)]
    line = {"arrowstyle": "-", "color": "#909090", "linewidth": 0.6, "shrinkA": 0}
    ground = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}
    texts = [axes.annotate(name, point, xytext=(0, 0), textcoords="offset points", fontsize=8, color="#202020",
                           ha="center", va="center", zorder=3, bbox=ground, arrowprops={**line, "shrinkB": radius})
             for name, point, radius in zip(names, points, radii)]
    boxes = [text.get_window_extent() for text in texts]
    frame = axes.get_window_extent()
    places = place_labels(centers, [radius * pixel for radius in radii],
                          [(box.width + 2 * pixel, box.height + pixel) for box in boxes],
                          Box(frame.x0, frame.y0, frame.x1, frame.y1), gap=5 * pixel)
    for text, place, (x, y) in zip(texts, places, centers):
        text.set_position((((place.left + place.right) / 2 - x) / pixel, ((place.bottom + place.top) / 2 - y) / pixel))

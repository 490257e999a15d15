"""Steps of a training -> a CSV file, and a picture of the loss and the score."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from trtkit._optional import require
from trtkit.files import atomic_path, atomic_write

__all__ = ["Row", "plot_curve", "write_log"]

_WINDOWS = 60
"""Means of the loss that are drawn over all steps."""


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        epoch, step: From 1; steps are counted over all epochs.
        loss: Of this step's batch, before the step.
        learning_rate: That it was made with.
        score: After the epoch that this step ended; None for other steps.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    score: float | None = None


def write_log(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as CSV, floats to the last digit and no score as an empty field.

    Raises:
        SpecError: It cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(each.name for each in fields(Row))
    writer.writerows(astuple(row) for row in rows)
    atomic_write(path, text.getvalue().encode())


def plot_curve(rows: Sequence[Row], path: Path) -> None:
    """Draw loss over steps, each and as a running mean, and the score after each epoch, as PNG.

    Raises:
        MissingDependencyError: matplotlib is absent.
        SpecError: The file cannot be written.
    """
    figure = require("matplotlib.figure", extra="plot", feature="A plot").Figure(
        figsize=(8, 4.5), facecolor="white", layout="constrained")
    axes = figure.add_subplot(facecolor="white")
    axes.plot([row.step for row in rows], [row.loss for row in rows], color="#b8cbe0", linewidth=0.7)
    width = max(len(rows) // _WINDOWS, 1)
    windows = [rows[start:start + width] for start in range(0, len(rows), width)]
    axes.plot([window[len(window) // 2].step for window in windows],
              [sum(row.loss for row in window) / len(window) for window in windows], color="#4878a8")
    axes.set_xlabel("step")
    axes.set_ylabel("loss", color="#4878a8")
    axes.grid(color="#d8d8d8", linewidth=0.6)
    scored = [row for row in rows if row.score is not None]
    if scored:
        right = axes.twinx()
        right.plot([row.step for row in scored], [row.score for row in scored], color="#c06030", marker="o")
        right.set_ylabel("score after the epoch", color="#c06030")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)

"""Sensitivity of layers -> a picture of horizontal bars, the noisiest layer on top."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from trtkit._optional import require
from trtkit.errors import SpecError
from trtkit.files import atomic_path, require_folder
from trtkit.quant.budget.sensitivity import Probe, Sensitivity

__all__ = ["plot_sensitivity", "require_plot"]

_FORMATS = (".png", ".svg", ".pdf")
_LONGEST_NAME = 48
_LEAST_SHARE = 1e-7
"""Shares of noise below this, in percent, are drawn as bars of no length."""


def plot_sensitivity(sensitivity: Sensitivity, path: Path, *, top: int = 40) -> None:
    """Draw the noise of each layer on a logarithmic scale, with its operator and its share of the work.

    Args:
        sensitivity: What was measured.
        path: .png, .svg or .pdf to write.
        top: How many layers to draw, the noisiest first.

    Raises:
        SpecError: The ending is another, or the file cannot be written.
        MissingDependencyError: matplotlib is absent.
    """
    figures = require_plot(path)
    layers = sensitivity.layers[:top]
    total = max(sum(each.macs for each in sensitivity.layers), 1)
    percent = [min(max(100 * each.noise, _LEAST_SHARE), 1e4) for each in layers]
    figure = figures.Figure(figsize=(10, 1.6 + 0.24 * len(layers)), facecolor="white", layout="constrained")
    axes = figure.add_subplot(facecolor="white")
    bars = axes.barh([_short(each.name) + "\u200b" * place for place, each in enumerate(layers)], percent,
                     color="#4878a8", height=0.7)
    axes.bar_label(bars, [f" {each.op_type}, {100 * each.macs / total:.1f} % of MACs" for each in layers],
                   fontsize=7, color="#404040")
    axes.set_xscale("log")
    axes.set_xlim(min(percent) / 2, max(percent) * 30)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.grid(axis="x", color="#d8d8d8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    how = "quantized alone" if sensitivity.probe is Probe.ALONE else "left in float, all others quantized"
    shown = f"{len(layers)} of {len(sensitivity.layers)} layers" if len(layers) < len(sensitivity.layers) else "layers"
    axes.set_xlabel("noise power at the output, % of the signal's")
    axes.set_title(f"{sensitivity.precision.value} for {sensitivity.target}: {shown}, each {how}\n"
                   f"{sensitivity.samples} samples; all quantized: SQNR {sensitivity.sqnr_db:.1f} dB", fontsize=10,
                   loc="left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower()[1:], dpi=150)


def require_plot(path: Path) -> ModuleType:
    """Return matplotlib's figures when a plot can be written to `path`: told before long work, not after it.

    Raises:
        SpecError: The ending is no format of a picture, or the folder does not exist.
        MissingDependencyError: matplotlib is absent.
    """
    if path.suffix.lower() not in _FORMATS:
        raise SpecError(f"Plot '{path}' has the ending '{path.suffix}'. Choose one of: {', '.join(_FORMATS)}")
    require_folder(path)
    return require("matplotlib.figure", extra="plot", feature="A plot")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME:]}"

"""How well a latency table foretells a pruned network: predicted from its layers against measured whole.

A ResNet is recorded once, layer by layer, at its full width; then narrower ones are predicted and measured, the latter
in turns with the full one. Widths are multiples of what the target computes at once, as pruning leaves them; the last
rows are not, which costs more than the next multiple and is not foretold.
Run: python benchmarks/latency_table.py [--size 64] [--seconds 1.5] [--widths 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from trtkit.compress.pruning.latency import MeasuredLatency, TableLatency
from trtkit.compress.pruning.latency_kit import make_kit
from trtkit.precision import Precision
from trtkit.runtime import probe_device
from trtkit.runtime.recording import record_latencies
from trtkit.target import Target, load_targets

FULL = (64, 128, 256)
PRUNED = ((FULL, 0.75), (FULL, 0.5), (FULL, 0.25), ((48, 96, 192), 1.0), ((64, 96, 160), 0.5), ((32, 64, 128), 1.0),
          ((32, 64, 128), 0.5), ((61, 125, 251), 1.0), ((53, 107, 211), 0.6))
"""Channels of the stages, and the share of them inside the blocks."""


class Block(nn.Module):
    """Two convolutions and what goes around them."""

    def __init__(self, inputs: int, outputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
                                  nn.Conv2d(inner, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.around = nn.Identity() if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of both ways."""
        return torch.relu(self.body(x) + self.around(x))


def resnet(stages: tuple[int, ...], share: float = 1.0) -> nn.Module:
    """Return a ResNet with two blocks a stage."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, stages[0], 3, 2, 1), nn.ReLU()]
    before = stages[0]
    for place, width in enumerate(stages):
        for block in range(2):
            layers.append(Block(before, width, round(share * width), 2 if place and not block else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 100)).eval()


def main() -> int:
    """Record, predict, measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", type=int, default=64, help="Height and width of the input.")
    options.add_argument("--seconds", type=float, default=1.5, help="How long to measure each network.")
    options.add_argument("--widths", type=int, default=4, help="Widths at which each kind of layer is recorded.")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    device = probe_device()
    target = next(each for each in load_targets().values() if each.runs_on(device.machine, device.cpu_flags))
    rows = [row for precision in (Precision.FP32, Precision.INT8) for row in _rows(target, precision, given)]
    table = Table("precision", "channels", "measured ms", "predicted ms", "error %",
                  title=f"{target.name}, 1 thread, {given.size}x{given.size}")
    for row in rows:
        table.add_row(row["precision"], f"{row['stages']}, inner {row['inner']}", f"{row['measured_ms']:.3f}",
                      f"{row['predicted_ms']:.3f}", f"{row['error_percent']:+.1f}")
    console = Console(width=110)
    console.print(table)
    worst = max(abs(row["error_percent"]) for row in rows if row["aligned"])
    console.print(f"Largest error where all channels are multiples: {worst:.1f} %")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _rows(target: Target, precision: Precision, given: argparse.Namespace) -> list[dict[str, Any]]:
    example = torch.randn(1, 3, given.size, given.size)
    full = resnet(FULL)
    with tempfile.TemporaryDirectory() as folder:
        kit = make_kit(full, example, target, precision, Path(folder) / "resnet.kit", widths=given.widths)
        recorded = record_latencies(kit, threads=1)
    predict = TableLatency(recorded, example, target)
    measure = MeasuredLatency(example, target, precision, threads=1, seconds=given.seconds)
    multiple = target.channel_multiple(precision)
    rows = []
    for stages, share in ((FULL, 1.0), *PRUNED):
        module = resnet(stages, share)
        measured, predicted = measure(module), predict(module)
        inner = [round(share * width) for width in stages]
        rows.append({"precision": precision.value, "stages": stages, "inner": inner, "measured_ms": 1e3 * measured,
                     "predicted_ms": 1e3 * predicted, "error_percent": 100 * (predicted / measured - 1),
                     "aligned": all(width % multiple == 0 for width in (*stages, *inner))})
    return rows


if __name__ == "__main__":
    sys.exit(main())

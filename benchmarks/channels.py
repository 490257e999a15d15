"""What a convolution costs at widths between two multiples of the target's vectors: three in a row, in turns.

The figure is the shortest run over that at 64 channels. Where it is no smaller than at the next multiple, pruning to
that width gains nothing: it is why Target.channel_multiple is what `round_to` should be.
Run: python benchmarks/channels.py [--size 28] [--seconds 0.3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from trtkit.compress.pruning.lowering import example_feeds, lowered_for, rewritten_for
from trtkit.precision import Precision
from trtkit.runtime import OrtSession, probe_device
from trtkit.runtime.bench import shortest
from trtkit.target import load_targets

WIDTHS = (48, 52, 56, 57, 60, 63, 64, 65, 72, 80, 81, 96, 112, 128)


def chain(width: int, kernel: int) -> nn.Module:
    """Return three convolutions with ReLU."""
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(3)
                           for layer in (nn.Conv2d(width, width, kernel, padding=kernel // 2), nn.ReLU()))).eval()


def main() -> int:
    """Measure every width and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", type=int, default=28, help="Height and width of the input.")
    options.add_argument("--seconds", type=float, default=0.3, help="How long to measure each width.")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    device = probe_device()
    target = next(each for each in load_targets().values() if each.runs_on(device.machine, device.cpu_flags))
    rows = []
    for precision in (Precision.FP32, Precision.INT8):
        for kernel in (3, 1):
            sides = []
            for width in WIDTHS:
                module, example = chain(width, kernel), torch.randn(1, width, given.size, given.size)
                feeds = example_feeds(module, example)
                lowered = lowered_for(rewritten_for(module, example, target), target, precision, feeds)
                sides.append((OrtSession(lowered.model, threads=1), feeds))
            times = shortest(sides, seconds=given.seconds * len(sides))
            at_64 = times[WIDTHS.index(64)]
            rows.append({"precision": precision.value, "kernel": kernel,
                         "relative": {width: time / at_64 for width, time in zip(WIDTHS, times)}})
    table = Table("channels", "multiply-accumulates", *(f"{row['precision']} {row['kernel']}x{row['kernel']}"
                                                        for row in rows), title=f"{target.name}, 1 thread, 64 = 1")
    for width in WIDTHS:
        table.add_row(str(width), f"{(width / 64) ** 2:.2f}", *(f"{row['relative'][width]:.2f}" for row in rows))
    Console(width=100).print(table)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

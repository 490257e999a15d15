"""`trtkit bench`: latency, throughput, size and memory of a bundle, with the conditions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from trtkit.cli.console import console
from trtkit.errors import BundleError

_COLUMNS = {"p50 ms": "p50_ms", "p90 ms": "p90_ms", "p99 ms": "p99_ms", "per s": "throughput"}
_SHOWN_CONDITIONS = ("backend", "cpu", "cores", "governor", "power_mode", "load", "copies_included", "python", "trtkit")


def bench(
    bundle: Annotated[Path, typer.Argument(help="A .trtkit file, or a bundle's folder.")],
    seconds: Annotated[float, typer.Option(min=0.01, help="How long to measure each artifact.")] = 2.0,
    warmup: Annotated[float, typer.Option(min=0.0, help="Seconds before that are not measured.")] = 0.5,
    batch: Annotated[int, typer.Option(min=1, help="Size of dynamic dimensions.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    target: Annotated[str | None, typer.Option(help="Only artifacts of this target.")] = None,
    precision: Annotated[str | None, typer.Option(help="Only artifacts of this precision.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="For ONNX Runtime.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Each target and precision, in a process of its own.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what `trtkit run` would choose, or with --all everything that runs here."""
    options = {"seconds": seconds, "warmup": warmup, "batch": batch, "device": device, "threads": threads}
    which = {"target": target, "precision": precision}
    rows, failed = (_each(bundle, options, which) if every
                    else ([_measure(bundle, {**options, **which})], []))
    if as_json:
        console.print_json(json.dumps({"results": rows, "failed": failed} if every else rows[0]))
        return
    console.print(_table(rows))
    for key in _SHOWN_CONDITIONS:
        if key in rows[0]["conditions"]:
            console.print(f"{key}: {rows[0]['conditions'][key]}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"batch: {rows[0]['batch']}, runs: {', '.join(str(row['runs']) for row in rows)}", highlight=False)
    for line in failed:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _measure(bundle: Path, options: dict[str, Any]) -> dict[str, Any]:
    import trtkit
    from trtkit.runtime import bench as measure
    from trtkit.runtime import random_feeds

    which = {key: options[key] for key in ("device", "target", "precision", "threads")}
    with trtkit.open(bundle, **which) as session:
        artifact = session.choice.artifact
        feeds = random_feeds(session.inputs, batch=options["batch"])
        result = measure(session, feeds, seconds=options["seconds"], warmup=options["warmup"],
                         size_bytes=artifact.size_bytes, extra_conditions={"threads": options["threads"] or "default"})
        return {"target": artifact.target, "precision": artifact.precision.value, "choice": str(session.choice),
                "sha256": artifact.sha256, **result.to_json()}


def _each(bundle: Path, options: dict[str, Any], which: dict[str, str | None]
          ) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure each target and precision in a process of its own, so that its peak memory is its own."""
    from trtkit.bundle import open_bundle
    from trtkit.target import load_targets

    with open_bundle(bundle) as opened:
        on_gpu = {each.name for each in (*load_targets().values(), *opened.manifest.targets) if each.is_tensorrt}
        pairs = dict.fromkeys((a.target, a.precision.value) for a in opened.artifacts_for()
                              if a.kind != "calibration-cache" and which["target"] in (None, a.target)
                              and which["precision"] in (None, a.precision.value))
    rows, failed = [], []
    for target, precision in pairs:
        # What was lowered for TensorRT would run on a CPU, too, but that says nothing about its target.
        device = "cuda" if target in on_gpu and options["device"] == "auto" else options["device"]
        wanted = {**options, "device": device, "target": target, "precision": precision}
        flags = [text for key, value in wanted.items()
                 if value is not None for text in (f"--{key}", str(value))]
        command = [sys.executable, "-c", "from trtkit.cli import main; main()", "bench", str(bundle), "--json", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(f"{target} {precision}: not measurable here: {' '.join(done.stderr.split())[-400:]}")
        else:
            rows.append(json.loads(done.stdout))
    if not rows:
        raise BundleError(f"Nothing in '{bundle}' can be measured here: {'; '.join(failed)}")
    return rows, failed


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("target", "precision", "size MB", *_COLUMNS, "peak MB", box=box.SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(row["target"], row["precision"], f"{row['size_bytes'] / 1e6:.2f}",
                      *(f"{row[key]:.2f}" for key in _COLUMNS.values()),
                      f"{row['peak_memory_bytes'] / 1e6:.0f}")
    return table

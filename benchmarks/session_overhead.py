"""What `session.run` costs on top of raw onnxruntime: EfficientNet-sized input, a graph that computes next to nothing.

The three are called in turns, so that what disturbs the machine disturbs all; the difference of the medians counts.
Run: python benchmarks/session_overhead.py [--runs 20000] [--limit 20]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import parser
from rich.console import Console
from rich.table import Table

from trtkit import open as open_bundle_session
from trtkit.bundle import Artifact, BundleManifest, write_bundle
from trtkit.precision import Precision
from trtkit.runtime import OrtSession

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[batch,3,224,224] input) => (float[batch,1000] logits) {
    starts = Constant<value_ints: ints = [0, 0]>()
    ends = Constant<value_ints: ints = [1000000, 1000]>()
    axes = Constant<value_ints: ints = [0, 1]>()
    flat = Flatten<axis: int = 1>(input)
    logits = Slice(flat, starts, ends, axes)
}
"""
BLOCK = 50


def main() -> int:
    """Measure, print a table, and return 1 when the session costs more than the limit."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=20_000)
    options.add_argument("--limit", type=float, default=20.0, help="microseconds")
    given = options.parse_args()
    model = parser.parse_model(MODEL).SerializeToString()
    feeds = {"input": np.random.default_rng(0).random((1, 3, 224, 224), np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        calls = _calls(model, Path(folder), feeds)
        medians = _measure(calls, given.runs)
    table = Table("call", "p50 us", "over raw us", title=f"onnxruntime {onnxruntime.__version__}, 1 thread, batch 1")
    raw = medians["onnxruntime.InferenceSession.run(None, feeds)"]
    for name, median in medians.items():
        table.add_row(name, f"{median:.2f}", f"{median - raw:+.2f}")
    Console(width=100).print(table)
    return int(max(medians.values()) - raw > given.limit)


def _calls(model: bytes, folder: Path, feeds: dict[str, np.ndarray]) -> dict[str, Callable[[], object]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    raw = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session = OrtSession(model, threads=1)
    manifest = BundleManifest("tiny", session.inputs, session.outputs,
                              (Artifact("m.onnx", "x86-vnni", Precision.FP32, "onnx"),))
    write_bundle(folder / "tiny.trtkit", manifest, {"m.onnx": model})
    bundle = open_bundle_session(folder / "tiny.trtkit", device="cpu", threads=1)
    outputs = {"logits": np.empty((1, 1000), np.float32)}
    return {
        "onnxruntime.InferenceSession.run(None, feeds)": lambda: raw.run(None, feeds),
        "OrtSession.run(feeds)": lambda: session.run(feeds),
        "BundleSession.run(feeds)": lambda: bundle.run(feeds),
        "OrtSession.run_into(feeds, outputs)": lambda: session.run_into(feeds, outputs),
    }


def _measure(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Return the median of each call in microseconds, measured in blocks that take turns."""
    times: dict[str, list[int]] = {name: [] for name in calls}
    clock = time.perf_counter_ns
    for _ in range(max(1, runs // BLOCK)):
        for name, call in calls.items():
            kept = times[name]
            for _ in range(BLOCK):
                start = clock()
                call()
                kept.append(clock() - start)
    return {name: float(np.median(values)) / 1000 for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())

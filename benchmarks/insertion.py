"""Time and memory of lowering a model of 300 MB to INT8, in a process of its own.

    python benchmarks/insertion.py [--megabytes 300] [--target x86-vnni] [--json out.json]

Claims: under 20 s of CPU (it is one thread's work; the time by the clock is printed, too), and a peak under 3 times the
size of the model, over what the process has before it reads the model.

The model is a chain of convolutions of 1024 channels with random weights, built with ONNX alone; its table is counted
on random values, since only its presence matters here. A child process imports everything, notes its peak memory, reads
the file and lowers it; what it needed is the difference. The peak includes the FP32 model and the bytes that `lower`
returns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trtkit.graph import load_model
from trtkit.precision import Precision
from trtkit.quant import lower
from trtkit.ranges import CalibrationTable, Histogram
from trtkit.runtime.conditions import peak_memory_bytes
from trtkit.target import get_target

CLAIM_SECONDS, CLAIM_SIZES = 20.0, 3.0
CHANNELS = 1024


def build(megabytes: int) -> onnx.ModelProto:
    """Return convolutions of 3x3 and 1x1 in turn, each with ReLU, of this size together."""
    rng = np.random.default_rng(0)
    nodes, weights, last, size = [], [], "x", 0
    while size < megabytes * 1e6:
        number, kernel = len(weights) // 2, 3 if len(nodes) % 4 == 0 else 1
        weight = rng.standard_normal((CHANNELS, CHANNELS, kernel, kernel), np.float32) / (32 * kernel)
        weights += [numpy_helper.from_array(weight, f"w{number}"),
                    numpy_helper.from_array(rng.standard_normal(CHANNELS, np.float32), f"b{number}")]
        nodes += [helper.make_node("Conv", [last, f"w{number}", f"b{number}"], [f"c{number}"], pads=[kernel // 2] * 4),
                  helper.make_node("Relu", [f"c{number}"], [f"r{number}"])]
        last, size = f"r{number}", size + weight.nbytes
    shape = [1, CHANNELS, 8, 8]
    graph = helper.make_graph(nodes, "chain", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, shape)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def table(model: onnx.ModelProto) -> CalibrationTable:
    """Return counts of normal values for every tensor, of their magnitudes where a ReLU makes it."""
    values = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    signed, positive = Histogram.of(values), Histogram.of(np.abs(values))
    tensors = {node.output[0]: positive if node.op_type == "Relu" else signed for node in model.graph.node}
    return CalibrationTable({"x": signed, **tensors}, 1, "", "", "")


def child(path: Path, target: str) -> dict[str, float]:
    """Lower the model in a file and return what it took, reading it included."""
    small = build(1)
    lower(small, get_target(target), Precision.INT8, table=table(small))  # everything is imported now
    before, start = peak_memory_bytes(), time.perf_counter()
    model = load_model(path)
    read, busy = time.perf_counter(), time.process_time()
    lowered = lower(model, get_target(target), Precision.INT8, table=table(model))
    return {"read_s": read - start, "lower_s": time.perf_counter() - read,
            "lower_cpu_s": time.process_time() - busy, "peak_mb": (peak_memory_bytes() - before) / 1e6,
            "result_mb": len(lowered.model) / 1e6}


def main() -> None:
    """Build the model, lower it in a child and print one line a target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--target", action="append", help="x86-vnni and trt11 when none is given")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(child(options.child, options.target[0])))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(build(options.megabytes).SerializeToString())
        size = path.stat().st_size / 1e6
        for target in options.target or ["x86-vnni", "trt11"]:
            command = [sys.executable, __file__, "--child", str(path), "--target", target]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append({"target": target, "model_mb": size, **row, "sizes": row["peak_mb"] / size})
            met = row["lower_cpu_s"] < CLAIM_SECONDS and rows[-1]["sizes"] < CLAIM_SIZES
            print(f"{target:10} {size:.0f} MB: read {row['read_s']:.1f} s, lowered {row['lower_s']:.1f} s "
                  f"({row['lower_cpu_s']:.1f} s of CPU), peak "
                  f"{row['peak_mb']:.0f} MB = {rows[-1]['sizes']:.2f} sizes, {'met' if met else 'NOT met'}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What each step of choosing scales buys: INT8 of the real models with one step changed at a time, for both runtimes.

    python benchmarks/steps.py --labels stamps.json --sprites emoji.npz [--models lite0 emoji] [--json out.json]

For each model (zoo.py): the task metric, the agreement with FP32, and the signal-to-noise ratio of the output, with the
default steps, with another estimator, without bias correction, with equalization and with smoothing; and how near
weights come to their originals with one scale, with one a channel, and with the one of least error a channel.
TensorRT graphs are computed by ONNX Runtime as written.

Claim: computing every estimator for all tensors of ResNet-50 from its table takes less than 10 s (--estimators TABLE,
such as zoo.py writes).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import zoo
from onnx import numpy_helper

from trtkit.calib import calibrate
from trtkit.metrics import sqnr_db
from trtkit.precision import Estimator, Precision, QuantSpec
from trtkit.quant import lower
from trtkit.quant.scales.weights import quantize_weight
from trtkit.ranges import CalibrationTable, estimate
from trtkit.runtime.ort import OrtSession
from trtkit.target import get_target

TARGETS = {"rtx": "TensorRT (symmetric INT8)", "x86-vnni": "x86 CPU (UINT8 activations)"}
STEPS: Mapping[str, QuantSpec] = {
    "default": QuantSpec(),
    **{each.value: QuantSpec(each) for each in Estimator if each is not QuantSpec().estimator},
    "no bias correction": QuantSpec(bias_correction=False),
    "equalize": QuantSpec(equalize=True),
    "smoothing 0.5": QuantSpec(smoothing=0.5),
}
SCORED = tuple(name for name in zoo.MODELS if name not in ("resnet50", "mobilenetv2", "vit_tiny"))


def outputs(model: zoo.Model, lowered: bytes) -> list[np.ndarray]:
    """Return the first output of every test sample."""
    session = OrtSession(lowered)
    try:
        name = session.outputs[0].name
        return [session.run(sample.feeds)[name] for sample in model.test]
    finally:
        session.close()


def judge(model: zoo.Model, step: str, target: str, proto: onnx.ModelProto, table: CalibrationTable,
          expected: list[np.ndarray]) -> dict[str, Any]:
    """Return the row of one step: what its lowering scores."""
    lowered = lower(proto, get_target(target), Precision.INT8, table=table, spec=STEPS[step])
    actual = outputs(model, lowered.simulation)
    metric, agreement = model.score(model.answer(actual), model.answer(expected))
    noise = float(sqnr_db(np.concatenate([each.ravel() for each in expected]),
                          np.concatenate([each.ravel() for each in actual])))
    return {"model": model.name, "target": target, "step": step, "metric": metric, "agreement": agreement,
            "sqnr_db": noise, "notes": lowered.notes}


def weights_sqnr(proto: onnx.ModelProto) -> dict[str, float]:
    """Return how near the quantized kernels of all convolutions are to their originals, in dB, by three choices."""
    kernels = {node.input[1] for node in proto.graph.node if node.op_type == "Conv"}
    noise = dict.fromkeys(("one scale", "a scale a channel", "of least error"), 0.0)
    signal = 0.0
    for tensor in proto.graph.initializer:
        if tensor.name not in kernels:
            continue
        weight = numpy_helper.to_array(tensor).astype(np.float64)
        rows = weight.reshape(len(weight), -1)
        power = np.maximum((rows**2).sum(axis=1), 1e-30)  # every channel counts alike
        signal += len(rows)
        for name, amax in (("one scale", np.full(len(rows), np.abs(rows).max())),
                           ("a scale a channel", np.abs(rows).max(axis=1))):
            steps = np.maximum(amax, 1e-30)[:, None] / 127
            noise[name] += float((((np.rint(rows / steps) * steps - rows) ** 2).sum(axis=1) / power).sum())
        error = quantize_weight(weight.astype(np.float32), 0).dequantized().reshape(rows.shape) - rows
        noise["of least error"] += float(((error**2).sum(axis=1) / power).sum())
    return {name: 10 * float(np.log10(signal / max(value, 1e-30))) for name, value in noise.items()}


def estimator_seconds(table: CalibrationTable) -> dict[str, float]:
    """Return the CPU seconds that each estimator takes for all tensors, on both kinds of grid."""
    seconds = {}
    for estimator in Estimator:
        start = time.process_time()
        for histogram in table.tensors.values():
            for symmetric in (True, False):
                estimate(histogram, estimator, symmetric=symmetric)
        seconds[estimator.value] = time.process_time() - start
    return seconds


def measure(names: list[str], targets: list[str], steps: list[str], places: zoo.Places) -> list[dict[str, Any]]:
    """Return one row a model, target and step."""
    rows = []
    for name in names:
        model = zoo.get_model(name, places)
        for target in targets:
            proto = model.rewritten(target)
            table = calibrate(proto, model.calibration)
            expected = outputs(model, proto.SerializeToString())
            for step in steps:
                rows.append(judge(model, step, target, proto, table, expected))
                row = rows[-1]
                print(f"  {name} {target} {step}: {row['metric']:.4f} {row['agreement']:.4f} {row['sqnr_db']:.2f} dB",
                      file=sys.stderr, flush=True)
        rows.append({"model": name, "weights_sqnr_db": weights_sqnr(proto)})
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """Print one block a model and runtime, each step against the default."""
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        for target, kind in TARGETS.items():
            scored = [row for row in mine if row.get("target") == target]
            if scored:
                print(f"{name}, {kind}\n  {'':22}{'metric':>9}{'agreement':>11}{'output SQNR, dB':>17}")
            for row in scored:
                print(f"  {row['step']:22}{row['metric']:9.4f}{row['agreement']:11.4f}{row['sqnr_db']:17.2f}")
        for row in mine:
            for choice, value in row.get("weights_sqnr_db", {}).items():
                print(f"  weights, {choice:27}{value:27.2f}")


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SCORED, default=list(SCORED))
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--estimators", type=Path, help="only time the estimators on this calibration table")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    zoo.add_arguments(parser)
    options = parser.parse_args()
    if options.estimators:
        seconds = estimator_seconds(CalibrationTable.load(options.estimators))
        rows = [{"estimator": name, "seconds": value} for name, value in seconds.items()]
        print("\n".join(f"{name:12}{value:8.2f} s" for name, value in seconds.items()))
        print(f"{'together':12}{sum(seconds.values()):8.2f} s")
    else:
        rows = measure(options.models, options.targets, options.steps, zoo.places_of(options))
        report(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

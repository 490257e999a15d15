"""INT8 EfficientNet-Lite0 on 576 labelled photographs, beside ONNX Runtime's quantizer and NVIDIA ModelOpt.

    python benchmarks/accuracy.py --labels stamps.json [--modelopt-python VENV/bin/python] [--json out.json]

Claims: top-1 agreement with FP32 at least 0.92 for the TensorRT lowering and 0.93 for the x86 lowering, neither below
the best peer of its kind on the same pictures, and top-1 within 1.0 point of FP32.

Everyone calibrates on the same 144 pictures (other variants of the same 72 cut-outs) with the same preprocessing; every
model is judged on the same 576. TensorRT graphs are computed by ONNX Runtime as written (no graph optimizations), for
everybody: on a GPU they were not run. `--labels` is a JSON file {"stamps": {picture: [accepted ImageNet ids]}}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import photographs

from trtkit.calib import DataSource, calibrate, open_data
from trtkit.evaluate import Accuracy, evaluate
from trtkit.graph import load_model, model_inputs, preset, rewrite, save_model
from trtkit.precision import Estimator, Precision, QuantSpec
from trtkit.preprocess import Preprocess
from trtkit.quant import lower
from trtkit.runtime.ort import OrtSession
from trtkit.target import get_target

PREPROCESS = Preprocess(size=(224, 224), scale=1 / 128, mean=(127 / 128,) * 3)
TENSORRT, CPU = "TensorRT (symmetric INT8)", "x86 CPU (UINT8 activations)"


def export(path: Path) -> None:
    """Write the trained network as the demo exports it, then rewrite it for both targets (their presets agree)."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
    from model import efficientnet_lite0

    from trtkit.export import export_onnx

    export_onnx(efficientnet_lite0(), {"input": np.zeros((1, 3, 224, 224), np.float32)}, path=path)
    save_model(rewrite(load_model(path), preset(get_target("rtx"))).model, path)


def feeds(data: DataSource) -> Iterator[dict[str, np.ndarray]]:
    """Yield the prepared pictures."""
    return (sample.feeds for sample in data)


def ours(model: Path, data: DataSource, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (kind, name, file) of our lowerings: the default, then what its parts buy."""
    proto = load_model(model)
    table = calibrate(proto, data)
    variants = {"trtkit": QuantSpec(), "trtkit, no bias correction": QuantSpec(bias_correction=False)}
    variants |= {f"trtkit, {each.value}": QuantSpec(each) for each in Estimator if each is not QuantSpec().estimator}
    for kind, target in ((TENSORRT, "rtx"), (CPU, "x86-vnni")):
        for name, spec in variants.items():
            path = folder / f"{target}-{name}.onnx"
            path.write_bytes(lower(proto, get_target(target), Precision.INT8, table=table, spec=spec).model)
            yield kind, name, path


def onnxruntime_peers(model: Path, data: DataSource, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield ONNX Runtime's own quantizer: its recipe for x86, and the one that TensorRT accepts."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self, limit: int) -> None:
            self.samples = (each for _, each in zip(range(limit), feeds(data)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.samples, None)

    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    recipes: dict[tuple[str, str], dict[str, Any]] = {
        (CPU, "ONNX Runtime, min-max"): {"activation_type": QuantType.QUInt8},
        (CPU, "ONNX Runtime, percentile"): {"activation_type": QuantType.QUInt8,
                                            "calibrate_method": CalibrationMethod.Percentile},
        (CPU, "ONNX Runtime, entropy"): {"activation_type": QuantType.QUInt8,
                                         "calibrate_method": CalibrationMethod.Entropy},
        (TENSORRT, "ONNX Runtime, min-max"): {"activation_type": QuantType.QInt8, "extra_options": symmetric},
        (TENSORRT, "ONNX Runtime, percentile"): {"activation_type": QuantType.QInt8, "extra_options": symmetric,
                                                 "calibrate_method": CalibrationMethod.Percentile},
    }
    for (kind, name), options in recipes.items():
        path = folder / f"ort-{len(list(folder.iterdir()))}.onnx"
        # its histogram calibrators keep every activation in memory: 48 pictures take 5 GB
        reader = Reader(48 if "calibrate_method" in options else 10**9)
        quantize_static(str(model), str(path), reader, quant_format=QuantFormat.QDQ, per_channel=True,
                        weight_type=QuantType.QInt8, **options)
        yield kind, name, path


MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
for method in ("max", "entropy"):
    quantize(sys.argv[1], quantize_mode="int8", calibration_data={"input": np.load(sys.argv[2])},
             calibration_method=method, output_path=f"{sys.argv[3]}/modelopt-{method}.onnx", log_level="ERROR",
             calibration_eps=["cpu"], high_precision_dtype="fp32")
"""


def modelopt_peers(python: str, model: Path, data: DataSource, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield ModelOpt's INT8 models, made in its own environment."""
    pictures = folder / "calibration.npy"
    np.save(pictures, np.concatenate([next(iter(each.values())) for each in feeds(data)]))
    done = subprocess.run([python, "-c", MODELOPT, str(model), str(pictures), str(folder)], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ModelOpt failed: {done.stderr.strip().splitlines()[-1]}")
    for method in ("max", "entropy"):
        yield TENSORRT, f"ModelOpt, {method}", folder / f"modelopt-{method}.onnx"


def judge(path: Path, data: DataSource, *, optimize: bool) -> Accuracy:
    """Return how a model does on the labelled pictures."""
    session = OrtSession(path, optimize=optimize)
    try:
        return evaluate(session.run, data)
    finally:
        session.close()


def measure(labels: Path, cache: Path, modelopt_python: str | None) -> list[dict[str, Any]]:
    """Return one row a model."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photographs.write_photographs(labels, cache, folder / "photographs")
        model = folder / "lite0.onnx"
        export(model)
        source: Callable[[str], DataSource] = lambda split: open_data(  # noqa: E731
            folder / "photographs" / split, input=model_inputs(load_model(model))[0], preprocess=PREPROCESS)
        test, calibration = source("test"), source("calibration")
        reference = judge(model, test, optimize=True)
        rows.append({"kind": "", "name": "FP32", "top1": reference.top1, "top5": reference.top5, "agreement": 1.0,
                     "mb": model.stat().st_size / 1e6})
        made = folder / "made"
        made.mkdir()
        everyone = [*ours(model, calibration, made), *onnxruntime_peers(model, calibration, made)]
        if modelopt_python:
            everyone += modelopt_peers(modelopt_python, model, calibration, made)
        for kind, name, path in everyone:
            accuracy = judge(path, test, optimize=kind == CPU)
            rows.append({"kind": kind, "name": name, "top1": accuracy.top1, "top5": accuracy.top5,
                         "agreement": accuracy.agreement(reference), "mb": path.stat().st_size / 1e6})
            print(f"  {kind}, {name}: agreement {rows[-1]['agreement']:.4f}", file=sys.stderr, flush=True)
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table, one block a kind, best agreement first."""
    print(f"{'':30}{'MB':>7}{'top-1':>9}{'top-5':>9}{'agreement with FP32':>22}")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        if kind:
            print(kind)
        for row in sorted((row for row in rows if row["kind"] == kind), key=lambda row: -row["agreement"]):
            print(f"  {row['name']:28}{row['mb']:7.1f}{row['top1']:9.3f}{row['top5']:9.3f}{row['agreement']:22.4f}")


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(".cache/stamps"), help="where the pictures are kept")
    parser.add_argument("--modelopt-python", help="Python of an environment with nvidia-modelopt[onnx]")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    rows = measure(options.labels, options.cache, options.modelopt_python)
    report(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""INT8 of the real models by default settings, beside ONNX Runtime's quantizer and NVIDIA ModelOpt: task metrics.

    python benchmarks/quantization.py --labels stamps.json --sprites emoji.npz
        [--modelopt-python VENV/bin/python] [--json out.json] [NAME ...]

Claims, with the default QuantSpec and no setting a model: the task metric within 0.5 point of FP32 (v4 recognizer 1.0),
agreement with FP32 at least 0.95 on EfficientNet-Lite0, and no peer of the kind better by more than its own chance.

The models and their data are those of zoo.py. Everyone calibrates on the same samples, and gets the FP32 model that our
passes made of the file (opset 17, BatchNorm folded), which is more than the peers make of it: the row "the file as it
comes" shows that. TensorRT graphs are computed by ONNX Runtime as written, for everybody: on a GPU they were not run.
A peer that refuses a model, or crashes on it, is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zoo

from trtkit.calib import DataSource, calibrate
from trtkit.errors import TrtkitError
from trtkit.graph import load_model, save_model
from trtkit.precision import Precision
from trtkit.quant import lower
from trtkit.target import get_target

TENSORRT, CPU = "TensorRT", "x86 CPU"
OURS = "trtkit"
SCORED = ("lite0", "ocr_v4_rec", "ocr_v6_rec", "ocr_v6_det", "emoji")
HISTOGRAM_SAMPLES = 24
"""ONNX Runtime's histogram calibrators keep every activation in memory: 48 pictures of Lite0 take 5 GB."""


@dataclass(frozen=True)
class Row:
    """What one quantizer made of one model.

    Attributes:
        model, kind, name: Which model, for what, by whom.
        metric, agreement: From 0 to 1; None where there is no model to judge.
        mb: Size of the ONNX file.
        seconds: To calibrate and quantize.
        fault: Why there is none.
    """

    model: str
    kind: str
    name: str
    metric: float | None = None
    agreement: float | None = None
    mb: float | None = None
    seconds: float | None = None
    fault: str = ""


Maker = Callable[[Path], None]
"""Writes a quantized model to a file."""


def ours(model: zoo.Model, target: str) -> Maker:
    """Return our lowering, calibration included, default settings."""
    def make(output: Path) -> None:
        proto = load_model(model.file)
        table = calibrate(proto, model.calibration)
        output.write_bytes(lower(proto, get_target(target), Precision.INT8, table=table).simulation)

    return make


class Reader:
    """The calibration data as ONNX Runtime's calibrators read it."""

    def __init__(self, data: DataSource, limit: int | None) -> None:
        self._samples = (sample.feeds for _, sample in zip(range(limit or 10**9), data))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._samples, None)


def statically(fp32: Path, data: DataSource, *, symmetric: bool, method: str = "MinMax",
               operators: list[str] | None = None) -> Maker:
    """Return ONNX Runtime's quantize_static: Q/DQ, INT8 weights per channel."""
    from onnxruntime import quantization

    extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False} if symmetric else {}
    kind = quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8

    def make(output: Path) -> None:
        reader = Reader(data, HISTOGRAM_SAMPLES if method != "MinMax" else None)
        quantization.quantize_static(str(fp32), str(output), reader, quant_format=quantization.QuantFormat.QDQ,
                                     per_channel=True, weight_type=quantization.QuantType.QInt8, activation_type=kind,
                                     calibrate_method=getattr(quantization.CalibrationMethod, method),
                                     op_types_to_quantize=operators, extra_options=extra)

    return make


def dynamically(fp32: Path) -> Maker:
    """Return ONNX Runtime's quantize_dynamic as it is."""
    from onnxruntime.quantization import quantize_dynamic

    return lambda output: quantize_dynamic(str(fp32), str(output))


MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
model, data, output, method, name = sys.argv[1:]
quantize(model, quantize_mode="int8", calibration_data={name: np.load(data)}, calibration_method=method,
         output_path=output, log_level="ERROR", calibration_eps=["cpu"], high_precision_dtype="fp32")
"""


def modelopt(python: str, fp32: Path, data: DataSource, method: str) -> Maker:
    """Return ModelOpt's INT8 quantization, in its own environment."""
    def make(output: Path) -> None:
        samples = output.with_suffix(".npy")
        feeds = [sample.feeds for sample in data]
        (name,) = feeds[0]
        np.save(samples, np.concatenate([each[name] for each in feeds]))
        done = subprocess.run([python, "-c", MODELOPT, str(fp32), str(samples), str(output), method, name],
                              capture_output=True, text=True, check=False)
        samples.unlink()
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "no output").splitlines()[-1])

    return make


def contenders(model: zoo.Model, fp32: Path, python: str | None, *, quick: bool) -> Iterator[tuple[str, str, Maker]]:
    """Yield (kind, name, maker) of everyone; `quick` leaves out the variants that seldom win."""
    data, layers = model.calibration, ["Conv", "MatMul", "Gemm"]
    yield TENSORRT, OURS, ours(model, "rtx")
    yield CPU, OURS, ours(model, "x86-vnni")
    for kind, symmetric in ((TENSORRT, True), (CPU, False)):
        recipes: Mapping[str, Mapping[str, Any]] = {
            "ONNX Runtime, Conv and MatMul, min-max": {"operators": layers},
            "ONNX Runtime, all operators, min-max": {},
            "ONNX Runtime, Conv and MatMul, percentile": {"operators": layers, "method": "Percentile"},
            "ONNX Runtime, Conv and MatMul, entropy": {"operators": layers, "method": "Entropy"},
        }
        for name, options in list(recipes.items())[: 2 if quick else None]:
            yield kind, name, statically(fp32, data, symmetric=symmetric, **options)
    yield CPU, "ONNX Runtime, the file as it comes", statically(model.file, data, symmetric=False)
    yield CPU, "ONNX Runtime, dynamic", dynamically(fp32)
    if python:
        yield TENSORRT, "ModelOpt, entropy", modelopt(python, fp32, data, "entropy")
        yield TENSORRT, "ModelOpt, max", modelopt(python, fp32, data, "max")


def measure(model: zoo.Model, python: str | None, *, quick: bool) -> Iterator[Row]:
    """Yield one row a contender, FP32 first."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fp32 = folder / "fp32.onnx"
        save_model(model.rewritten(), fp32)
        reference = model.answers(fp32)
        yield Row(model.name, "", "FP32", *model.score(reference, reference), fp32.stat().st_size / 1e6)
        for number, (kind, name, make) in enumerate(contenders(model, fp32, python, quick=quick)):
            output = folder / f"{number}.onnx"
            start = time.perf_counter()
            try:
                make(output)
                seconds = time.perf_counter() - start
                answers = model.answers(output, optimize=kind == CPU)
            except (TrtkitError, *_anything_of_a_peer(name)) as err:
                yield Row(model.name, kind, name, fault=" ".join(str(err).split())[:90] or type(err).__name__)
                continue
            yield Row(model.name, kind, name, *model.score(answers, reference), output.stat().st_size / 1e6, seconds)


def _anything_of_a_peer(name: str) -> tuple[type[Exception], ...]:
    """A peer may fail in any way and be a row; what fails of ours in an unforeseen way ends the run."""
    return () if name == OURS else (Exception,)


def report(row: Row, model: zoo.Model) -> None:
    """Print one row."""
    if not row.kind:
        print(f"\n{row.model}: {model.metric_name}\n{'':56}{'MB':>7}{'metric':>9}{'agreement':>11}{'s':>7}")
    what = f"  {row.kind:9} {row.name:44}"
    if row.metric is None or row.agreement is None or row.mb is None:
        print(f"{what}  failed: {row.fault}", flush=True)
    else:
        print(f"{what}{row.mb:7.1f}{row.metric:9.4f}{row.agreement:11.4f}{row.seconds or 0:7.1f}", flush=True)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"models; {', '.join(SCORED)} when none is given")
    zoo.add_arguments(parser)
    parser.add_argument("--modelopt-python", help="Python of an environment with nvidia-modelopt[onnx]")
    parser.add_argument("--quick", action="store_true", help="leave out ONNX Runtime's histogram calibrators")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # ONNX Runtime asks for a pre-processing that has been done
    rows: list[Row] = []
    for name in options.names or SCORED:
        model = zoo.get_model(name, zoo.places_of(options))
        for row in measure(model, options.modelopt_python, quick=options.quick):
            rows.append(row)
            report(row, model)
            if options.json:
                options.json.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()

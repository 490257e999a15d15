"""Calibrating a ResNet-50 (224x224, entropy) beside the bare forward pass and the peers: time and peak memory.

    python benchmarks/calibration.py [--images 64 512] [--modelopt-python VENV/bin/python] [--json out.json]

Claims: at most 2.0 times the bare FP32 forward passes over the same images; peak memory within 10 % between 64 and 512
images; at least 8 times faster than the entropy calibrators of ONNX Runtime and of NVIDIA ModelOpt on 64 images.

Each row is a process of its own, so peak memory is its own. The bare forward pass is ONNX Runtime with its default
options, timed right before and right after ours; building its session is not counted, while ours counts everything from
the file to the ranges. ModelOpt is installed by the reader in a second environment (it pins other versions); its row is
the time of `quantize` with all images minus that with one, so that only calibration is counted. The weights are random
and the BatchNorm statistics randomised: only speed and memory are measured here.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (3, 224, 224)
POOL = 64  # distinct images, kept in memory and repeated, so that reading data costs nothing in any row


def pool() -> np.ndarray:
    """Return smooth random images, shape (POOL, 3, 224, 224), float32, normalised like ImageNet's."""
    rng = np.random.default_rng(0)
    coarse = rng.random((POOL, 3, 28, 28), np.float32)
    fine = coarse.repeat(8, axis=2).repeat(8, axis=3) + rng.normal(0, 0.05, (POOL, *SHAPE)).astype(np.float32)
    return np.ascontiguousarray((np.clip(fine, 0, 1) - 0.45) / 0.225, np.float32)


def export_resnet50(path: Path) -> None:
    """Write a ResNet-50 from its transformers configuration, batch dimension dynamic."""
    import warnings

    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    network = ResNetForImageClassification(ResNetConfig()).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.1)
    network.config.return_dict = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, *SHAPE),), str(path), input_names=["input"],
                          output_names=["logits"], opset_version=17, dynamo=False,
                          dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})


def run_ours(model: Path, images: int) -> dict[str, float]:
    """Calibrate and estimate all ranges; the bare passes are timed before and after."""
    import onnxruntime

    from trtkit.calib import calibrate, open_data
    from trtkit.precision import Estimator
    from trtkit.ranges import estimate
    from trtkit.tensors import TensorSpec

    data = pool()
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def bare() -> float:
        begin = time.perf_counter()
        for index in range(images):
            session.run(None, {"input": data[index % POOL][None]})
        return time.perf_counter() - begin

    source = open_data(lambda: (data[index % POOL][None] for index in range(images)), limit=images,
                       input=TensorSpec("input", "float32", ("batch", *SHAPE)))
    session.run(None, {"input": data[:1]})
    before = bare()
    begin = time.perf_counter()
    table = calibrate(model, source)
    swept = time.perf_counter()
    for histogram in table.tensors.values():
        estimate(histogram, Estimator.ENTROPY, symmetric=True)
    estimated = time.perf_counter()
    for histogram in table.tensors.values():
        for estimator in Estimator:
            estimate(histogram, estimator, symmetric=True)
            estimate(histogram, estimator, symmetric=False)
    everything = time.perf_counter() - estimated
    return {"seconds": estimated - begin, "bare": (before + bare()) / 2, "estimate": estimated - swept,
            "all_estimators": everything, "tensors": len(table.tensors)}


def run_memory(model: Path, images: int) -> dict[str, float]:
    """Calibrate only, for the peak memory."""
    from trtkit.calib import calibrate, open_data
    from trtkit.tensors import TensorSpec

    data = pool()
    source = open_data(lambda: (data[index % POOL][None] for index in range(images)), limit=images,
                       input=TensorSpec("input", "float32", ("batch", *SHAPE)))
    begin = time.perf_counter()
    calibrate(model, source)
    return {"seconds": time.perf_counter() - begin}


def run_onnxruntime(model: Path, images: int) -> dict[str, float]:
    """ONNX Runtime's entropy calibrator, from the file to the ranges."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            data = pool()
            self.feeds = iter([{"input": data[index % POOL][None]} for index in range(images)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    reader = Reader()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        calibrator = create_calibrator(model, augmented_model_path=f"{folder}/augmented.onnx",
                                       calibrate_method=CalibrationMethod.Entropy)
        calibrator.collect_data(reader)
        calibrator.compute_data()
        return {"seconds": time.perf_counter() - begin}


def run_modelopt(model: Path, images: int) -> dict[str, float]:
    """ModelOpt's quantize with the entropy method: with all images, minus with one."""
    from modelopt.onnx.quantization import quantize

    data = pool()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, images):
            begin = time.perf_counter()
            quantize(str(model), quantize_mode="int8", calibration_data={"input": data[:count]},
                     calibration_method="entropy", output_path=f"{folder}/q{count}.onnx", log_level="ERROR",
                     calibration_eps=["cpu"], high_precision_dtype="fp32")
            seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds[1] - seconds[0], "whole": seconds[1]}


ROWS = {"ours": run_ours, "memory": run_memory, "onnxruntime": run_onnxruntime, "modelopt": run_modelopt}


def in_child(row: str, model: Path, images: int, python: str = sys.executable) -> dict[str, Any]:
    """Run one row in a process of its own; peak memory is added, or the last line of what went wrong."""
    done = subprocess.run([python, str(Path(__file__).resolve()), "--row", row, "--model", str(model), "--images",
                           str(images)], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def measure(model: Path, images: list[int], modelopt_python: str | None) -> dict[str, Any]:
    """Return all rows by name."""
    few = min(images)
    found: dict[str, Any] = {f"ours {count}": in_child("ours", model, count) for count in images}
    found |= {f"memory {count}": in_child("memory", model, count) for count in images}
    found[f"onnxruntime {few}"] = in_child("onnxruntime", model, few)
    found[f"modelopt {few}"] = (in_child("modelopt", model, few, modelopt_python) if modelopt_python
                                else {"error": "skipped: give --modelopt-python"})
    return found


def report(found: dict[str, Any], images: list[int]) -> None:
    """Print one table, and the three claims with what was found."""
    few, many = min(images), max(images)
    ours = found[f"ours {few}"]
    print(f"{'':22}{'seconds':>10}{'ms/image':>10}{'peak MB':>10}{'against':>26}")
    for name, row in found.items():
        count = int(name.split()[1])
        if "error" in row:
            print(f"{name:22}{row['error']}")
            continue
        against = ""
        if "bare" in row:
            print(f"{f'bare forward {count}':22}{row['bare']:10.2f}{1e3 * row['bare'] / count:10.1f}")
            against = f"{row['seconds'] / row['bare']:.2f} x bare forward"
        elif not name.startswith("memory"):
            against = f"{row['seconds'] / ours['seconds']:.1f} x ours"
        print(f"{name:22}{row['seconds']:10.2f}{1e3 * row['seconds'] / count:10.1f}{row['peak_mb']:10.0f}{against:>26}")
    print(f"\nEntropy ranges of {ours['tensors']:.0f} tensors: {ours['estimate']:.2f} s; all four estimators, "
          f"symmetric and asymmetric: {ours['all_estimators']:.2f} s")
    growth = found[f"memory {many}"]["peak_mb"] / found[f"memory {few}"]["peak_mb"] - 1
    print(f"Peak memory from {few} to {many} images: {growth:+.1%}")


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--model", type=Path, help="ONNX with one input 'input'; a ResNet-50 is made when absent")
    parser.add_argument("--modelopt-python", help="Python of an environment with nvidia-modelopt[onnx]")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        result = ROWS[options.row](options.model, options.images[0])
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / "resnet50.onnx"
        if options.model is None:
            export_resnet50(model)
        found = measure(model, options.images, options.modelopt_python)
    report(found, options.images)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""INT8 on an x86 CPU with VNNI, in pairs with FP32 and with ONNX Runtime's best recipe: batch 1, two threads.

    python benchmarks/cpu_speed.py [--threads 2] [--batch 1] [--json out.json]

Claims, batch 1: ResNet-50 at least 2.8 times as fast as FP32, MobileNetV2 and EfficientNet-Lite0 at least 1.7 times.

ResNet-50 and MobileNetV2 come from their transformers configurations with random weights and randomised BatchNorm
statistics (speed does not depend on the values); Lite0 is the trained one. ONNX Runtime's recipe is the fastest that
its documentation names for x86: UINT8 activations, INT8 weights per channel, Q/DQ, after its own pre-processing. Two
models are measured in turns (trtkit.runtime.bench.paired); the ratio has a 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any

import accuracy
import numpy as np
import onnxruntime

from trtkit.calib import calibrate, open_data
from trtkit.graph import load_model, model_bytes, model_inputs, preset, rewrite
from trtkit.precision import Precision
from trtkit.quant import lower
from trtkit.runtime.bench import paired
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.probe import probe_device
from trtkit.target import get_target

CLAIMS = {"ResNet-50": 2.8, "MobileNetV2": 1.7, "EfficientNet-Lite0": 1.7}
IMAGES = 16


def export(name: str, path: Path) -> None:
    """Write one of the models as ONNX, batch dimension dynamic."""
    if name == "EfficientNet-Lite0":
        accuracy.export(path)
        return
    import torch
    import transformers

    torch.manual_seed(0)
    made = {"ResNet-50": lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000)),
            "MobileNetV2": lambda: transformers.MobileNetV2ForImageClassification(
                transformers.MobileNetV2Config(num_labels=1000))}[name]().eval()
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    made.config.return_dict = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(made, (torch.zeros(1, 3, 224, 224),), str(path), input_names=["input"],
                          output_names=["logits"], opset_version=17, dynamo=False,
                          dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})


def pictures() -> list[np.ndarray]:
    """Return random inputs to calibrate on."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 3, 224, 224)).astype(np.float32) for _ in range(IMAGES)]


def ours(model: Path) -> bytes:
    """Return our lowering for x86-vnni."""
    target = get_target("x86-vnni")
    proto = rewrite(load_model(model), preset(target)).model
    table = calibrate(proto, open_data(pictures(), input=model_inputs(proto)[0]))
    return lower(proto, target, Precision.INT8, table=table).model


def peer(model: Path) -> bytes:
    """Return ONNX Runtime's own INT8 model."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter(pictures())

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.samples, None)
            return None if sample is None else {"input": sample}

    prepared, made = model.with_suffix(".prepared.onnx"), model.with_suffix(".peer.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(str(prepared), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    return made.read_bytes()


def measure(name: str, threads: int, batch: int, seconds: float) -> dict[str, Any]:
    """Return the paired ratios of one model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(name, path)
        models = {"fp32": model_bytes(load_model(path)), "ours": ours(path), "peer": peer(path)}
    sessions = {key: OrtSession(model, threads=threads) for key, model in models.items()}
    feeds = {"input": np.random.default_rng(1).standard_normal((batch, 3, 224, 224)).astype(np.float32)}
    row: dict[str, Any] = {"model": name, "mb": {key: len(model) / 1e6 for key, model in models.items()}}
    for key, (a, b) in {"ours over fp32": ("fp32", "ours"), "peer over fp32": ("fp32", "peer"),
                        "ours over peer": ("peer", "ours")}.items():
        result = paired(sessions[a], sessions[b], feeds, rounds=21, seconds=seconds)
        row[key] = {"ratio": result.ratio, "low": result.low, "high": result.high, "a_ms": result.a_ms,
                    "b_ms": result.b_ms}
    return row


def main() -> None:
    """Measure every model and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=12.0, help="for one pair")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    device = probe_device()
    conditions = {"cpu": device.cpu, "vnni": sorted(f for f in device.cpu_flags if "vnni" in f),
                  "cores": device.cores, "threads": options.threads, "batch": options.batch,
                  "onnxruntime": onnxruntime.__version__, "python": platform.python_version(),
                  "load": os.getloadavg()[0]}
    print(conditions)
    print(f"{'':20}{'FP32 ms':>9}{'ours ms':>9}{'ours over FP32':>24}{'ORT over FP32':>16}{'ours over ORT':>24}")
    rows = []
    for name in CLAIMS:
        row = measure(name, options.threads, options.batch, options.seconds)
        rows.append(row)
        mine, theirs, between = row["ours over fp32"], row["peer over fp32"], row["ours over peer"]
        print(f"{name:20}{mine['a_ms']:9.2f}{mine['b_ms']:9.2f}"
              f"{mine['ratio']:10.2f} ({mine['low']:.2f} to {mine['high']:.2f}){theirs['ratio']:13.2f}"
              f"{between['ratio']:12.2f} ({between['low']:.2f} to {between['high']:.2f})", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

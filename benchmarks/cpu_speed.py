"""INT8 on an x86 CPU with VNNI or AMX, in pairs with FP32 and with ONNX Runtime's recipes: batch 1 and 8, 2 threads.

    python benchmarks/cpu_speed.py [--threads 2] [--models NAME ...] [--batches 1 8] [--json out.json]

Claims, times as fast as FP32 at batch 1 and 8: ResNet-50 2.8 and 3.2, MobileNetV2 and EfficientNet-Lite0 1.8 and 2.0,
ViT-tiny 1.35 and 1.4; and the better of our lowerings nowhere behind the best of ONNX Runtime's recipes.

Weights are random (speed does not depend on the values), Lite0's are the trained ones. FP32 is the model as exported,
run with all of ONNX Runtime's optimizations. ViT-tiny comes twice: torch.export guards its attention against rows that
are masked altogether, which slows FP32 and ONNX Runtime's recipes down and which our rewriting removes; the tracer
(TorchScript) does not. ONNX Runtime's recipes are the fastest that its documentation names: static UINT8 activations
and INT8 weights per channel, Q/DQ, after its pre-processing; for transformers also dynamic quantization of MatMul and
Gemm after the pre-processing, and after the optimizer of onnxruntime.transformers. Two models are measured in turns
(trtkit.runtime.bench.paired); a ratio has a 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from trtkit.calib import calibrate, open_data
from trtkit.export import Exporter, ExportOptions, export_onnx
from trtkit.graph import load_model, model_bytes, model_inputs, preset, rewrite
from trtkit.precision import Precision
from trtkit.quant import lower
from trtkit.runtime.bench import Paired, paired
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.probe import probe_device
from trtkit.target import Target, load_targets

CLAIMS = {"ResNet-50": {1: 2.8, 8: 3.2}, "MobileNetV2": {1: 1.8, 8: 2.0}, "EfficientNet-Lite0": {1: 1.8, 8: 2.0},
          "ViT-tiny": {1: 1.35, 8: 1.4}, "ViT-tiny (tracer)": {1: 1.35, 8: 1.4}}
IMAGES = 16


def network(name: str) -> Any:
    """Return one of the networks, BatchNorm statistics randomised."""
    if name == "EfficientNet-Lite0":
        sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
        from model import efficientnet_lite0

        return efficientnet_lite0()
    import transformers

    torch.manual_seed(0)
    tiny = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    kind, settings = {"ResNet-50": ("ResNet", {}), "MobileNetV2": ("MobileNetV2", {})}.get(name, ("ViT", tiny))
    config = getattr(transformers, f"{kind}Config")(num_labels=1000, **settings)
    made = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return made


def pictures() -> list[np.ndarray]:
    """Return random inputs to calibrate on."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 3, 224, 224)).astype(np.float32) for _ in range(IMAGES)]


def best_target() -> Target:
    """Return the first CPU target that this machine runs; they stand in the order of their speed."""
    device = probe_device()
    return next(each for each in load_targets().values() if each.runs_on(device.machine, device.cpu_flags))


def ours(model: Path, precision: Precision) -> bytes:
    """Return our lowering for this machine."""
    target = best_target()
    proto = rewrite(load_model(model), preset(target)).model
    table = None
    if precision.calibrated:
        table = calibrate(proto, open_data(pictures(), input=model_inputs(proto)[0]))
    return lower(proto, target, precision, table=table).model


def ort_prepared(model: Path) -> Path:
    """Return the model after ONNX Runtime's pre-processing for its quantizer."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = model.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    return prepared


def ort_static(model: Path) -> bytes:
    """Return ONNX Runtime's static INT8 model."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter(pictures())

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.samples, None)
            return None if sample is None else {"input": sample}

    made = model.with_suffix(".static.onnx")
    quantize_static(str(ort_prepared(model)), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    return made.read_bytes()


def ort_dynamic(model: Path) -> bytes:
    """Return ONNX Runtime's dynamic INT8 model of a transformer."""
    return _quantize_dynamic(ort_prepared(model))


def ort_transformers(model: Path) -> bytes:
    """Return the same after the optimizer for transformers."""
    from onnxruntime.transformers.optimizer import optimize_model

    fused = model.with_suffix(".fused.onnx")
    optimize_model(str(model), model_type="vit", num_heads=3, hidden_size=192, opt_level=0).save_model_to_file(
        str(fused))
    return _quantize_dynamic(fused)


def _quantize_dynamic(model: Path) -> bytes:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = model.with_suffix(".dynamic.onnx")
    quantize_dynamic(str(model), str(made), weight_type=QuantType.QInt8, per_channel=True,
                     op_types_to_quantize=["MatMul", "Gemm", "Attention"],
                     extra_options={"DefaultTensorType": TensorProto.FLOAT})
    return made.read_bytes()


STATIC: dict[str, Callable[[Path], bytes]] = {"ours static": lambda model: ours(model, Precision.INT8),
                                              "ORT static": ort_static}
DYNAMIC: dict[str, Callable[[Path], bytes]] = {
    "ours dynamic": lambda model: ours(model, Precision.INT8_DYNAMIC),
    "ORT dynamic": ort_dynamic, "ORT fused+dynamic": ort_transformers}


def make(name: str) -> dict[str, bytes]:
    """Return the FP32 model and every variant of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options = ExportOptions(exporters=(Exporter.TORCHSCRIPT,)) if "tracer" in name else ExportOptions()
        export_onnx(network(name), torch.zeros(1, 3, 224, 224), options, path=path)
        recipes = {**STATIC, **DYNAMIC} if name.startswith("ViT") else STATIC
        return {"fp32": model_bytes(load_model(path)), **{key: recipe(path) for key, recipe in recipes.items()}}


def measure(models: dict[str, bytes], threads: int, batch: int, seconds: float) -> dict[str, Paired]:
    """Return the ratio of every variant over FP32, and of our best over ONNX Runtime's best."""
    sessions = {key: OrtSession(model, threads=threads) for key, model in models.items()}
    feeds = {"input": np.random.default_rng(1).standard_normal((batch, 3, 224, 224)).astype(np.float32)}

    def ratio(a: str, b: str) -> Paired:
        return paired(sessions[a], sessions[b], feeds, rounds=21, seconds=seconds)

    ratios = {key: ratio("fp32", key) for key in models if key != "fp32"}
    best = {who: max((key for key in ratios if key.startswith(who)), key=lambda key: ratios[key].ratio)
            for who in ("ours", "ORT")}
    ratios[f"{best['ours']} over {best['ORT']}"] = ratio(best["ORT"], best["ours"])
    for session in sessions.values():
        session.close()
    return ratios


def main() -> None:
    """Measure every model and print one line a variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CLAIMS), default=list(CLAIMS), metavar="NAME")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12.0, help="for one pair")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    device = probe_device()
    conditions = {"target": best_target().name, "cpu": device.cpu,
                  "features": sorted(flag for flag in device.cpu_flags if "vnni" in flag or "amx" in flag),
                  "cores": device.cores, "threads": options.threads, "onnxruntime": onnxruntime.__version__,
                  "python": platform.python_version(), "load": os.getloadavg()[0]}
    print(conditions)
    rows: list[dict[str, Any]] = []
    for name in options.models:
        models = make(name)
        for batch in options.batches:
            ratios = measure(models, options.threads, batch, options.seconds)
            claim = CLAIMS[name].get(batch, 0.0)
            found = max(result.ratio for key, result in ratios.items() if key.startswith("ours") and "over" not in key)
            verdict = "met" if found >= claim else "no"
            print(f"{name}, batch {batch}: {found:.2f} times FP32, claimed {claim}: {verdict}")
            for key, result in ratios.items():
                print(f"    {key:36}{result.a_ms:9.2f} ->{result.b_ms:9.2f} ms"
                      f"{result.ratio:8.2f} ({result.low:.2f} to {result.high:.2f})", flush=True)
                rows.append({"model": name, "batch": batch, "variant": key, "claim": claim, "ratio": result.ratio,
                             "low": result.low, "high": result.high, "a_ms": result.a_ms, "b_ms": result.b_ms,
                             "mb": len(models.get(key, b"")) / 1e6})
    if options.json:
        options.json.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

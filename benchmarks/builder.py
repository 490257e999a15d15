"""Does TensorRT take it? Every lowering of every model, and what others make of it, through TensorRT-RTX's own builder.

    python benchmarks/builder.py FOLDER [NAME ...] [--modelopt-python VENV/bin/python] [--sm default 7.5 8.9 ...]
                                 [--json out.json]

FOLDER holds NAME.onnx and NAME.calib, as benchmarks/zoo.py writes them. Claim: every lowering of ours is accepted for
every compute capability that has its number formats. The builder needs no GPU, so what it says about speed is the
engine's size alone. Peers: ONNX Runtime's quantize_static with its defaults and with the recipe that TensorRT accepts;
ModelOpt's INT8, FP8 and INT4 with FP16 around. They calibrate on noise that follows the table's input histograms: the
builder does not mind.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trtkit.build import BuildOptions, build_plan
from trtkit.errors import BuildError, TrtkitError
from trtkit.graph import load_model, model_inputs
from trtkit.precision import Precision
from trtkit.quant import lower
from trtkit.ranges import CalibrationTable
from trtkit.target import get_target
from trtkit.tensors import ShapeProfile

DEFAULT = "default"
CAPABILITIES = (DEFAULT, "7.5", "8.0", "8.6", "8.9", "12.0")
OLDEST = {Precision.FP32: "8.0", Precision.INT8: "8.0", Precision.BF16: "8.0", Precision.INT4: "8.0",
          Precision.FP8: "8.9"}
"""Below these TensorRT-RTX has no kernels: FP32 products, BF16 and INT4 from 8.0 on, FP8 from 8.9."""

SHAPES = {"ocr_v4_rec": (1, 3, 48, 320), "ocr_v6_rec": (1, 3, 48, 320), "ocr_v6_det": (1, 3, 640, 640)}
"""Sizes to build for where more than the batch is dynamic."""

ORT = "ONNX Runtime"
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}

MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
model, data, mode, output = sys.argv[1:]
quantize(model, quantize_mode=mode, calibration_data=dict(np.load(data)), output_path=output, log_level="ERROR",
         calibration_eps=["cpu"], high_precision_dtype="fp16")
"""


def samples(model: onnx.ModelProto, table: CalibrationTable, shape: tuple[int, ...] | None,
            count: int = 4) -> dict[str, np.ndarray]:
    """Return inputs that follow the table, `count` along the first axis."""
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in model_inputs(model):
        sizes = shape or tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
        feeds[spec.name] = table.tensors[spec.name].sample((count, *sizes[1:]), rng)
    return feeds


def ours(model: onnx.ModelProto, table: CalibrationTable, folder: Path) -> Iterator[tuple[str, str, Path | str]]:
    """Yield (by, what, file or why there is none) of every precision."""
    target = get_target("rtx")
    for precision in target.precisions:
        path = folder / f"trtkit-{precision.value}.onnx"
        try:
            path.write_bytes(lower(model, target, precision, table=table).model)
        except TrtkitError as err:
            yield "trtkit", precision.value, str(err)
        else:
            yield "trtkit", precision.value, path


def onnxruntime_peers(model: Path, feeds: dict[str, np.ndarray],
                      folder: Path) -> Iterator[tuple[str, str, Path | str]]:
    """Yield ONNX Runtime's quantizer with its defaults and with the recipe for TensorRT."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            count = len(next(iter(feeds.values())))
            self.rows = iter([{name: value[i:i + 1] for name, value in feeds.items()} for i in range(count)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    recipes: dict[str, dict[str, Any]] = {
        "int8 (default)": {},
        "int8 (symmetric)": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True,
                             "extra_options": SYMMETRIC}}
    for name, options in recipes.items():
        path = folder / f"ort-{name}.onnx"
        try:
            quantize_static(str(model), str(path), Reader(), **options)
        except Exception as err:  # noqa: BLE001 - whatever it raises is the answer
            yield ORT, name, f"{type(err).__name__}: {err}"
        else:
            yield ORT, name, path


def modelopt_peers(python: str, model: Path, feeds: dict[str, np.ndarray],
                   folder: Path) -> Iterator[tuple[str, str, Path | str]]:
    """Yield ModelOpt's models, made in its own environment."""
    data = folder / "calibration.npz"
    np.savez(data, **feeds)  # type: ignore[arg-type]
    for mode in ("int8", "fp8", "int4"):
        path = folder / f"modelopt-{mode}.onnx"
        done = subprocess.run([python, "-c", MODELOPT, str(model), str(data), mode, str(path)], capture_output=True,
                              text=True, check=False)
        failed = done.returncode or not path.exists()
        yield "ModelOpt", f"{mode} + fp16", (done.stderr.strip().splitlines() or ["?"])[-1] if failed else path


def build(path: Path, sm: str, shape: tuple[int, ...] | None) -> dict[str, Any]:
    """Return what the builder says."""
    specs = model_inputs(onnx.load(path, load_external_data=False))
    profiles: tuple[ShapeProfile, ...] = ()
    if shape is not None and any(not isinstance(dim, int) for spec in specs for dim in spec.shape):
        sizes = {spec.name: shape for spec in specs}
        profiles = (ShapeProfile(sizes, sizes, sizes),)
    options = BuildOptions(flavour="tensorrt_rtx", profiles=profiles,
                           compute_capabilities=() if sm == DEFAULT else (sm,))
    try:
        plan = build_plan(path, options, timeout_s=600)
    except BuildError as err:
        return {"accepted": False, "reason": " ".join(str(err).split())[:400]}
    return {"accepted": True, "mb": len(plan.data) / 1e6, "zipped_mb": len(zlib.compress(plan.data, 1)) / 1e6,
            "seconds": plan.seconds}


def measure(folder: Path, name: str, capabilities: tuple[str, ...],
            modelopt_python: str | None) -> Iterator[dict[str, Any]]:
    """Yield one row a variant."""
    file = folder / f"{name}.onnx"
    model, table = load_model(file), CalibrationTable.load(folder / f"{name}.calib")
    shape = SHAPES.get(name)
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        feeds = samples(model, table, shape)
        variants = [ours(model, table, made), onnxruntime_peers(file, feeds, made)]
        if modelopt_python:
            variants.append(modelopt_peers(modelopt_python, file, feeds, made))
        for by, what, result in (each for variant in variants for each in variant):
            row: dict[str, Any] = {"model": name, "by": by, "what": what}
            if isinstance(result, str):
                yield row | {"failed": result[-400:]}
                continue
            started = time.monotonic()
            built = {sm: build(result, sm, shape) for sm in capabilities}
            yield row | {"mb": result.stat().st_size / 1e6, "builds": built, "seconds": time.monotonic() - started}


def expected(row: dict[str, Any], sm: str) -> bool:
    """Whether TensorRT-RTX has kernels for what a row of ours asks for."""
    oldest = OLDEST.get(Precision(row["what"]), "0")
    return sm == DEFAULT or float(sm) >= float(oldest)


def show(row: dict[str, Any], capabilities: tuple[str, ...]) -> None:
    """Print one row: the engine's size for each compute capability, or "-", then the reasons."""
    if "failed" in row:
        print(f"  {row['by']:13}{row['what']:18}not made: {row['failed'][-150:]}", flush=True)
        return
    cells = "".join(f"{row['builds'][sm]['mb']:9.1f}" if row["builds"][sm]["accepted"] else f"{'-':>9}"
                    for sm in capabilities)
    print(f"  {row['by']:13}{row['what']:18}{row['mb']:7.1f}{cells}", flush=True)
    for reason in dict.fromkeys(row["builds"][sm].get("reason", "")[:160] for sm in capabilities):
        if reason:
            print(f"{'':12}{reason}", flush=True)


def main() -> None:
    """Read the arguments, build, print; exit with 1 when one of ours is refused that should not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="models; all in the folder when none is given")
    parser.add_argument("--modelopt-python", help="Python of an environment with nvidia-modelopt[onnx]")
    parser.add_argument("--sm", nargs="+", default=CAPABILITIES, help="compute capabilities; 'default': RTX's own list")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    capabilities = tuple(options.sm)
    rows = []
    for name in options.names or sorted(path.stem for path in options.folder.glob("*.calib")):
        print(f"{name}: MB of the model, then of the engine for {', '.join(capabilities)}", flush=True)
        for row in measure(options.folder, name, capabilities, options.modelopt_python):
            rows.append(row)
            show(row, capabilities)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    refused = [f"{row['model']} {row['what']} for {sm}" for row in rows if row["by"] == "trtkit"
               for sm in capabilities if expected(row, sm) and not row.get("builds", {}).get(sm, {}).get("accepted")]
    print("Ours: " + (f"REFUSED {', '.join(refused)}" if refused else "all accepted wherever the formats exist"))
    sys.exit(bool(refused))


if __name__ == "__main__":
    main()

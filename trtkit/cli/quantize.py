"""trtkit quantize: FP32 ONNX + calibration table -> the model as one target gets it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from trtkit.cli.console import console
from trtkit.errors import CalibrationError
from trtkit.precision import Estimator, NodeSelector, Precision, QuantSpec

__all__ = ["quantize"]


def quantize(
    model: Annotated[Path, typer.Argument(help="FP32 ONNX model, the one that was calibrated.")],
    target: Annotated[str, typer.Option(help="What it is for, such as jetson-orin-jp6; trtkit doctor lists all.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX model to write.")],
    precision: Annotated[Precision, typer.Option(help="Number format.")] = Precision.INT8,
    calib: Annotated[Path | None, typer.Option(help="Calibration table; needed for int8.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where to write the calibration cache of a weakly typed "
                                                    "TensorRT target; OUTPUT.cache when not given.")] = None,
    estimator: Annotated[Estimator, typer.Option(help="How ranges are chosen.")] = QuantSpec.estimator,
    percentile: Annotated[float, typer.Option(help="For --estimator percentile, in percent.")] = QuantSpec.percentile,
    bias_correction: Annotated[bool, typer.Option(help="Take the mean weight error out of biases.")] = True,
    keep: Annotated[list[str] | None, typer.Option(help="Node name pattern that stays in float; repeatable.")] = None,
    keep_op: Annotated[list[str] | None, typer.Option(help="Operator that stays in float; repeatable.")] = None,
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
) -> None:
    """Write the lowered model, checked in ONNX Runtime against FP32 on noise; compare tells how good it is."""
    from trtkit.files import atomic_write, require_folder
    from trtkit.graph import fingerprint, load_model, model_bytes, random_feeds
    from trtkit.quant import check_lowered, feeds_like, lower
    from trtkit.ranges import CalibrationTable
    from trtkit.target import get_target

    chosen = get_target(target, targets)
    cache_path = cache or output.with_name(f"{output.name}.cache")
    for path in (output, cache_path):
        require_folder(path)
    proto = load_model(model)
    table = None
    if calib is not None:
        table = CalibrationTable.load(calib)
        try:
            table.check(model=fingerprint(proto))
        except CalibrationError as err:
            raise CalibrationError(f"'{calib}': {err}") from err
    spec = QuantSpec(estimator, percentile, bias_correction,
                     keep=NodeSelector(tuple(keep or ()), tuple(keep_op or ())))
    lowered = lower(proto, chosen, precision, table=table, spec=spec)
    feeds = random_feeds(proto) if table is None else feeds_like(table, proto)
    check = check_lowered(model_bytes(proto), lowered, [feeds], smallest_cosine=-1.0)
    atomic_write(output, lowered.model)
    console.print(f"{escape(str(output))}: {precision.value} for {chosen.name}, {len(lowered.model) / 1e6:.2f} MB, "
                  f"cosine with FP32 on {'random' if table is None else 'noise like the calibrated'} "
                  f"input {check.cosine:.4f} ({'; '.join(lowered.notes) or 'as it was'})",
                  soft_wrap=True)
    if lowered.cache is not None:
        atomic_write(cache_path, lowered.cache)
        console.print(f"{escape(str(cache_path))}: calibration cache for TensorRT {chosen.tensorrt}", soft_wrap=True)

"""trtkit quantize: FP32 ONNX + calibration table -> the model as one target gets it, within an accuracy budget."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from trtkit.cli.compare import read_preprocess
from trtkit.cli.console import console, resumable, rich_progress
from trtkit.errors import CalibrationError, SpecError
from trtkit.files import atomic_write, require_folder
from trtkit.precision import Estimator, NodeSelector, Precision, QuantSpec, Rounding
from trtkit.preprocess import Preprocess
from trtkit.target import Target, get_target

if TYPE_CHECKING:
    import onnx

    from trtkit.calib import Sample
    from trtkit.quant import Lowered
    from trtkit.quant.budget.search import WithinBudget
    from trtkit.ranges import CalibrationTable
    from trtkit.runtime.bench import Paired

__all__ = ["quantize", "read_table", "samples_of"]

_SENSITIVITY_SAMPLES = 8


def quantize(
    model: Annotated[Path, typer.Argument(help="FP32 ONNX model, the one that was calibrated.")],
    target: Annotated[str, typer.Option(help="What it is for, such as jetson-orin-jp6; trtkit doctor lists all.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX model to write.")],
    precision: Annotated[Precision | None, typer.Option(
        help="Number format; int8+fp16 when not given, int8 where the target lacks it.")] = None,
    calib: Annotated[Path | None, typer.Option(help="Calibration table; needed for int8, int8+fp16 and fp8.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where to write the calibration cache of a weakly typed "
                                                    "TensorRT target; OUTPUT.cache when not given.")] = None,
    estimator: Annotated[Estimator, typer.Option(help="How ranges are chosen.")] = QuantSpec.estimator,
    percentile: Annotated[float, typer.Option(help="For --estimator percentile, in percent.")] = QuantSpec.percentile,
    bias_correction: Annotated[bool, typer.Option(help="Take the mean weight error out of biases.")] = True,
    equalize: Annotated[bool, typer.Option("--equalize", help="Even out channel ranges between convolutions "
                                                              "first (cross-layer equalization).")] = False,
    smoothing: Annotated[float, typer.Option(help="Share of outliers behind LayerNormalization that moves into "
                                                  "weights (SmoothQuant's alpha).")] = QuantSpec.smoothing,
    block: Annotated[int, typer.Option(help="int4: weights that share a scale: 16, 32, 64, 128.")] = QuantSpec.block,
    rounding: Annotated[Rounding, typer.Option(help="int4: nearest, or adaptive for the scales of least error.",
                                               )] = QuantSpec.rounding,
    ends: Annotated[bool, typer.Option(help="Quantize the first and the last weighted layer as well.")] = True,
    keep: Annotated[list[str] | None, typer.Option(help="Node name pattern that stays in float; repeatable.")] = None,
    keep_op: Annotated[list[str] | None, typer.Option(help="Operator that stays in float; repeatable.")] = None,
    max_drop: Annotated[float | None, typer.Option(
        min=0.0, help="Most points of the task metric that may be lost on --data: top-1, mAP with --multi-label, "
                      "agreement with FP32 without labels. As few layers as possible stay in float for it.")] = None,
    data: Annotated[str | None, typer.Option(
        help="For --max-drop, best with labels: folder of images, .npz, .npy, COCO .json, video, or path.py:function.",
    )] = None,
    preprocess: Annotated[str | None, typer.Option(
        "--preprocess", "-p", help="How images become inputs: a recipe, TOML or JSON of that alone, or JSON itself.",
    )] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many samples of --data.")] = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Labels of a sample are present at once.")] = False,
    report: Annotated[Path | None, typer.Option(help="JSON file for what --max-drop tried and kept.")] = None,
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
) -> None:
    """Write the lowered model, checked in ONNX Runtime against FP32: on noise, or with --max-drop on real data."""
    from trtkit.graph import load_model, model_bytes
    from trtkit.quant import lower

    chosen = get_target(target, targets)
    cache_path = cache or output.with_name(f"{output.name}.cache")
    for path in filter(None, (output, cache_path, report)):
        require_folder(path)
    if (max_drop is None) != (data is None):
        raise SpecError("--max-drop and --data go together: the budget is held on that data. Give both or none")
    if report is not None and max_drop is None:
        raise SpecError("--report tells what --max-drop tried. Give --max-drop and --data with it")
    proto = load_model(model)
    table = read_table(calib, proto)
    spec = QuantSpec(estimator, percentile, bias_correction, equalize=equalize, smoothing=smoothing, block=block,
                     rounding=rounding, ends=ends, keep=NodeSelector(tuple(keep or ()), tuple(keep_op or ())))
    precision = precision or chosen.usual_precision
    if max_drop is None or data is None:
        lowered = lower(proto, chosen, precision, table=table, spec=spec)
        how = _noise_check(proto, lowered, table)
        atomic_write(output, lowered.model)
        console.print(f"{escape(str(output))}: {lowered.precision.value} for {chosen.name}, "
                      f"{len(lowered.model) / 1e6:.2f} MB, {how} ({'; '.join(lowered.notes) or 'as it was'})",
                      soft_wrap=True)
    else:
        prepare = read_preprocess(preprocess) if preprocess else None
        part = output.with_name(f"{output.name}.sensitivity.part")
        found, speedup = _within_budget(proto, chosen, precision, max_drop, data, prepare, limit, table, spec,
                                        multi_label, part)
        lowered = found.lowered
        atomic_write(output, lowered.model if speedup is None or speedup.b_is_faster else model_bytes(proto))
        part.unlink(missing_ok=True)
        if report is not None:
            atomic_write(report, (json.dumps(_report(found, max_drop, speedup), indent=1) + "\n").encode())
        _show(found, max_drop, speedup, output)
    if lowered.cache is not None:
        atomic_write(cache_path, lowered.cache)
        console.print(f"{escape(str(cache_path))}: calibration cache for TensorRT {chosen.tensorrt}", soft_wrap=True)


def read_table(path: Path | None, model: onnx.ModelProto) -> CalibrationTable | None:
    """Return the table in a file, or None without one.

    Raises:
        CalibrationError: It cannot be read, or is of another model.
    """
    from trtkit.graph import fingerprint
    from trtkit.ranges import CalibrationTable

    if path is None:
        return None
    table = CalibrationTable.load(path)
    try:
        table.check(model=fingerprint(model))
    except CalibrationError as err:
        raise CalibrationError(f"'{path}': {err}") from err
    return table


def samples_of(model: onnx.ModelProto, table: CalibrationTable | None, data: str | None, preprocess: Preprocess | None,
               limit: int | None) -> Iterable[Sample]:
    """Return the samples in `data`; without it noise like the calibrated data, or plain noise without a table."""
    from trtkit.calib import Sample, open_data
    from trtkit.graph import model_inputs, random_feeds
    from trtkit.quant import feeds_like

    if data is not None:
        image = max(model_inputs(model), key=lambda spec: len(spec.shape))
        return open_data(data, input=image, preprocess=preprocess, limit=limit)
    make = random_feeds if table is None else lambda proto, seed: feeds_like(table, proto, seed)
    return [Sample(f"noise {seed}", make(model, seed)) for seed in range(limit or 1)]


def _noise_check(proto: onnx.ModelProto, lowered: Lowered, table: CalibrationTable | None) -> str:
    """Return how near a lowering is to FP32 on noise."""
    from trtkit.graph import model_bytes
    from trtkit.quant import check_lowered

    feeds = [sample.feeds for sample in samples_of(proto, table, None, None, 1)]
    check = check_lowered(model_bytes(proto), lowered, feeds, smallest_cosine=-1.0)
    return (f"cosine with FP32 on {'random' if table is None else 'noise like the calibrated'} "
            f"input {check.cosine:.4f}")


def _within_budget(proto: onnx.ModelProto, target: Target, precision: Precision, max_drop: float, data: str,
                   preprocess: Preprocess | None, limit: int | None, table: CalibrationTable | None, spec: QuantSpec,
                   multi_label: bool, part: Path) -> tuple[WithinBudget, Paired | None]:
    """Return the lowering that holds the budget, and its speed over FP32 where this machine can tell."""
    from trtkit.evaluate import Judge, Task
    from trtkit.graph import model_bytes
    from trtkit.pipeline.measuring import speedup_over
    from trtkit.quant.budget.search import lower_within
    from trtkit.runtime.probe import probe_device

    task = Task.MULTI_LABEL if multi_label else Task.CLASSIFY
    reference = model_bytes(proto)
    with rich_progress() as progress, resumable(part):
        judge = Judge(reference, samples_of(proto, table, data, preprocess, limit), task=task, progress=progress)
        found = lower_within(proto, target, precision, lambda lowered: judge(lowered.simulation, progress), max_drop,
                             samples=samples_of(proto, table, data, preprocess, _SENSITIVITY_SAMPLES), table=table,
                             spec=spec, task=task, checkpoint=part, progress=progress)
    if 100 / judge.samples > max_drop:
        console.print(f"One of {judge.samples} samples is {100 / judge.samples:.2f} points, more than --max-drop "
                      f"{max_drop:g}: give more samples for a budget this small.")
    device = probe_device()
    here = target.runs_on(device.machine, device.cpu_flags) and precision is not Precision.FP32
    return found, speedup_over(reference, found.lowered.model) if here else None


def _report(found: WithinBudget, max_drop: float, speedup: Paired | None) -> dict[str, Any]:
    content = {**found.to_json(), "max_drop": max_drop}
    if speedup is not None:
        content |= {"speedup_over_fp32": speedup.ratio, "speedup_interval": [speedup.low, speedup.high],
                    "written": "lowered" if speedup.b_is_faster else "fp32"}
    return content


def _show(found: WithinBudget, max_drop: float, speedup: Paired | None, output: Path) -> None:
    """Print what was kept in float and why, and what the model is worth."""
    if found.kept:
        total = max(sum(each.macs for each in found.sensitivity.layers), 1) if found.sensitivity else 1
        table = Table("kept in float", "operator", title_justify="left", title="Layers that cost too much accuracy")
        for heading in ("% of MACs", "SQNR dB, quantized alone", "noise, % of output"):
            table.add_column(heading, justify="right")
        for each in found.kept:
            table.add_row(escape(each.name), each.op_type, f"{100 * each.macs / total:.1f}", f"{each.sqnr_db:.1f}",
                          f"{100 * each.noise:.3g}")
        console.print(table)
    lowered, before = found.lowered, found.trials[0].loss
    console.print(f"{escape(str(output))}: {lowered.precision.value} for {lowered.target}, "
                  f"{len(lowered.model) / 1e6:.2f} MB. {found.loss}: loses {found.loss.points:.2f} points of at most "
                  f"{max_drop:g}, {before.points:.2f} with no layer kept; {len(found.kept)} layers in float, "
                  f"{100 * found.quantized_macs:.1f} % of MACs quantized; {len(found.trials)} evaluations",
                  soft_wrap=True)
    if speedup is None:
        console.print("Not measured: this machine is no such target. On the board: trtkit bench")
        return
    console.print(f"{speedup.ratio:.2f}x FP32 on this machine ({speedup.low:.2f} to {speedup.high:.2f})")
    if not speedup.b_is_faster:
        console.print(f"[yellow]It is not faster than FP32 here, so {escape(str(output))} is FP32.[/]", soft_wrap=True)

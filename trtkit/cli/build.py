"""trtkit build: ONNX -> TensorRT plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtkit.cli.console import console, rich_progress
from trtkit.errors import BuildError, SpecError
from trtkit.files import atomic_write, require_folder
from trtkit.precision import Precision
from trtkit.target import get_target
from trtkit.tensors import Feeds, ShapeProfile, parse_shape

if TYPE_CHECKING:
    from trtkit.build import BuildOptions, Plan

__all__ = ["build"]

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def build(
    model: Annotated[Path, typer.Argument(help="ONNX model, lowered for the target (trtkit quantize).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Plan to write.")],
    target: Annotated[str, typer.Option(help="Target that the plan is for; else the first TensorRT found.")] = "",
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
    precision: Annotated[str, typer.Option(
        help="fp32, fp16, int8, int8+fp16: with weak typing it chooses, else it is noted.")] = "fp32",
    batch: Annotated[str, typer.Option(help="Smallest, typical, largest batch: 1,4,8.")] = "",
    minimum: Annotated[list[str] | None, typer.Option("--min", help="name=1x3x224x224, smallest shape.")] = None,
    typical: Annotated[list[str] | None, typer.Option("--opt", help="name=4x3x224x224, typical shape.")] = None,
    maximum: Annotated[list[str] | None, typer.Option("--max", help="name=8x3x224x224, largest shape.")] = None,
    calib: Annotated[Path | None, typer.Option(
        help="Calibration cache, for INT8 with weak typing; with --calib-data it is written.")] = None,
    calib_data: Annotated[str, typer.Option(
        help="INT8 with weak typing: data that TensorRT itself calibrates with on this GPU.")] = "",
    preprocess: Annotated[Path | None, typer.Option(
        "--preprocess", "-p", help="How images of --calib-data become inputs: a recipe, or TOML or JSON.")] = None,
    ranges_by: Annotated[str, typer.Option(
        help="How the cache reaches TensorRT: calibrator, or tensors (a range on each).")] = "calibrator",
    workspace: Annotated[str, typer.Option(help="Scratch memory of one layer at most, such as 2G or 512M.")] = "",
    level: Annotated[int | None, typer.Option(help="Optimization level, 0 (fast build) to 5 (fast engine).")] = None,
    compute_capability: Annotated[list[str] | None, typer.Option(
        help="TensorRT-RTX: build for this GPU, such as 8.9; may be given again.")] = None,
    timing_cache: Annotated[Path | None, typer.Option(help="File of measured tactics, read and kept.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Plugin library; may be given again.")] = None,
    flag: Annotated[list[str] | None, typer.Option(help="Builder flag by name; may be given again.")] = None,
    tf32: Annotated[bool, typer.Option(help="Allow TF32 in FP32 layers.")] = True,
    sparse: Annotated[bool | None, typer.Option(
        "--sparse/--no-sparse", help="Try 2:4 sparse kernels; else where some weights are 2:4 sparse.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
) -> None:
    """Build a plan and print its size, time and key."""
    from trtkit.build import build_plan

    more: dict[str, Any] = {
        "workspace_bytes": _bytes(workspace) if workspace else None,
        "optimization_level": level, "tf32": tf32, "sparse_weights": sparse, "timing_cache": timing_cache,
        "calibration_cache": _read(calib) if calib and not calib_data else None, "ranges_by": ranges_by,
        "flags": tuple(flag or ()), "plugins": tuple(plugin or ()),
    }
    if compute_capability:
        more["compute_capabilities"] = tuple(compute_capability)
    profile = _profile(minimum or (), typical or (), maximum or ())
    if profile is not None:
        more["profiles"] = (profile,)
    if batch:
        more["batch"] = _batch(batch)
    options = _options(target, targets, Precision.parse(precision), more)
    for path in filter(None, (output, calib)):
        require_folder(path)
    samples = _samples(model, calib_data, preprocess) if calib_data else None
    with rich_progress() as progress:
        try:
            plan = build_plan(model, options, samples=samples, progress=progress, timeout_s=timeout)
        except BuildError as err:
            raise err if str(model) in str(err) else BuildError(f"'{model}': {err}") from err
    atomic_write(output, plan.data)
    _show(output, plan)
    if calib and plan.calibration_cache is not None:
        atomic_write(calib, plan.calibration_cache)
        console.print(f"{calib}: calibration cache by {plan.key.version}", markup=False, highlight=False,
                      soft_wrap=True)


def _options(target: str, targets: Path | None, precision: Precision, more: dict[str, Any]) -> BuildOptions:
    from trtkit.build import BuildOptions

    if target:
        return BuildOptions.for_target(get_target(target, targets), precision, **more)
    return BuildOptions(precision=precision, **more)


def _show(output: Path, plan: Plan) -> None:
    for text in plan.warnings:
        console.print(f"TensorRT warns: {text}", markup=False, highlight=False, style="yellow")
    size = f"{len(plan.data) / 1e6:.2f} MB"
    console.print(f"{output}: {size}, built in {plan.seconds:.1f} s", markup=False, highlight=False, soft_wrap=True)
    sparsity = plan.sparsity
    if "SPARSE_WEIGHTS" in plan.key.flags and plan.key.flavour == "tensorrt_rtx":
        sparsity = ("Sparse kernels are allowed; TensorRT-RTX chooses when it loads the plan, and does not tell",)
    for text in sparsity:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"For {plan.key}", markup=False, highlight=False, soft_wrap=True)


def _samples(model: Path, data: str, preprocess: Path | None) -> Iterator[Feeds]:
    from trtkit.calib import open_data
    from trtkit.preprocess import Preprocess
    from trtkit.runtime import OrtSession

    session = OrtSession(model)
    image = max(session.inputs, key=lambda spec: len(spec.shape))
    session.close()
    source = open_data(data, input=image, preprocess=Preprocess.load(preprocess) if preprocess else None)
    return (sample.feeds for sample in source)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise SpecError(f"Calibration cache '{path}' cannot be read: {err.strerror}. "
                        "Give the file that trtkit quantize wrote") from err


def _bytes(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "")
    try:
        size = int(float(number) * _UNITS.get(unit, 1))
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise SpecError(f"Workspace '{text}' is no size. Write bytes, or a number with K, M or G, such as 2G")
    return size


def _profile(minimum: Iterable[str], typical: Iterable[str], maximum: Iterable[str]) -> ShapeProfile | None:
    low, mid, high = (dict(map(_named_shape, shapes)) for shapes in (minimum, typical, maximum))
    if not (low or mid or high):
        return None
    # What is left out follows from its neighbour: --max from --opt, --opt from --max, --min from --opt.
    high = {**low, **mid, **high}
    mid = {**high, **mid}
    return ShapeProfile({**mid, **low}, mid, high)


def _named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, shape = text.rpartition("=")
    if not (name and equals):
        raise SpecError(f"'{text}' is not a named shape. Write NAME=1x3x224x224")
    return name, parse_shape(shape)


def _batch(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 3):
        raise SpecError(f"Batch '{text}' is not understood. Write smallest,typical,largest, such as 1,4,8, or one "
                        "size")
    return sizes if len(sizes) == 3 else sizes * 3

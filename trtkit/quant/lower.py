"""One FP32 model + one table -> what one target gets, and what ONNX Runtime can run to foretell its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnx

from trtkit.errors import AccuracyError, CalibrationError
from trtkit.graph.model import infer_shapes, model_bytes
from trtkit.graph.opset import model_opset
from trtkit.graph.readiness import why_not_ready
from trtkit.graph.run import run_model
from trtkit.metrics import cosine, sqnr_db
from trtkit.precision import Precision, QuantSpec
from trtkit.quant.floats.emulation import emulate_bf16
from trtkit.quant.floats.fp8 import insert_fp8
from trtkit.quant.floats.half import BF16, FP16
from trtkit.quant.floats.keeplist import fp32_nodes, keep_notes
from trtkit.quant.floats.mixed import SCALE_OPSET, SMALLEST_WEIGHT, type_quantized
from trtkit.quant.floats.typed import BF16_OPSET, to_half
from trtkit.quant.index import GraphIndex
from trtkit.quant.linears.dynamic import to_int8_dynamic
from trtkit.quant.linears.int4 import BLOCK_OPSET, insert_int4
from trtkit.quant.linears.nbits import to_matmul_nbits
from trtkit.quant.placement import get_placement
from trtkit.quant.ready import at_opset, ready_for, rescale, static_subject
from trtkit.quant.static.qdq import insert_qdq
from trtkit.quant.weak.cache import cache_scales, cover_fused
from trtkit.quant.weak.dla import dla_coverage, tie_scales
from trtkit.ranges import CalibrationTable
from trtkit.ranges.cache import format_cache
from trtkit.runtime.ort import AS_WRITTEN
from trtkit.target import Target
from trtkit.tensors import Feeds

__all__ = ["Lowered", "LoweringCheck", "check_lowered", "lower"]

_DEFAULT = QuantSpec()


@dataclass(frozen=True)
class Lowered:
    """A model as one target gets it.

    Attributes:
        target: Name of the target.
        precision: What it runs in.
        model: ONNX for the target: typed or with Q/DQ; plain FP32 on the weak path.
        simulation: ONNX that computes in ONNX Runtime what the target will compute: the same bytes as `model`, except
            on the weak path, where builder flags and the cache make the difference, and for BF16, which ONNX Runtime's
            CPU kernels lack: float32 that is rounded after every node.
        cache: Calibration cache of the weak INT8 path, else None.
        notes: What was done, for people.
        as_written: `simulation` must run without graph optimizations. Between DQ and Q, an activation function aside,
            ONNX Runtime 1.32 rounds float weights to INT8 with a single scale and float biases to INT32 with the scale
            s_x * s_w, which overflows where a channel's weights are tiny; TensorRT computes with them as they are.
            The model's metadata say so, too, and OrtSession heeds them.
    """

    target: str
    precision: Precision
    model: bytes
    simulation: bytes
    cache: bytes | None = None
    notes: tuple[str, ...] = ()
    as_written: bool = False


def lower(model: onnx.ModelProto, target: Target, precision: Precision, *, table: CalibrationTable | None = None,
          spec: QuantSpec = _DEFAULT) -> Lowered:
    """Return a model as `target` runs it in `precision`.

    Args:
        model: FP32; one that comes with Constant weights, Identity chains or an old opset is rewritten first by the
            target's preset.
        target: Where it will run.
        precision: One that the target has.
        table: Calibration of this very model; needed for INT8.
        spec: How to quantize.

    Raises:
        SpecError: The target does not have this precision, or a selector matches nothing.
        CalibrationError: INT8 without a table, or a table that lacks tensors.
    """
    target.check(precision)
    if precision.calibrated and table is None:
        raise CalibrationError(f"{precision.value} for target '{target.name}' needs a calibration table. "
                               "Run: trtkit calibrate MODEL --data DIR -o TABLE")
    in_the_way = why_not_ready(model)
    model = ready_for(model, target)
    rescaled: tuple[str, ...] = ()
    if precision.calibrated and table is not None:
        model, table, rescaled = rescale(model, table, spec)
    typed, notes = _LOWERINGS[precision](_Request(model, target, table, spec))
    notes += rescaled
    if in_the_way is not None:
        notes += (f"rewritten first, since {in_the_way}",)
    if target.is_tensorrt:
        typed.metadata_props.add(key=AS_WRITTEN, value="1")
    simulation = model_bytes(emulate_bf16(typed) if precision is Precision.BF16 else typed)
    if target.typing != "weak":
        lowered = model_bytes(typed) if precision is Precision.BF16 else simulation
        return Lowered(target.name, precision, lowered, simulation, None, notes, target.is_tensorrt)
    if spec.keep.names or spec.keep.op_types:
        notes += ("what is kept in float here may run in INT8 on the board: builder flags and cache hold for the "
                  "whole network",)
    on_dla = target.device == "dla"
    if on_dla:
        notes += (str(dla_coverage(model, target.sm)),)
    cache = None
    if precision.calibrated and table is not None:
        scales = cover_fused(GraphIndex(model), cache_scales(table, spec))
        cache = format_cache(tie_scales(model, scales) if on_dla else scales, target.tensorrt)
        notes += ("on the board: plain ONNX, builder flag and calibration cache; accuracy here: its explicit form",)
    return Lowered(target.name, precision, model_bytes(model), simulation, cache, notes, as_written=True)


@dataclass(frozen=True)
class _Request:
    """A model with inferred types and what it is lowered for."""

    model: onnx.ModelProto
    target: Target
    table: CalibrationTable | None
    spec: QuantSpec

    def at_opset(self, opset: int) -> onnx.ModelProto:
        """Return the model at this opset at least, types inferred."""
        return at_opset(self.model, opset)

    @property
    def on_rtx(self) -> bool:
        """Whether TensorRT-RTX runs it."""
        return self.target.runtime == "tensorrt_rtx"

    @property
    def calibration(self) -> CalibrationTable:
        """The table; `lower` has seen to it that calibrated precisions have one."""
        assert self.table is not None
        return self.table


_Typed = tuple[onnx.ModelProto, tuple[str, ...]]
"""The lowered model, and notes for people."""


def _fp32(request: _Request) -> _Typed:
    return request.model, ()


def _fp16(request: _Request) -> _Typed:
    typed, reasons = to_half(request.model, FP16, table=request.table, keep=request.spec.keep)
    return typed, keep_notes(reasons)


def _bf16(request: _Request) -> _Typed:
    typed, reasons = to_half(request.at_opset(BF16_OPSET), BF16, table=request.table, keep=request.spec.keep)
    return typed, keep_notes(reasons)


def _int8(request: _Request) -> _Typed:
    typed, report = insert_qdq(request.model, request.calibration, get_placement(request.target.placement),
                               request.spec)
    notes = (f"{report.weights} weights and {report.activations} activations in INT8, {report.absorbed} "
             f"activation functions absorbed, {report.kept} nodes kept in float",)
    return typed, notes + (("on the scales that were learned in training",) if request.calibration.learned else ())


def _int8_fp16(request: _Request) -> _Typed:
    newer, spec = static_subject(request.model, request.target, Precision.INT8_FP16, request.spec)
    quantized, notes = _int8(replace(request, model=newer, spec=spec))
    if request.on_rtx:
        notes += (f"depthwise layers, products of activations and layers of fewer than {SMALLEST_WEIGHT} weights in "
                  "FP16, which TensorRT-RTX runs as well",)
    return _half_around(newer, quantized, notes, request.table)


def _fp8(request: _Request) -> _Typed:
    newer = request.at_opset(SCALE_OPSET)
    quantized = insert_fp8(newer, request.calibration, smallest=SMALLEST_WEIGHT if request.on_rtx else 0,
                           keep=request.spec.keep)
    return _half_around(newer, *quantized, request.table)


def _int8_dynamic(request: _Request) -> _Typed:
    return to_int8_dynamic(request.model, request.spec,
                           weight_max=get_placement(request.target.placement).weight_max)


def _int4(request: _Request) -> _Typed:
    if not request.target.is_tensorrt:
        return to_matmul_nbits(request.model, request.spec)
    newer = request.at_opset(BLOCK_OPSET)
    spec = request.spec
    quantized = insert_int4(newer, block=spec.block, rounding=spec.rounding, keep=spec.keep)
    return _half_around(newer, *quantized, request.table)


def _half_around(model: onnx.ModelProto, quantized: onnx.ModelProto, notes: tuple[str, ...],
                 table: CalibrationTable | None) -> _Typed:
    """Give what is not quantized FP16 tensors; the ranges of the float model say what must not have them."""
    quantized = infer_shapes(quantized)
    reasons = type_quantized(quantized, fp32_nodes(GraphIndex(model), FP16, model_opset(model), table))
    return quantized, notes + keep_notes(reasons)


_LOWERINGS: Mapping[Precision, Callable[[_Request], _Typed]] = MappingProxyType({
    Precision.FP32: _fp32,
    Precision.FP16: _fp16,
    Precision.BF16: _bf16,
    Precision.INT8: _int8,
    Precision.INT8_FP16: _int8_fp16,
    Precision.INT8_DYNAMIC: _int8_dynamic,
    Precision.FP8: _fp8,
    Precision.INT4: _int4,
})


@dataclass(frozen=True)
class LoweringCheck:
    """How far a lowered model is from FP32 on real inputs.

    Attributes:
        cosine: Smallest cosine similarity over outputs and inputs, 1 is equal.
        sqnr_db: Smallest signal-to-quantization-noise ratio, in dB.
        worst: The output it was found on.
    """

    cosine: float
    sqnr_db: float
    worst: str


def check_lowered(reference: bytes, lowered: Lowered, samples: Iterable[Feeds], *,
                  smallest_cosine: float = 0.9) -> LoweringCheck:
    """Load a lowered model in ONNX Runtime and compare its outputs with FP32.

    Args:
        reference: The FP32 model.
        lowered: Its lowering; the simulation is what runs.
        samples: Real inputs.
        smallest_cosine: Below this the lowering counts as broken rather than coarse.

    Raises:
        AccuracyError: It does not load, gives something not finite, or is below the bound; the output is named.
    """
    check = LoweringCheck(1.0, float("inf"), "")
    for feeds in samples:
        expected = run_model(reference, feeds)
        actual = run_model(lowered.simulation, feeds, optimize=not lowered.as_written)
        for name, value in expected.items():
            if not np.isfinite(actual[name]).all():
                raise AccuracyError(f"{lowered.precision.value} for '{lowered.target}': output '{name}' is not finite. "
                                    "Keep its layers in FP32: [quantize] keep")
            likeness = float(cosine(value, actual[name]))
            if not check.worst or likeness < check.cosine:
                check = LoweringCheck(likeness, float(sqnr_db(value, actual[name])), name)
    if check.cosine < smallest_cosine:
        raise AccuracyError(f"{lowered.precision.value} for '{lowered.target}': output '{check.worst}' has a cosine of "
                            f"{check.cosine:.4f} with FP32, below {smallest_cosine}. Calibrate on more, and more "
                            "typical, data, try another estimator, or keep sensitive layers in float: [quantize] keep")
    return check

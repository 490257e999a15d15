"""A model quantized for one runtime -> the same numbers, quantized as another target wants them.

The model is lifted to float with its grids (lifting), and quantized again by the target's own placement rules, on the
ranges that the grids cover. So a UINT8 grid becomes a symmetric INT8 one that covers max(|low|, |high|), biases become
float or INT32, Q/DQ pairs that do nothing go and missing ones come, Concat inputs share a scale. Integer weights that
the target can take stay as they are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx

from trtkit.errors import GraphError, SpecError
from trtkit.graph.model import infer_shapes
from trtkit.graph.run import run_model
from trtkit.metrics import cosine
from trtkit.precision import Estimator, NodeSelector, QuantSpec
from trtkit.quant.audit.dynamic import dynamic_layers, make_float
from trtkit.quant.audit.integers import keep_integers
from trtkit.quant.audit.lifting import Lifted, lift, prepare
from trtkit.quant.audit.ranges import implied_ranges, table_of
from trtkit.quant.budget.macs import WEIGHTED_OPS
from trtkit.quant.feeds import feeds_like
from trtkit.quant.index import GraphIndex, node_name
from trtkit.quant.placement import Placement, get_placement, place
from trtkit.quant.static.qdq import insert_qdq
from trtkit.ranges import CalibrationTable
from trtkit.runtime.ort import AS_WRITTEN
from trtkit.target import Target
from trtkit.tensors import Array, Feeds

__all__ = ["Fixed", "fix_quantization"]

logger = logging.getLogger(__name__)

_CHECKS = 2


@dataclass(frozen=True)
class Fixed:
    """A repaired model.

    Attributes:
        model: Quantized as the target wants it.
        cosine: Smallest cosine similarity of an output with that of the model as it was, both run by ONNX Runtime as
            they are written, on noise inside the calibrated range of the inputs. Where that model does not run, its
            float form stands in.
        float_before: The same between the model as it was and its float form.
        float_after: The same between the repaired model and that float form; not below `float_before`, and the repair
            cost no accuracy.
        notes: What was done, for people.
        in_float: Weighted layers that are in float: they were, the target wants them so, or their ranges are not in the
            model.
    """

    model: onnx.ModelProto
    cosine: float
    float_before: float
    float_after: float
    notes: tuple[str, ...]
    in_float: tuple[str, ...]


def fix_quantization(model: onnx.ModelProto, target: Target) -> Fixed:
    """Return a quantized model in the form that a target runs fastest.

    Args:
        model: Q/DQ, QOperator or dynamically quantized, INT8 or UINT8, the rest in FP32; nodes in topological order.
        target: Where it will run.

    Raises:
        SpecError: The target takes no quantized ONNX model (DLA).
        GraphError: The model holds something else than 8-bit integers and FP32, or cannot be lifted or run.
    """
    if target.device == "dla":
        raise SpecError(f"Target '{target.name}' takes no Q/DQ model: DLA reads its scales from a calibration cache. "
                        "Quantize the FP32 model: trtkit quantize --target " + target.name)
    ready = prepare(model)
    if not target.is_tensorrt and any(node.op_type == "MatMulInteger" for node in ready.graph.node):
        return _without_dynamic_convolutions(ready)
    lifted = lift(ready)
    _check_types(lifted)
    ranges = implied_ranges(lifted)
    table = table_of(ranges)
    placement = get_placement(target.placement)
    keep = _kept(lifted, placement, set(ranges))
    spec = QuantSpec(Estimator.MINMAX, bias_correction=False, equalize=False, smoothing=0.0,
                     keep=NodeSelector(tuple(map(_literal, sorted(keep)))))
    quantized, report = insert_qdq(infer_shapes(lifted.model), table, placement, spec)
    exact = keep_integers(quantized, lifted) if target.is_tensorrt else 0
    _mark(quantized, as_written=target.is_tensorrt)
    if report.weights:
        notes = (f"{report.weights} weights ({exact} with the integers they had) and {report.activations} activations "
                 f"in {placement.activation.upper()}",)
    else:
        notes = ("the model has no ranges for its activations, so this is its float form: calibrate and quantize it",)
    return _fixed(ready, lifted.model, quantized, table, notes, _float_layers(quantized))


def _mark(model: onnx.ModelProto, *, as_written: bool) -> None:
    """Note in the metadata whether ONNX Runtime must compute the graph as it is, and not optimize it."""
    kept = [entry for entry in model.metadata_props if entry.key != AS_WRITTEN]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if as_written:
        model.metadata_props.add(key=AS_WRITTEN, value="1")


def _float_layers(quantized: onnx.ModelProto) -> tuple[str, ...]:
    index = GraphIndex(quantized)
    return tuple(node_name(node) for node in index.nodes if node.op_type in WEIGHTED_OPS and not all(
        name in index.producer and index.producer[name].op_type == "DequantizeLinear" for name in node.input[:2]))


def _without_dynamic_convolutions(ready: onnx.ModelProto) -> Fixed:
    """Keep the dynamic MatMuls, which CPUs run fast, and make the dynamic convolutions float, which is faster."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(ready)
    layers = dynamic_layers(GraphIndex(fixed), ("ConvInteger",))
    names = tuple(layer.node.name for layer in layers)
    make_float(fixed, layers)
    _drop_unread(fixed)
    return _fixed(ready, lift(ready).model, fixed, table_of({}),
                  (f"{len(names)} dynamic convolutions made float; dynamic MatMuls stay",), names)


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove nodes and initializers that nothing reads."""
    index = GraphIndex(model)
    needed = {*index.outputs, *index.captured}
    kept = []
    for node in reversed(index.nodes):
        if any(name in needed for name in node.output):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed.update(node.input)
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for name, tensor in index.initializers.items()
               if name in needed]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(tensors)


def _check_types(lifted: Lifted) -> None:
    for (output, _), step in lifted.reads.items():
        if step.dtype not in ("int8", "uint8", "int32") or step.block or step.float_type != "float32":
            raise GraphError(f"The node that makes '{output}' reads {step.dtype.upper()} with scales of "
                             f"{step.float_type}{' in blocks' if step.block else ''}; only INT8 and UINT8 with FP32 "
                             "scales can be converted. Quantize the FP32 model: trtkit quantize")
        if step.scale is None or step.zero_point is None or not (np.isfinite(step.scale).all() and
                                                                 (step.scale > 0).all()):
            raise GraphError(f"The node that makes '{output}' reads a tensor whose scale or zero point is computed, or "
                             "whose scale is not a positive number: its range is not in the model. Quantize the FP32 "
                             "model: trtkit quantize")
    half = [tensor.name for tensor in lifted.model.graph.initializer
            if tensor.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)]
    if half:
        raise GraphError(f"The model holds {len(half)} FP16 tensors, such as '{half[0]}'; only FP32 models with INT8 "
                         "layers can be converted. Quantize the FP32 model: trtkit quantize")


def _kept(lifted: Lifted, placement: Placement, known: set[str]) -> set[str]:
    """Return the nodes to leave in float: those that were, and those whose quantization needs an unknown range."""
    index = GraphIndex(lifted.model)
    keep = {node_name(node) for node in index.nodes if node.op_type in WEIGHTED_OPS
            and not any((node.output[0], position) in lifted.reads for position in range(2))}
    while True:
        points = place(index, placement, keep)
        unknown = {tensor for tensor in points.activations if _root(points.same_scale, tensor) not in known}
        if not unknown:
            return keep
        before = len(keep)
        for tensor in unknown:
            keep |= _askers(index, tensor, points.activations[tensor], points.absorbed)
        if len(keep) == before:
            raise GraphError(f"The range of tensor '{min(unknown)}' is not in the model. Quantize the FP32 model: "
                             "trtkit quantize")


def _root(same_scale: dict[str, str], tensor: str) -> str:
    while tensor in same_scale:
        tensor = same_scale[tensor]
    return tensor


def _askers(index: GraphIndex, tensor: str, readers: list[tuple[object, int]] | None,
            absorbed: dict[str, object]) -> set[str]:
    """Return the nodes because of which a tensor is to be quantized."""
    made_by = index.producer.get(absorbed[tensor].input[0] if tensor in absorbed else tensor)  # type: ignore[attr-defined]
    if readers is not None:
        return {node_name(node) for node, _ in readers}
    nodes = [node for node, _ in index.readers.get(tensor, ())]
    return {node_name(node) for node in (*nodes, made_by) if node is not None}


def _literal(name: str) -> str:
    """Return a shell pattern that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _fixed(before: onnx.ModelProto, in_float: onnx.ModelProto, after: onnx.ModelProto, table: CalibrationTable,
           notes: tuple[str, ...], layers: tuple[str, ...]) -> Fixed:
    """Return the result with how much alike the three models are on noise inside the calibrated range."""
    likeness = np.ones(3)
    for seed in range(_CHECKS):
        feeds = feeds_like(table, before, seed)
        truth, now, then = run_model(in_float, feeds), run_model(after, feeds, optimize=False), _answers(before, feeds)
        for name in truth:
            pairs = ((then or truth, now), (then or truth, truth), (truth, now))
            likeness = np.minimum(likeness, [float(cosine(one[name], other[name])) for one, other in pairs])
    cosine_before, float_before, float_after = map(float, likeness)
    return Fixed(after, cosine_before, float_before, float_after, notes, layers)


def _answers(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array] | None:
    try:
        return run_model(model, feeds, optimize=False)
    except GraphError as err:
        logger.info("The model as it was does not run, its float form stands in: %s", err)
        return None

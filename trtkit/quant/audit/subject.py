"""A quantized model and its target as the rules look at them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import onnx

from trtkit.findings import Finding, Severity
from trtkit.graph.run import random_feeds
from trtkit.graph.sparsity import LayerSparsity, layer_sparsity
from trtkit.quant.audit.kernels import INTEGER_KERNELS, Kernels, read_kernels
from trtkit.quant.audit.lifting import Lifted, lift, prepare
from trtkit.quant.audit.step import Step, node_step
from trtkit.quant.budget.macs import WEIGHTED_OPS, count_macs
from trtkit.quant.index import GraphIndex, node_name
from trtkit.target import Target

__all__ = ["Form", "Layer", "Subject", "examine"]


class Form(Enum):
    """How a weighted layer is quantized."""

    STATIC = "both operands are 8-bit integers or float8"
    DYNAMIC = "its input is quantized at run time"
    WEIGHTS = "its weights alone are quantized"
    INPUT = "its input alone is quantized"
    FLOAT = "not quantized"


@dataclass(frozen=True)
class Layer:
    """A weighted layer.

    Attributes:
        node: The node of the float model.
        name: Its name.
        macs: Multiply-accumulates of one run.
        form: How it is quantized.
        in_integers: Whether the target is expected to compute it in 8 bits; on ONNX Runtime it was seen to.
    """

    node: Any
    name: str
    macs: int
    form: Form
    in_integers: bool


@dataclass(frozen=True)
class Subject:
    """What the rules read.

    Attributes:
        model: The model with named nodes and without Constant nodes.
        target: Where it is to run.
        lifted: Its float form and its grids.
        layers: Its weighted layers.
        kernels: What ONNX Runtime makes of it; None for TensorRT targets.
    """

    model: onnx.ModelProto
    target: Target
    lifted: Lifted
    layers: tuple[Layer, ...]
    kernels: Kernels | None

    @cached_property
    def index(self) -> GraphIndex:
        """The quantized graph."""
        return GraphIndex(self.model)

    @cached_property
    def floats(self) -> GraphIndex:
        """The float graph."""
        return GraphIndex(self.lifted.model)

    @cached_property
    def sparsity(self) -> tuple[LayerSparsity, ...]:
        """The zeros in the weights of each layer."""
        return layer_sparsity(self.lifted.model)

    @cached_property
    def quantizers(self) -> tuple[tuple[Any, Step], ...]:
        """Every QuantizeLinear and DequantizeLinear node with its grid."""
        known: dict[str, str] = {}
        found = []
        for node in self.index.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                stored = self.index.initializers.get(node.input[0])
                dtype = known.get(node.input[0], "")
                if stored is not None and node.op_type == "DequantizeLinear":
                    dtype = onnx.helper.tensor_dtype_to_string(stored.data_type).split(".")[-1].lower()
                step = node_step(self.index, node, dtype)
                known[node.output[0]] = step.dtype
                found.append((node, step))
        return tuple(found)

    def step(self, node: Any, position: int) -> Step | None:
        """Return the grid through which a node of the float graph reads an input; None: it reads float."""
        return self.lifted.reads.get((node.output[0], position)) if node.output else None

    def share(self, names: Iterable[str]) -> float:
        """Return the share of these layers, and of those that read these DQ nodes, in the multiply-accumulates."""
        wanted = set(names)
        for node, _ in self.quantizers:
            if node.name in wanted:
                wanted.update(reader.name for reader, _ in self.index.readers.get(node.output[0], ()))
        total = sum(layer.macs for layer in self.layers)
        return sum(layer.macs for layer in self.layers if layer.name in wanted) / total if total else 0.0

    def warn(self, rule: str, names: Iterable[str], message: str, fix: str,
             layers: Iterable[str] = ()) -> Iterator[Finding]:
        """Yield a warning on these nodes, none when there are none; `layers` tells which run slower if they do not."""
        return self._find(Severity.WARNING, rule, names, message, fix, layers)

    def refuse(self, rule: str, names: Iterable[str], message: str, fix: str) -> Iterator[Finding]:
        """Yield an error on these nodes, none when there are none."""
        return self._find(Severity.ERROR, rule, names, message, fix, ())

    def _find(self, severity: Severity, rule: str, names: Iterable[str], message: str, fix: str,
              layers: Iterable[str]) -> Iterator[Finding]:
        found = tuple(dict.fromkeys(names))
        if found:
            yield Finding(severity, found, message, fix, self.share(tuple(layers) or found), rule)


def examine(model: onnx.ModelProto, target: Target) -> Subject:
    """Return what the rules need to know of a model.

    Raises:
        GraphError: The model cannot be lifted to float.
    """
    ready = prepare(model)
    lifted = lift(ready)
    kernels = None if target.is_tensorrt else read_kernels(ready, target.arch)
    shapes = {name: array.shape for name, array in random_feeds(lifted.model).items()}
    macs = count_macs(lifted.model, shapes)
    index = GraphIndex(lifted.model)
    dynamic = {node.name for node in ready.graph.node if node.op_type in ("ConvInteger", "MatMulInteger")}
    layers = []
    for node in index.nodes:
        if node.op_type in WEIGHTED_OPS:
            name = node_name(node)
            form = Form.DYNAMIC if name in dynamic else _form(lifted, node)
            seen = form is Form.STATIC if kernels is None else kernels.op_types.get(name) in INTEGER_KERNELS
            layers.append(Layer(node, name, macs.get(name, 0), form, seen))
    return Subject(ready, target, lifted, tuple(layers), kernels)


def _form(lifted: Lifted, node: Any) -> Form:
    data, weight = (lifted.reads.get((node.output[0], position)) for position in (0, 1))
    if weight is not None and (weight.block or weight.dtype in ("int4", "uint4")):
        return Form.WEIGHTS
    if data is not None and weight is not None:
        return Form.STATIC
    if weight is not None:
        return Form.WEIGHTS
    return Form.FLOAT if data is None else Form.INPUT

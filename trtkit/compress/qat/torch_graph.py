"""An ONNX model -> a torch module that computes the same, differentiably, with fake quantizers on any edge; and back.

Integers, and what shapes are computed from, stay on the CPU: any batch works, and no GPU waits for a shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from trtkit.compress.qat.operators import Node
from trtkit.compress.qat.program import Edge, Program
from trtkit.compress.qat.trainable import host_constants, trainable_constants
from trtkit.errors import GraphError, SpecError
from trtkit.graph.opset import constants_to_initializers, model_opset
from trtkit.graph.order import sort_nodes
from trtkit.quant.index import hide_initializers

__all__ = ["Edge", "TorchGraph"]

_SMALLEST_OPSET = 11
"""Before, Clip and Pad have their bounds as attributes and Resize means something else."""


class TorchGraph(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """An ONNX model as a torch module.

    Weights become parameters (see trainable_constants), other float constants buffers. They are named as the
    initializers are, with "/" for ".", which torch forbids in names; `weights` and `torch_names` give both. Nodes that
    read the same initializer share its parameter. BatchNormalization keeps the model's statistics in training mode,
    too, and Dropout does nothing: training sees what the exported model computes.

    Args:
        model: Float model, opset 11 or later, all weights inside; it stays as it is.
        fake_quantizers: Module by edge, whose result takes the place of the value there. A tensor's name stands for
            every reader, an output of the model included; (first output of a node, input position) for that input
            alone, in place of the tensor's entry (nn.Identity: leave that input as it is). One module may stand on
            several edges. They are kept in `fake_quantizers`, in the order in which the graph reaches them.

    Raises:
        GraphError: A node has no form in torch; it is named, with what to do.
        SpecError: A fake quantizer stands on an edge that the model does not have.
    """

    def __init__(self, model: onnx.ModelProto, fake_quantizers: Mapping[Edge, nn.Module] | None = None) -> None:
        super().__init__()
        self._model = _prepared(model)
        graph = self._model.graph
        read = {info.name for info in graph.output}.union(*(proto.input for proto in graph.node))
        nodes = [Node.of(proto, model_opset(self._model), read) for proto in graph.node]
        constants = {tensor.name: tensor for tensor in graph.initializer}
        self.input_names = tuple(info.name for info in graph.input)
        self.output_names = tuple(info.name for info in graph.output)
        self._host = {name: _tensor(constants[name]) for name in host_constants(nodes, constants)}
        """Constants that stay on the CPU: integers, and numbers that an operator reads as its options."""
        program = Program(nodes, self.input_names, self.output_names, tuple(constants), frozenset(self._host),
                          fake_quantizers or {})
        self.fake_quantizers = nn.ModuleList(program.modules)
        self._program = program
        self.torch_names: dict[str, str] = {}
        """Name of an initializer in the model -> name of its parameter or buffer here."""
        trainable = trainable_constants(nodes, constants, self.input_names)
        for name, tensor in constants.items():
            if name in self._host:
                continue
            own = self.torch_names[name] = self._free_name(name)
            if name in trainable:
                self.register_parameter(own, nn.Parameter(_tensor(tensor)))
            else:
                self.register_buffer(own, _tensor(tensor))

    def _free_name(self, name: str) -> str:
        own = name.replace(".", "/")
        while hasattr(self, own):
            own += "_"
        return own

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters by the names of their initializers in the model."""
        return {name: self._parameters[own] for name, own in self.torch_names.items() if own in self._parameters}

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the output of the model, or all of them by name when there are several.

        Args:
            inputs: In the order of the model's inputs, as many as wanted.
            named: The others by name.

        Raises:
            SpecError: An input is missing, unknown or given twice.
            GraphError: A node cannot compute with these shapes; its name and torch's own words are told.
        """
        if named or len(inputs) != len(self.input_names):
            inputs = self._in_order(inputs, named)
        values = self._program.start(inputs, self._constant)
        results = self._program.run(values)
        return results[0] if len(results) == 1 else dict(zip(self.output_names, results))

    def _constant(self, name: str) -> torch.Tensor:
        own = self.torch_names.get(name)
        if own is None:
            return self._host[name]
        parameter = self._parameters.get(own)
        return self._buffers[own] if parameter is None else parameter

    def _in_order(self, inputs: tuple[torch.Tensor, ...],
                  named: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        rest = self.input_names[len(inputs):]
        if len(inputs) > len(self.input_names) or set(rest) != set(named):
            raise SpecError(f"{len(inputs)} tensors and {sorted(named) or 'none by name'} were given; the model takes "
                            f"{', '.join(self.input_names)}. Give them in this order, or by name")
        return (*inputs, *(named[name] for name in rest))

    def to_onnx(self) -> onnx.ModelProto:
        """Return the model with the parameters and buffers as they are now; fake quantizers are not part of it."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in self.torch_names:
                value: Any = self._constant(tensor.name).detach().cpu().contiguous()
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                array = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
                tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))
        return model


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose constants are initializers and whose nodes are in order."""
    if model_opset(model) < _SMALLEST_OPSET:
        raise GraphError(f"Model has opset {model_opset(model)}; torch computes models from opset {_SMALLEST_OPSET} "
                         "on. Run: trtkit rewrite with the target's preset, which raises it")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants_to_initializers(copy)
    hide_initializers(copy)
    sort_nodes(copy.graph)
    return copy


def _tensor(tensor: onnx.TensorProto) -> torch.Tensor:
    array = numpy_helper.to_array(tensor)
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype("float32")).bfloat16()
    return torch.from_numpy(array.copy())

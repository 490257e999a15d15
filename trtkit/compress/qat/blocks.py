"""Linear layers with INT4 weights in blocks -> the same graph in torch, its weights on the grids of their blocks.

The grid is the one that just spans a block (Rounding.NEAREST), found anew in every step. In the end the weights are put
on it, so that a lowering finds the same integers again, whatever its rounding: nothing has to be told of the scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

from trtkit.compress.qat.fake_quantize import half_scale
from trtkit.compress.qat.torch_graph import TorchGraph
from trtkit.precision import QuantSpec
from trtkit.quant.index import attribute
from trtkit.quant.linears.int4 import BLOCK_OPSET, insert_int4
from trtkit.quant.linears.nbits import to_matmul_nbits
from trtkit.quant.ready import at_opset
from trtkit.target import Target
from trtkit.tensors import Array

__all__ = ["BlockQuantized", "BlockQuantizer", "quantize_blocks_in"]


class BlockQuantizer(nn.Module):  # type: ignore[misc]
    """A matrix on 4-bit integers, a scale for each block of the axis that a product sums over; gradients pass.

    Args:
        block: Rows that share a scale.
        turned: The weight is stored as [N, K].
        symmetric: Integers from -7 to 7, and scales that are float16 numbers (TensorRT); else 0 to 15 with a zero
            point (ONNX Runtime).
    """

    def __init__(self, block: int, *, turned: bool, symmetric: bool) -> None:
        super().__init__()
        self.block, self.turned, self.symmetric = block, turned, symmetric

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight on its grids, in its own shape."""
        return self.rounded(weight.detach()) + (weight - weight.detach())

    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight on its grids, without gradients."""
        matrix = weight.T if self.turned else weight
        rows, columns = matrix.shape
        padded = functional.pad(matrix, (0, 0, 0, -rows % self.block))
        blocks = padded.reshape(-1, self.block, columns)
        on_grid = (self._symmetric(blocks) if self.symmetric else self._asymmetric(blocks)).reshape(-1, columns)[:rows]
        return on_grid.T if self.turned else on_grid

    @staticmethod
    def _symmetric(blocks: torch.Tensor) -> torch.Tensor:
        scale = _positive(blocks.abs().amax(1, keepdim=True) / 7)
        return (blocks / scale).round().clamp(-8, 7) * half_scale(scale)

    @staticmethod
    def _asymmetric(blocks: torch.Tensor) -> torch.Tensor:
        low, high = blocks.amin(1, keepdim=True).clamp(max=0), blocks.amax(1, keepdim=True).clamp(min=0)
        scale = _positive((high - low) / 15)
        zero = (-low / scale).round().clamp(0, 15)
        return (((blocks / scale).round() + zero).clamp(0, 15) - zero) * scale


def _positive(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)


@dataclass(frozen=True)
class BlockQuantized:
    """A graph in torch whose linear layers compute with 4-bit weights.

    Attributes:
        module: The graph.
        quantizers: Of each weight, by its name.
    """

    module: TorchGraph
    quantizers: dict[str, BlockQuantizer]

    def weights(self) -> dict[str, Array]:
        """Return the quantized weights on their grids, by name, float32."""
        own = self.module.torch_names
        return {name: quantizer.rounded(self.module.get_parameter(own[name]).detach()).cpu().numpy().astype(np.float32)
                for name, quantizer in self.quantizers.items()}


def quantize_blocks_in(ready: onnx.ModelProto, target: Target, spec: QuantSpec) -> BlockQuantized:
    """Return a model in torch with 4-bit weights in the layers that the target's INT4 lowering chooses.

    Raises:
        SpecError: There are no such layers, or a keep selector matches nothing.
    """
    blocks = _chosen(ready, target, spec)
    quantizers: dict[str, BlockQuantizer] = {}
    places: dict[str | tuple[str, int], nn.Module] = {}
    for node in ready.graph.node:
        block = blocks.get(node.output[0]) if node.op_type in ("MatMul", "Gemm") else None
        if block is not None:
            turned = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
            quantizer = quantizers.setdefault(node.input[1], BlockQuantizer(block, turned=turned,
                                                                            symmetric=target.is_tensorrt))
            places[node.output[0], 1] = quantizer
    return BlockQuantized(TorchGraph(ready, places), quantizers)


def _chosen(ready: onnx.ModelProto, target: Target, spec: QuantSpec) -> dict[str, int]:
    """Return the block of each layer that the lowering replaces, by the layer's output: read off its own result."""
    if not target.is_tensorrt:
        left = {node.output[0] for node in to_matmul_nbits(ready, spec)[0].graph.node
                if node.op_type in ("MatMul", "Gemm")}
        return {node.output[0]: spec.block for node in ready.graph.node if node.output[0] not in left}
    made, _ = insert_int4(at_opset(ready, BLOCK_OPSET), block=spec.block, rounding=spec.rounding, keep=spec.keep)
    sizes = {node.output[0]: attribute(node, "block_size", 0) for node in made.graph.node
             if node.op_type == "DequantizeLinear"}
    return {node.output[0]: sizes[node.input[1]] for node in made.graph.node
            if node.op_type in ("MatMul", "Gemm") and node.input[1] in sizes}

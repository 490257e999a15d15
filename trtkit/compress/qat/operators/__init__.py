"""ONNX's operators in torch, as a table: one small function an operator."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trtkit.compress.qat.operators.activations import ACTIVATIONS
from trtkit.compress.qat.operators.arithmetic import ARITHMETIC
from trtkit.compress.qat.operators.convolution import CONVOLUTION
from trtkit.compress.qat.operators.indexing import INDEXING
from trtkit.compress.qat.operators.normalization import NORMALIZATION
from trtkit.compress.qat.operators.pooling import POOLING
from trtkit.compress.qat.operators.reductions import REDUCTIONS
from trtkit.compress.qat.operators.registry import Kernel, Node, Operator
from trtkit.compress.qat.operators.resize import RESIZE
from trtkit.compress.qat.operators.shapes import SHAPES

__all__ = ["OPERATORS", "Kernel", "Node", "Operator"]

OPERATORS: Mapping[str, Operator] = MappingProxyType({
    **CONVOLUTION, **ARITHMETIC, **ACTIVATIONS, **NORMALIZATION, **POOLING, **REDUCTIONS, **SHAPES, **INDEXING,
    **RESIZE,
})
"""Every operator of ONNX's own domain that torch computes here, by its op_type."""

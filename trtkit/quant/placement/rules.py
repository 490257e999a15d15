"""The rules of each runtime, as data: one Placement a rule set, one OpKind an operator.

TensorRT (NvInfer.h, IQuantizeLayer; developer guide, explicit quantization, Q/DQ placement recommendations):
  inputs of weighted layers are quantized, outputs are not, so Conv + activation (+ Add) fuse and requantize at the
  next Q;
  of a residual Add only the skip branch is quantized; biases stay float; zero points are 0 and INT8;
  what moves values commutes with Q, so a tensor and what is moved from it get one scale, and so do the inputs of a
  Concat where they are alike: nothing has to be requantized.

ONNX Runtime CPU: a Conv runs in integers when its inputs come from DequantizeLinear and its output goes into
  QuantizeLinear, so both sides are quantized (Gemm and MatMul may leave their output in float); biases are INT32 with
  scale s_x * s_w; an activation that the saturation of the output's Q performs anyway (Relu, Clip) is dropped, so
  Conv becomes one QLinearConv. Add, Mul, pooling and Concat compute in integers only between integers; so do the gates
  of SiLU and HardSwish (trtkit.quant.static.gates). The x86 kernels take a constant number beside them as an integer,
  too.

Neither: Softmax, LayerNormalization, Gelu and Erf, Exp and Log, TopK and NonMaxSuppression, Gather from embeddings:
  they lose accuracy and gain no speed. Q/DQ stands beside them only where a neighbour has a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from trtkit.errors import SpecError

__all__ = ["PLACEMENTS", "OpKind", "Placement", "get_placement"]


class OpKind(Enum):
    """What quantization means for an operator."""

    WEIGHTED = "data inputs and weights are quantized"
    RESIDUAL = "of two inputs only the skip branch is quantized"
    ARITHMETIC = "computed in integers: every input and the output have scales of their own"
    GATE = "looked up: between 0 and 1, integer when its input is and only its product with that reads it"
    FOLLOWS = "moves values: integer when its input is, with the same scale"
    COMMUTES = "moves values: where input and output are quantized, they share a scale if theirs are alike"
    JOINS = "inputs that are quantized for others take the scale of the quantized output if theirs are alike"


_WEIGHTED = {op: OpKind.WEIGHTED for op in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
_ARITHMETIC = ("Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat", "LeakyRelu")
_MOVING = ("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "ReduceMax", "Reshape", "Resize",
           "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze")
"""What ONNX Runtime 1.32 runs on integers as they are (its QDQ selectors, read back from optimized graphs)."""


@dataclass(frozen=True)
class Placement:
    """The rules of one runtime.

    Attributes:
        name: Key, as targets.toml names it.
        ops: Kind of each operator that is quantized; all others stay in floating point.
        activation: "int8" or "uint8".
        symmetric: Activations have zero point 0.
        weight_max: Largest magnitude of an integer weight: 127, or 64 where products of 8-bit values would overflow
            the 16-bit accumulator (AVX2's vpmaddubsw).
        outputs: Outputs of quantized operators are quantized, too.
        int32_bias: Biases are INT32 with scale s_x * s_w; a layer whose bias cannot be stays in floating point.
        attention: Products of two activations are quantized. ONNX Runtime's integer MatMul packs its right operand on
            every run, and the scores are requantized: a ViT-tiny takes 1.11 times as long with them (two cores of a
            Xeon with VNNI, one thread).
        narrowest_depthwise: Depthwise convolutions of fewer channels stay in floating point. They stand at the stem,
            have a few thousand weights, and their rounding noise is amplified by all that follows: the first one of
            EfficientNet-Lite0 alone costs 2 points of agreement with FP32 on the symmetric grid (0.915 against 0.934
            of 576 photographs).
        few_products: Convolutions that sum at most as many products an output value stay in floating point when their
            input's rounding is coarser than `least_sqnr_db`; see trtkit.quant.static.narrow.
        least_sqnr_db: Signal-to-quantization-noise ratio that such an input needs, in dB.
        narrowest_input: Convolutions of fewer input channels get zero channels up to this number; see
            trtkit.quant.static.padding.
        matrix_products: Wide convolutions run as matrix products; see trtkit.quant.static.amx.
    """

    name: str
    ops: MappingProxyType[str, OpKind]
    activation: str
    symmetric: bool
    weight_max: int = 127
    outputs: bool = False
    int32_bias: bool = False
    attention: bool = True
    narrowest_depthwise: int = 0
    few_products: int = 0
    least_sqnr_db: float = 0.0
    narrowest_input: int = 0
    matrix_products: bool = False

    @property
    def activation_bounds(self) -> tuple[int, int]:
        """Smallest and largest integer of an activation; symmetric INT8 leaves -128 out."""
        if self.activation == "uint8":
            return 0, 255
        return (-127, 127) if self.symmetric else (-128, 127)


def _onnxruntime(name: str, activation: str, *, weight_max: int = 127, narrowest_input: int = 0,
                 matrix_products: bool = False) -> Placement:
    ops = {**_WEIGHTED, **{op: OpKind.ARITHMETIC for op in _ARITHMETIC}, **{op: OpKind.FOLLOWS for op in _MOVING},
           "Sigmoid": OpKind.GATE, "HardSigmoid": OpKind.GATE}
    del ops["ConvTranspose"]  # it has no integer kernel there: rounding and no speed
    return Placement(name, MappingProxyType(ops), activation, symmetric=False,
                     weight_max=weight_max, outputs=True, int32_bias=True, attention=False,
                     narrowest_input=narrowest_input, matrix_products=matrix_products)


_TENSORRT = {**_WEIGHTED, "Add": OpKind.RESIDUAL, **{op: OpKind.COMMUTES for op in _MOVING}, "Concat": OpKind.JOINS}

PLACEMENTS = MappingProxyType({p.name: p for p in (
    Placement("tensorrt", MappingProxyType(_TENSORRT), "int8", symmetric=True, narrowest_depthwise=64,
              few_products=64, least_sqnr_db=35.5),
    _onnxruntime("onnxruntime-u8", "uint8", narrowest_input=4),
    _onnxruntime("onnxruntime-u8-amx", "uint8", narrowest_input=4, matrix_products=True),
    _onnxruntime("onnxruntime-u8-7bit", "uint8", weight_max=64, narrowest_input=4),
    _onnxruntime("onnxruntime-s8", "int8"),
)})


def get_placement(name: str) -> Placement:
    """Return the rule set called `name`.

    Raises:
        SpecError: There is none.
    """
    if name not in PLACEMENTS:
        raise SpecError(f"Placement '{name}' is unknown. There are: {', '.join(PLACEMENTS)}")
    return PLACEMENTS[name]

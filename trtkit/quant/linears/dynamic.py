"""FP32 ONNX -> linear layers in INT8 whose inputs get their scales at run time: for transformers on a CPU.

    y = x @ w + b      becomes      q, s, z = DynamicQuantizeLinear(x)
                                    y = Cast(MatMulInteger(q, w_int8, z)) * (s * s_w) + b

with w ~ w_int8 * s_w, one s_w a column. ONNX Runtime 1.32 fuses this form into one DynamicQuantizeMatMul, or into
MatMulIntegerToFloat where several layers (query, key and value of attention) read the same q. No calibration is needed.

Linear layers alone: ONNX Runtime's kernel for convolutions with scales found at run time (ConvInteger) is slower than
its FP32 one (ResNet-50: 5.6 times). Measured on a Xeon with AVX512-VNNI and AMX, ViT-tiny, one thread: the same in
static form (q by a calibrated scale) takes 2 to 5 % less, com.microsoft MultiHeadAttention 3 % less, QAttention 8 %
less at batch 1 and nothing less at batch 8; BiasGelu takes 8 % more, MatMulNBits with 8 bits 2.2 times as long.
"""

from __future__ import annotations

import onnx

from trtkit.precision import QuantSpec
from trtkit.quant.linears.linear import Linear, LinearEditor, replace_linears
from trtkit.quant.scales.weights import QuantizedWeight, quantize_weight

__all__ = ["to_int8_dynamic"]


def to_int8_dynamic(model: onnx.ModelProto, spec: QuantSpec, *,
                    weight_max: int = 127) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy of a model whose linear layers compute in INT8.

    Args:
        model: FP32, opset 13 or later, types inferred, weights as initializers.
        spec: Nodes to keep in floating point.
        weight_max: Largest magnitude of an integer weight: 127, or 64 where a CPU adds products of 8-bit values in 16
            bits (AVX2 without VNNI).

    Returns:
        The model, and notes for people.

    Raises:
        SpecError: It has no linear layer that can be quantized, or a selector matches nothing.
    """
    steps = _Steps(weight_max)
    return replace_linears(model, spec, "dynamic INT8", steps.replace)


class _Steps:
    """Replaces one layer after another; remembers which inputs are in integers already, and the weights."""

    def __init__(self, weight_max: int) -> None:
        self._weight_max = weight_max
        self._inputs: dict[str, list[str]] = {}
        self._weights: dict[tuple[str, bool, float], QuantizedWeight] = {}

    def replace(self, editor: LinearEditor, linear: Linear) -> None:
        source, name = linear.source, linear.key[0]
        if source not in self._inputs:
            self._inputs[source] = editor.emit("DynamicQuantizeLinear", [source], [
                f"{source}_quantized", f"{source}_scale", f"{source}_zero_point"])
        if linear.key not in self._weights:
            self._weights[linear.key] = quantize_weight(linear.weight, 1, largest=self._weight_max)
        weight = self._weights[linear.key]
        integers, scale, zero = self._inputs[source]
        values = editor.once(linear.key, f"{name}_quantized", lambda: weight.values)
        scales = editor.once(linear.key, f"{name}_scale", lambda: weight.scale)
        output = linear.node.output[0]
        [sums] = editor.emit("MatMulInteger", [integers, values, zero], [f"{output}_sums"])
        [steps] = editor.emit("Cast", [sums], [f"{output}_steps"], to=onnx.TensorProto.FLOAT)
        [unit] = editor.emit("Mul", [scale, scales], [f"{output}_scale"])
        [product] = editor.emit("Mul", [steps, unit], [f"{output}_product"])
        editor.finish(linear, product)

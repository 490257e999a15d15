"""What ONNX Runtime's quantizer writes, converted for TensorRT and back, computes the same and is accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtkit.errors import GraphError, SpecError
from trtkit.metrics import cosine
from trtkit.quant.audit import audit_quantization, confirm_build, fix_quantization
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]
Quantized = Callable[[str], onnx.ModelProto]
Answers = Callable[[onnx.ModelProto], np.ndarray]
STATIC = ("uint8", "uint8 weights", "int8", "symmetric", "own pairs", "qoperator")
RTX, VNNI, AVX2 = get_target("rtx"), get_target("x86-vnni"), get_target("x86-avx2")


@pytest.mark.parametrize("form", STATIC)
def test_fix_makes_what_tensorrt_wants_of_each_form(form: str, quantized: Quantized, network: Path,
                                                    answers: Answers) -> None:
    before = quantized(form)
    fixed = fix_quantization(before, RTX)
    report = audit_quantization(fixed.model, RTX)
    onnx.checker.check_model(fixed.model)
    assert {finding.rule for finding in report.findings} <= {"narrow layers"}
    assert report.integer_layers == report.layers == 5
    assert fixed.cosine > 0.98
    assert fixed.float_after > fixed.float_before - 1e-3
    truth = answers(onnx.load(network))
    assert cosine(truth, answers(fixed.model)) > cosine(truth, answers(before)) - 2e-4


@pytest.mark.parametrize("form", ["uint8", "qoperator"])
def test_fix_makes_what_the_tensorrt_builder_takes(form: str, quantized: Quantized) -> None:
    pytest.importorskip("tensorrt_rtx")
    refused = confirm_build(audit_quantization(quantized(form), RTX), quantized(form), RTX)
    assert "build" in [finding.rule for finding in refused.findings]
    fixed = fix_quantization(quantized(form), RTX).model
    assert confirm_build(audit_quantization(fixed, RTX), fixed, RTX).fits


def test_confirm_build_names_the_node_that_the_builder_refuses(quantized: Quantized) -> None:
    pytest.importorskip("tensorrt_rtx")
    report = confirm_build(audit_quantization(quantized("qoperator"), RTX), quantized("qoperator"), RTX)
    names = next(finding.names for finding in report.findings if finding.rule == "build")
    assert set(names) & {node.name for node in quantized("qoperator").graph.node}


def test_confirm_build_refuses_a_cpu_target(quantized: Quantized) -> None:
    with pytest.raises(SpecError, match="nothing to build"):
        confirm_build(audit_quantization(quantized("uint8"), VNNI), quantized("uint8"), VNNI)


def test_fix_keeps_the_integers_of_symmetric_weights(quantized: Quantized) -> None:
    before, after = quantized("uint8"), fix_quantization(quantized("uint8"), RTX).model
    assert integers(after) == integers(before)


def integers(model: onnx.ModelProto) -> set[bytes]:
    """Return the INT8 tensors of rank 2 and 4: weights, in Gemm either way round."""
    return {min(array.tobytes(), array.T.tobytes()) for tensor in model.graph.initializer
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
            for array in [numpy_helper.to_array(tensor)]}


def test_fix_gives_concat_one_scale(quantized: Quantized) -> None:
    assert "Concat scales" in {finding.rule for finding in audit_quantization(quantized("uint8"), RTX).findings}
    fixed = fix_quantization(quantized("uint8"), RTX).model
    assert "Concat scales" not in {finding.rule for finding in audit_quantization(fixed, RTX).findings}


@pytest.mark.parametrize("form", ["int8", "symmetric", "qoperator"])
@pytest.mark.parametrize("target", [VNNI, AVX2], ids=["vnni", "avx2"])
def test_fix_makes_integer_kernels_of_every_layer_on_x86(form: str, target: object, quantized: Quantized, network: Path,
                                                         answers: Answers) -> None:
    fixed = fix_quantization(quantized(form), target)  # type: ignore[arg-type]
    report = audit_quantization(fixed.model, target)  # type: ignore[arg-type]
    assert report.integer_layers == report.layers == 5
    assert report.fits
    assert "INT8 activations" not in {finding.rule for finding in report.findings}
    assert cosine(answers(onnx.load(network)), answers(fixed.model)) > 0.999


def test_fix_and_back_keeps_the_numbers(quantized: Quantized, network: Path, answers: Answers) -> None:
    there = fix_quantization(quantized("uint8"), RTX)
    back = fix_quantization(there.model, VNNI)
    report = audit_quantization(back.model, VNNI)
    assert cosine(answers(onnx.load(network)), answers(back.model)) > 0.999
    assert report.integer_layers + len(back.in_float) == report.layers
    assert back.in_float == ("Conv_10",)  # read by the average pool without a Q in between


def test_fix_makes_dynamic_convolutions_float_and_keeps_dynamic_products_on_cpus(quantized: Quantized) -> None:
    fixed = fix_quantization(quantized("dynamic"), VNNI)
    operators = [node.op_type for node in fixed.model.graph.node]
    assert operators.count("Conv") == 4
    assert operators.count("MatMulInteger") == 1
    assert "ConvInteger" not in operators
    assert fixed.cosine > 0.999


def test_fix_makes_a_dynamic_model_float_for_tensorrt(quantized: Quantized) -> None:
    fixed = fix_quantization(quantized("dynamic"), RTX)
    assert audit_quantization(fixed.model, RTX).fits
    assert len(fixed.in_float) == 5


def test_fix_leaves_layers_in_float_that_were(quantized: Quantized) -> None:
    model = onnx.ModelProto.FromString(quantized("symmetric").SerializeToString())
    dequantized = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    quantize = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    layer = next(node for node in model.graph.node if node.name == "Conv_8")
    for position in (0, 1):
        layer.input[position] = quantize[dequantized[layer.input[position]].input[0]].input[0]
    assert fix_quantization(model, RTX).in_float == ("Conv_8",)


def test_fix_moves_weight_scales_to_the_output_channels(conv: Make) -> None:
    wrong = conv(("axis=0", "axis=1"), ws=np.linspace(1e-3, 4e-3, 16, dtype=np.float32))
    fixed = fix_quantization(wrong, RTX)
    assert audit_quantization(fixed.model, RTX).findings == ()
    assert fixed.cosine > 0.999


@pytest.mark.parametrize(("change", "says"), [
    ({"ws": np.full(16, np.nan, np.float32)}, "not a positive number"),
    ({"b": np.ones(16, np.float16)}, "FP16"),
], ids=["bad-scale", "fp16"])
def test_fix_refuses_what_it_cannot_convert(change: dict[str, np.ndarray], says: str, conv: Make) -> None:
    with pytest.raises(GraphError, match=says):
        fix_quantization(conv(**change), RTX)


def test_fix_refuses_dla(conv: Make) -> None:
    with pytest.raises(SpecError, match="calibration cache"):
        fix_quantization(conv(), get_target("orin-dla"))


def test_confirm_build_takes_a_model_of_free_sizes(conv: Make) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = conv(("[1,16,8,8] x", "[N,16,H,W] x"), ("[1,16,8,8] y", "[N,16,H,W] y"))
    assert confirm_build(audit_quantization(model, RTX), model, RTX).fits

"""Each rule on a model that it is for, and on a near-miss that it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.findings import Severity
from trtkit.quant.audit import AuditReport, audit_quantization
from trtkit.runtime.ort import AS_WRITTEN
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]
Quantized = Callable[[str], onnx.ModelProto]
RNG = np.random.default_rng(0)
QUANTIZED_BIAS = (("wd = Deq", "bd = DequantizeLinear<axis=0>(bi, bs, bz)\n wd = Deq"), ("wd, b)", "wd, bd)"))
BIAS_CONSTANTS = {"bi": np.ones(16, np.int32), "bs": np.full(16, 6e-5, np.float32), "bz": np.zeros(16, np.int32)}


def audited(model: onnx.ModelProto, target: str = "rtx") -> AuditReport:
    return audit_quantization(model, get_target(target))


def rules(model: onnx.ModelProto, target: str = "rtx") -> dict[str, tuple[str, ...]]:
    return {finding.rule: finding.names for finding in audited(model, target).findings}


def test_audit_is_silent_when_all_is_as_tensorrt_wants_it(conv: Make) -> None:
    report = audited(conv())
    assert report.findings == ()
    assert report.fits
    assert report.summary == "1 of 1 layers run in INT8 (100% of the multiply-accumulates)"


def test_audit_says_so_when_nothing_is_quantized(make: Make) -> None:
    model = make("g (float[1,16] x) => (float[1,16] y) { y = MatMul(x, w) }", w=RNG.standard_normal((16, 16)))
    assert [finding.message for finding in audited(model).findings] == ["The model is not quantized"]


@pytest.mark.parametrize(("rule", "replaced", "constants", "names"), [
    pytest.param("INT32 bias", QUANTIZED_BIAS, BIAS_CONSTANTS, ("Conv_4",), id="int32-bias"),
    pytest.param("zero point", (), {"z": np.int8(3)}, ("QuantizeLinear_0", "DequantizeLinear_1"), id="zero-point"),
    pytest.param("UINT8", (), {"z": np.uint8(0)}, ("QuantizeLinear_0", "DequantizeLinear_1"), id="uint8"),
    pytest.param("no zero point", (("(x, s, z)", "(x, s)"), ("(xq, s, z)", "(xq, s)")), {},
                 ("QuantizeLinear_0", "DequantizeLinear_1"), id="no-zero-point"),
    pytest.param("bad scale", (), {"ws": np.full(16, np.inf, np.float32)}, ("DequantizeLinear_2",), id="infinite"),
    pytest.param("bad scale", (), {"ws": np.r_[0.0, np.ones(15)]}, ("DequantizeLinear_2",), id="zero"),
])
def test_audit_refuses_what_tensorrt_refuses(rule: str, replaced: tuple[tuple[str, str], ...],
                                             constants: dict[str, np.ndarray], names: tuple[str, ...],
                                             conv: Make) -> None:
    report = audited(conv(*replaced, **constants))
    finding = next(each for each in report.findings if each.rule == rule)
    assert finding.severity is Severity.ERROR
    assert finding.names == names
    assert not report.fits
    assert "would run" in report.summary


def test_audit_takes_a_missing_zero_point_of_int8_weights_except_for_tensorrt_8(conv: Make) -> None:
    model = conv(("(w, ws, wz)", "(w, ws)"))
    assert rules(model) == {}
    assert rules(model, "jetson-xavier-jp5") == {"no zero point": ("DequantizeLinear_2",)}


@pytest.mark.parametrize(("form", "rule"), [("dynamic", "dynamic quantization"), ("qoperator", "QOperator format")])
def test_audit_refuses_onnx_runtimes_own_operators(form: str, rule: str, quantized: Quantized) -> None:
    report = audited(quantized(form))
    finding = next(each for each in report.findings if each.rule == rule)
    assert finding.severity is Severity.ERROR
    assert finding.share > 0.5
    assert report.findings[0].share >= report.findings[-1].share or not report.fits


@pytest.mark.parametrize(("target", "fits"), [("rtx", True), ("orin-dla", False)])
def test_audit_refuses_qdq_for_dla_alone(target: str, fits: bool, conv: Make) -> None:
    assert audited(conv(), target).fits is fits


def int4(make: Make, opset: int = 21) -> onnx.ModelProto:
    model = make("g (float[1,32] x) => (float[1,16] y) { wd = DequantizeLinear<axis=0, block_size=16>(w, s)"
                 " y = MatMul(x, wd) }", opset, s=np.full((2, 16), 0.1, np.float32))
    model.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.INT4, (32, 16), [1] * 512))
    model.ir_version = 10
    return model


def test_audit_knows_int4_weights(make: Make) -> None:
    assert rules(int4(make)) == {}
    assert rules(int4(make), "orin-dla")["precision"] == ("DequantizeLinear_0",)
    old = audited(int4(make, 20)).findings[0]
    assert (old.rule, old.severity) == ("opset", Severity.WARNING)


SKIP = ("y = Relu(c)", "sum = Add(c, x)\n y = Relu(sum)")
SLOW = [
    pytest.param("half quantized", (("(xd, wd, b)", "(x, wd, b)"),), {}, ("Conv_4",), id="float-input"),
    pytest.param("weight axis", (("axis=0", "axis=1"),), {}, ("Conv_3",), id="axis"),
    pytest.param("residual Add", (SKIP,), {}, ("Add_4",), id="residual"),
    pytest.param("early Q", (("y = Relu(c)", "cq = QuantizeLinear(c, s, z)\n cd = DequantizeLinear(cq, s, z)"
                              "\n y = Relu(cd)"),), {}, ("Conv_3",), id="before-relu"),
    pytest.param("idle Q/DQ", (("y = Relu(c)", "r = Relu(c)\n rq = QuantizeLinear(r, s, z)"
                                "\n rd = DequantizeLinear(rq, s, z)\n y = Softmax(rd)"),), {}, ("r",), id="idle"),
    pytest.param("narrow layers", (("[1,16,8,8] x", "[1,1,8,8] x"),),
                 {"w": RNG.integers(-127, 128, (16, 1, 3, 3), np.int8)}, ("Conv_3",), id="narrow"),
    pytest.param("activation scales", (("(x, s, z)", "(x, ws, wz)"), ("(xq, s, z)", "(xq, ws, wz)")), {},
                 ("QuantizeLinear_0",), id="per-channel"),
    pytest.param("Concat scales", (("[1,16,8,8] y", "[1,32,8,8] y"), (
        "y = Relu(c)", "r = Relu(c)\n rq = QuantizeLinear(r, s2, z)\n rd = DequantizeLinear(rq, s2, z)"
        "\n y = Concat<axis=1>(xd, rd)")), {"s2": np.float32(0.07)}, ("Concat_7",), id="concat"),
]


@pytest.mark.parametrize(("rule", "replaced", "constants", "names"), SLOW)
def test_audit_warns_of_what_tensorrt_does_not_fuse(rule: str, replaced: tuple[tuple[str, str], ...],
                                                    constants: dict[str, np.ndarray], names: tuple[str, ...],
                                                    conv: Make) -> None:
    report = audited(conv(*replaced, **constants))
    finding = next(each for each in report.findings if each.rule == rule)
    assert finding.severity is Severity.WARNING
    assert [name.rsplit("_", 1)[0] for name in finding.names] == [name.rsplit("_", 1)[0] for name in names]
    assert report.fits


@pytest.mark.parametrize("replaced", [
    pytest.param((("y = Relu(c)", "sum = Add(c, xd)\n y = Relu(sum)"),), id="residual-with-its-Q"),
    pytest.param((("y = Relu(c)", "c2 = Conv<pads=[1,1,1,1]>(xd, wd)\n q2 = QuantizeLinear(c2, s, z)"
                   "\n d2 = DequantizeLinear(q2, s, z)\n y = Add(c, d2)"),), id="Q-behind-one-of-two-branches"),
    pytest.param((("[1,16,8,8] y", "[1,32,8,8] y"), ("y = Relu(c)", "r = Relu(c)\n rq = QuantizeLinear(r, s, z)"
                  "\n rd = DequantizeLinear(rq, s, z)\n y = Concat<axis=1>(xd, rd)")), id="concat-of-one-scale"),
    pytest.param((("y = Relu(c)", "r = Relu(c)\n rq = QuantizeLinear(r, s, z)\n rd = DequantizeLinear(rq, s, z)"
                   "\n y = MaxPool<kernel_shape=[1,1]>(rd)"),), id="pool"),
])
def test_audit_is_silent_about_near_misses(replaced: tuple[tuple[str, str], ...], conv: Make) -> None:
    assert rules(conv(*replaced)) == {}


def test_audit_counts_float_stored_weights_in_megabytes(conv: Make) -> None:
    model = conv(("wd = DequantizeLinear<axis=0>(w", "wq = QuantizeLinear<axis=0>(w, ws, wz)"
                  "\n wd = DequantizeLinear<axis=0>(wq"), w=RNG.standard_normal((16, 16, 3, 3)) / 10)
    assert rules(model) == {"float weights": ("w",)}


THREE_LAYERS = ("y = Relu(c)", "r = Relu(c)\n g = Sigmoid(r)\n gq = QuantizeLinear(g, s, z)"
                "\n gd = DequantizeLinear(gq, s, z)\n wd2 = DequantizeLinear(w2, s, z)\n h = Conv(gd, wd2, b)"
                "\n y = Conv(h, w3, b)")


def test_audit_weighs_float_layers_and_reformats_by_their_multiply_accumulates(conv: Make) -> None:
    report = audited(conv(THREE_LAYERS, w2=RNG.integers(-9, 9, (16, 16, 1, 1), np.int8),
                          w3=RNG.standard_normal((16, 16, 1, 1))))
    found = {finding.rule: finding for finding in report.findings}
    assert set(found) == {"float layers", "reformats"}
    assert found["float layers"].share == pytest.approx(1 / 11)
    assert "1 Sigmoid" in found["reformats"].message
    assert report.integer_layers == 2


def test_audit_reads_back_that_onnx_runtime_runs_every_layer_in_integers(quantized: Quantized) -> None:
    report = audited(quantized("uint8"), "x86-vnni")
    assert (report.layers, report.integer_layers, report.integer_share) == (5, 5, 1.0)
    assert report.findings == ()


def test_audit_names_layers_that_onnx_runtime_leaves_in_float(conv: Make) -> None:
    report = audited(conv(), "x86-vnni")
    found = {finding.rule: finding for finding in report.findings}
    assert report.integer_layers == 0
    assert "output is not quantized" in found["float kernels"].message
    assert found["float kernels"].names == found["INT8 activations"].names == ("Conv_3",)


def test_audit_foretells_arm_on_any_machine(quantized: Quantized) -> None:
    assert audited(quantized("int8"), "pi5").integer_layers == 5


def test_audit_warns_of_dynamic_convolutions_and_not_of_dynamic_products(quantized: Quantized, make: Make) -> None:
    finding = next(each for each in audited(quantized("dynamic"), "x86-vnni").findings
                   if each.rule == "dynamic convolutions")
    assert len(finding.names) == 4
    assert finding.share > 0.5


@pytest.mark.parametrize(("target", "fits"), [("x86-avx2", False), ("x86-vnni", True)])
def test_audit_refuses_8_bit_weights_without_vnni(target: str, fits: bool, quantized: Quantized) -> None:
    assert audited(quantized("uint8"), target).fits is fits


def test_audit_tells_that_a_model_for_tensorrt_runs_as_written(quantized: Quantized) -> None:
    model = onnx.ModelProto.FromString(quantized("uint8").SerializeToString())
    model.metadata_props.add(key=AS_WRITTEN, value="1")
    report = audited(model, "x86-vnni")
    assert report.integer_layers == 0
    assert "lowered for TensorRT" in report.findings[0].message


def test_audit_refuses_weights_that_an_operator_of_onnx_runtime_packs_for_tensorrt_alone() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[1,32] x) => (float[1,16] y) '
        "{ y = com.microsoft.MatMulNBits<K=32, N=16, bits=4, block_size=32>(x, w, s) }")
    for name, value in {"w": np.full((16, 1, 16), 0x88, np.uint8), "s": np.ones(16, np.float32)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    assert rules(model) == {"QOperator format": ("y",)}
    assert rules(model, "x86-vnni") == {}


def test_audit_tells_onnx_runtimes_own_words_when_it_does_not_load_a_model(conv: Make) -> None:
    report = audited(conv(opset=17, z=np.int16(0)), "x86-vnni")
    assert not report.fits
    assert "ONNX Runtime does not load it" in report.findings[0].message


def halves(make: Make, second: type) -> onnx.ModelProto:
    """Return an FP16 product, and one in FP16 or FP32 behind it."""
    cast, source, dtype = ("", "a", "float16") if second is np.float16 else ("b = Cast<to=1>(a)", "b", "float")
    return make(f"g (float16[1,16] x) => ({dtype}[1,16] y) {{ a = MatMul(x, w1) {cast} y = MatMul({source}, w2) }}",
                w1=np.ones((16, 16), np.float16), w2=np.ones((16, 16), second))


@pytest.mark.parametrize(("second", "names"), [(np.float32, ("MatMul_2",)), (np.float16, ())], ids=["fp32", "fp16"])
def test_audit_weighs_fp32_islands_of_an_fp16_model(second: type, names: tuple[str, ...], make: Make) -> None:
    assert rules(halves(make, second)).get("FP32 islands", ()) == names


def test_audit_tells_that_cpus_compute_fp16_with_casts(make: Make) -> None:
    assert rules(halves(make, np.float16), "x86-vnni")["FP16"] == ("MatMul_0", "MatMul_1")


@pytest.mark.parametrize(("target", "refused"), [("rtx", False), ("jetson-orin-jp6", True)])
def test_audit_refuses_fp8_where_the_gpu_has_none(target: str, refused: bool, make: Make) -> None:
    model = make("g (float[1,16] x) => (float[1,16] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
                 " wd = DequantizeLinear(w, s, z) y = MatMul(d, wd) }", 19, s=np.float32(0.1))
    for name, shape in (("z", ()), ("w", (16, 16))):
        size = int(np.prod(shape))
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT8E4M3FN, shape,
                                                               [0.5] * size))
    assert ("precision" in rules(model, target)) is refused
    assert "1 of 1 layers" in audited(model, target).summary
    assert "in FP8 (" in audited(model, target).summary


@pytest.mark.parametrize(("opset", "fits"), [(17, True), (18, False)])
def test_audit_refuses_an_opset_that_tensorrt_8_cannot_read(opset: int, fits: bool, conv: Make) -> None:
    assert audited(conv(opset=opset), "jetson-xavier-jp5").fits is fits
    assert audited(conv(opset=opset), "trt10").fits

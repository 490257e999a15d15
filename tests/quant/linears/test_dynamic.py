from __future__ import annotations

import numpy as np
import onnx
import pytest

from trtkit.errors import SpecError
from trtkit.graph.run import run_model
from trtkit.metrics import cosine
from trtkit.precision import NodeSelector, Precision, QuantSpec
from trtkit.quant import lower
from trtkit.quant.linears.dynamic import to_int8_dynamic
from trtkit.target import get_target

ATTENTION = """g (float[N,6,32] x) => (float[N,6,32] y) {
    q = MatMul(x, wq)
    qb = Add(q, b)
    k = MatMul(x, wk)
    kt = Transpose<perm=[0,2,1]>(k)
    s = MatMul(qb, kt)
    p = Softmax(s)
    v = MatMul(x, wv)
    o = MatMul(p, v)
    y = MatMul(o, wo) }"""


@pytest.fixture
def attention(make, rng) -> onnx.ModelProto:
    return make(ATTENTION, b=rng.normal(size=32),
                **{name: rng.normal(size=(32, 32)) / 6 for name in ("wq", "wk", "wv", "wo")})


def close(model: onnx.ModelProto, changed: onnx.ModelProto, feeds) -> bool:
    sample = feeds(model, 1)[0]
    before, after = run_model(model, sample), run_model(changed, sample)
    return all(cosine(value, after[name]) > 0.9995 for name, value in before.items())


def test_layers_fuse_and_share_the_rounding_of_their_input_when_several_read_it(attention, chosen, feeds) -> None:
    changed, notes = to_int8_dynamic(attention, QuantSpec())
    onnx.checker.check_model(changed, full_check=True)
    assert notes == ("4 weights in dynamic INT8",)
    run = chosen(changed)
    assert run.count("DynamicQuantizeLinear") == 1
    assert run.count("MatMulIntegerToFloat") == 3
    assert run.count("DynamicQuantizeMatMul") == 1
    assert run.count("MatMul") + run.count("FusedMatMul") == 2
    assert "Add" not in run
    assert close(attention, changed, feeds)


@pytest.mark.parametrize("body", ["Gemm(x, w, b)", "Gemm<transB=1>(x, wt, b)", "Gemm<alpha=0.5>(x, w, b)",
                                  "Gemm(x, w)", "Gemm(x, w, full)"])
def test_gemm_becomes_integer_when_only_its_weight_is_constant(make, rng, feeds, chosen, body: str) -> None:
    w = rng.normal(size=(32, 16))
    constants = {"w": w, "wt": w.T, "b": rng.normal(size=16), "full": rng.normal(size=(4, 16))}
    used = {name: value for name, value in constants.items() if f", {name}" in body}
    model = make(f"g (float[4,32] x) => (float[4,16] y) {{ y = {body} }}", **used)
    changed, _ = to_int8_dynamic(model, QuantSpec())
    assert "Gemm" not in chosen(changed)
    assert "DynamicQuantizeMatMul" in chosen(changed)
    assert close(model, changed, feeds)


NEAR_MISSES = {
    "computed-weight": ("y = MatMul(x, x)", {}),
    "stack-of-matrices": ("y = MatMul(x, w)", {"w": (4, 4, 32)}),
    "few-outputs": ("y = MatMul(x, w)", {"w": (4, 7)}),
    "convolution": ("y = Conv(x, w)", {"w": (16, 4, 1)}),
}


@pytest.mark.parametrize(("body", "shapes"), NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_model_is_refused_when_no_layer_can_be_quantized(make, rng, body: str, shapes) -> None:
    model = make(f"g (float[4,4,4] x) => (float[a,b,c] y) {{ {body} }}",
                 **{name: rng.normal(size=shape) for name, shape in shapes.items()})
    with pytest.raises(SpecError, match="Use precision int8"):
        to_int8_dynamic(model, QuantSpec())


def test_kept_layers_and_convolutions_stay_when_others_are_quantized(make, rng, chosen, feeds) -> None:
    model = make("g (float[1,8,6] x) => (float[1,8,16] y) { c = Conv(x, k) m = MatMul(c, w) y = MatMul(m, v) }",
                 k=rng.normal(size=(8, 8, 1)), w=rng.normal(size=(6, 16)), v=rng.normal(size=(16, 16)))
    changed, notes = to_int8_dynamic(model, QuantSpec(keep=NodeSelector(names=("MatMul_2",))))
    assert notes == ("1 weights in dynamic INT8", "1 layers stay in FP32, kept: MatMul_2",
                     "1 convolutions stay in FP32")
    assert {"Conv", "MatMul", "DynamicQuantizeMatMul"} <= set(chosen(changed))
    assert close(model, changed, feeds)


def test_first_and_last_layer_stay_when_the_ends_are_not_quantized(attention, chosen) -> None:
    _, notes = to_int8_dynamic(attention, QuantSpec(ends=False))
    assert notes == ("2 weights in dynamic INT8", "2 layers stay in FP32, kept: MatMul_0, MatMul_8")


def test_weight_is_stored_once_when_two_layers_have_it(make, rng, feeds) -> None:
    model = make("g (float[2,32] x) => (float[2,32] y) { m = MatMul(x, w) r = Relu(m) y = MatMul(r, w) }",
                 w=rng.normal(size=(32, 32)))
    changed, _ = to_int8_dynamic(model, QuantSpec())
    assert [t.data_type for t in changed.graph.initializer].count(onnx.TensorProto.INT8) == 1
    assert close(model, changed, feeds)


def test_weights_have_7_bits_when_the_target_has_no_vnni(attention) -> None:
    lowered = lower(attention, get_target("x86-avx2"), Precision.INT8_DYNAMIC)
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(lowered.model).graph.initializer
               if t.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64
    assert not lowered.as_written

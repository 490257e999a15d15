"""raise-opset: old operator forms become new ones, numbers stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.errors import SpecError
from trtkit.graph import parse_pass, rewrite
from trtkit.graph.opset import model_opset
from trtkit.graph.rewriting import Rewritten

Parse = Callable[..., onnx.ModelProto]

LAYERNORM = """
agraph (float[N, 4, 8] x) => (float[N, 4, 8] y) {
  m = ReduceMean <axes = [-1], keepdims = 1> (x)
  d = Sub (x, m)
  s = Pow (d, two)
  v = ReduceMean <axes = [-1], keepdims = 1> (s)
  e = Add (v, epsilon)
  r = Sqrt (e)
  n = Div (d, r)
  k = Mul (n, gain)
  y = Add (k, shift)
}
"""


@pytest.fixture
def old_layernorm(parse: Parse) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return parse(LAYERNORM, opset=11, two=np.float32(2), epsilon=np.float32(1e-5),
                 gain=rng.normal(size=8).astype(np.float32), shift=rng.normal(size=8).astype(np.float32))


def test_raise_opset_lets_later_passes_fuse_when_the_model_is_old(old_layernorm: onnx.ModelProto,
                                                                  rewritten: Callable[..., Rewritten],
                                                                  ops: Callable[..., Counter[str]]) -> None:
    assert ops(rewritten(old_layernorm, "fuse-layernorm").model)["LayerNormalization"] == 0
    done = rewritten(old_layernorm, "raise-opset:17", "fuse-layernorm")
    assert model_opset(done.model) == 17
    assert ops(done.model) == {"LayerNormalization": 1}


def test_raise_opset_changes_nothing_when_the_model_is_new_enough(parse: Parse) -> None:
    model = parse("agraph (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }", opset=18)
    done = rewrite(model, ["raise-opset:17"])
    assert (done.changes, model_opset(done.model)) == (0, 18)


def test_raise_opset_keeps_large_weights_when_they_are_listed_as_inputs(parse: Parse,
                                                                        rewritten: Callable[..., Rewritten]) -> None:
    """IR version 3, as Caffe2 wrote it: the converter looks for initializers among the inputs."""
    weight = np.random.default_rng(0).normal(size=(64, 3, 3, 3)).astype(np.float32)
    model = parse("""agraph (float[N, 3, 8, 8] x, float[64, 3, 3, 3] w) => (float[N, 64] y) {
        c = Conv (x, w)
        p = GlobalAveragePool (c)
        y = Reshape (p, shape)
    }""", opset=9, w=weight, shape=np.array([0, 64]))
    model.ir_version = 3
    model.graph.input.append(onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [2]))
    done = rewritten(model, "raise-opset:13")
    assert model_opset(done.model) == 13
    (kept,) = (tensor for tensor in done.model.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), weight)


def test_raise_opset_says_why_when_onnx_cannot_convert(parse: Parse) -> None:
    """Scan of opset 8 with lengths has no later form."""
    body = "b (float[4] a) => (float[4] c) { c = Relu(a) }"
    model = parse("agraph (int64[2] lengths, float[2, 3, 4] x) => (float[2, 3, 4] y) "
                  f"{{ y = Scan <num_scan_inputs = 1, body = {body}> (lengths, x) }}", opset=8)
    done = rewrite(model, ["raise-opset:17"])
    ((_, result),) = done.results
    assert model_opset(done.model) == 8
    assert "cannot be converted to 17" in result.refusals[0]


@pytest.mark.parametrize("argument", ["", "x", "0", "-1"])
def test_raise_opset_is_refused_when_the_argument_is_no_opset(argument: str) -> None:
    with pytest.raises(SpecError, match="raise-opset"):
        parse_pass(f"raise-opset:{argument}")

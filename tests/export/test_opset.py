"""From opset 18 down to 17: equal numbers, and a refusal for what 17 does not have."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from trtkit.export.exporters import ExporterFailed
from trtkit.export.opset import at_opset, opset_of


def model_of(body: str, *, opset: int = 18, x: str = "float[2, 4, 6]", y: str = "float[a, b, c]") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g ({x} x) => ({y} y) {{ {body} }}')


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


BODIES = {
    "mean-axes": "axes = Constant <value_ints = [1]> () y = ReduceMean <keepdims = 1> (x, axes)",
    "mean-tensor-axes": "axes = Constant <value = int64[1] {2}> () "
                        "y = ReduceMean <keepdims = 1, noop_with_empty_axes = 0> (x, axes)",
    "max-no-axes": "y = ReduceMax <keepdims = 1> (x)",
    "noop": "y = ReduceMean <noop_with_empty_axes = 1> (x)",
    "pad": "p = Constant <value = int64[6] {0, 0, 1, 0, 0, 1}> () y = Pad (x, p)",
    "split": "y, z = Split <axis = 1, num_outputs = 2> (x)",
    "resize": "s = Constant <value = float[3] {1.0, 1.0, 2.0}> () "
              "y = Resize <mode = \"nearest\", antialias = 0, keep_aspect_ratio_policy = \"stretch\"> (x, , s)",
    "unchanged": "y = Relu (x)",
}


@pytest.mark.parametrize("name", BODIES)
def test_at_opset_keeps_the_numbers_from_18_to_17(name):
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    wanted = run(model_of(BODIES[name]), x)
    lowered = at_opset(model_of(BODIES[name]), 17)
    assert opset_of(lowered) == 17
    onnx.checker.check_model(lowered, full_check=True)
    np.testing.assert_allclose(run(lowered, x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("body", "text"), [
    ("y = Mish (x)", "Mish .* is not in opset 17"),
    ("s = Shape (x) a = Slice (s, i, j) y = ReduceMean (x, a)", "axes are computed"),
    ("p = Constant <value = int64[2] {1, 1}> () a = Constant <value = int64[1] {2}> () y = Pad (x, p, , a)",
     "pads chosen axes"),
    ("s = Constant <value = float[3] {1.0, 1.0, 0.5}> () y = Resize <mode = \"linear\", antialias = 1> (x, , s)",
     "antialias is set"),
], ids=["mish", "computed-axes", "pad-axes", "antialias"])
def test_at_opset_refuses_what_17_does_not_have(body, text):
    with pytest.raises(ExporterFailed, match=f"wrote opset 18, and .*{text}"):
        at_opset(model_of(body), 17)


def test_at_opset_goes_through_a_subgraph():
    body = ("c = Constant <value = bool {1}> () y = If (c) <then_branch = t () => (float[a, b, c] o) { "
            "axes = Constant <value = int64[1] {1}> () o = ReduceSumSquare (x, axes) }, "
            "else_branch = e () => (float[a, b, c] o2) { o2 = Relu (x) }>")
    lowered = at_opset(model_of(body), 17)
    onnx.checker.check_model(lowered, full_check=True)
    x = np.ones((2, 4, 6), np.float32)
    np.testing.assert_allclose(run(lowered, x), np.full((2, 1, 6), 4))


def test_at_opset_leaves_a_model_that_is_there():
    model = model_of("y = Relu (x)", opset=17)
    assert at_opset(model, 17) is model

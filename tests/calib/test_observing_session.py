from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from trtkit.calib.observing_session import open_observing_session
from trtkit.errors import GraphError

TENSORS = ["relu1", "conv2", "relu2", "pooled", "logits"]
X = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)


def test_session_yields_the_values_of_the_plain_model_in_some_order(make_model: Callable[..., onnx.ModelProto]) -> None:
    model = make_model()
    opened = open_observing_session(model, TENSORS, threads=1)
    assert opened.tensors == tuple(TENSORS)
    values = opened.session.run(opened.outputs, {"input": X})
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.output[:]
    plain.graph.output.extend(onnx.ValueInfoProto(name=name) for name in TENSORS)
    expected = ReferenceEvaluator(plain).run(None, {"input": X})
    for got, wanted in zip(values, expected):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(np.sort(got, axis=None), np.sort(wanted, axis=None), rtol=1e-4, atol=1e-5)


def test_channels_that_fill_no_block_bring_no_padding() -> None:
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((5, 3, 3, 3)).astype(np.float32), "w")
    bias = onnx.numpy_helper.from_array(np.full(5, 3, np.float32), "b")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w", "b"], ["a"]), helper.make_node("Sigmoid", ["a"], ["y"])], "odd",
        [helper.make_tensor_value_info("input", 1, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", 1, ["n", 5, 10, 10])], [weight, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    opened = open_observing_session(model, ["a", "y"], threads=1)
    assert [v.shape for v in opened.session.run(opened.outputs, {"input": X})] == [(2, 5, 10, 10)] * 2


def test_tensors_that_are_not_float_are_left_out(make_model: Callable[..., onnx.ModelProto]) -> None:
    assert open_observing_session(make_model(), ["relu1", "shape"], threads=1).tensors == ("relu1",)


def test_session_fails_clearly_when_the_model_does_not_load(make_model: Callable[..., onnx.ModelProto]) -> None:
    model = make_model()
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(GraphError, match="cannot load the model for calibration"):
        open_observing_session(model, ["relu1"], threads=1)

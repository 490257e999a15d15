from __future__ import annotations

import numpy as np
import pytest

from trtkit.errors import PassError, SpecError
from trtkit.graph import model_outputs, parse_pass, rewrite, run_model

ONE = "g (float[N, 6] x) => (float[N, 6] y) { y = Neg(x) }"
TWO = "g (float[N, 6] x) => (float[N, 6] y, float[N, 6] z) { y = Neg(x) z = Relu(y) }"
X = np.linspace(-2, 3, 12, dtype=np.float32).reshape(2, 6)


def test_softmax_ends_the_output_under_its_name(parse) -> None:
    done = rewrite(parse(ONE), ["embed-softmax"])
    powers = np.exp(-X)
    np.testing.assert_allclose(run_model(done.model, {"x": X})["y"], powers / powers.sum(1, keepdims=True), rtol=1e-5)


def test_softmax_of_maps_is_over_classes(parse) -> None:
    model = parse("g (float[N, 3, 4, 5] x) => (float[N, 3, 4, 5] y) { y = Neg(x) }")
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5), np.float32)
    np.testing.assert_allclose(run_model(rewrite(model, ["embed-softmax"]).model, {"x": x})["y"].sum(1), 1, rtol=1e-5)


def test_sigmoid_leaves_other_readers_of_the_scores_alone(parse) -> None:
    done = rewrite(parse(TWO), ["embed-sigmoid:y"])
    found = run_model(done.model, {"x": X})
    np.testing.assert_allclose(found["y"], 1 / (1 + np.exp(X)), rtol=1e-5)
    np.testing.assert_array_equal(found["z"], np.maximum(-X, 0))


def test_topk_replaces_the_output_by_values_and_indices(parse) -> None:
    done = rewrite(parse(TWO), ["embed-topk:2,y"])
    assert [(s.name, s.dtype, s.shape) for s in model_outputs(done.model)] == [
        ("y_values", "float32", ("N", 2)), ("y_indices", "int64", ("N", 2)), ("z", "float32", ("N", 6))]
    assert run_model(done.model, {"x": X})["y_indices"].tolist() == [[0, 1], [0, 1]]


def test_output_must_be_named_when_there_are_two(parse) -> None:
    with pytest.raises(PassError, match="there are 2 outputs"):
        rewrite(parse(TWO), ["embed-softmax"])
    with pytest.raises(PassError, match="no output 'q'"):
        rewrite(parse(TWO), ["embed-softmax:q"])


def test_two_heads_get_nodes_of_their_own(parse) -> None:
    done = rewrite(parse(TWO), ["embed-softmax:y", "embed-softmax:z"])
    assert len({node.name for node in done.model.graph.node if node.op_type == "Softmax"}) == 2


def test_topk_must_fit(parse) -> None:
    with pytest.raises(PassError, match="more than the 6"):
        rewrite(parse(ONE), ["embed-topk:7"])
    with pytest.raises(SpecError, match="embed-topk"):
        parse_pass("embed-topk:many")


def test_head_refuses_integers(parse) -> None:
    with pytest.raises(PassError, match="floating-point"):
        rewrite(parse("g (float[N, 6] x) => (int64[N, 1] y) { y = ArgMax<axis = 1>(x) }"), ["embed-softmax"])


def test_softmax_needs_opset_13(parse) -> None:
    assert "opset 13" in rewrite(parse(ONE, opset=12), ["embed-softmax"]).results[0][1].refusals[0]

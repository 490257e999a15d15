from __future__ import annotations

import numpy as np
import onnx
import pytest

from trtkit.graph import rewrite


def _weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_constants_fold_into_one(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 2] x) => (float[N, 2] y) { a = Add(c, c) b = Exp(a) y = Mul(x, b) }",
                  c=np.array([0.5, 1.0], np.float32))
    done = rewritten(model, "fold-constants")
    assert ops(done.model) == {"Mul": 1}
    np.testing.assert_allclose(_weights(done.model)["b"], np.exp([1.0, 2.0]), rtol=1e-6)
    assert list(_weights(done.model)) == ["b"]


def test_static_part_of_a_dynamic_shape_folds(parse, rewritten, ops) -> None:
    model = parse("""g (float[N, 3, 10, 12] x) => (float[N, 3, 12, 14] y) {
        s = Shape(x) h = Gather(s, two) d = Sub(twelve, h) e = Div(d, i2) e1 = Unsqueeze(e, i0)
        p = Concat<axis = 0>(zeros, e1, e1, zeros, e1, e1) y = Pad(x, p) }""",
                  two=np.array(2), twelve=np.array(12), i2=np.array(2), i0=np.array([0]), zeros=np.array([0, 0]))
    done = rewritten(model, "fold-constants")
    assert ops(done.model) == {"Pad": 1}
    assert _weights(done.model)["p"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_reshape_by_batch_becomes_a_constant_target(parse, rewritten, ops) -> None:
    model = parse("""g (float[N, 3, 4] x) => (float[N, 12] y) {
        s = Shape(x) n = Gather(s, zero) n1 = Unsqueeze(n, axis) t = Concat<axis = 0>(n1, rest) y = Reshape(x, t) }""",
                  zero=np.array(0), axis=np.array([0]), rest=np.array([-1]))
    done = rewritten(model, "fold-constants")
    assert ops(done.model) == {"Reshape": 1}
    assert next(iter(_weights(done.model).values())).tolist() == [0, -1]


def test_expand_of_a_class_token_keeps_only_the_batch(parse, rewritten, ops) -> None:
    """What torch writes for expand(batch, -1, -1): sizes of -1 replaced by 1, the others kept."""
    model = parse("""g (float[N, 5, 4] x) => (float[N, 6, 4] y) {
        s = Shape(x) n = Gather(s, i0) t = Concat<axis = 0>(n, rest) f = Reshape(t, flat)
        e = Equal(f, minus) u = Where(e, ones, f)
        c = Expand(token, u) y = Concat<axis = 1>(c, x) }""", i0=np.array([0]), rest=np.array([1, 4]),
                  flat=np.array([-1]),
                  minus=np.array([-1, -1, -1]), ones=np.array([1, 1, 1]), token=np.ones((1, 1, 4), np.float32))
    done = rewritten(model, "fold-constants", "remove-noops")
    assert ops(done.model) == {"Shape": 1, "Gather": 1, "Concat": 2, "Expand": 1}


def test_comparison_of_an_unknown_size_with_a_possible_one_stays(parse, rewritten, ops) -> None:
    model = parse("""g (float[N, 4] x) => (float[N, 4] y) {
        s = Shape(x) n = Gather(s, i0) e = Equal(n, three) y = Where(e, x, zero) }""",
                  i0=np.array([0]), three=np.array([3]), zero=np.float32(0))
    assert ops(rewritten(model, "fold-constants").model) == ops(model)


def test_dynamic_size_stays(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 3] x) => (int64 n) { s = Shape(x) n = Gather(s, zero) }", zero=np.array(0))
    done = rewritten(model, "fold-constants")
    assert done.changes == 0
    assert ops(done.model) == {"Shape": 1, "Gather": 1}


def test_reshape_with_two_dynamic_sizes_stays(parse, rewritten, ops) -> None:
    model = parse("""g (float[N, L, 4] x) => (float[L2, N2, 4] y) {
        s = Shape(x) n = Gather(s, i0) l = Gather(s, i1) t = Concat<axis = 0>(l, n, four) y = Reshape(x, t) }""",
                  i0=np.array([0]), i1=np.array([1]), four=np.array([4]))
    assert ops(rewritten(model, "fold-constants").model)["Reshape"] == 1
    assert ops(rewritten(model, "fold-constants").model)["Concat"] == 1


def test_quantized_weights_stay_quantized(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 2] x) => (float[N, 2] y) { w = DequantizeLinear(q, s, z) y = Mul(x, w) }",
                  q=np.array([3, -4], np.int8), s=np.float32(0.5), z=np.int8(0))
    done = rewritten(model, "fold-constants")
    assert ops(done.model) == {"Mul": 1, "DequantizeLinear": 1}


def test_large_constant_stays_computed(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 2] x) => (float[N, 2] y) "
                  "{ b = Expand(c, s) m = ReduceMax<keepdims = 0>(b) y = Add(x, m) }",
                  c=np.float32(1), s=np.array([1 << 20]))
    done = rewritten(model, "fold-constants")
    assert "MB" in done.results[0][1].refusals[0]
    assert ops(done.model)["Expand"] == 1


def test_random_numbers_stay(parse, ops) -> None:
    model = parse("g (float[2] x) => (float[2] y) { r = RandomNormal<shape = [2]>() y = Add(x, r) }")
    assert ops(rewrite(model, ["fold-constants"]).model) == {"RandomNormal": 1, "Add": 1}


def test_constant_graph_output_stays_an_output(parse, rewritten) -> None:
    model = parse("g (float[N, 2] x) => (float[N, 2] y, float[1] z) { y = Relu(x) z = Add(c, c) }",
                  c=np.array([1], np.float32))
    assert [o.name for o in rewritten(model, "fold-constants").model.graph.output] == ["y", "z"]


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_shape_of_expand_folds_for_a_class_token(parse, rewritten, opset: int) -> None:
    model = parse("""g (float[N, 5, 4] x) => (float[N, 6, 4] y) {
        s = Shape(x) n = Gather(s, i0) t = Concat<axis = 0>(n, rest) c = Expand(token, t)
        y = Concat<axis = 1>(c, x) }""", opset=opset, i0=np.array([0]), rest=np.array([1, 4]),
                  token=np.ones((1, 1, 4), np.float32))
    rewritten(model, "fold-constants")

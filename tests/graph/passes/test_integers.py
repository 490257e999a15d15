from __future__ import annotations

import numpy as np
import onnx

from trtkit.graph import model_inputs, model_outputs, rewrite


def _types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_indices_become_int32_and_with_them_the_input(parse) -> None:
    model = parse("g (int64[N, 4] ids) => (float[N, 4, 2] y) { p = Add(ids, one) y = Gather(t, p) }",
                  one=np.array(1), t=np.arange(10, dtype=np.float32).reshape(5, 2))
    done = rewrite(model, ["int64-to-int32"])
    onnx.checker.check_model(done.model, full_check=True)
    assert model_inputs(done.model)[0].dtype == "int32"
    assert _types(done.model)["one"] == onnx.TensorProto.INT32
    assert done.changes == 3


def test_shape_of_reshape_stays_and_says_why(parse) -> None:
    model = parse("g (float[N, 4] x) => (float[N, 2, 2] y) { y = Reshape(x, s) }", s=np.array([-1, 2, 2]))
    done = rewrite(model, ["int64-to-int32"])
    assert done.changes == 0
    assert "Reshape '' has int64 only for its shape" in done.results[0][1].refusals[0]


def test_what_is_tied_to_a_shape_stays_as_a_whole(parse) -> None:
    model = parse("g (float[N, 4] x) => (float[N, M] y) { h = Shape(x) n = Gather(h, i) t = Concat<axis = 0>(n, r) "
                  "y = Reshape(x, t) }", i=np.array([0]), r=np.array([-1]))
    types = _types(rewrite(model, ["int64-to-int32"]).model)
    assert types == {"i": onnx.TensorProto.INT32, "r": onnx.TensorProto.INT64}


def test_values_beyond_32_bits_stay(parse) -> None:
    model = parse("g (int64[N] x) => (bool[N] y) { y = Less(x, big) }", big=np.array(1 << 40))
    done = rewrite(model, ["int64-to-int32"])
    assert done.changes == 0
    assert "beyond 32 bits" in done.results[0][1].refusals[0]


def test_open_slice_ends_are_cut_to_the_largest_int32(parse) -> None:
    model = parse("g (float[N, 4] x) => (float[N, 3] y) { y = Slice(x, s, e, a) }",
                  s=np.array([1]), e=np.array([np.iinfo(np.int64).max]), a=np.array([1]))
    done = rewrite(model, ["int64-to-int32"])
    assert set(_types(done.model).values()) == {onnx.TensorProto.INT32}


def test_cast_and_its_output_change(parse) -> None:
    model = parse("g (float[N] x) => (int64[N] y) { y = Cast<to = 7>(x) }")
    done = rewrite(model, ["int64-to-int32"])
    onnx.checker.check_model(done.model, full_check=True)
    assert model_outputs(done.model)[0].dtype == "int32"


def test_output_of_argmax_stays(parse) -> None:
    model = parse("g (float[N, 4] x) => (int64[N, 1] y) { y = ArgMax<axis = 1>(x) }")
    done = rewrite(model, ["int64-to-int32"])
    assert model_outputs(done.model)[0].dtype == "int64"
    assert "ArgMax" in done.results[0][1].refusals[0]

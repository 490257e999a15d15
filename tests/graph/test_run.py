from __future__ import annotations

import numpy as np
import pytest

from trtkit.errors import GraphError
from trtkit.graph.run import random_feeds, run_model

TEXT = "g (float[batch, 4] x) => (float[batch, 4] y) { h = Relu(x) y = Neg(h) }"


@pytest.mark.parametrize("optimize", [True, False])
def test_run_returns_inner_tensors_when_asked(parse, optimize: bool) -> None:
    model = parse(TEXT)
    x = np.array([[-1, 0, 1, 2]], np.float32)
    found = run_model(model, {"x": x}, ["h", "x", "y"], optimize=optimize)
    np.testing.assert_array_equal(found["h"], np.maximum(x, 0))
    np.testing.assert_array_equal(found["y"], -np.maximum(x, 0))
    assert list(found) == ["h", "x", "y"]
    assert len(model.graph.output) == 1


def test_run_takes_bytes(parse) -> None:
    x = np.ones((2, 4), np.float32)
    assert set(run_model(parse(TEXT).SerializeToString(), {"x": x})) == {"y"}


def test_run_names_what_there_is_when_output_is_unknown(parse) -> None:
    with pytest.raises(GraphError, match="no tensor 'q'"):
        run_model(parse(TEXT), {}, ["q"])


def test_run_keeps_words_of_onnx_runtime_when_it_fails(parse) -> None:
    with pytest.raises(GraphError, match="ONNX Runtime cannot run the model"):
        run_model(parse(TEXT), {"x": np.ones((2, 5), np.float32)})


def test_random_feeds_are_seeded_and_resolve_dynamic_dims(parse) -> None:
    model = parse("g (float[batch, 3, H, W] x, uint8[batch, L] m) => (float[batch, 3, H, W] y, uint8[batch, L] n) "
                  "{ y = Relu(x) n = Identity(m) }")
    feeds = random_feeds(model, seed=1, batch=3, sizes={"W": 5})
    assert feeds["x"].shape == (3, 3, 64, 5)
    assert feeds["m"].shape == (3, 8)
    assert feeds["m"].max() > 1
    np.testing.assert_array_equal(feeds["x"], random_feeds(model, seed=1, batch=3, sizes={"W": 5})["x"])
    assert (feeds["x"] != random_feeds(model, seed=2, batch=3, sizes={"W": 5})["x"]).any()


def test_random_integers_stay_inside_the_table_that_they_index(parse) -> None:
    model = parse("g (int64[batch, 50] ids) => (float[batch, 50, 2] y) { y = Gather(table, ids) }",
                  table=np.ones((7, 2), np.float32))
    ids = random_feeds(model, batch=4)["ids"]
    assert ids.min() == 0
    assert ids.max() == 6

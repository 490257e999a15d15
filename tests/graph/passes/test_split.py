from __future__ import annotations

import numpy as np
import pytest

from trtkit.graph import preset
from trtkit.target import get_target

TEXT = "g (float[N, 5, 6] x) => (float[N, 5, 6] y{}) {{ {} }}"
PIECES = {"ReduceMean": 2, "Sub": 1, "Mul": 2, "Add": 2, "Sqrt": 1, "Div": 1}


@pytest.mark.parametrize(("attributes", "shape"), [
    pytest.param("epsilon = 0.01", (6,), id="last-axis"),
    pytest.param("axis = 2", (6,), id="counted-from-the-front"),
    pytest.param("axis = -2, epsilon = 0.001", (5, 6), id="two-axes"),
    pytest.param("axis = 1", (5, 6), id="two-axes-from-the-front"),
])
@pytest.mark.parametrize("opset", [17, 18])
def test_layernorm_splits(parse, rewritten, ops, attributes: str, shape: tuple[int, ...], opset: int) -> None:
    rng = np.random.default_rng(0)
    model = parse(TEXT.format("", f"y = LayerNormalization<{attributes}>(x, s, b)"), opset=opset,
                  s=rng.normal(size=shape).astype(np.float32), b=rng.normal(size=shape).astype(np.float32))
    assert ops(rewritten(model, "split-layernorm").model) == PIECES


def test_layernorm_without_bias_splits_and_fuses_again(parse, rewritten, ops) -> None:
    model = parse(TEXT.format("", "y = LayerNormalization(x, s)"), s=np.linspace(1, 2, 6, dtype=np.float32))
    split = rewritten(model, "split-layernorm").model
    assert ops(split) == {**PIECES, "Add": 1}
    assert ops(rewritten(split, "fuse-layernorm").model) == {"LayerNormalization": 1}


def test_layernorm_stays_when_its_mean_is_read(parse, rewritten, ops) -> None:
    model = parse(TEXT.format(", float[N, 5, 1] m", "y, m = LayerNormalization(x, s)"), s=np.ones(6, np.float32))
    assert ops(rewritten(model, "split-layernorm").model) == {"LayerNormalization": 1}


@pytest.mark.parametrize(("target", "wanted", "unwanted"), [
    pytest.param("jetson-xavier-jp5", "split-layernorm", "fuse-layernorm", id="tensorrt-8.5"),
    pytest.param("jetson-orin-jp6", "fuse-layernorm", "split-layernorm", id="tensorrt-10.3"),
    pytest.param("x86-vnni", "fuse-layernorm", "split-layernorm", id="onnxruntime"),
])
def test_preset_splits_where_the_runtime_has_no_such_layer(target: str, wanted: str, unwanted: str) -> None:
    names = preset(get_target(target))
    assert wanted in names
    assert unwanted not in names

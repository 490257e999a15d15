"""Zero channels for convolutions of narrow inputs: equal to the bit, and only where nothing else reads the tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from trtkit.graph.run import run_model
from trtkit.quant.index import as_tensor
from trtkit.quant.static.padding import pad_narrow_inputs

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, {channels}, 9, 9] x) => (float[n, 8, h, w] y{more})
{{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis = 0>(w, ws, wz)
    y = Conv<{attributes}>(d, wd)
    {extra}
}}
"""


def network(channels: int = 3, kernel: int = 3, attributes: str = "strides = [2, 2]", more: str = "", extra: str = "",
            groups: int = 1) -> onnx.ModelProto:
    model = parser.parse_model(GRAPH.format(channels=channels, attributes=attributes, more=more, extra=extra))
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (8, channels // groups, kernel, kernel)).astype(np.int8)
    model.graph.initializer.extend([
        as_tensor("s", np.float32(0.02)), as_tensor("z", np.uint8(117)), as_tensor("w", weights),
        as_tensor("ws", rng.uniform(0.001, 0.01, 8).astype(np.float32)), as_tensor("wz", np.zeros(8, np.int8))])
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("channels", [1, 3])
def test_narrow_input_is_padded_and_equal_to_the_bit(channels: int) -> None:
    model = network(channels)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, channels, 9, 9)).astype(np.float32)}
    before = run_model(model, feeds)["y"]
    assert pad_narrow_inputs(model, 4) == 1
    onnx.checker.check_model(model, full_check=True)
    assert next(i for i in model.graph.initializer if i.name == "w").dims[1] == 4
    assert [node.op_type for node in model.graph.node].count("Pad") == 1
    for optimize in (False, True):
        np.testing.assert_array_equal(run_model(model, feeds, optimize=optimize)["y"],
                                      before if optimize else run_model(network(channels), feeds, optimize=False)["y"])


@pytest.mark.parametrize(("model", "channels"), [
    pytest.param(network(4), 4, id="wide enough"),
    pytest.param(network(3), 0, id="placement without it"),
    pytest.param(network(3, kernel=1), 4, id="1x1 kernel"),
    pytest.param(network(2, attributes="group = 2", groups=2), 4, id="grouped"),
    pytest.param(network(more=", float[n, 3, 9, 9] again", extra="again = Relu(d)"), 4, id="input read twice"),
    pytest.param(network(more=", uint8[n, 3, 9, 9] q", extra=""), 4, id="integers are an output"),
    pytest.param(network(more=", float[8, 3, 3, 3] v", extra="v = Relu(wd)"), 4, id="weight read twice"),
    pytest.param(network(more=", float[8, 3, 3, 3] v", extra="v = DequantizeLinear<axis = 0>(w, ws, wz)"), 4,
                 id="integers of the weight read twice"),
])
def test_model_is_left_alone_when_it_does_not_apply(model: onnx.ModelProto, channels: int) -> None:
    before = model.SerializeToString(deterministic=True)
    assert pad_narrow_inputs(model, channels) == 0
    assert model.SerializeToString(deterministic=True) == before

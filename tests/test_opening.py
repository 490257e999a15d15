from __future__ import annotations

import pytest

import trtkit.opening
from trtkit.bundle.plan_header import read_plan_header
from trtkit.precision import Precision
from trtkit.runtime.select import BuildRequest
from trtkit.target import get_target
from trtkit.tensors import ShapeProfile

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch,3] x) => (float[batch,3] y) { y = Relu(x) }
"""


def test_a_bundle_s_model_is_built_by_the_real_builder_for_another_version_of_the_target() -> None:
    pytest.importorskip("tensorrt_rtx")
    from onnx import parser

    model = parser.parse_model(TEXT).SerializeToString()
    profile = ShapeProfile({"x": (1, 3)}, {"x": (2, 3)}, {"x": (4, 3)})
    plan, key = trtkit.opening.build_here(BuildRequest(model, get_target("rtx"), Precision.FP32, profile, None))
    assert read_plan_header(plan).flavour == key.flavour == "tensorrt_rtx"
    assert key.profiles == (profile,)


def test_open_is_found_at_the_top_and_nothing_else_is() -> None:
    assert trtkit.open is trtkit.opening.open
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        trtkit.opne  # noqa: B018

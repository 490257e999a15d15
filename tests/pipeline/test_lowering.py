"""Which precisions are made where the recipe leaves them open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from trtkit.pipeline import deploy
from trtkit.precision import Precision
from trtkit.recipe import Recipe

LINEAR = """
<ir_version: 8, opset_import: ["" : 17]>
linear (float[batch,3,8,8] image) => (float[batch,8,8,columns] scores) {
    last = Transpose<perm: ints = [0, 2, 3, 1]>(image)
    scores = MatMul(last, weight)
}
"""


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize(("row", "columns", "made"), [
    ({"name": "pi5"}, 16, ["fp32", "int8", "int8-dynamic"]),
    ({"name": "pi5"}, 2, ["fp32", "int8"]),
    ({"name": "pi5"}, 0, ["fp32", "int8"]),
    ({"name": "pi5", "precisions": ["int8"]}, 16, ["fp32", "int8"]),
    ({"name": "jetson-orin-jp6"}, 16, ["int8+fp16"]),
], ids=["open", "too-narrow", "no-matrix-products", "chosen", "gpu"])
def test_dynamic_int8_is_tried_on_a_cpu_where_the_choice_is_open_and_there_are_matrix_products(
        recipe_of: Callable[..., Recipe], project: Path, row: dict[str, object], columns: int,
        made: list[str]) -> None:
    if columns:
        model: onnx.ModelProto = parser.parse_model(LINEAR)
        weight = np.random.default_rng(1).normal(size=(3, columns)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
        onnx.save(model, project / "model.onnx")
    deployed = deploy(recipe_of({}, target=[row], evaluate=None, labels=None))
    assert [each.precision for each in deployed.candidates] == list(map(Precision, made))
    assert any("int8-dynamic is not tried" in note for note in deployed.notes) is (columns == 2)

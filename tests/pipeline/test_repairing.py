"""A quantized candidate over the budget comes back with the layer that broke it in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from trtkit.pipeline import deploy
from trtkit.quant.budget import search
from trtkit.recipe import Recipe

WriteRecipe = Callable[..., Recipe]

FRAGILE = """
<ir_version: 8, opset_import: ["" : 17]>
fragile (float[batch,3,8,8] image) => (float[batch,5] scores) {
    a = Conv<pads: ints = [1, 1, 1, 1]>(image, first)
    ra = Relu(a)
    b = Conv<pads: ints = [1, 1, 1, 1]>(ra, second, bias)
    rb = Relu(b)
    c = Conv<pads: ints = [1, 1, 1, 1]>(rb, breaks)
    rc = Relu(c)
    flat = Flatten(rc)
    scores = Gemm<transB: int = 1>(flat, head)
}
"""


@pytest.fixture
def fragile(project: Path) -> None:
    """Let the project's model be one whose third convolution reads a dead channel with weights of 2000."""
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(size=(8, channels, 3, 3)) / np.sqrt(9 * channels)
               for name, channels in (("first", 3), ("second", 8), ("breaks", 8))}
    weights["second"][0] = 0.0
    weights["breaks"][:, 0] = 2000.0
    weights["head"] = rng.normal(size=(5, 512))
    weights["head"] -= weights["head"].mean(axis=1, keepdims=True)
    weights["bias"] = np.where(np.arange(8) == 0, -1.0, 0.1)
    model: onnx.ModelProto = parser.parse_model(FRAGILE)
    model.graph.initializer.extend(numpy_helper.from_array(value.astype(np.float32), name)
                                   for name, value in weights.items())
    for node in model.graph.node:
        node.name = f"make_{node.output[0]}"
    (project / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.usefixtures("fragile", "faster")
def test_the_layer_that_breaks_stays_in_float_on_each_target(recipe_of: WriteRecipe,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[str] = []
    real = search.measure_sensitivity
    monkeypatch.setattr(search, "measure_sensitivity",
                        lambda model, target, *args, **more: (searches.append(target.name),
                                                              real(model, target, *args, **more))[1])
    recipe = recipe_of({"pi5": ["int8"], "rtx": ["int8"], "trt10": ["int8"], "jetson-xavier-jp5": ["int8"]},
                       evaluate={"data": "photos", "max_drop": 10})
    deployed = deploy(recipe)
    found = {str(each): each for each in deployed.candidates}
    for name in ("pi5 int8", "rtx int8", "trt10 int8"):
        assert found[name].kept == ("make_c",)
        assert not found[name].dropped
        assert (found[name].agreement or 0.0) >= 0.9
        assert found[name].measurements()["kept_in_float"] == ["make_c"]
    assert found["rtx int8"].lowered.model == found["trt10 int8"].lowered.model
    assert searches == ["pi5", "rtx"]  # what is equal is searched once
    note = next(note for note in deployed.notes if note.startswith("rtx int8: lost"))
    assert "with 1 in float" in note
    assert "make_c (" in note
    assert "loses" in found["jetson-xavier-jp5 int8"].dropped
    assert any("jetson-xavier-jp5 int8 has no layers that could be kept in float one by one" in note
               for note in deployed.notes)
    kept = [a for a in deployed.manifest.artifacts if a.measurements.get("kept_in_float")]
    assert {artifact.target for artifact in kept} == {"pi5", "rtx", "trt10"}


@pytest.mark.usefixtures("fragile", "faster")
def test_what_holds_the_budget_is_left_as_it_is(recipe_of: WriteRecipe) -> None:
    deployed = deploy(recipe_of({"rtx": ["int8"]}, evaluate={"data": "photos", "max_drop": 100}))
    assert [each.kept for each in deployed.candidates] == [()]
    assert not list(deployed.recipe.work.glob("*repaired*"))

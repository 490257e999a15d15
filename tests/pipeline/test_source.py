"""Where the FP32 graph comes from, and what its passes do to what stays on the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import trtkit
from trtkit.errors import ExportError, GraphError, TrtkitError
from trtkit.graph import PASSES, load_model
from trtkit.pipeline import deploy
from trtkit.pipeline.source import own_passes, shared_passes
from trtkit.preprocess import read_image
from trtkit.recipe import Recipe

WriteRecipe = Callable[..., Recipe]

FACTORY = '''
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
                               torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)).eval()
'''


def test_a_factory_is_exported_for_the_oldest_target(recipe_of: WriteRecipe, project: Path) -> None:
    (project / "net.py").write_text(FACTORY)
    recipe = recipe_of({"pi5": ["int8"], "jetson-xavier-jp5": ["int8"]}, evaluate=None,
                       model={"factory": "net.py:make", "input": "1x3x8x8", "input_name": "picture"})
    deployed = deploy(recipe)
    assert load_model(recipe.work / "exported.onnx").opset_import[0].version == 17
    assert any(note.startswith("Exported by ") and "largest difference from torch" in note for note in deployed.notes)
    with trtkit.open(recipe.output, device="cpu") as session:
        assert str(session.inputs[0]) == "picture: float32[batch, 3, 8, 8]"
        assert session.run({"picture": np.ones((3, 3, 8, 8), np.float32)})[session.outputs[0].name].shape == (3, 5)


def test_a_factory_that_is_missing_writes_nothing(recipe_of: WriteRecipe, project: Path) -> None:
    recipe = recipe_of({"pi5": ["fp32"]}, model={"factory": "nowhere.py:make", "input": "1x3x8x8"})
    with pytest.raises(TrtkitError, match=r"nowhere\.py") as caught:
        deploy(recipe)
    assert isinstance(caught.value, (ExportError, ValueError))
    assert not recipe.output.exists()


def test_a_model_that_is_missing_is_named(recipe_of: WriteRecipe) -> None:
    with pytest.raises(GraphError, match=r"gone\.onnx"):
        deploy(recipe_of({"pi5": ["fp32"]}, model={"onnx": "gone.onnx"}))


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_embedded_preprocessing_takes_pixels_and_predicts_the_same(recipe_of: WriteRecipe, project: Path,
                                                                   layout: str) -> None:
    targets = {"pi5": ["int8"], "rtx": ["int8"]}
    plain = recipe_of(targets)
    deploy(plain)
    embedded = recipe_of(targets, output="embedded.trtkit", rewrite={"embed_preprocess": layout})
    manifest = deploy(embedded).manifest
    assert manifest.preprocess is not None
    prepare = manifest.preprocess
    assert (prepare.dtype, prepare.layout, prepare.color) == ("uint8", layout, "rgb")
    pictures = sorted((project / "labelled").glob("*.png"))
    with (trtkit.open(plain.output, device="cpu") as host, trtkit.open(embedded.output, device="cpu") as inside):
        shape = "batch, 8, 8, 3" if layout == "nhwc" else "batch, 3, 8, 8"
        assert [str(spec) for spec in inside.inputs] == [f"image: uint8[{shape}]"]
        for mine, theirs in zip(inside(pictures), host(pictures)):
            scores = {answer.label: answer.score for answer in theirs}
            assert {answer.label: answer.score for answer in mine} == pytest.approx(scores, abs=1e-4)
        pixels = np.stack([read_image(path) for path in pictures])
        fed = pixels if layout == "nhwc" else pixels.transpose(0, 3, 1, 2)
        assert inside.run({"image": np.ascontiguousarray(fed)})["scores"].shape == (12, 5)


def test_shared_and_own_passes_make_up_the_preset_of_each_target(recipe_of: WriteRecipe) -> None:
    recipe = recipe_of({"pi5": ["fp32"], "rtx": ["fp16"], "jetson-xavier-jp5": ["fp32"]})
    shared = shared_passes(recipe)
    assert shared
    for each in recipe.deployments:
        own = own_passes(recipe, each.target)
        assert not set(own) & set(shared)
        assert {name.partition(":")[0] for name in (*own, *shared)} <= set(PASSES)


def test_passes_of_the_recipe_run_first(recipe_of: WriteRecipe) -> None:
    deployed = deploy(recipe_of({"pi5": ["fp32"]}, rewrite={"passes": ["embed-softmax"]}))
    with trtkit.open(deployed.recipe.output, device="cpu") as session:
        scores = session.run({"image": np.zeros((1, 3, 8, 8), np.float32)})[session.outputs[0].name]
    assert scores.sum() == pytest.approx(1.0, abs=1e-5)

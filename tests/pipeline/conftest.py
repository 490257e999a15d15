"""A small convolutional classifier, pictures with labels, and recipes of them; measuring takes no time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

from trtkit.pipeline import measuring
from trtkit.recipe import Recipe
from trtkit.runtime.bench import Paired, bench
from trtkit.runtime.ort import OrtSession

TINY = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[batch,3,8,8] image) => (float[batch,5] scores) {
    first = Conv<kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]>(image, first_weight, first_bias)
    lively = Relu(first)
    second = Conv<kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]>(lively, second_weight, second_bias)
    added = Add(second, lively)
    pooled = GlobalAveragePool(added)
    flat = Flatten<axis: int = 1>(pooled)
    scores = Gemm<transB: int = 1>(flat, head_weight, head_bias)
}
"""
SHAPES = {"first_weight": (8, 3, 3, 3), "first_bias": (8,), "second_weight": (8, 8, 3, 3), "second_bias": (8,),
          "head_weight": (5, 8), "head_bias": (5,)}
PREPROCESS = {"size": [8, 8], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "color": "bgr"}
PICTURES = 12

FASTER = Paired(2.0, 1.8, 2.2, 2.0, 1.0, 15)
SLOWER = Paired(0.8, 0.7, 0.9, 1.0, 1.25, 15)

WriteRecipe = Callable[..., Recipe]


def tiny_model() -> bytes:
    """Return the classifier, its weights seeded, as ONNX."""
    rng = np.random.default_rng(7)
    model: onnx.ModelProto = parser.parse_model(TINY)
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name) for name, shape in SHAPES.items())
    data: bytes = model.SerializeToString()
    return data


def write_pictures(folder: Path, count: int, seed: int) -> None:
    """Write PNGs of 8 x 8 pixels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = np.clip(rng.normal(rng.uniform(0, 255, 3), 40, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")


def make_project(folder: Path) -> None:
    """Write model.onnx, photos and labelled; the labels are what the FP32 model says."""
    from trtkit.preprocess import Preprocess

    (folder / "model.onnx").write_bytes(tiny_model())
    write_pictures(folder / "photos", PICTURES, 1)
    write_pictures(folder / "labelled", PICTURES, 2)
    (folder / "labels.txt").write_text("red\ngreen\nblue\ngrey\nnone\n")
    session = OrtSession(folder / "model.onnx")
    prepare = Preprocess.from_json(PREPROCESS)
    labels = {path.name: [int(session.run({"image": prepare(path)})["scores"].argmax())]
              for path in sorted((folder / "labelled").glob("*.png"))}
    session.close()
    (folder / "labelled/labels.json").write_text(json.dumps(labels))


def spelled(value: Any) -> str:
    """Spell a value in TOML, which differs from JSON in tables alone."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {spelled(inner)}" for key, inner in value.items()) + "}"
    return f"[{', '.join(map(spelled, value))}]" if isinstance(value, list) else json.dumps(value)


def write_recipe(folder: Path, targets: dict[str, list[str]], **changes: Any) -> Recipe:
    """Write folder/recipe.toml and read it; a change of None leaves the section out."""
    sections: dict[str, Any] = {
        "name": "tiny", "output": "tiny.trtkit", "labels": "labels.txt",
        "model": {"onnx": "model.onnx"}, "preprocess": PREPROCESS, "calibrate": {"data": "photos"},
        "evaluate": {"data": "labelled", "max_drop": 50},
        "target": [{"name": name, "precisions": precisions} for name, precisions in targets.items()], **changes}
    path = folder / "recipe.toml"
    path.write_text("".join(f"{key} = {spelled(value)}\n" for key, value in sections.items() if value is not None))
    return Recipe.load(path)


def measure_as(patch: pytest.MonkeyPatch, result: Paired) -> None:
    """Let each comparison with FP32 end in `result`; latencies are real, of a few runs."""
    quick = partial(bench, iterations=5, warmup=0.0)
    patch.setattr(measuring, "bench", lambda session, feeds, seconds, **more: quick(session, feeds, **more))
    patch.setattr(measuring, "paired", lambda *_args, **_more: result)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return tmp_path


@pytest.fixture
def recipe_of(project: Path) -> WriteRecipe:
    """Return a function: targets with their precisions, changed sections -> recipe."""
    return partial(write_recipe, project)


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """INT8 is faster than FP32 on this machine."""
    measure_as(monkeypatch, FASTER)


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """INT8 is slower than FP32 on this machine."""
    measure_as(monkeypatch, SLOWER)


@pytest.fixture(scope="session")
def shared_recipe() -> WriteRecipe:
    """Return a function: folder, targets with their precisions, changed sections -> recipe."""
    return write_recipe


@pytest.fixture(scope="module")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project for tests that only look at one deployment, made once."""
    folder = tmp_path_factory.mktemp("project")
    make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        measure_as(patch, FASTER)
        yield folder

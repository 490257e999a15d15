from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtkit.errors import SpecError, TrtkitError
from trtkit.precision import Estimator, NodeSelector, Precision
from trtkit.recipe import BuildSection, Recipe

Load = Callable[..., Recipe]

FULL: dict[str, Any] = {
    "name": "colors",
    "output": "out/colors.trtkit",
    "work": "scratch",
    "labels": "labels.txt",
    "targets": "boards.toml",
    "model": {"factory": "net.py:make", "weights": "net.safetensors", "input": "1x3x8x8", "input_name": "image",
              "batch": "n"},
    "preprocess": {"size": [8, 8], "mean": [0.5, 0.5, 0.5]},
    "postprocess": {"task": "classification", "top": 3},
    "rewrite": {"passes": ["fold-pad"], "embed_preprocess": "nhwc"},
    "calibrate": {"data": "photos", "limit": 8, "batch": 2},
    "evaluate": {"data": "feed.py:labelled", "max_drop": 1},
    "quantize": {"estimator": "entropy", "percentile": 99.9, "bias_correction": False, "keep_names": ["/head/*"],
                 "keep_ops": ["Gemm"]},
    "build": {"batch": [1, 2, 4], "workspace_bytes": 1048576, "sparse_weights": False},
    "target": [{"name": "rtx", "precisions": ["fp16", "int8"]}, {"name": "my-board"}],
}
SMALL: dict[str, Any] = {"output": "m.trtkit", "model": {"onnx": "m.onnx"},
                         "target": [{"name": "pi5", "precisions": ["fp32"]}]}


def _inline(value: Any) -> str:
    """Spell a value in TOML, which differs from JSON in tables alone."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + "}"
    return f"[{', '.join(map(_inline, value))}]" if isinstance(value, list) else json.dumps(value)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that writes a recipe and reads it."""
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    (tmp_path / "boards.toml").write_text(
        "[my-board]\ndescription = 'mine'\nruntime = 'onnxruntime'\ndevice = 'cpu'\n"
        "placement = 'onnxruntime-s8'\nprecisions = ['fp32', 'int8']\nopset = 17\narch = 'riscv64'\n")

    def write_and_read(data: dict[str, Any]) -> Recipe:
        path = tmp_path / "recipe.toml"
        path.write_text("".join(f"{key} = {_inline(value)}\n" for key, value in data.items()))
        return Recipe.load(path)

    return write_and_read


def test_every_key_arrives_and_relative_paths_start_from_the_recipe_s_folder(load: Load, tmp_path: Path) -> None:
    recipe = load(FULL)
    assert (recipe.name, recipe.output, recipe.work) == ("colors", tmp_path / "out/colors.trtkit", tmp_path / "scratch")
    assert (recipe.model.factory, recipe.model.weights) == (f"{tmp_path}/net.py:make", tmp_path / "net.safetensors")
    assert (recipe.model.input, recipe.model.input_name, recipe.model.batch) == ("1x3x8x8", "image", "n")
    assert recipe.labels == ("red", "green")
    assert recipe.preprocess is not None
    assert (recipe.preprocess.size, recipe.preprocess.mean) == ((8, 8), (0.5, 0.5, 0.5))
    assert recipe.postprocess is not None
    assert recipe.postprocess.top == 3
    assert (recipe.rewrite.passes, recipe.rewrite.embed_preprocess) == (("fold-pad",), "nhwc")
    assert recipe.calibrate is not None
    assert (recipe.calibrate.data, recipe.calibrate.limit, recipe.calibrate.batch) == (f"{tmp_path}/photos", 8, 2)
    assert recipe.evaluate is not None
    assert (recipe.evaluate.data, recipe.evaluate.max_drop) == (f"{tmp_path}/feed.py:labelled", 1.0)
    assert (recipe.quantize.estimator, recipe.quantize.percentile) == (Estimator.ENTROPY, 99.9)
    assert recipe.quantize.bias_correction is False
    assert recipe.quantize.keep == NodeSelector(("/head/*",), ("Gemm",))
    assert recipe.build == BuildSection((1, 2, 4), 1 << 20, False)
    assert [(each.target.name, each.precisions) for each in recipe.deployments] == [
        ("rtx", (Precision.FP16, Precision.INT8)), ("my-board", (Precision.FP32, Precision.INT8))]


def test_little_is_enough(load: Load, tmp_path: Path) -> None:
    recipe = load(SMALL)
    assert (recipe.name, recipe.model.onnx) == ("recipe", tmp_path / "m.onnx")
    assert recipe.work == tmp_path / "m.trtkit.work"
    assert recipe.build == BuildSection()
    assert (recipe.preprocess, recipe.calibrate, recipe.evaluate, recipe.labels) == (None, None, None, ())


def test_absolute_paths_and_module_names_stay_as_they_are(load: Load) -> None:
    recipe = load({**SMALL, "output": "/srv/m.trtkit", "model": {"factory": "timm.models:net", "input": "1x3x8x8"}})
    assert (str(recipe.output), recipe.model.factory) == ("/srv/m.trtkit", "timm.models:net")


def test_a_cpu_target_always_gets_fp32_to_be_measured_against(load: Load) -> None:
    row = {"name": "pi5", "precisions": ["INT8"]}
    recipe = load({**SMALL, "target": [row], "calibrate": {"data": "photos"}})
    assert recipe.deployments[0].precisions == (Precision.FP32, Precision.INT8)


def _with(section: str, **changes: Any) -> dict[str, Any]:
    changed = {**FULL, section: {**FULL[section], **changes}}
    changed[section] = {key: value for key, value in changed[section].items() if value is not None}
    return changed


def _without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in FULL.items() if key not in keys}


@pytest.mark.parametrize(("data", "message"), [
    pytest.param({**FULL, "quantise": {}}, "The recipe has the unknown key 'quantise'. It takes: name, ", id="section"),
    pytest.param({**FULL, "colour": 1}, "The recipe has the unknown key 'colour'", id="top-key"),
    pytest.param(_with("calibrate", limt=5), "[calibrate] has the unknown key 'limt'. It takes: data, limit, batch",
                 id="key"),
    pytest.param({**FULL, "target": [{"name": "rtx", "precision": "int8"}]},
                 "[[target]] has the unknown key 'precision'. It takes: name, precisions", id="target-key"),
    pytest.param(_without("model"), "The recipe has no 'model'", id="no-model"),
    pytest.param(_without("target"), "The recipe has no 'target'", id="no-target"),
    pytest.param(_without("output"), "The recipe has no 'output'", id="no-output"),
    pytest.param({**FULL, "target": 5}, "needs at least one [[target]]", id="target-number"),
    pytest.param({**FULL, "target": [{}]}, "A [[target]] has no 'name'. There are: rtx, ", id="no-target-name"),
    pytest.param({**FULL, "target": [{"name": "rxt"}]}, "Target 'rxt' is unknown", id="unknown-target"),
    pytest.param({**FULL, "target": [{"name": "rtx"}, {"name": "rtx"}]}, "Two [[target]] sections have the name 'rtx'",
                 id="target-twice"),
    pytest.param({**FULL, "target": [{"name": "rtx", "precisions": "int8"}]},
                 "[[target]] precisions is 'int8'. Give a list in brackets", id="precisions-text"),
    pytest.param({**FULL, "target": [{"name": "rtx", "precisions": [8]}]},
                 "[[target]] precisions is 8. Choose one of: fp32, fp16, bf16, int8, ", id="precision-number"),
    pytest.param({**FULL, "target": [{"name": "rtx", "precisions": []}]}, "[[target]] 'rtx' has no precisions",
                 id="precisions-empty"),
    pytest.param({**FULL, "target": [{"name": "pi5", "precisions": ["fp16"]}]}, "Target 'pi5' (Raspberry Pi 5 and "
                 "other Arm CPUs with dot-product instructions) does not run fp16", id="precision-not-of-target"),
    pytest.param(_with("model", onnx="m.onnx"), "[model] needs either onnx = FILE or factory", id="onnx-and-factory"),
    pytest.param({**FULL, "model": {}}, "[model] needs either onnx = FILE or factory", id="neither"),
    pytest.param(_with("model", input=None), "[model] with a factory needs the shape", id="no-input"),
    pytest.param(_with("model", input="3,8,8"), "'3,8,8' is not a shape", id="input-no-shape"),
    pytest.param(_without("calibrate"), "A target wants int8 and there is no [calibrate] section", id="no-calibrate"),
    pytest.param(_without("preprocess"), "[rewrite] embed_preprocess needs a [preprocess] section", id="embed-nothing"),
    pytest.param(_with("rewrite", embed_preprocess="chw"), "embed_preprocess is 'chw'. Choose", id="embed"),
    pytest.param(_with("calibrate", data=None), "[calibrate] has no 'data'", id="no-data"),
    pytest.param(_with("calibrate", limit="x"), "[calibrate] limit is 'x'. Give a whole number", id="limit-text"),
    pytest.param(_with("calibrate", limit=0), "[calibrate] limit is 0. Give at least 1", id="limit-0"),
    pytest.param(_with("calibrate", batch=-1), "[calibrate] batch is -1. Give at least 1", id="batch-negative"),
    pytest.param(_with("evaluate", max_drop=101), "[evaluate] max_drop is 101.0; it is in points", id="max-drop"),
    pytest.param(_with("quantize", estimator="kl"), "[quantize] estimator is 'kl'. Choose one of: minmax, percentile",
                 id="estimator"),
    pytest.param(_with("quantize", percentile=5), "percentile is 5.0; it must lie above 50", id="percentile"),
    pytest.param(_with("quantize", keep="x"), "[quantize] has the unknown key 'keep'. It takes: estimator", id="keep"),
    pytest.param(_with("quantize", keep_names="x"), "[quantize] keep_names is 'x'. Give a list", id="keep-names"),
    pytest.param(_with("build", batch=[4, 2, 1]), "[build] batch is [4, 2, 1]. Give the smallest", id="batch-order"),
    pytest.param(_with("build", batch=4), "[build] batch is 4. Give a list in brackets of 3 values", id="batch-number"),
    pytest.param(_with("build", workspace_bytes=0), "[build] workspace_bytes is 0. Give at least 1", id="workspace"),
    pytest.param(_with("postprocess", task="detect"), "Postprocess task is 'detect'", id="postprocess"),
    pytest.param(_with("postprocess", top="3"), "Postprocessing top is '3'. Give", id="postprocess-type"),
    pytest.param({**FULL, "labels": "nowhere.txt"}, "nowhere.txt' cannot be read", id="labels-missing"),
    pytest.param({**FULL, "targets": "nowhere.toml"}, "nowhere.toml' cannot be read", id="targets-missing"),
])
def test_a_recipe_is_refused_whole_with_its_name_when_something_is_wrong(
        load: Load, tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(data)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


WRONG = ("text", -3, 0.5, True, [], ["text", 1], [[]], {}, {"key": 1})


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize(("section", "key"), [
    *((None, key) for key in FULL),
    *((section, key) for section in FULL if isinstance(FULL[section], dict) for key in FULL[section]),
    ("target", "name"), ("target", "precisions"),
])
def test_a_value_of_another_type_is_never_a_traceback(load: Load, section: str | None, key: str, wrong: Any) -> None:
    if section is None:
        data = {**FULL, key: wrong}
    elif section == "target":
        data = {**FULL, "target": [{**FULL["target"][0], key: wrong}]}
    else:
        data = _with(section, **{key: wrong})
    with contextlib.suppress(TrtkitError):  # some fit; anything but our own error fails the test
        load(data)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.toml' cannot be read"):
        Recipe.load(tmp_path / "nowhere.toml")
    (tmp_path / "recipe.toml").write_text("[model\n")
    with pytest.raises(SpecError, match=r"recipe\.toml' is not valid TOML: "):
        Recipe.load(tmp_path / "recipe.toml")


def test_labels_that_are_no_text_are_named(load: Load, tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match=r"binary\.txt' cannot be read: .*one label a line"):
        load({**FULL, "labels": "binary.txt"})

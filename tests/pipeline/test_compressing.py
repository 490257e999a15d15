"""Handwritten digits, a small network that reads them, and recipes that make it smaller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trtkit.bundle import open_bundle
from trtkit.errors import ExportError, SpecError, TrainingError
from trtkit.export import Exporter, ExportOptions
from trtkit.pipeline import compress, compressing, deploy, rows
from trtkit.recipe import Recipe
from trtkit.runtime.bench import Paired

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")

CODE = '''
import json
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from torch import nn

FOLDER = Path(__file__).parent


def _net(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.Conv2d(width, width, 3, padding=1, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


def net():
    torch.manual_seed(0)
    return _net(16)


def small():
    return _net(8)


def loader():
    labels = json.loads((FOLDER / "train/labels.json").read_text())
    images = torch.stack([torch.from_numpy(np.array(Image.open(FOLDER / "train" / name))) for name in labels])
    images = images.permute(0, 3, 1, 2).float() / 255
    targets = torch.tensor([label for (label,) in labels.values()])
    return list(zip(images.split(40), targets.split(40)))


def step(module, batch):
    images, targets = batch
    return nn.functional.cross_entropy(module(images), targets)

'''

SECTIONS: dict[str, Any] = {
    "name": "digits", "output": "digits.trtkit",
    "model": {"factory": "net.py:net", "weights": "net.safetensors", "input": "1x3x16x16", "input_name": "image"},
    "preprocess": {"size": [16, 16], "resize": "stretch"}, "calibrate": {"data": "train", "limit": 50},
    "evaluate": {"data": "test", "max_drop": 100}, "train": {"data": "net.py:loader", "learning_rate": 0.01},
    "target": [{"name": "x86-avx2", "precisions": ["int8"]}, {"name": "jetson-orin-jp6", "precisions": ["fp16"]}],
}
PRUNE = {"step": "prune", "amount": 0.4, "train": {"epochs": 2}}
DISTILL = {"step": "distill", "train": {"epochs": 2}}
PLAIN: dict[str, Any] = {"target": [{"name": "x86-avx2", "precisions": ["fp32"]}], "calibrate": None}
QAT = {"step": "qat", "target": "x86-avx2", "precision": "int8"}


def _write(folder: Path, name: str, images: Any, labels: Any) -> None:
    from PIL import Image

    (folder / name).mkdir()
    for index, image in enumerate(images):
        pixels = np.repeat(np.kron(image * 15, np.ones((2, 2))).astype(np.uint8)[:, :, None], 3, axis=2)
        Image.fromarray(pixels).save(folder / name / f"{index:03}.png")
    (folder / name / "labels.json").write_text(json.dumps({f"{i:03}.png": [int(k)] for i, k in enumerate(labels)}))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.py, pictures to train on and to test on, and trained weights."""
    from sklearn.datasets import load_digits

    from trtkit.compress import TrainSpec, fit, step_for
    from trtkit.compress.training.named import loader_named
    from trtkit.export import load_module, save_checkpoint

    folder = tmp_path_factory.mktemp("digits")
    (folder / "net.py").write_text(CODE)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    _write(folder, "train", images[:400], labels[:400])
    _write(folder, "test", images[400:500], labels[400:500])
    module = load_module(f"{folder}/net.py:net")
    fit(module, loader_named(f"{folder}/net.py:loader"), step_for("cross_entropy"),
        TrainSpec(epochs=15, learning_rate=0.01))
    save_checkpoint(module, folder / "net.safetensors")
    return folder


def _quicken(patch: pytest.MonkeyPatch) -> None:
    """Let every model be twice as fast as the first one, at once, and export by TorchScript, which takes no second."""
    twice = Paired(2.0, 1.9, 2.1, 2.0, 1.0, 15)
    patch.setattr(rows, "paired", lambda *_args, **_more: twice)
    patch.setattr(rows, "_alone", lambda _model: 4.0)
    patch.setattr("trtkit.pipeline.measuring.paired", lambda *_args, **_more: twice)
    patch.setattr("trtkit.pipeline.measuring._SECONDS", 0.1)
    patch.setattr("trtkit.export.ExportOptions", partial(ExportOptions, exporters=(Exporter.TORCHSCRIPT,)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    _quicken(monkeypatch)


def _recipe(digits: Path, work: Path, steps: list[dict[str, Any]], **changes: Any) -> Recipe:
    """Write a recipe beside net.py, and read it; its files go to `work`."""
    sections = {**SECTIONS, "compress": steps, "work": str(work / "work"), "output": str(work / "digits.trtkit"),
                **changes}
    path = digits / f"{work.name}.toml"
    path.write_text("".join(f"{key} = {_spelled(value)}\n" for key, value in sections.items() if value is not None))
    return Recipe.load(path)


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_spelled(inner)}" for key, inner in value.items()) + "}"
    return f"[{', '.join(map(_spelled, value))}]" if isinstance(value, list) else json.dumps(value)


@pytest.fixture(scope="module")
def made(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The whole way: pruned, distilled, trained on integer grids, deployed."""
    with pytest.MonkeyPatch.context() as patch:
        _quicken(patch)
        yield deploy(_recipe(digits, tmp_path_factory.mktemp("made"), [PRUNE, DISTILL, QAT]))


def test_each_step_has_a_row_in_the_manifest(made: Any) -> None:
    with open_bundle(made.recipe.output) as bundle:
        found = bundle.manifest.compression
    start, pruned, distilled, trained = found
    assert [row.step for row in found] == ["start", "1 prune", "2 distill", "3 qat"]
    assert {row.metric for row in found} == {"top-1"}
    assert start.score is not None
    assert start.score > 0.7
    assert all(row.score is not None and row.score > start.score - 0.1 for row in found)
    assert pruned.macs < 0.65 * start.macs
    assert pruned.parameters < start.parameters
    assert (distilled.macs, distilled.parameters, distilled.size_bytes) == (
        pruned.macs, pruned.parameters, pruned.size_bytes)
    assert trained.size_bytes < pruned.size_bytes < start.size_bytes
    assert (start.fp32_ms, pruned.fp32_ms, trained.fp32_ms, trained.int8_ms) == (4.0, 2.0, None, 2.0)


def test_the_bundle_holds_what_was_compressed_with_the_trained_scales(made: Any) -> None:
    int8 = next(each for each in made.candidates if each.precision.value == "int8")
    weights = [tensor for tensor in onnx.load(int8.model).graph.initializer if len(tensor.dims) == 4]
    assert weights
    assert all(tensor.dims[0] < 16 for tensor in weights)
    assert int8.accuracy.top1 == pytest.approx(made.manifest.compression[-1].score)
    half = next(each for each in made.candidates if each.precision.value == "fp16")
    assert half.accuracy.top1 == pytest.approx(made.manifest.compression[2].score, abs=0.02)


def test_the_trade_off_is_drawn_and_written(made: Any) -> None:
    work = made.recipe.work
    assert (work / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((work / "tradeoff.json").read_text())[1]["step"] == "1 prune"


def test_what_is_finished_is_not_trained_again(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("trtkit.compress.training.loop.fit", refuse)
    monkeypatch.setattr(rows.Measuring, "row", refuse)
    found = compress(made.recipe)
    assert found.rows == made.manifest.compression
    assert found.weights is not None
    assert "kept from an earlier run" in found.notes[0]


def test_weights_and_onnx_of_the_compressed_module_are_the_same_model(made: Any, digits: Path) -> None:
    from trtkit.export import load_module
    from trtkit.runtime.ort import OrtSession

    found = compress(made.recipe)
    module = load_module(f"{digits}/net.py:net", found.weights)
    image = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    session = OrtSession(made.recipe.work / "compress/2-distill/model.onnx")
    (scores,) = session.run({"image": image}).values()
    session.close()
    np.testing.assert_allclose(module(torch.from_numpy(image)).detach().numpy(), scores, rtol=1e-4, atol=1e-5)
    assert found.table is not None


def test_a_run_that_was_stopped_goes_on_with_the_step_it_was_in(digits: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    from trtkit.compress.training import loop

    steps = [{"step": "finetune"}, {**PRUNE, "steps": 2, "train": {"epochs": 1}}]
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = compress(_recipe(digits, tmp_path / "whole", steps, **PLAIN))
    recipe = _recipe(digits, tmp_path / "cut", steps, **PLAIN)
    real, calls = loop.fit, []

    def stopping(*args: Any, **more: Any) -> Any:
        calls.append(more["folder"].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(loop, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        compress(recipe)
    found = compress(recipe)
    assert calls == ["training", "finetune-1", "finetune-2", "finetune-2"]
    assert found.rows == whole.rows
    one, other = (load_file(each.weights) for each in (found, whole))
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_a_changed_or_damaged_step_is_done_again_and_so_is_what_follows(digits: Path, tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [{"step": "finetune"}, {"step": "resolution", "size": [12, 12]}]
    first = compress(_recipe(digits, tmp_path, steps, **PLAIN))
    steps[0]["train"] = {"epochs": 2}
    second = compress(_recipe(digits, tmp_path, steps, **PLAIN))
    assert first.rows[0] == second.rows[0]
    assert all("kept" not in note for note in second.notes)
    recipe = _recipe(digits, tmp_path, [steps[0], {"step": "resolution", "size": [8, 8]}], **PLAIN)
    third = compress(recipe)
    assert ["kept" in note for note in third.notes] == [True, False]
    folder = compressing.steps_folder(recipe) / "1-finetune"
    (folder / "step.json").write_text("{")
    (folder / "row.json").write_text("[]")
    again = compress(recipe)
    assert ["kept" in note for note in again.notes] == [False, True]
    assert again.rows == third.rows


def test_another_resolution_changes_the_input_and_the_training_after_it(digits: Path, tmp_path: Path) -> None:
    steps = [{"step": "resolution", "size": [8, 8], "finetune": True}, {"step": "finetune"}]
    recipe = _recipe(digits, tmp_path, steps, **PLAIN)
    deployed = deploy(recipe)
    assert deployed.manifest.preprocess is not None
    assert deployed.manifest.preprocess.size == (8, 8)
    assert deployed.manifest.inputs[0].shape == ("batch", 3, 8, 8)
    start, small, _ = deployed.manifest.compression
    assert small.macs < 0.3 * start.macs
    assert small.score is not None
    assert small.score > 0.5


def test_a_student_of_its_own_learns_from_the_model(digits: Path, tmp_path: Path) -> None:
    found = compress(_recipe(digits, tmp_path, [{**DISTILL, "student": "net.py:small", "hard": 0.5,
                                                 "train": {"epochs": 8, "loss": "net.py:step"}}], **PLAIN))
    start, student = found.rows
    assert student.parameters < 0.5 * start.parameters
    assert student.score is not None
    assert student.score > 0.5


def test_a_model_that_was_fine_tuned_first_is_the_teacher(digits: Path, tmp_path: Path) -> None:
    untrained = {key: value for key, value in SECTIONS["model"].items() if key != "weights"}
    start, tuned, student = compress(_recipe(
        digits, tmp_path, [{"step": "finetune", "train": {"epochs": 12}},
                           {**DISTILL, "student": "net.py:small", "train": {"epochs": 8}}],
        model=untrained, **PLAIN)).rows
    assert start.score is not None
    assert start.score < 0.4
    assert tuned.score is not None
    assert tuned.score > 0.7
    assert student.score is not None
    assert student.score > 0.5


def test_zeros_stay_through_the_training_that_follows(digits: Path, tmp_path: Path) -> None:
    found = compress(_recipe(digits, tmp_path, [{"step": "prune", "method": "two-four", "finetune": False},
                                                {"step": "finetune"}, QAT]))
    for path in (found.onnx, tmp_path / "work/compress/2-finetune/model.onnx"):
        weights = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
        sparse = [np.mean(weight == 0) for weight in weights if weight.shape == (16, 16, 3, 3)]
        assert sparse == [pytest.approx(0.5)]


def test_qat_works_on_an_onnx_model(made: Any, digits: Path, tmp_path: Path) -> None:
    source = made.recipe.work / "compress/2-distill/model.onnx"
    found = compress(_recipe(digits, tmp_path, [QAT], model={"onnx": str(source)}))
    assert [row.step for row in found.rows] == ["start", "1 qat"]
    assert found.weights is None
    assert found.onnx.exists()


@pytest.mark.parametrize(("step", "kind", "message"), [
    pytest.param({"step": "finetune", "train": {"data": "net.py:nowhere"}}, ExportError, "there is no 'nowhere'",
                 id="data"),
    pytest.param({"step": "finetune", "train": {"loss": "net.py:nowhere"}}, ExportError, "there is no 'nowhere'",
                 id="loss"),
    pytest.param({"step": "distill", "student": "net.py:loader"}, ExportError, "returns a list, not a torch.nn.Module",
                 id="student"),
    pytest.param({"step": "finetune", "train": {"device": "warp"}}, TrainingError, "Device 'warp' cannot be used",
                 id="device"),
    pytest.param({"step": "prune", "goal": "latency", "target": "pi5"}, SpecError, "latency cannot be measured on this",
                 id="latency"),
])
def test_what_a_step_names_is_looked_up_before_the_first_step(digits: Path, tmp_path: Path, step: dict[str, Any],
                                                              kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        compress(_recipe(digits, tmp_path, [{"step": "resolution", "size": [12, 12]}, step], **PLAIN))
    assert message in str(caught.value)
    assert not (tmp_path / "work/compress").exists()


def test_a_recipe_without_steps_is_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"Recipe 'digits' has no \[\[compress\]\] section"):
        compress(_recipe(digits, tmp_path, []))

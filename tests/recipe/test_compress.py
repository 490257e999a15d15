from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtkit.compress.pruning.spec import Goal, Method
from trtkit.compress.qat.spec import Scales
from trtkit.errors import SpecError, TrtkitError
from trtkit.precision import NodeSelector, Precision
from trtkit.recipe import (
    DistillStep,
    FinetuneStep,
    ModuleSource,
    PruneStep,
    QatStep,
    Recipe,
    ResolutionStep,
    TrainSection,
)

Load = Callable[..., Recipe]

BASE: dict[str, Any] = {
    "output": "m.trtkit", "model": {"factory": "net.py:make", "input": "1x3x8x8"}, "calibrate": {"data": "photos"},
    "preprocess": {"size": [8, 8]},
    "target": [{"name": "x86-vnni", "precisions": ["int8"]}, {"name": "rtx", "precisions": ["int4", "fp8"]}],
    "train": {"data": "data.py:loader", "loss": "bce", "epochs": 3, "learning_rate": 0.01, "optimizer": "sgd"},
}
PRUNE: dict[str, Any] = {
    "step": "prune", "amount": 0.3, "method": "channels", "goal": "latency", "importance": "l1", "scope": "local",
    "target": "x86-vnni", "precision": "int8", "spare": {"names": ["head"], "op_types": ["Linear"]}, "steps": 2,
    "ramp": "linear", "max_drop": 1, "train": {"epochs": 1}, "finetune": True, "latency_table": "t.json",
    "round_to": 8, "tolerance": 0.1, "batches": 4, "max_layer_amount": 0.5}
DISTILL: dict[str, Any] = {
    "step": "distill", "teacher": "big.py:net", "teacher_weights": "big.safetensors", "temperature": 2, "tags": 1,
    "logits": 0, "hard": 0.5, "hints": [{"teacher": "a", "student": "b", "weight": 2}], "output": "scores"}
RESOLUTION: dict[str, Any] = {"step": "resolution", "size": [6, 6], "finetune": True}
QAT: dict[str, Any] = {"step": "qat", "target": "x86-vnni", "precision": "int8", "scales": "fixed"}
STEPS: dict[str, dict[str, Any]] = {
    "prune": PRUNE, "distill": DISTILL, "resolution": RESOLUTION, "finetune": {"step": "finetune"}, "qat": QAT}


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_spelled(inner)}" for key, inner in value.items()) + "}"
    return f"[{', '.join(map(_spelled, value))}]" if isinstance(value, list) else json.dumps(value)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function: steps, changed sections (None leaves one out) -> recipe."""

    def write_and_read(*steps: Any, **changes: Any) -> Recipe:
        sections = {**BASE, "compress": list(steps), **changes}
        path = tmp_path / "recipe.toml"
        path.write_text("".join(f"{key} = {_spelled(value)}\n" for key, value in sections.items() if value is not None))
        return Recipe.load(path)

    return write_and_read


def test_every_key_of_every_step_arrives(load: Load, tmp_path: Path) -> None:
    prune, distill, resolution, finetune, qat = load(*STEPS.values()).compress
    assert isinstance(prune, PruneStep)
    assert (prune.spec.amount, prune.spec.goal, prune.spec.round_to, prune.spec.steps) == (0.3, Goal.LATENCY, 8, 2)
    assert prune.spec.spare == NodeSelector(("head",), ("Linear",))
    assert prune.target is not None
    assert (prune.target.name, prune.precision, prune.table) == ("x86-vnni", Precision.INT8, tmp_path / "t.json")
    assert prune.train is not None
    assert (prune.train.data, prune.train.loss) == (f"{tmp_path}/data.py:loader", "bce")
    assert (prune.train.spec.epochs, prune.train.spec.learning_rate) == (1, 0.01)
    assert isinstance(distill, DistillStep)
    assert distill.teacher == ModuleSource(f"{tmp_path}/big.py:net", tmp_path / "big.safetensors")
    assert (distill.spec.tags, distill.spec.logits, distill.spec.hints[0].weight) == (1.0, 0.0, 2.0)
    assert isinstance(resolution, ResolutionStep)
    assert (resolution.size, resolution.train is not None) == ((6, 6), True)
    assert isinstance(finetune, FinetuneStep)
    assert finetune.train.spec.epochs == 3
    assert isinstance(qat, QatStep)
    assert (qat.target.name, qat.precision, qat.scales) == ("x86-vnni", Precision.INT8, Scales.FIXED)


def test_qat_learns_a_tenth_as_fast_when_nothing_is_said(load: Load) -> None:
    rates = [load({**QAT, "train": train}).qat for train in ({}, {"learning_rate": 0.5})]
    assert [step and step.train.spec.learning_rate for step in rates] == [pytest.approx(0.001), 0.5]


def test_channels_are_rounded_to_what_the_target_computes_at_once(load: Load) -> None:
    (step,) = load({"step": "prune", "target": "x86-vnni"}).compress
    assert isinstance(step, PruneStep)
    assert step.spec.round_to == step.target.channel_multiple(Precision.FP32) > 1  # type: ignore[union-attr]


def test_soft_tags_are_learned_when_the_loss_is_of_tags(load: Load) -> None:
    (tags,) = load({"step": "distill", "student": "net.py:small"}).compress
    (classes,) = load({"step": "distill", "student": "net.py:small", "train": {"loss": "cross_entropy"}}).compress
    assert isinstance(tags, DistillStep)
    assert isinstance(classes, DistillStep)
    assert (tags.spec.logits, tags.spec.tags, classes.spec.logits, classes.spec.tags) == (0, 1, 1, 0)


def test_steps_that_train_nothing_need_no_train_section(load: Load) -> None:
    steps = load({"step": "prune", "finetune": False}, {"step": "resolution", "size": [4, 4]}, train=None).compress
    assert [getattr(step, "train", 1) for step in steps] == [None, None]


def test_a_step_may_bring_its_own_data(load: Load, tmp_path: Path) -> None:
    (step,) = load({"step": "finetune", "train": {"data": "own.pkg:loader"}}, train=None).compress
    assert step == FinetuneStep(TrainSection("own.pkg:loader"))


@pytest.mark.parametrize(("steps", "changes", "message"), [
    pytest.param([{"step": "shrink"}], {}, "[[compress]] 1 has step = 'shrink'. Choose one of: prune, finetune",
                 id="step"),
    pytest.param([{}], {}, "[[compress]] 1 has step = None. Choose", id="no-step"),
    pytest.param([5], {}, "[[compress]] 1 has step = 5. Choose", id="number"),
    pytest.param([{"step": "prune", "amout": 1}], {}, "[[compress]] 1 (prune) has the unknown key 'amout'. It takes: ",
                 id="key"),
    pytest.param([{"step": "finetune", "amount": 1}], {}, "[[compress]] 1 (finetune) has the unknown key 'amount'",
                 id="key-of-another"),
    pytest.param([{"step": "prune", "amount": 2}], {}, "[[compress]] 1 (prune): amount is 2.0; it is a share",
                 id="amount"),
    pytest.param([{"step": "prune", "train": {"epoch": 1}}], {}, "(prune) train has the unknown key 'epoch'",
                 id="train-key"),
    pytest.param([{"step": "prune"}], {"train": None}, "[[compress]] 1 (prune) trains, and there is no [train] section."
                 " Add: [train] data = 'data.py:loader', or finetune = false", id="no-train"),
    pytest.param([{"step": "finetune"}], {"train": None}, "(finetune) trains, and there is no [train]", id="no-train2"),
    pytest.param([], {"train": {"epochs": 1}}, "[train] has no 'data'", id="no-data"),
    pytest.param([], {"train": {"data": "photos"}}, "[train] data is 'photos'. Write file.py:name", id="data"),
    pytest.param([], {"train": {"data": "a.py:b", "loss": "l1"}}, "[train] loss is 'l1'. Choose one of: cross_entropy",
                 id="loss"),
    pytest.param([], {"train": {"data": "a.py:b", "epochs": 0}}, "epochs is 0. Give at least 1", id="epochs"),
    pytest.param([QAT, {"step": "finetune"}], {}, "[[compress]] 1 (qat) is followed by finetune", id="qat-first"),
    pytest.param([QAT, QAT], {}, "[[compress]] 1 (qat) is followed by qat", id="qat-twice"),
    pytest.param([{"step": "qat"}], {}, "(qat) has no 'target'", id="qat-no-target"),
    pytest.param([{**QAT, "target": "pi5"}], {}, "qat trains for pi5 int8, which no [[target]] wants", id="qat-target"),
    pytest.param([{**QAT, "target": "rtx", "precision": "fp8"}], {}, "precision is fp8, which has no integer grids",
                 id="qat-fp8"),
    pytest.param([{**QAT, "target": "rtx", "precision": "int4"}],
                 {"calibrate": None, "target": [{"name": "rtx", "precisions": ["int4"]}]},
                 "qat starts from a calibration, and there is no [calibrate]", id="qat-no-calibrate"),
    pytest.param([QAT], {"rewrite": {"embed_preprocess": "nchw"}, "preprocess": {"size": [8, 8]}},
                 "qat trains on what the loader gives, and [rewrite] embed_preprocess", id="qat-embed"),
    pytest.param([{"step": "finetune"}], {"model": {"onnx": "m.onnx"}}, "[[compress]] finetune works on a torch module,"
                 " and [model] is an ONNX file", id="onnx"),
    pytest.param([{"step": "distill"}], {}, "(distill) would have the model learn from itself", id="self"),
    pytest.param([{"step": "resolution", "size": [4, 4]}, {"step": "distill"}], {}, "learn from itself", id="self2"),
    pytest.param([{"step": "finetune"}, {"step": "distill", "student": "net.py:small", "teacher": "net.py:big"}], {},
                 "[[compress]] 2 (distill) begins with a new student, so what [[compress]] 1 made", id="lost"),
    pytest.param([{"step": "prune"}, {"step": "resolution", "size": [4, 4]},
                  {"step": "distill", "student": "net.py:small"}], {}, "so what [[compress]] 1 made", id="lost3"),
    pytest.param([{"step": "finetune"}, {"step": "distill"}], {}, "learn from itself", id="self3"),
    pytest.param([{"step": "prune"}, {"step": "distill", "width": 0.5}], {}, "begins with a new student", id="lost2"),
    pytest.param([{"step": "distill", "width": 2}], {}, "width is 2.0 and depth 1.0; they are factors", id="width"),
    pytest.param([{"step": "distill", "width": 0.5, "student": "net.py:small"}], {}, "Give one of them", id="both"),
    pytest.param([{"step": "distill", "student": "small"}], {}, "student is 'small'. Write file.py:name", id="student"),
    pytest.param([{"step": "distill", "student_weights": "w"}], {}, "has student_weights and no student", id="weights"),
    pytest.param([{"step": "prune", "method": "two-four"}, {"step": "prune"}], {},
                 "[[compress]] 2 (prune) takes channels out after [[compress]] 1 set single weights", id="torn"),
    pytest.param([{"step": "prune", "goal": "latency"}], {}, "goal is latency, and nothing says on what", id="latency"),
    pytest.param([{"step": "prune", "importance": "taylor", "finetune": False}], {"train": None},
                 "importance is taylor, which reads data", id="taylor"),
    pytest.param([{"step": "prune", "target": "pi5", "precision": "fp16"}], {}, "does not run fp16", id="precision"),
    pytest.param([{"step": "resolution"}], {}, "(resolution) has no 'size'", id="no-size"),
    pytest.param([{"step": "resolution", "size": [0, 4]}], {}, "size is [0, 4]. Give height and width", id="size"),
    pytest.param([{"step": "resolution", "size": [4, 4]}], {"preprocess": None},
                 "without [preprocess] the data of [calibrate] and [evaluate] comes in one size alone", id="prepared"),
    pytest.param([{"step": "resolution", "size": [4, 4]}], {"preprocess": {"size": [8, 8], "resize": "none"}},
                 "[preprocess] resize is 'none'", id="resize-none"),
])
def test_what_cannot_be_done_is_refused_before_anything_runs(load: Load, steps: list[Any], changes: dict[str, Any],
                                                             message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(*steps, **changes)
    assert message in str(caught.value)
    assert "recipe.toml" in str(caught.value)


def test_compress_that_is_no_list_of_tables_is_refused(load: Load) -> None:
    with pytest.raises(SpecError, match=r"compress is \{.*Write each step as a table of its own: \[\[compress\]\]"):
        load(compress={"step": "prune"})


WRONG = ("text", -3, 0.5, True, [], ["text", 1], [[]], {}, {"key": 1})


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize(("step", "key"), [(step, key) for step, row in STEPS.items() for key in row])
def test_a_value_of_another_type_is_never_a_traceback(load: Load, step: str, key: str, wrong: Any) -> None:
    with contextlib.suppress(TrtkitError):  # some fit; anything but our own error fails the test
        load({**STEPS[step], key: wrong})


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize("key", [*BASE["train"], None])
def test_a_train_section_of_another_type_is_never_a_traceback(load: Load, key: str | None, wrong: Any) -> None:
    with contextlib.suppress(TrtkitError):
        load(train=wrong if key is None else {**BASE["train"], key: wrong})
    with contextlib.suppress(TrtkitError):
        load({"step": "finetune"}, train=wrong)


def test_two_four_sparsity_reads_data_where_there_is_some(load: Load) -> None:
    row = {"step": "prune", "method": "two-four", "finetune": False}
    (with_data,), (without,) = load(row).compress, load(row, train=None).compress
    assert isinstance(with_data, PruneStep)
    assert isinstance(without, PruneStep)
    assert with_data.spec.method is Method.TWO_FOUR
    assert (with_data.reads is not None, without.reads) == (True, None)


def test_the_recipe_in_the_readme_is_one(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "recipe.toml").write_text("\n".join(re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)))
    steps = Recipe.load(tmp_path / "recipe.toml").compress
    assert [step.name for step in steps] == ["prune", "distill", "qat"]

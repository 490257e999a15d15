from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from trtkit.compress.distillation.distill import distill
from trtkit.compress.distillation.hints import HintedStudent, hinted
from trtkit.compress.distillation.losses import chosen_output, logit_divergence, soft_tag_loss
from trtkit.compress.distillation.spec import DistillSpec, Hint
from trtkit.compress.distillation.step import distillation_step
from trtkit.compress.training.loop import fit
from trtkit.compress.training.losses import step_for
from trtkit.compress.training.spec import TrainSpec
from trtkit.errors import SpecError, TrainingError
from trtkit.records import read_record

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()
LABELLED = [(x, y) for x, y in zip(X.split(8), Y.split(8))]
HINTS = (Hint("1", "1"),)


def _mlp(width: int, inputs: int = 6, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# What is learned


@pytest.fixture(scope="module")
def digits() -> SimpleNamespace:
    """1,200 pictures of digits with a teacher that was trained on them, and 597 others."""
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.data / 16 - 0.5, dtype=torch.float32)[order]
    y = torch.tensor(data.target)[order]
    torch.manual_seed(0)
    teacher = _mlp(64, 64, 10)
    batches = list(zip(x[:1200].split(32), y[:1200].split(32)))
    fit(teacher, batches, step_for("cross_entropy"), TrainSpec(epochs=6, learning_rate=5e-3))

    def accuracy(module: nn.Module) -> float:
        with torch.no_grad():
            return float((module(x[1200:]).argmax(1) == y[1200:]).float().mean())

    assert accuracy(teacher) > 0.93
    few = list(zip(x[:120].split(40), y[:120].split(40)))
    return SimpleNamespace(teacher=teacher, accuracy=accuracy, few=few, unlabelled=list(x[:1200].split(40)))


@pytest.fixture(scope="module")
def alone(digits: SimpleNamespace) -> float:
    """Accuracy of students that learned 120 labels without a teacher, the mean of three."""
    return _mean_accuracy(digits, lambda student, train: fit(student, digits.few, step_for("cross_entropy"), train))


def _mean_accuracy(digits: SimpleNamespace, training: Any) -> float:
    scores = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        student = _mlp(12, 64, 10)
        training(student, TrainSpec(epochs=60, learning_rate=1e-2))
        scores.append(digits.accuracy(student))
    return sum(scores) / 3


@pytest.mark.parametrize("spec", [DistillSpec(), DistillSpec(hints=HINTS, hard=0.5)], ids=["logits", "all"])
def test_a_student_beats_one_without_a_teacher_on_the_same_pictures(digits: SimpleNamespace, alone: float,
                                                                    spec: DistillSpec) -> None:
    distilled = _mean_accuracy(digits, lambda student, train: distill(digits.teacher, student, digits.few, spec,
                                                                      train=train))
    assert distilled > alone + 0.02


def test_an_untrained_teacher_teaches_nothing(digits: SimpleNamespace, alone: float) -> None:
    torch.manual_seed(9)
    teacher = _mlp(64, 64, 10)
    train = TrainSpec(epochs=20, learning_rate=1e-2)
    student = _mlp(12, 64, 10)
    distill(teacher, student, digits.few, train=train)
    assert digits.accuracy(student) < 0.3 < alone


def test_pictures_without_labels_teach_when_nothing_asks_for_them(digits: SimpleNamespace, alone: float) -> None:
    distilled = _mlp(12, 64, 10)
    distill(digits.teacher, distilled, digits.unlabelled, train=TrainSpec(epochs=10, learning_rate=1e-2))
    assert digits.accuracy(distilled) > alone + 0.03


def test_tags_teach_a_multi_label_student() -> None:
    rule = torch.tensor([[3.0, 0, 0, -3, 0, 0], [0, 4, 0, 0, 4, 0]])
    teacher = nn.Linear(6, 2)
    with torch.no_grad():
        teacher.weight.copy_(rule)
        teacher.bias.fill_(-2)
    student = _mlp(8, classes=2)
    train = TrainSpec(epochs=60, learning_rate=2e-2)
    distill(teacher, student, [X[:16], X[16:]], DistillSpec(logits=0, tags=1), train=train)
    with torch.no_grad():
        same = (student(X) > 0) == (teacher(X) > 0)
    assert same.float().mean() > 0.95


# The losses


def test_logit_divergence_is_zero_for_the_same_distribution_and_grows_with_the_square_of_the_temperature() -> None:
    logits = torch.randn(5, 4)
    other = torch.randn(5, 4)
    assert logit_divergence(logits + 7, logits, 2.0) == pytest.approx(0, abs=1e-6)
    p, q = (logits / 3).softmax(1), (other / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(logit_divergence(other, logits, 3.0), expected)


def test_logit_divergence_averages_over_pixels() -> None:
    ours, theirs = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    flat = [each.movedim(1, -1).reshape(-1, 4) for each in (ours, theirs)]
    torch.testing.assert_close(logit_divergence(ours, theirs, 2.0), logit_divergence(flat[0], flat[1], 2.0))


def test_soft_tags_are_summed_over_labels_and_least_when_equal() -> None:
    ours, theirs = torch.randn(5, 4), torch.randn(5, 4)
    expected = functional.binary_cross_entropy_with_logits(ours / 2, (theirs / 2).sigmoid()) * 4 * 4
    torch.testing.assert_close(soft_tag_loss(ours, theirs, 2.0), expected)
    ours.requires_grad_()
    gradient, = torch.autograd.grad(soft_tag_loss(ours, ours.detach(), 1.0), ours)
    assert gradient.abs().max() < 1e-6


def test_losses_are_finite_for_half_precision_and_large_logits() -> None:
    large = torch.tensor([[6e4, -6e4]], dtype=torch.float16)
    for loss in (logit_divergence, soft_tag_loss):
        assert torch.isfinite(loss(-large, large, 1.0))


@pytest.mark.parametrize(("value", "name", "expected"), [
    (torch.tensor(1.0), "tags", 1.0),
    ({"logits": torch.tensor(2.0), "hidden": torch.tensor(0.0)}, None, 2.0),
    ({"scores": torch.tensor(3.0)}, None, 3.0),
    ((torch.tensor(0.0), torch.tensor(4.0)), "output_1", 4.0),
], ids=["lone", "logits", "only", "named"])
def test_the_output_with_the_logits_is_chosen(value: Any, name: str | None, expected: float) -> None:
    assert chosen_output(value, name, "Student") == expected


def test_an_output_that_is_not_there_is_told() -> None:
    with pytest.raises(SpecError, match=r"Teacher returns no output 'tags'. Set `output` to one of: a, b"):
        chosen_output({"a": torch.zeros(1), "b": torch.zeros(1)}, "tags", "Teacher")


# The step


def test_the_step_adds_the_weighted_losses() -> None:
    teacher, student = _mlp(8), _mlp(4)
    spec = DistillSpec(logits=0.5, hard=2.0, tags=0.25, temperature=3.0, tag_temperature=2.0)
    loss = distillation_step(teacher, spec)(student, LABELLED[0])
    inputs, targets = LABELLED[0]
    ours, theirs = student(inputs), teacher(inputs)
    expected = (0.5 * logit_divergence(ours, theirs, 3.0) + 0.25 * soft_tag_loss(ours, theirs, 2.0)
                + 2 * functional.cross_entropy(ours, targets))
    torch.testing.assert_close(loss, expected)


def test_the_teacher_stays_in_evaluation_and_gets_no_gradients() -> None:
    teacher = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), _mlp(8))
    student = _mlp(4)
    before = copy.deepcopy(teacher.state_dict())
    distill(teacher, student, LABELLED)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(each.training for each in teacher.modules())


def test_the_teacher_gets_the_inputs_that_a_loss_of_ones_own_gave_the_student() -> None:
    seen: list[torch.Tensor] = []
    teacher = _mlp(8)
    teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0]))

    def mixed(student: nn.Module, batch: Any) -> torch.Tensor:
        return student(batch["image"] * 0.5).square().mean()

    distillation_step(teacher, DistillSpec(hard=1.0), mixed)(_mlp(4), {"image": X[:4]})
    assert torch.equal(seen[0], X[:4] * 0.5)


def test_a_loss_of_ones_own_sees_the_student_itself_when_there_are_hints() -> None:
    student, called = _mlp(4), []

    def own(module: nn.Module, batch: Any) -> torch.Tensor:
        called.append(module is student)
        return module(batch[0]).square().mean()

    distill(_mlp(8), student, LABELLED, DistillSpec(hard=1.0, hints=HINTS), hard=own)
    assert called == [True] * 4


def test_named_outputs_and_inputs_by_keyword_are_compared() -> None:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner = _mlp(width)

        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.inner(pixels)
            return {"logits": logits, "hidden": logits * 0}

    teacher, student = Model(8), Model(4)
    loss = distillation_step(teacher, DistillSpec())(student, {"pixels": X[:4]})
    torch.testing.assert_close(loss, logit_divergence(student.inner(X[:4]), teacher.inner(X[:4]), 4.0))


def _nan() -> nn.Module:
    teacher = _mlp(8)
    nn.init.constant_(teacher[2].bias, math.nan)
    return teacher


@pytest.mark.parametrize(("teacher", "spec", "error", "message"), [
    (_mlp(8, classes=5), DistillSpec(), SpecError, r"Student returns logits \(8, 3\) and teacher \(8, 5\)"),
    (_nan(), DistillSpec(), TrainingError, "Teacher returns NaN or infinity"),
    (_mlp(8), DistillSpec(hints=(Hint("9", "1"),)), SpecError, "Teacher has no module '9'"),
    (_mlp(8), DistillSpec(hard=1, hard_loss="hinge"), SpecError, "Loss 'hinge' is unknown"),
], ids=["shapes", "nan", "hint", "loss"])
def test_what_cannot_be_learned_is_told(teacher: nn.Module, spec: DistillSpec, error: type[Exception],
                                        message: str) -> None:
    with pytest.raises(error, match=message):
        distill(teacher, _mlp(4), LABELLED, spec)


def test_a_teacher_that_would_be_trained_is_refused() -> None:
    teacher = _mlp(8)
    with pytest.raises(SpecError, match=r"share what is trained \(0.weight, 0.bias, 2.weight\)"):
        distill(teacher, teacher, LABELLED)
    with pytest.raises(SpecError, match=r"share what is trained \(0.weight, 0.bias\)"):
        distill(teacher, nn.Sequential(teacher[0], nn.Linear(8, 3)), LABELLED)
    for weight in teacher[0].parameters():
        weight.requires_grad_(False)
    distill(teacher, nn.Sequential(teacher[0], nn.Linear(8, 3)), LABELLED)


def test_hints_need_projections_and_a_loss_must_call_the_student() -> None:
    with pytest.raises(SpecError, match="Linear has no projections for the 1 hints"):
        distillation_step(_mlp(8), DistillSpec(hints=HINTS))(nn.Linear(6, 3), LABELLED[0])
    idle = distillation_step(_mlp(8), DistillSpec(hard=1), lambda student, batch: torch.zeros(()))
    with pytest.raises(SpecError, match="does not call the student"):
        idle(_mlp(4), LABELLED[0])


@pytest.mark.parametrize("loader", [[], iter(LABELLED)], ids=["empty", "once"])
def test_a_loader_without_batches_is_refused_before_hints_are_sized(loader: Any) -> None:
    with pytest.raises(TrainingError, match="loader"):
        distill(_mlp(8), _mlp(4), loader, DistillSpec(hints=HINTS))


# The training


def test_projections_are_trained_and_the_student_alone_is_scored_and_masked() -> None:
    student = _mlp(4)
    scored, stepped = [], []

    def evaluate(module: nn.Module) -> float:
        scored.append((module is student, module.training))
        return 0.5

    distilled = distill(_mlp(8), student, LABELLED, DistillSpec(hints=HINTS), train=TrainSpec(epochs=2),
                        evaluate=evaluate, after_step=lambda module: stepped.append(module is student))
    assert distilled.student is student
    assert scored == [(True, False)] * 2
    assert stepped == [True] * 8
    assert distilled.fit.score == 0.5
    assert set(student.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_projections_learn() -> None:
    teacher, student = _mlp(8), _mlp(4)
    module = hinted(student, teacher, X, HINTS)
    before = module.projections[0].weight.detach().clone()
    step = distillation_step(teacher, DistillSpec(logits=0, hints=HINTS))
    history = fit(module, LABELLED, step, TrainSpec(epochs=30, learning_rate=2e-2)).history
    assert not torch.equal(module.projections[0].weight, before)
    assert history[-1].loss < 0.7 * history[0].loss
    assert isinstance(module, HintedStudent)


def test_a_killed_run_goes_on_to_the_same_student(tmp_path: Path) -> None:
    teacher, start = _mlp(8), _mlp(4)
    spec, train = DistillSpec(hints=HINTS), TrainSpec(epochs=3, checkpoint_seconds=0)
    loader = torch.utils.data.DataLoader(list(zip(X, Y)), batch_size=8, shuffle=True)
    whole = copy.deepcopy(start)
    distill(teacher, whole, loader, spec, train=train)

    def die(what: str, done: int, total: int | None) -> None:
        if what.startswith("Training epoch 2") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(teacher, copy.deepcopy(start), loader, spec, train=train, folder=tmp_path, progress=die)
    resumed = copy.deepcopy(start)
    result = distill(teacher, resumed, loader, spec, train=train, folder=tmp_path)
    assert result.fit.resumed > 4
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    with pytest.raises(TrainingError, match="of another training"):
        distill(_mlp(8), copy.deepcopy(start), loader, spec, train=train, folder=tmp_path)
    with pytest.raises(TrainingError, match="of another training"):
        distill(teacher, copy.deepcopy(start), loader, DistillSpec(hints=HINTS, temperature=2), train=train,
                folder=tmp_path)


def test_a_step_of_ones_own_replaces_the_loss() -> None:
    student = _mlp(4)
    called: list[nn.Module] = []

    def step(module: nn.Module, batch: Any) -> torch.Tensor:
        called.append(module)
        return module(batch[0]).square().mean()

    distill(_mlp(8, classes=5), student, LABELLED, DistillSpec(hints=HINTS), step=step)
    assert all(module is student for module in called)
    assert len(called) == 4


# The spec


@pytest.mark.parametrize(("settings", "message"), [
    ({"logits": 0.0}, "Nothing is learned from the teacher"),
    ({"tags": -1.0}, "weight tags = -1.0; it must not be negative"),
    ({"temperature": 0.0}, "temperature is 0.0"),
    ({"tag_temperature": math.nan}, "tag_temperature is nan"),
], ids=["nothing", "negative", "temperature", "nan"])
def test_specs_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        DistillSpec(**settings)


@pytest.mark.parametrize(("settings", "message"), [
    (("", "a", 1.0), "Name a module of each"),
    (("a", "a", 0.0), "weight 0.0; it must be above 0"),
], ids=["name", "weight"])
def test_hints_that_make_no_sense_are_refused(settings: tuple[str, str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Hint(*settings)


def test_a_recipe_gives_hints_as_tables() -> None:
    table = {"logits": 0, "tags": 1, "hints": [{"teacher": "a", "student": "b", "weight": 2}]}
    assert read_record(DistillSpec, table, "[[compress]]") == DistillSpec(0.0, 1.0, hints=(Hint("a", "b", 2.0),))


def test_a_teacher_with_extra_state_teaches() -> None:
    class Counted(nn.Linear):  # type: ignore[misc]  # torch is not seen by the type checker
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            del state

    teacher = nn.Sequential(Counted(6, 3))
    distilled = distill(teacher, _mlp(8), LABELLED, train=TrainSpec(epochs=1))
    assert len(distilled.fit.history) == len(LABELLED)

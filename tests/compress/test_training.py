"""The training loop: what it learns, what it leaves alone, what it tells, and what it refuses."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from trtkit.compress.training.batches import to_device
from trtkit.compress.training.loop import fit
from trtkit.compress.training.losses import step_for
from trtkit.compress.training.spec import TrainSpec
from trtkit.errors import SpecError, TrainingError

STEP = step_for("cross_entropy")


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture
def batches() -> list:
    """Four classes, told apart by the brightness of their images: three batches of eight."""
    torch.manual_seed(0)
    targets = torch.arange(24) % 4
    images = torch.randn(24, 3, 8, 8) * 0.2 + targets.view(-1, 1, 1, 1)
    return list(zip(images.split(8), targets.split(8)))


def test_fit_lowers_the_loss_and_returns_a_row_a_step(batches):
    result = fit(net(), batches, STEP, TrainSpec(epochs=8, learning_rate=0.02))
    losses = [row.loss for row in result.history]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert [(row.epoch, row.step) for row in result.history] == [(n // 3 + 1, n + 1) for n in range(24)]
    assert result.score is None
    assert result.best_score is None


def test_fit_leaves_random_numbers_modes_and_device_as_they_were(batches):
    module = net()
    module.eval()
    module[1].train()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    fit(module, batches, STEP, TrainSpec())
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert [each.training for each in module] == [False, True, *[False] * 5]


def test_fit_gives_the_same_curve_twice_and_another_with_another_seed(batches):
    loader = torch.utils.data.DataLoader([sample for batch in batches for sample in zip(*batch)], 8, shuffle=True)
    curves = [fit(net(), loader, STEP, TrainSpec(epochs=2, seed=seed)).history for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]


def test_fit_trains_in_training_mode_and_scores_in_evaluation_mode(batches):
    module, modes, scores = net(), [], iter((0.5, 0.75, 0.25))

    def step(trained, batch):
        modes.append(trained[1].training)
        return STEP(trained, batch)

    def evaluate(trained):
        modes.append(trained[1].training)
        return next(scores)

    result = fit(module, batches, step, TrainSpec(epochs=3), evaluate=evaluate)
    assert modes == [True, True, True, False] * 3
    assert result.scores == (0.5, 0.75, 0.25)
    assert (result.score, result.best_score) == (0.25, 0.75)
    assert [row.step for row in result.history if row.score is not None] == [3, 6, 9]


def test_fit_leaves_frozen_parameters_to_the_bit(batches):
    module = net()
    module[0].requires_grad_(False)
    before = {name: value.clone() for name, value in module.named_parameters()}
    fit(module, batches, STEP, TrainSpec(epochs=2, weight_decay=0.1))
    same = {name for name, value in module.named_parameters() if torch.equal(value, before[name])}
    assert same == {"0.weight", "0.bias"}


def test_fit_calls_after_step_behind_each_step(batches):
    def halve(module):
        with torch.no_grad():
            module[6].weight[0] = 0

    module = net()
    fit(module, batches, STEP, TrainSpec(), after_step=halve)
    assert not module[6].weight[0].any()
    assert module[6].weight[1].all()


def test_fit_reports_batches_of_each_epoch(batches):
    told = []
    result = fit(net(), batches, STEP, TrainSpec(epochs=2), progress=lambda *args: told.append(args))
    assert told == [(f"Training epoch {row.epoch}/2, loss {row.loss:.4g}", (row.step - 1) % 3 + 1, 3)
                    for row in result.history]


def test_fit_clips_gradients_when_asked(batches):
    norms = []

    def watch(module):
        norms.append(torch.stack([weight.grad.norm() for weight in module.parameters()]).norm().item())

    fit(net(), batches, STEP, TrainSpec(clip_norm=0.01), after_step=watch)
    assert max(norms) <= 0.01 * 1.001


def test_fit_counts_the_batches_of_a_loader_without_length(batches):
    class Stream:
        def __iter__(self):
            return (((images + torch.rand(1)), targets) for images, targets in batches)

    told = []
    result = fit(net(), Stream(), STEP, TrainSpec(epochs=2), progress=lambda *args: told.append(args[1:]))
    assert told == [(1, 3), (2, 3), (3, 3)] * 2
    assert result.history[-1].learning_rate > 0


def test_fit_announces_epochs_to_a_loader_that_asks(batches):
    class Announced(list):
        def __init__(self, items):
            super().__init__(items)
            self.epochs = []

        def set_epoch(self, number):
            self.epochs.append(number)

    loader = Announced(batches)
    fit(net(), loader, STEP, TrainSpec(epochs=3))
    assert loader.epochs == [0, 1, 2]


@pytest.mark.parametrize(("loader", "text"), [
    ([], "empty"), (iter([1]), "only once"),
    ([(torch.ones(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))],
     r"step 1 \(epoch 1, batch 1 of 1\), whose batch is \(\(2, 1, 8, 8\) float32, \(2\) int64\): RuntimeError"),
    ([(torch.ones(2, 3, 8, 8), torch.tensor([0, 9]))], "out of bounds"),
    ([torch.ones(2, 3, 8, 8)], r"gives \(2, 3, 8, 8\) float32 for a batch"),
    ([(torch.full((2, 3, 8, 8), torch.nan), torch.tensor([0, 1]))], r"loss is nan at step 1 .* NaN in that batch"),
], ids=["empty", "iterator", "channels", "class", "no-pair", "nan"])
def test_fit_refuses_loader(loader, text):
    with pytest.raises(TrainingError, match=text):
        fit(net(), loader, STEP, TrainSpec())


@pytest.mark.parametrize("loss", [
    lambda module, batch: 1.0, lambda module, batch: module(batch[0]),
    lambda module, batch: module(batch[0]).mean().detach(),
], ids=["float", "several", "no-gradient"])
def test_fit_refuses_loss_that_is_no_tensor_of_one_element_with_gradient(batches, loss):
    with pytest.raises(TrainingError, match=r"for a loss\. Return a tensor of one element"):
        fit(net(), batches, loss, TrainSpec())


def test_fit_stops_before_the_step_when_gradients_are_not_finite(batches):
    module = net()
    before = module[0].weight.clone()
    with pytest.raises(TrainingError, match=r"gradients are NaN or infinite at step 1"):
        fit(module, batches, lambda trained, batch: (trained(batch[0]).relu() * 0).sum().sqrt(), TrainSpec())
    assert torch.equal(module[0].weight, before)


def test_fit_refuses_a_score_that_is_not_finite(batches):
    with pytest.raises(TrainingError, match="score after epoch 1/1 is nan"):
        fit(net(), batches, STEP, TrainSpec(), evaluate=lambda _: float("nan"))


def test_fit_refuses_a_module_that_is_all_frozen(batches):
    with pytest.raises(TrainingError, match="nothing to train"):
        fit(net().requires_grad_(False), batches, STEP, TrainSpec())


@pytest.mark.parametrize("name", ["cuda:77", "nonsense"])
def test_fit_refuses_device_that_is_not_there(batches, name):
    with pytest.raises(TrainingError, match=f"Device '{name}' cannot be used"):
        fit(net(), batches, STEP, TrainSpec(device=name))


def test_to_device_reaches_tensors_in_any_nest_and_keeps_the_rest():
    batch = {"x": (torch.ones(1), [torch.ones(2)]), "name": "a", "none": None}
    moved = to_device(batch, torch.device("meta"))
    assert moved["x"][0].device.type == moved["x"][1][0].device.type == "meta"
    assert (moved["name"], moved["none"]) == ("a", None)
    assert isinstance(moved["x"], tuple)


@pytest.mark.parametrize(("name", "targets", "expected"), [
    ("cross_entropy", torch.tensor([0, 1]), -torch.tensor([2 / 3, 1 / 2]).log().mean()),
    ("bce", torch.tensor([[1, 0], [0, 1]]), None), ("mse", torch.zeros(2, 2), torch.tensor(2.0).log() ** 2 / 4),
])
def test_step_for_gives_the_loss_by_its_formula(name, targets, expected):
    logits = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).log()
    if expected is None:
        chance = logits.sigmoid()
        expected = -(torch.where(targets == 1, chance, 1 - chance).log()).sum(1).mean()
    torch.testing.assert_close(step_for(name)(nn.Identity(), (logits, targets)), expected)


def test_step_for_passes_tuples_by_position_dicts_by_name_and_takes_logits():
    class Pair(nn.Module):
        def forward(self, a, b):
            return {"features": a * 0, "logits": a - b}

    a, b = torch.ones(1, 2), torch.full((1, 2), 3.0)
    step = step_for("mse")
    assert step(Pair(), ((a, b), torch.zeros(1, 2))) == 4
    assert step(Pair(), ({"b": b, "a": a}, torch.zeros(1, 2))) == 4


def test_step_for_refuses_unknown_names_shapes_and_outputs():
    with pytest.raises(SpecError, match=r"Loss 'hinge' is unknown\. Choose one of: cross_entropy"):
        step_for("hinge")
    with pytest.raises(TrainingError, match=r"outputs \(4, 2\) float32 with targets \(4, 1\) float32"):
        step_for("mse")(nn.Identity(), (torch.ones(4, 2), torch.ones(4, 1)))
    with pytest.raises(TrainingError, match="none is called logits"):
        step_for("mse")(lambda x: (x, x), (torch.ones(1), torch.ones(1)))

"""Learning rates against torch's own schedulers, and what is decayed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trtkit.compress.training.optimizer import learning_rate, optimizer_for
from trtkit.compress.training.spec import Optimizer, Schedule, TrainSpec

SCHEDULERS = {
    Schedule.CONSTANT: lambda made, steps: torch.optim.lr_scheduler.ConstantLR(made, 1.0),
    Schedule.COSINE: torch.optim.lr_scheduler.CosineAnnealingLR,
    Schedule.ONECYCLE: lambda made, steps: torch.optim.lr_scheduler.OneCycleLR(made, 0.5, steps),
}


@pytest.mark.parametrize("schedule", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_learning_rate_is_that_of_torch_at_every_step(schedule, steps):
    spec = TrainSpec(learning_rate=0.5, schedule=schedule)
    made = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5, momentum=0.9)
    scheduler = SCHEDULERS[schedule](made, steps)
    for step in range(steps):
        assert learning_rate(spec, step, steps) == pytest.approx(made.param_groups[0]["lr"], abs=1e-12)
        made.step()
        if step < steps - 1:
            scheduler.step()


@pytest.mark.parametrize("schedule", Schedule)
def test_learning_rate_stays_at_the_end_when_there_are_more_steps_than_told(schedule):
    spec = TrainSpec(schedule=schedule)
    assert learning_rate(spec, 50, 10) == learning_rate(spec, 10, 10)


@pytest.mark.parametrize("optimizer", Optimizer)
def test_optimizer_decays_weights_alone(optimizer):
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    groups = optimizer_for(module, TrainSpec(optimizer=optimizer, weight_decay=0.3)).param_groups
    assert {id(weight): group["weight_decay"] for group in groups for weight in group["params"]} == {
        id(module[0].weight): 0.3, id(module[0].bias): 0.0, id(module[1].weight): 0.0, id(module[1].bias): 0.0}

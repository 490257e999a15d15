from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from trtkit.compress.distillation.hints import features_of, hint_loss, hinted, pairs_of
from trtkit.compress.distillation.spec import Hint
from trtkit.errors import SpecError


class Net(nn.Module):
    """A convolutional network of two stages; `hidden` is never called."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.stages = nn.ModuleList([
            nn.Sequential(nn.Conv2d(3, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()),
            nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        ])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(2 * width, 4)
        self.hidden = nn.Linear(1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            image = stage(image)
        return self.head(self.pool(image))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_pairs_are_joined_in_order_when_patterns_match_equally_many() -> None:
    pairs = pairs_of(Net(4), Net(8), (Hint("stages.?", "stages.?", 2.0), Hint("pool", "pool")))
    assert [(pair.teacher, pair.student, pair.weight) for pair in pairs] == [
        ("stages.0", "stages.0", 2.0), ("stages.1", "stages.1", 2.0), ("pool", "pool", 1.0)]


@pytest.mark.parametrize(("hint", "message"), [
    (Hint("stage.0", "stages.0"), r"Teacher has no module 'stage.0' for a hint. There are, among others: stages"),
    (Hint("stages.0", "blocks.*"), r"Student has no module 'blocks.\*'"),
    (Hint("stages.?", "pool"), r"'stages.\?' chooses 2 modules of the teacher \(stages.0, stages.1\) and 'pool' 1 of"),
    (Hint("hidden", "head"), "'hidden' of Net is not called in forward"),
    (Hint("stages.0", "pool"), r"'stages.0' \(4, 8, 16, 16\) to 'pool' \(4, 8\) compares features of different kinds"),
], ids=["teacher", "student", "unequal", "not-called", "kinds"])
def test_hints_that_cannot_be_followed_are_refused(hint: Hint, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        hinted(Net(4), Net(8), IMAGES, (hint,))


@pytest.mark.parametrize("stride", [1, 2], ids=["same-size", "half-size"])
def test_projections_have_the_teachers_channels_whatever_the_sizes(stride: int) -> None:
    student, teacher = Net(4, stride), Net(8)
    module = hinted(student, teacher, IMAGES, (Hint("stages.?", "stages.?"), Hint("pool", "pool", 3.0)))
    assert [tuple(each.weight.shape) for each in module.projections] == [(8, 4, 1, 1), (16, 8, 1, 1), (16, 8)]
    with features_of(student, ("stages.0", "stages.1", "pool")) as ours, \
            features_of(teacher, ("stages.0", "stages.1", "pool")) as theirs:
        output = module(IMAGES)
        teacher(IMAGES)
    torch.testing.assert_close(output, student(IMAGES))
    module.hint_losses(ours, theirs).backward()
    assert all(each.weight.grad.abs().max() > 0 for each in module.projections)
    assert student.stages[0][0].weight.grad.abs().max() > 0


def test_modes_and_statistics_stay_when_the_projections_are_sized() -> None:
    student, teacher = Net(4), Net(8).eval()
    student.stages[0].eval()
    before = student.stages[1][1].running_mean.clone()
    hinted(student, teacher, IMAGES, (Hint("pool", "pool"),))
    assert student.training
    assert not student.stages[0].training
    assert not teacher.training
    assert torch.equal(student.stages[1][1].running_mean, before)


def test_no_hook_stays_behind() -> None:
    net = Net(4)
    with pytest.raises(RuntimeError), features_of(net, ("pool",)):
        net(torch.zeros(1, 5, 16, 16))
    assert not net.pool._forward_hooks


def test_a_module_with_several_outputs_gives_its_first() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"hidden": x + 1, "weights": x}

    net = nn.Sequential(OrderedDict(block=Two()))
    with features_of(net, ("block",)) as seen:
        net(torch.zeros(2, 3))
    assert seen["block"].tolist() == torch.ones(2, 3).tolist()


def test_a_module_without_a_tensor_is_refused() -> None:
    class Text(nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return "text"

    net = nn.Sequential(OrderedDict(block=Text()))
    with pytest.raises(SpecError, match="'block' of a hint returns no tensor"), features_of(net, ("block",)):
        net(torch.zeros(2, 3))


@pytest.mark.parametrize("shape", [(6, 5), (2, 7, 5), (2, 5, 4, 4)], ids=["vectors", "tokens", "maps"])
def test_hint_loss_is_least_for_a_student_that_says_the_same_in_its_own_units(shape: tuple[int, ...]) -> None:
    teacher = torch.randn(shape) * torch.tensor([0.1, 1, 5, 100, 3]).view((-1, 1, 1) if len(shape) == 4 else (-1,))
    axis = 1 if len(shape) == 4 else -1
    rows = teacher.movedim(axis, -1).flatten(0, -2)
    mean, deviation = rows.mean(0), rows.std(0, correction=0)

    def normalize(feature: torch.Tensor) -> torch.Tensor:
        return ((feature.movedim(axis, -1) - mean) / deviation).movedim(-1, axis)

    same = hint_loss(_Call(normalize), teacher, teacher)
    silent = hint_loss(_Call(torch.zeros_like), teacher, teacher)
    assert same < 1e-4
    assert silent == pytest.approx(1.0, abs=1e-3)


class _Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.function(feature)


def test_tokens_of_different_number_are_refused() -> None:
    class Tokens(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.out, self.count = nn.Identity(), count

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(x[:, None].expand(-1, self.count, -1))

    with pytest.raises(SpecError, match=r"two with equally many tokens"):
        hinted(Tokens(3), Tokens(4), torch.zeros(2, 5), (Hint("out", "out"),))

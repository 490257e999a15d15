"""Zeros stay zeros while the others train."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from trtkit.compress.pruning.masks import Masks
from trtkit.compress.pruning.two_four import sparsify_two_four
from trtkit.compress.pruning.unstructured import sparsify
from trtkit.compress.training.loop import fit
from trtkit.compress.training.losses import step_for
from trtkit.compress.training.spec import TrainSpec
from trtkit.errors import SpecError


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 4))


def _train(net: nn.Module, masks: Masks | None, steps: int = 5) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(4, 4, 4, 4)).square().sum().backward()
        optimizer.step()
        if masks is not None:
            masks.apply(net)


def test_masks_keep_the_zeros_through_training() -> None:
    net = _net()
    masks = sparsify(net, 0.5)
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    _train(net, masks)
    for name, kept in masks.kept.items():
        now = dict(net.named_parameters())[name]
        assert not now[~kept].any()
        assert not torch.equal(now[kept], weights[name][kept])


def test_training_loses_the_zeros_when_no_mask_is_applied() -> None:
    net = _net()
    masks = sparsify(net, 0.5)
    _train(net, None)
    assert Masks.of(net).sparsity < masks.sparsity


def test_masks_come_back_from_the_zeros_of_a_checkpoint(tmp_path: Path) -> None:
    net = _net()
    masks = sparsify_two_four(net)
    _train(net, masks)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    again = _net()
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    read = Masks.of(again)
    assert read.kept.keys() == masks.kept.keys()
    assert all(torch.equal(read.kept[name], masks.kept[name]) for name in masks.kept)
    assert read.sparsity == masks.sparsity == 0.5


def test_masks_hold_through_a_fit_that_is_stopped_and_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(1)
    batches = [(torch.randn(4, 4, 4, 4), torch.randint(0, 4, (4,))) for _ in range(3)]
    start = _net()
    masks = sparsify_two_four(start, loader=batches)
    step, spec = step_for("cross_entropy"), TrainSpec(epochs=2, device="cpu", checkpoint_seconds=0)
    whole, stopped, resumed = (copy.deepcopy(start) for _ in range(3))
    fit(whole, batches, step, spec, after_step=masks.apply)
    assert Masks.of(whole).sparsity == masks.sparsity == 0.5
    left = iter(range(4))

    def stop(module: nn.Module) -> None:
        masks.apply(module)
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, batches, step, spec, folder=tmp_path, after_step=stop)
    fit(resumed, batches, step, spec, folder=tmp_path, after_step=Masks.of(resumed).apply)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_masks_of_a_dense_module_are_empty() -> None:
    masks = Masks.of(_net())
    assert masks.kept == {}
    assert masks.sparsity == 0.0


def test_masks_apply_to_a_copy() -> None:
    net = _net()
    dense = copy.deepcopy(net)
    sparsify(net, 0.5).apply(dense)
    assert Masks.of(dense).sparsity == pytest.approx(0.5)


@pytest.mark.parametrize(("other", "match"), [
    (nn.Sequential(nn.Conv2d(4, 6, 3)), r"\(8, 4, 3, 3\).*has it as \(6, 4, 3, 3\)"),
    (nn.Sequential(nn.ReLU()), "has no such parameter"),
], ids=["another shape", "missing"])
def test_masks_refuse_another_module(other: nn.Module, match: str) -> None:
    masks = sparsify(_net(), 0.5)
    with pytest.raises(SpecError, match=match):
        masks.apply(other)

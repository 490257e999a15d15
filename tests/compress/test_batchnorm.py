"""BatchNorm statistics of what is left of a module."""

from __future__ import annotations

import copy

import torch
from torch import nn

from trtkit.compress.pruning.batchnorm import renew_batchnorm
from trtkit.compress.pruning.two_four import sparsify_two_four


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, momentum=0.3), nn.Dropout(0.5), nn.ReLU(),
                         nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))


def _batches(samples: int, count: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(samples, 4, 8, 8) * 3 + 1 for _ in range(count)]


def test_renew_takes_the_statistics_of_what_the_layers_give_now() -> None:
    net, batches = _net(), _batches(16)
    net[0].weight.data.mul_(5)
    assert renew_batchnorm(net, batches) == ("BatchNorm statistics were renewed on 4 batches",)
    with torch.no_grad():
        first = net[0](torch.cat(batches))
        second = net[4](net[3](net.eval()[1](first)))
    for norm, given in ((net[1], first), (net[5], second)):
        assert torch.allclose(norm.running_mean, given.mean((0, 2, 3)), rtol=0.02, atol=0.02)
        assert torch.allclose(norm.running_var, given.var((0, 2, 3)), rtol=0.05)


def test_renew_leaves_modes_and_momenta() -> None:
    net = _net()
    net[5].eval()
    renew_batchnorm(net, _batches(8))
    assert [net[1].momentum, net[5].momentum] == [0.3, 0.1]
    assert [each.training for each in net] == [True] * 5 + [False]


def test_renew_leaves_the_statistics_when_batches_are_small() -> None:
    net = _net()
    note, = renew_batchnorm(net, [*_batches(8), *_batches(7, 1)])
    assert "a batch has 7 samples. Give batches of 8 or more" in note
    assert not net[1].running_mean.any()


def test_renew_says_nothing_when_there_is_no_batchnorm() -> None:
    assert renew_batchnorm(nn.Linear(4, 4), [torch.randn(8, 4)]) == ()


def test_sparse_outputs_come_closer_when_statistics_are_renewed() -> None:
    net, batches = _net(), _batches(32)
    renew_batchnorm(net.eval(), batches)
    big, small = copy.deepcopy(net), copy.deepcopy(net)
    assert any("renewed" in note for note in sparsify_two_four(big, loader=batches).notes)
    assert any("stay those of the dense" in note for note in sparsify_two_four(
        small, loader=[part for batch in batches for part in batch.split(4)], batches=32).notes)
    inputs = torch.cat(batches)
    with torch.no_grad():
        renewed, stale = ((other(inputs) - net(inputs)).square().mean().item() for other in (big, small))
    assert renewed < stale

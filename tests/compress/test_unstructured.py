"""Single weights of least magnitude -> 0."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trtkit.compress.pruning.spec import Scope
from trtkit.compress.pruning.unstructured import sparsify
from trtkit.errors import SpecError
from trtkit.precision import NodeSelector


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 4))
    with torch.no_grad():
        net[2].weight.mul_(100)
    return net


def _shares(net: nn.Module) -> list[float]:
    return [float((p == 0).float().mean()) for name, p in net.named_parameters() if name.endswith("weight")]


def test_sparsify_takes_the_least_of_each_layer_when_local() -> None:
    net = _net()
    before = net[2].weight.detach().clone()
    masks = sparsify(net, 0.75)
    assert _shares(net) == pytest.approx([0.75] * 3)
    assert masks.sparsity == pytest.approx(0.75)
    gone = net[2].weight == 0
    assert before[gone].abs().max() <= before[~gone].abs().min()
    assert torch.equal(before[~gone], net[2].weight[~gone])
    assert masks.notes == ()


def test_sparsify_spares_the_layer_of_large_weights_when_global() -> None:
    net = _net()
    sizes = [216, 576, 32]
    masks = sparsify(net, 0.3, scope=Scope.GLOBAL)
    shares = _shares(net)
    assert shares[1] < 0.05 < min(shares[0], shares[2])
    assert sum(share * size for share, size in zip(shares, sizes, strict=True)) == pytest.approx(round(0.3 * 824))
    assert masks.notes == ()


def test_sparsify_says_so_when_a_layer_loses_everything() -> None:
    net = _net()
    masks = sparsify(net, 0.6, scope=Scope.GLOBAL)
    assert _shares(net)[0] == 1.0
    assert any(note.startswith("0.weight has no weight left") for note in masks.notes)


def test_sparsify_goes_on_from_the_zeros_when_repeated() -> None:
    net = _net()
    first = sparsify(net, 0.5)
    with torch.no_grad():
        net[0].weight.mul_(1000)  # scaling moves no zero
    second = sparsify(net, 0.7)
    assert second.sparsity == pytest.approx(0.7, abs=0.01)
    assert not (second.kept["0.weight"] & ~first.kept["0.weight"]).any()


@pytest.mark.parametrize("spare", [NodeSelector(names=("0", "4")), NodeSelector(op_types=("Conv2d",))],
                         ids=["names", "classes"])
def test_sparsify_leaves_spared_layers_dense(spare: NodeSelector) -> None:
    net = _net()
    sparsify(net, 0.5, spare=spare)
    assert _shares(net)[0] == 0.0
    assert sum(_shares(net)) == pytest.approx(0.5)


def test_sparsify_spares_all_inside_a_spared_container() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4))
    masks = sparsify(net, 0.5, spare=NodeSelector(names=("0",)))
    assert set(masks.kept) == {"1.weight"}


def test_sparsify_leaves_a_weight_dense_when_an_embedding_shares_it() -> None:
    embedding, head = nn.Embedding(6, 8), nn.Linear(8, 6)
    head.weight = embedding.weight
    net = nn.Sequential(embedding, nn.Linear(8, 8), head)
    masks = sparsify(net, 0.5)
    assert set(masks.kept) == {"1.weight"}
    assert "2.weight is shared with Embedding and stays dense" in masks.notes


def test_sparsify_tells_of_a_weight_that_is_computed() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    masks = sparsify(net, 0.5)
    assert set(masks.kept) == {"0.weight"}
    assert [note for note in masks.notes if note.startswith("1 stays dense: its weight is computed")]


@pytest.mark.parametrize(("more", "match"), [
    ({"amount": 1.0}, "amount is 1.0"),
    ({"amount": -0.1}, "amount is -0.1"),
    ({"amount": 0.5, "spare": NodeSelector(names=("headd",))}, "'headd' matches no"),
    ({"amount": 0.5, "spare": NodeSelector(op_types=("Conv2d", "Linear"))}, "Every layer with weights is spared"),
], ids=["all", "negative", "selector", "nothing left"])
def test_sparsify_refuses_what_cannot_be_done(more: dict[str, object], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        sparsify(_net(), **more)  # type: ignore[arg-type]


def test_sparsify_refuses_a_module_without_weights() -> None:
    with pytest.raises(SpecError, match="has no convolution"):
        sparsify(nn.ReLU(), 0.5)

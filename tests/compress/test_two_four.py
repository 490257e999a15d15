"""Two of four consecutive input channels -> 0."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from trtkit.compress.pruning.brain_surgeon import prune_by_error
from trtkit.compress.pruning.moments import second_moments, to_columns, to_weight
from trtkit.compress.pruning.two_four import is_two_four, sparsify_two_four
from trtkit.compress.pruning.weights import weights_of
from trtkit.errors import CalibrationError, SpecError
from trtkit.precision import NodeSelector


class Net(nn.Module):  # type: ignore[misc]
    """Every kind of layer with weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 3, stride=2, padding="valid")
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.up = nn.ConvTranspose2d(16, 16, 2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.depthwise(self.wide(self.stem(x).relu()).relu())).flatten(2).mT
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


ELIGIBLE = {"wide.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"}


def _batches(count: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(4, 3, 12, 12), torch.zeros(4)) for _ in range(count)]


def _holds(net: nn.Module) -> None:
    """Check the rule of the TensorRT developer guide, as it is written there."""
    for name, weight in net.named_parameters():
        if name in ELIGIBLE:
            flat = weight.detach().reshape(*weight.shape[:2], -1)
            for k in range(flat.shape[0]):
                for c in range(0, flat.shape[1], 4):
                    assert int((flat[k, c:c + 4] != 0).sum(0).max()) <= 2


@pytest.mark.parametrize("loader", [None, _batches()], ids=["magnitude", "error"])
def test_sparsify_two_four_zeroes_input_channels_of_eligible_layers(loader: list[object] | None) -> None:
    net = Net()
    dense = {name: p.detach().clone() for name, p in net.named_parameters()}
    masks = sparsify_two_four(net, loader=loader)
    assert set(masks.kept) == ELIGIBLE
    _holds(net)
    assert masks.sparsity == 0.5
    assert {weight.name for weight in weights_of(net) if is_two_four(weight)} == ELIGIBLE
    assert all(torch.equal(p, dense[name]) for name, p in net.named_parameters() if name not in ELIGIBLE)
    notes = " | ".join(masks.notes)
    assert "stem.weight stays dense: its 3 input channels are no multiple of 4" in notes
    assert "depthwise.weight stays dense: TensorRT has no sparse kernel for grouped convolutions" in notes
    assert "up.weight stays dense: TensorRT has no sparse kernel for ConvTranspose2d" in notes
    assert "4 of 4 sparse layers have fewer than 256 input or output channels" in notes
    assert net.training


def test_sparsify_two_four_keeps_the_largest_two_when_by_magnitude() -> None:
    layer = nn.Linear(8, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -4, 3, 2, 0.5, 0.1, -0.2, 9]]))
    sparsify_two_four(layer)
    assert layer.weight.tolist() == [[0, -4, 3, 0, 0.5, 0, 0, 9]]


def test_sparsify_two_four_lets_zeros_be_when_there_are_more() -> None:
    layer = nn.Linear(8, 4)
    with torch.no_grad():
        layer.weight[:, 1:4] = 0
    assert sparsify_two_four(layer).sparsity == pytest.approx(5 / 8)


@pytest.mark.parametrize("layer", [nn.Linear(32, 8), nn.Conv2d(8, 8, 3, padding=1, stride=2, bias=False),
                                   nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="reflect"),
                                   nn.Conv1d(8, 8, 3, padding=1)],
                         ids=["Linear", "Conv2d", "dilated", "Conv1d"])
def test_sparsify_two_four_changes_outputs_less_when_by_error(layer: nn.Module) -> None:
    """Inputs that hang together, as those of real layers do."""
    torch.manual_seed(2)
    mixing = torch.randn(8, 8) * torch.logspace(-1, 1, 8)[:, None]
    inputs = {nn.Linear: torch.randn(256, 4, 8) @ mixing, nn.Conv2d: torch.randn(8, 8, 9, 8) @ mixing,
              nn.Conv1d: torch.randn(32, 8, 8) @ mixing}[type(layer)]
    inputs = inputs.flatten(1) if isinstance(layer, nn.Linear) else inputs.movedim(-1, 1)
    wanted, errors = layer(inputs), []
    for loader in (None, [inputs]):
        sparse = copy.deepcopy(layer)
        sparsify_two_four(sparse, loader=loader)
        errors.append((sparse(inputs) - wanted).square().mean().item())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 5, 3, padding=1, stride=2), nn.Conv1d(4, 5, 3, dilation=2),
                                   nn.Linear(4, 5)], ids=["Conv2d", "Conv1d", "Linear"])
def test_second_moments_are_those_of_the_rows_that_the_columns_multiply(layer: nn.Module) -> None:
    """The energy of the output is rows * trace(W H W^T)."""
    torch.manual_seed(3)
    inputs = torch.randn(3, *{nn.Conv2d: (4, 7, 6), nn.Conv1d: (4, 9), nn.Linear: (4,)}[type(layer)])
    weight, = weights_of(layer)
    moments = second_moments(layer, [weight], [inputs], lambda *_: None)[weight.name]
    matrix = to_columns(weight)
    layer.bias.data.zero_()
    assert torch.einsum("ki,ij,kj->", matrix, moments, matrix).item() == pytest.approx(
        layer(inputs).square().sum().item(), rel=1e-4)
    assert torch.equal(to_weight(weight, matrix), weight.tensor)


def test_prune_by_error_finds_the_best_of_one_row_when_the_columns_are_independent() -> None:
    weights = torch.tensor([[3.0, 2.0, 1.0, 0.5]])
    kept = prune_by_error(weights, torch.diag(torch.tensor([0.01, 1.0, 1.0, 100.0])))[1]
    assert kept.tolist() == [[False, True, False, True]]
    rest, kept = prune_by_error(weights, torch.tensor([0.01, 1.0, 1.0, 100.0]))
    assert kept.tolist() == [[False, True, False, True]]
    assert rest.tolist() == [[0, 2, 0, 0.5]]


def test_prune_by_error_moves_a_twin_to_make_up_for_what_goes() -> None:
    """Columns 0 and 1 see the same input, 2 and 3 too: nothing is lost."""
    inputs = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 1)
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    rest, kept = prune_by_error(weights, inputs.T @ inputs)
    assert int(kept.sum()) == 2
    assert torch.allclose(inputs @ rest.T, inputs @ weights.T, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("moments", [torch.zeros(8, 8), torch.ones(8, 8)], ids=["dead inputs", "one direction"])
def test_prune_by_error_holds_when_the_inputs_say_little(moments: torch.Tensor) -> None:
    rest, kept = prune_by_error(torch.randn(3, 8), moments)
    assert torch.isfinite(rest).all()
    assert kept.view(3, 2, 4).sum(2).eq(2).all()


def test_sparsify_two_four_falls_back_to_magnitude_when_a_layer_sees_nothing() -> None:
    net = Net()
    masks = sparsify_two_four(net, loader=_batches())
    assert "attention.out_proj.weight was chosen by magnitude: its inputs cannot be observed" in masks.notes
    assert not any("in_proj" in note and "magnitude" in note for note in masks.notes)


def test_sparsify_two_four_sees_inside_a_transformer_encoder() -> None:
    """Whose fused path in evaluation mode calls none of its layers."""
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    notes = sparsify_two_four(encoder, loader=[torch.randn(8, 5, 16)]).notes
    assert [note.split()[0] for note in notes if "by magnitude" in note] == ["self_attn.out_proj.weight"]


def test_sparsify_two_four_goes_layer_by_layer_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, one_by_one = Net(), Net()
    sparsify_two_four(at_once, loader=_batches())
    passes: list[str] = []
    monkeypatch.setattr("trtkit.compress.pruning.two_four._MOMENTS_BYTES", 1)
    sparsify_two_four(one_by_one, loader=_batches(), progress=lambda what, done, total: passes.append(f"{what} {done}"))
    assert passes.count("Second moments 0") == len(ELIGIBLE)
    _holds(one_by_one)
    assert torch.equal(at_once.wide.weight, one_by_one.wide.weight)  # the first: it sees the same either way
    assert not torch.equal(at_once.head.weight, one_by_one.head.weight)


def test_second_moments_are_a_diagonal_when_the_whole_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, inputs = nn.Linear(8, 4), torch.randn(16, 8)
    weight, = weights_of(layer)
    whole = second_moments(layer, [weight], [inputs], lambda *_: None)[weight.name]
    monkeypatch.setattr("trtkit.compress.pruning.moments.DIAGONAL_ABOVE", 7)
    diagonal = second_moments(layer, [weight], [inputs], lambda *_: None)[weight.name]
    assert torch.allclose(diagonal, whole.diagonal())


def test_sparsify_two_four_uses_at_most_the_given_batches() -> None:
    seen = []

    def loader() -> object:
        for batch in _batches(5):
            seen.append(batch)
            yield batch

    sparsify_two_four(Net(), loader=loader(), batches=2)  # type: ignore[arg-type]
    assert len(seen) == 2


def _not_finite() -> Net:
    net = Net()
    net.stem.weight.data[0] = float("inf")
    return net


@pytest.mark.parametrize(("make", "more", "error", "match"), [
    (Net, {"spare": NodeSelector(names=("no.such",))}, SpecError, "'no.such' matches no"),
    (Net, {"loader": []}, SpecError, "loader is empty"),
    (Net, {"loader": _batches(), "batches": 0}, SpecError, "batches is 0"),
    (lambda: nn.Linear(3, 3), {}, SpecError, "No layer can be 2:4 sparse .*3 input channels"),
    (lambda: nn.Linear(4, 4), {"spare": NodeSelector()}, None, ""),
    (_not_finite, {"loader": _batches()}, CalibrationError, "'wide.weight' multiplies is not finite"),
], ids=["selector", "empty", "no batches", "not eligible", "empty selector", "not finite"])
def test_sparsify_two_four_refuses_what_cannot_be_done(
        make: Callable[[], nn.Module], more: dict[str, object], error: type[Exception] | None, match: str) -> None:
    if error is None:
        assert sparsify_two_four(make(), **more).sparsity == 0.5  # type: ignore[arg-type]
        return
    with pytest.raises(error, match=match):
        sparsify_two_four(make(), **more)  # type: ignore[arg-type]

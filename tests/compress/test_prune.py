from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, silu

from trtkit.compress import Goal, Importance, Method, PruneSpec, Ramp, Scope, count, prune
from trtkit.compress.pruning.channels import coupled_channels
from trtkit.errors import ExportError, SpecError, TrainingError
from trtkit.export.inputs import named_inputs
from trtkit.export.loading import load_weights
from trtkit.export.options import ExportOptions
from trtkit.export.saving import save_checkpoint
from trtkit.precision import NodeSelector

EXAMPLE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.norm = nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.b = nn.Conv2d(24, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.fc((x + self.b(torch.relu(self.norm(self.a(x))))).mean((2, 3)))


class Inverted(nn.Module):
    """Depthwise convolution with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 32, 1)
        self.depth = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.out, self.fc = nn.Conv2d(32, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = silu(self.depth(silu(self.wide(x))))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.fc((x + self.out(y)).mean((2, 3)))


class Branched(nn.Module):
    """Grouped convolution, concatenation and a gated linear unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.c, self.gate, self.fc = nn.Conv2d(32, 8, 1), nn.Conv2d(40, 16, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.grouped(torch.relu(self.a(x))))
        u, v = self.gate(torch.cat([self.c(y), y], 1)).chunk(2, 1)
        return self.fc((u * torch.sigmoid(v)).mean((2, 3)))


class Shuffled(nn.Module):
    """Channels are shuffled by sizes that are written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        y = y.view(-1, 2, 8, 14, 14).transpose(1, 2).reshape(-1, 16, 14, 14)
        return self.fc(self.c(torch.relu(self.b(y))).mean((2, 3)))


def made(factory: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return factory().eval()


def widths(module: nn.Module) -> dict[str, int]:
    return {name: layer.weight.shape[0] for name, layer in module.named_modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear))}


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, 16, 16, generator=generator), torch.arange(4)) for _ in range(2)]


def step(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return cross_entropy(module(batch[0]), batch[1])


@pytest.mark.parametrize("factory", [Residual, Inverted, Branched])
@pytest.mark.parametrize("goal", [Goal.MACS, Goal.PARAMS], ids=lambda goal: goal.value)
def test_half_of_the_goal_is_gone_and_the_module_unchanged(factory: Callable[[], nn.Module], goal: Goal) -> None:
    module = made(factory)
    before, wanted = {name: value.clone() for name, value in module.state_dict().items()}, module(EXAMPLE)
    pruned = prune(module, EXAMPLE, PruneSpec(0.5, goal=goal))
    was, now = count(module, EXAMPLE), count(pruned.module, EXAMPLE)
    share = now.macs / was.macs if goal is Goal.MACS else now.parameters / was.parameters
    assert 0.4 < share <= 0.5
    assert pruned.report.reached == pytest.approx(1 - share)
    assert pruned.module(EXAMPLE).shape == wanted.shape
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not pruned.module.training


@pytest.mark.parametrize("scope", Scope)
def test_channels_are_aligned_when_a_multiple_is_asked_for(scope: Scope) -> None:
    pruned = prune(made(Residual), EXAMPLE, PruneSpec(0.4, round_to=8, scope=scope))
    left = widths(pruned.module)
    assert left.pop("fc") == 5
    assert all(width % 8 == 0 for width in left.values())
    assert left["stem"] == left["b"]


@pytest.mark.parametrize("importance", Importance)
def test_every_importance_takes_the_dead_channels_first(importance: Importance) -> None:
    module = made(Residual)
    with torch.no_grad():
        module.a.weight[:8] = 0
        module.norm.weight[:8] = 0
        module.norm.bias[:8] = 0
        module.b.weight[:, :8] = 0
    spec = PruneSpec(0.1, importance=importance, spare=NodeSelector(("stem", "b")))
    pruned = prune(module, EXAMPLE, spec, loader=batches(), step=step)
    assert 16 <= pruned.module.a.out_channels < 24
    torch.testing.assert_close(pruned.module(EXAMPLE), module(EXAMPLE))


def test_a_spared_layer_keeps_its_channels_and_so_does_what_is_coupled_to_it() -> None:
    pruned = prune(made(Residual), EXAMPLE, PruneSpec(0.3, spare=NodeSelector(("stem",))))
    assert widths(pruned.module)["stem"] == widths(pruned.module)["b"] == 16
    why = {layer.name: layer.why for layer in pruned.report.layers}
    assert why == {"stem": "spared, as asked for", "a": None, "b": "spared, as asked for",
                   "fc": "it gives the module's output"}
    assert pruned.report.eligible == ("a",)


def test_what_the_trace_gets_wrong_is_spared_with_the_reason() -> None:
    pruned = prune(made(Shuffled), EXAMPLE, PruneSpec(0.3))
    assert widths(pruned.module)["a"] == 16
    why = {layer.name: layer.why for layer in pruned.report.layers}["a"]
    assert why is not None
    assert "without channels of it" in why


def test_tied_weights_stay_tied_and_keep_their_outputs() -> None:
    class Tied(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(16, 24, 3, padding=1, bias=False)
            self.c.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.c(self.stem(x)).mean()

    pruned = prune(made(Tied), EXAMPLE, PruneSpec(0.1))
    assert widths(pruned.module)["a"] == widths(pruned.module)["c"] == 24
    assert widths(pruned.module)["stem"] < 16
    assert pruned.module.c.weight is pruned.module.a.weight


def test_halves_of_a_gated_unit_and_groups_go_together() -> None:
    module = made(Branched)
    sets, left_out = coupled_channels(module, named_inputs(module, EXAMPLE, ExportOptions(batch=None)))
    units = {each.name: each.units[0] for each in sets}
    assert units["gate"] == (0, 8)
    assert units["grouped"] == (0, 8, 16, 24)
    assert units["a"] == (0, 4, 8, 12)
    assert not left_out


def test_transformers_lose_whole_heads_and_hidden_units() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    vit = ViTForImageClassification(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=4, patch_size=8,
                                              intermediate_size=32, image_size=16, num_labels=5)).eval()
    pruned = prune(vit, EXAMPLE, PruneSpec(0.3, scope=Scope.LOCAL))
    attention = next(layer for layer in pruned.module.modules() if hasattr(layer, "q_proj"))
    assert attention.num_attention_heads < 4
    assert attention.q_proj.out_features == attention.num_attention_heads * 4
    assert {layer.why for layer in pruned.report.layers if layer.after == 16} == {
        "LayerNorm takes its statistics over it"}


def test_a_table_with_a_column_for_each_head_loses_columns_with_them() -> None:
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(0)
    swin = SwinForImageClassification(SwinConfig(image_size=16, patch_size=4, embed_dim=16, depths=[1], num_heads=[4],
                                                 window_size=2, num_labels=5)).eval()
    pruned = prune(swin, EXAMPLE, PruneSpec(0.3, scope=Scope.LOCAL))
    attention = next(layer for layer in pruned.module.modules() if hasattr(layer, "relative_position_bias"))
    assert attention.num_attention_heads < 4
    assert attention.relative_position_bias.relative_position_bias_table.shape[1] == attention.num_attention_heads


def test_an_amount_that_cannot_go_is_refused_with_what_can() -> None:
    with pytest.raises(SpecError, match=r"95% of the macs cannot go: \d"):
        prune(made(Residual), EXAMPLE, PruneSpec(0.95, max_layer_amount=0.5))


def test_an_amount_that_later_steps_cannot_reach_is_refused_before_any_training() -> None:
    def trained(module: nn.Module, number: int) -> None:
        raise AssertionError("trained")

    with pytest.raises(SpecError, match="95% of the macs cannot go"):
        prune(made(Residual), EXAMPLE, PruneSpec(0.95, max_layer_amount=0.5, steps=3, ramp=Ramp.LINEAR),
              finetune=trained)


def test_an_overshoot_is_told() -> None:
    pruned = prune(made(Residual), EXAMPLE, PruneSpec(0.05, round_to=8))
    assert any("more than asked for" in note for note in pruned.report.notes)


def test_latency_is_measured_for_its_goal() -> None:
    module = made(Residual)
    pruned = prune(module, EXAMPLE, PruneSpec(0.3, goal=Goal.LATENCY), latency=lambda m: m.a.out_channels / 1000)
    assert pruned.module.a.out_channels == 16
    assert pruned.report.latency == pytest.approx(0.024)
    assert pruned.report.steps[0].latency == pytest.approx(0.016)
    with pytest.raises(SpecError, match="something that measures it"):
        prune(module, EXAMPLE, PruneSpec(goal=Goal.LATENCY))


def test_a_module_without_gradients_is_refused_with_what_to_do() -> None:
    class Frozen(Residual):
        @torch.no_grad()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    with pytest.raises(ExportError, match="no output with a gradient"):
        prune(made(Frozen), EXAMPLE, PruneSpec())


def test_frozen_parameters_stay_frozen() -> None:
    module = made(Residual)
    module.a.weight.requires_grad_(False)
    pruned = prune(module, EXAMPLE, PruneSpec(0.4))
    assert not pruned.module.a.weight.requires_grad
    assert pruned.module.b.weight.requires_grad


@pytest.mark.parametrize(("spec", "given", "message"), [
    (PruneSpec(importance=Importance.TAYLOR), {}, "Give a loader and a step"),
    (PruneSpec(importance=Importance.TAYLOR), {"loader": [], "step": step}, "The loader gives no batch"),
    (PruneSpec(spare=NodeSelector(("nowhere",))), {}, "matches no"),
    (PruneSpec(round_to=64), {}, "can lose channels"),
], ids=["no loader", "empty loader", "selector", "alignment"])
def test_what_cannot_be_done_is_refused(spec: PruneSpec, given: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        prune(made(Residual), EXAMPLE, spec, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Method.UNSTRUCTURED, Method.TWO_FOUR], ids=lambda method: method.value)
def test_zeros_are_kept_and_their_worth_told(method: Method) -> None:
    module = made(Residual)

    def careless(trained: nn.Module, number: int) -> None:
        with torch.no_grad():
            trained.a.weight += 1.0

    pruned = prune(module, EXAMPLE, PruneSpec(0.5, method=method, scope=Scope.LOCAL), finetune=careless)
    assert pruned.masks is not None
    assert (pruned.module.a.weight == 0).float().mean() == 0.5
    assert any("moved weights that are to stay zero" in note for note in pruned.report.notes)
    assert "give no speed" in pruned.report.notes[0] or "Ampere" in pruned.report.notes[0]
    assert (module.a.weight != 0).all()


def test_a_ramp_ends_at_the_amount() -> None:
    assert Ramp.LINEAR.amounts(0.6, 3) == pytest.approx((0.2, 0.4, 0.6))
    assert Ramp.CUBIC.amounts(0.5, 2) == pytest.approx((0.4375, 0.5))


@pytest.mark.parametrize("values", [{"amount": 0.0}, {"amount": 1.0}, {"round_to": 0}, {"steps": 0}, {"max_drop": -1.0},
                                    {"tolerance": 1.0}, {"method": Method.TWO_FOUR, "steps": 2}], ids=str)
def test_a_spec_out_of_range_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        PruneSpec(**values)  # type: ignore[arg-type]


def scores(*values: float) -> Callable[[nn.Module], float]:
    given: Iterator[float] = iter(values)
    return lambda module: next(given)


@pytest.mark.parametrize(("max_drop", "given", "message"), [(0.1, (0.9, 0.85, 0.7), "max_drop is 0.1"),
                                                            (None, (0.9, 0.6, 0.3), "collapsed from 0.9 to 0.3")])
def test_the_last_good_step_is_kept_when_the_score_collapses(max_drop: float | None, given: tuple[float, ...],
                                                             message: str) -> None:
    pruned = prune(made(Residual), EXAMPLE, PruneSpec(0.6, steps=3, ramp=Ramp.LINEAR, max_drop=max_drop),
                   finetune=lambda module, number: None, evaluate=scores(*given))
    assert len(pruned.report.steps) == 1
    assert pruned.report.stopped is not None
    assert message in pruned.report.stopped
    assert pruned.report.reached == pytest.approx(1 - pruned.report.after.macs / pruned.report.before.macs)


def test_nothing_is_pruned_when_the_first_step_ruins_the_weights() -> None:
    module = made(Residual)

    def ruin(trained: nn.Module, number: int) -> None:
        with torch.no_grad():
            trained.fc.weight.fill_(float("nan"))

    pruned = prune(module, EXAMPLE, PruneSpec(0.5), finetune=ruin)
    assert pruned.report.reached == 0.0
    assert "not finite" in str(pruned.report.stopped)
    assert torch.equal(pruned.module(EXAMPLE), module(EXAMPLE))


def test_a_run_that_was_killed_goes_on_with_the_step_it_was_in(tmp_path: Path) -> None:
    module, spec = made(Residual), PruneSpec(0.5, steps=3)

    def finetune(trained: nn.Module, number: int) -> None:
        with torch.no_grad():
            trained.fc.bias += number

    def killed(trained: nn.Module, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt
        finetune(trained, number)

    whole = prune(module, EXAMPLE, spec, finetune=finetune, evaluate=scores(0.9, 0.8, 0.7, 0.6))
    with pytest.raises(KeyboardInterrupt):
        prune(module, EXAMPLE, spec, finetune=killed, evaluate=scores(0.9, 0.8), folder=tmp_path)
    resumed = prune(module, EXAMPLE, spec, finetune=finetune, evaluate=scores(0.7, 0.6), folder=tmp_path)
    assert resumed.report == whole.report
    torch.testing.assert_close(resumed.module(EXAMPLE), whole.module(EXAMPLE), rtol=0, atol=0)
    done = prune(module, EXAMPLE, spec, finetune=killed, evaluate=scores(), folder=tmp_path)
    assert done.report == whole.report
    with pytest.raises(TrainingError, match="spec"):
        prune(module, EXAMPLE, PruneSpec(0.4), folder=tmp_path)
    (tmp_path / "pruning.json").write_text("{")
    with pytest.raises(TrainingError, match="damaged"):
        prune(module, EXAMPLE, spec, folder=tmp_path)


@pytest.mark.parametrize("factory", [Residual, Inverted, Branched])
def test_the_file_of_a_pruned_module_makes_it_again(factory: Callable[[], nn.Module], tmp_path: Path) -> None:
    pruned = prune(made(factory), EXAMPLE, PruneSpec(0.5)).module
    save_checkpoint(pruned, tmp_path / "pruned.safetensors")
    again = factory().eval()
    load_weights(again, tmp_path / "pruned.safetensors")
    assert torch.equal(again(EXAMPLE), pruned(EXAMPLE))
    assert count(again, EXAMPLE) == count(pruned, EXAMPLE)

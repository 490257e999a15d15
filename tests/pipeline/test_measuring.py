"""Who goes into the bundle: never slower than FP32 where this machine can tell, never worse than the recipe allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import trtkit
from trtkit.bundle import open_bundle
from trtkit.errors import SpecError
from trtkit.pipeline import Deployed, deploy, measuring
from trtkit.precision import Precision
from trtkit.recipe import Recipe
from trtkit.runtime.bench import Paired, bench, paired
from trtkit.runtime.probe import probe_device
from trtkit.runtime.tuning import thread_counts
from trtkit.target import get_target

WriteRecipe = Callable[..., Recipe]


def _precisions(deployed: Deployed) -> list[str]:
    return [f"{a.target} {a.precision.value}" for a in deployed.manifest.artifacts]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """A CPU target that this machine counts as, whatever it is."""
    device = probe_device()
    flags = frozenset({*device.cpu_flags, "avx2", "avx512_vnni"})
    monkeypatch.setattr(measuring, "probe_device", lambda: replace(device, machine="x86_64", cpu_flags=flags))
    return "x86-vnni"


@pytest.mark.usefixtures("slower")
def test_int8_is_left_out_with_a_note_when_it_is_slower(recipe_of: WriteRecipe, here: str) -> None:
    deployed = deploy(recipe_of({here: ["int8"], "pi5": ["int8"]}))
    assert _precisions(deployed) == [f"{here} fp32", "pi5 fp32", "pi5 int8"]  # no Pi is here, so nothing is known of it
    note = f"{here} int8 is left out: it is slower than FP32 here: 0.80x (0.70 to 0.90)"
    assert note in deployed.notes
    assert deployed.manifest.provenance["left_out"] == {
        f"{here} int8": "is slower than FP32 here: 0.80x (0.70 to 0.90)"}
    with trtkit.open(deployed.recipe.output, device="cpu", target=here) as session:
        assert session.choice.artifact.precision is Precision.FP32


@pytest.mark.parametrize(("second", "kept"), [((1.1, 1.5), True), ((0.98, 1.2), False)], ids=["faster", "unclear"])
def test_an_unclear_comparison_is_made_again_for_longer(recipe_of: WriteRecipe, here: str, second: tuple[float, float],
                                                        kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []

    def unclear_at_first(*_sides: object, rounds_seen: list[int] = rounds, rounds: int = 15, **_more: object) -> Paired:
        rounds_seen.append(rounds)
        low, high = second if len(rounds_seen) > 1 else (0.9, 1.8)
        return Paired((low + high) / 2, low, high, 2.0, 1.5, rounds)

    monkeypatch.setattr(measuring, "paired", unclear_at_first)
    monkeypatch.setattr(measuring, "bench", lambda session, feeds, seconds, **more: bench(session, feeds, iterations=5,
                                                                                          warmup=0.0))
    deployed = deploy(recipe_of({here: ["int8"]}, evaluate=None))
    assert rounds == [15, 41]
    assert len(deployed.manifest.artifacts) == 1 + kept
    assert any("is not surely faster than FP32 here: 1.09x (0.98 to 1.20)" in note for note in deployed.notes) != kept


@pytest.mark.usefixtures("faster")
def test_int8_goes_in_with_its_speed_when_it_is_faster(recipe_of: WriteRecipe, here: str) -> None:
    deployed = deploy(recipe_of({here: ["int8"]}))
    full, int8 = deployed.manifest.artifacts
    assert (full.precision, int8.precision) == (Precision.FP32, Precision.INT8)
    assert int8.measurements["speedup_over_fp32"] == 2.0
    assert int8.measurements["speedup_interval"] == [1.8, 2.2]
    assert "speedup_over_fp32" not in full.measurements
    assert full.measurements["p50_ms"] > 0
    assert all(each.measurements["conditions"]["threads"] in thread_counts() for each in (full, int8))


@pytest.mark.usefixtures("faster")
def test_what_is_made_for_elsewhere_says_that_it_was_not_measured(recipe_of: WriteRecipe, here: str) -> None:
    deployed = deploy(recipe_of({here: ["fp32"], "pi5": ["int8", "fp32"]}))
    told = {str(artifact.target): artifact.measurements.get("speed", "") for artifact in deployed.manifest.artifacts}
    assert told[here] == ""
    assert told["pi5"].startswith("not measured")


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize("order", [["int8", "fp32"], ["fp32", "int8"]], ids=str)
def test_fp32_is_the_baseline_wherever_it_stands(recipe_of: WriteRecipe, here: str, order: list[str]) -> None:
    deployed = deploy(recipe_of({here: order}, evaluate=None))
    assert {each.precision: each.speedup is not None for each in deployed.candidates} == {
        Precision.FP32: False, Precision.INT8: True}


@pytest.mark.usefixtures("faster")
def test_equal_models_of_two_targets_have_one_latency(recipe_of: WriteRecipe, here: str) -> None:
    deployed = deploy(recipe_of({here: ["fp32"], "x86-avx2": ["fp32"]}))
    first, second = deployed.manifest.artifacts
    assert first.file == second.file
    assert first.measurements["p50_ms"] == second.measurements["p50_ms"]


def test_int8_is_compared_with_fp32_by_running_both(recipe_of: WriteRecipe, here: str,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "paired", lambda a, b, feeds, **_: paired(a, b, feeds, seconds=0.2))
    monkeypatch.setattr(measuring, "bench", lambda session, feeds, seconds, **more: bench(session, feeds, iterations=5))
    deployed = deploy(recipe_of({here: ["int8"]}, evaluate=None))
    full, int8 = deployed.candidates
    assert full.speedup is None
    assert int8.speedup is not None
    assert int8.speedup.low <= int8.speedup.ratio <= int8.speedup.high
    assert bool(int8.dropped) == (int8.speedup.low <= 1.0)


def _broken_int8(recipe_of: WriteRecipe, monkeypatch: pytest.MonkeyPatch, targets: dict[str, list[str]],
                 **changes: object) -> Recipe:
    """Return a recipe whose INT8 models get a few samples wrong: their scores come out in another order."""
    real = measuring.accuracy_of

    def wrong(state, section, model, progress):  # type: ignore[no-untyped-def]
        found = real(state, section, model, progress)
        if b"QuantizeLinear" not in model:
            return found
        scores = found.scores.copy()
        scores[:4] = -scores[:4]
        return replace(found, scores=scores, top1=None if found.top1 is None else found.top1 - 4 / 12)

    monkeypatch.setattr(measuring, "accuracy_of", wrong)
    return recipe_of(targets, **changes)


def test_a_lowering_that_loses_too_much_is_left_out(recipe_of: WriteRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _broken_int8(recipe_of, monkeypatch, {"pi5": ["int8"], "jetson-orin-jp6": ["fp16", "int8"]},
                          evaluate={"data": "labelled", "max_drop": 10})
    deployed = deploy(recipe)
    assert _precisions(deployed) == ["pi5 fp32", "jetson-orin-jp6 fp16"]
    lost = [note for note in deployed.notes if "left out" in note]
    assert len(lost) == 2
    assert "pi5 int8 is left out: it loses" in lost[0]
    assert "more than max_drop 10.0" in lost[0]
    with open_bundle(recipe.output) as bundle:
        assert set(bundle.manifest.provenance["left_out"]) == {"pi5 int8", "jetson-orin-jp6 int8"}


def test_agreement_counts_where_there_are_no_labels(recipe_of: WriteRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _broken_int8(recipe_of, monkeypatch, {"pi5": ["int8"]}, evaluate={"data": "photos", "max_drop": 10})
    deployed = deploy(recipe)
    assert deployed.reference_top1 is None
    assert _precisions(deployed) == ["pi5 fp32"]


def test_nothing_left_is_an_error_that_names_all(recipe_of: WriteRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _broken_int8(recipe_of, monkeypatch, {"jetson-orin-jp6": ["int8"], "orin-dla": ["int8"]},
                          evaluate={"data": "labelled", "max_drop": 0})
    recipe.output.write_bytes(b"an older bundle")
    with pytest.raises(SpecError, match=r"No candidate is left for the bundle: jetson-orin-jp6 int8 loses .*; "
                                        r"orin-dla int8 loses .* Allow more with \[evaluate\] max_drop"):
        deploy(recipe)
    assert recipe.output.read_bytes() == b"an older bundle"


@pytest.mark.usefixtures("faster")
def test_every_target_that_this_machine_is_one_of_gets_a_latency(recipe_of: WriteRecipe, here: str) -> None:
    deployed = deploy(recipe_of({here: ["fp32"], "pi5": ["fp32"]}))
    assert [each.latency is not None for each in deployed.candidates] == [True, False]
    assert get_target("pi5").runs_on("aarch64", frozenset({"asimddp"}))

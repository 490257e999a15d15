"""The search keeps the layer that breaks, and that one only."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.calib import Sample
from trtkit.errors import AccuracyError, SpecError
from trtkit.evaluate import Judge, Loss
from trtkit.graph import model_bytes
from trtkit.precision import NodeSelector, Precision, QuantSpec
from trtkit.quant import Lowered
from trtkit.quant.budget.search import WithinBudget, lower_within
from trtkit.quant.budget.sensitivity import LayerLoss
from trtkit.ranges import CalibrationTable
from trtkit.target import get_target

Samples = list[Sample]
Search = Callable[..., WithinBudget]


@pytest.fixture
def search(fragile: onnx.ModelProto, table: Callable[..., CalibrationTable], fragile_samples: Samples) -> Search:
    counted = table(fragile, [sample.feeds for sample in fragile_samples])
    judge = Judge(model_bytes(fragile), fragile_samples)

    def run(target: str = "x86-vnni", precision: Precision = Precision.INT8, max_drop: float = 5.0,
            judged: Callable[[Lowered], Loss] = lambda lowered: judge(lowered.simulation),
            **more: object) -> WithinBudget:
        return lower_within(fragile, get_target(target), precision, judged, max_drop, samples=fragile_samples[:4],
                            table=counted, **more)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize(("target", "precision"), [("x86-vnni", Precision.INT8), ("rtx", Precision.INT8),
                                                   ("trt10", Precision.INT8_FP16)],
                         ids=["x86", "tensorrt", "tensorrt-mixed"])
def test_the_one_layer_that_breaks_is_kept(search: Search, target: str, precision: Precision) -> None:
    found = search(target, precision)
    assert [each.name for each in found.kept] == ["Conv_4"]
    assert found.loss.points <= 5.0 < found.trials[0].loss.points
    assert [trial.kept for trial in found.trials] == [0, 1]
    assert found.loss == found.trials[-1].loss
    assert 0.5 < found.quantized_macs < 0.8
    nodes = {node.name: node for node in onnx.load_from_string(found.lowered.model).graph.node}
    kept = nodes["Conv_4"].input[1]
    weight = next(each for each in onnx.load_from_string(found.lowered.model).graph.initializer if each.name == kept)
    half = precision is Precision.INT8_FP16
    assert weight.data_type == (onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT)


def test_the_report_is_json_with_every_layer_and_trial(search: Search) -> None:
    report = json.loads(json.dumps(search().to_json()))
    assert [each["name"] for each in report["kept"]] == ["Conv_4"]
    assert [each["kept"] for each in report["trials"]] == [0, 1]
    assert len(report["sensitivity"]["layers"]) == 5
    assert report["lost"] == report["reference"] - report["value"]


def test_nothing_is_kept_and_no_layer_measured_when_the_budget_holds(search: Search) -> None:
    found = search(max_drop=100.0)
    assert (found.kept, found.sensitivity, len(found.trials), found.quantized_macs) == ((), None, 1, 1.0)


def test_what_the_spec_keeps_stays_kept_beside_what_the_search_finds(search: Search) -> None:
    found = search(spec=QuantSpec(keep=NodeSelector(op_types=("Gemm",))))
    assert [each.name for each in found.kept] == ["Conv_4"]
    assert found.sensitivity is not None
    assert "Gemm_9" not in {each.name for each in found.sensitivity.layers}


def layers_in_float(lowered: Lowered) -> set[str]:
    """Return the weighted layers whose weights are plain initializers."""
    graph = onnx.load_from_string(lowered.simulation).graph
    constants = {each.name for each in graph.initializer}
    return {node.name for node in graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in constants}


@pytest.mark.parametrize("needed", [{"Conv_4", "Gemm_9"}, {"Conv_0", "Conv_2", "Conv_6"}], ids=["two", "three"])
def test_layers_go_back_to_int8_when_the_metric_does_not_need_them(search: Search, needed: set[str]) -> None:
    found = search(judged=lambda lowered: Loss("points", 10.0 * len(needed & layers_in_float(lowered)),
                                               10.0 * len(needed)), max_drop=0.0)
    assert {each.name for each in found.kept} == needed
    assert len(found.trials) <= 10


@pytest.mark.parametrize(("score", "says"), [
    (lambda kept: 0.0, r"int8 for 'x86-vnni' cannot stay within 5.0 points: it loses 90.00 .*, and 90.00 with all 5 "
                       r"layers in float. The noisiest are 'Conv_4'.*or ship fp32"),
    (lambda kept: 90.0 if kept == 5 else 0.0, "and 0.00 unless all 5 layers"),
], ids=["never", "only-float"])
def test_the_search_fails_with_what_to_do_when_no_quantized_model_holds(search: Search, score: Callable[[int], float],
                                                                        says: str) -> None:
    with pytest.raises(AccuracyError, match=says):
        search(judged=lambda lowered: Loss("points", score(len(layers_in_float(lowered))), 90.0))


def test_the_search_is_refused_when_layers_cannot_be_kept_one_by_one(search: Search) -> None:
    with pytest.raises(SpecError, match=r"'jetson-xavier-jp5' takes its precision from a builder flag .*Try other"):
        search("jetson-xavier-jp5")
    with pytest.raises(SpecError, match=r"max_drop is -1.0. Give points"):
        search(max_drop=-1.0)


def test_a_layer_with_much_noise_for_its_work_is_kept_first() -> None:
    from trtkit.quant.budget.search import _by_gain

    layers = tuple(LayerLoss(name, "Conv", macs, 0.0, noise, None) for name, macs, noise in (
        ("big", 1_000_000, 0.3), ("small", 10_000, 0.2), ("quiet", 10_000, 0.001), ("clean", 0, 0.0)))
    assert [each.name for each in _by_gain(layers)] == ["small", "big", "quiet", "clean"]
    assert np.isfinite(len(_by_gain((LayerLoss("unknown", "MatMul", 0, 0.0, 1.0, None),))))

"""The layer that breaks in INT8 is found, whatever it is called and wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtkit.calib import Sample
from trtkit.errors import SpecError
from trtkit.precision import NodeSelector, Precision, QuantSpec
from trtkit.quant import lower
from trtkit.quant.budget import sensitivity
from trtkit.quant.budget.plot import plot_sensitivity
from trtkit.quant.budget.sensitivity import Probe, Sensitivity, measure_sensitivity, quantized_layers
from trtkit.ranges import CalibrationTable
from trtkit.target import get_target

Samples = list[Sample]
Table = Callable[..., CalibrationTable]


@pytest.fixture
def table_of_fragile(fragile: onnx.ModelProto, table: Table, fragile_samples: Samples) -> CalibrationTable:
    return table(fragile, [sample.feeds for sample in fragile_samples])


@pytest.mark.parametrize("probe", list(Probe), ids=lambda probe: probe.value)
@pytest.mark.parametrize("target", ["rtx", "x86-vnni"])
def test_the_layer_that_breaks_is_ranked_first(fragile: onnx.ModelProto, table_of_fragile: CalibrationTable,
                                               fragile_samples: Samples, target: str, probe: Probe) -> None:
    found = measure_sensitivity(fragile, get_target(target), samples=fragile_samples[:4], table=table_of_fragile,
                                probe=probe)
    assert [each.name for each in found.layers[:1]] == ["Conv_4"]
    assert {each.name for each in found.layers} == {"Conv_0", "Conv_2", "Conv_4", "Conv_6", "Gemm_9"}
    assert found.layers[0].noise > 10 * found.layers[1].noise
    assert found.sqnr_db < 10
    assert (found.samples, found.metric) == (4, "agreement")
    assert found.layers[0].macs == 64 * 8 * 8 * 9


def test_noise_of_single_layers_adds_up_to_that_of_all(fragile: onnx.ModelProto, table_of_fragile: CalibrationTable,
                                                       fragile_samples: Samples) -> None:
    found = measure_sensitivity(fragile, get_target("rtx"), samples=fragile_samples, table=table_of_fragile,
                                spec=QuantSpec(keep=NodeSelector(("Conv_4",))))
    assert "Conv_4" not in {each.name for each in found.layers}
    assert sum(each.noise for each in found.layers) == pytest.approx(10 ** (-found.sqnr_db / 10), rel=0.5)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_FP16])
def test_every_static_precision_has_a_sensitivity(fragile: onnx.ModelProto, table_of_fragile: CalibrationTable,
                                                  fragile_samples: Samples, precision: Precision) -> None:
    found = measure_sensitivity(fragile, get_target("trt10"), precision, samples=fragile_samples[:2],
                                table=table_of_fragile)
    assert found.precision is precision
    assert all(each.noise > 0 for each in found.layers)
    assert Sensitivity.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_points_are_of_top1_when_samples_have_labels(fragile: onnx.ModelProto, table_of_fragile: CalibrationTable,
                                                     fragile_samples: Samples) -> None:
    labelled = [Sample(each.name, each.feeds, (0,)) for each in fragile_samples[:3]]
    found = measure_sensitivity(fragile, get_target("rtx"), samples=labelled, table=table_of_fragile)
    assert found.metric == "top-1"
    assert all(each.points is not None for each in found.layers)


def test_an_interrupted_measurement_goes_on_where_it_stopped(fragile: onnx.ModelProto, tmp_path: Path,
                                                             table_of_fragile: CalibrationTable,
                                                             fragile_samples: Samples,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[QuantSpec] = []
    stop_after = [3]

    def counted(*args: object, spec: QuantSpec, **more: object) -> object:
        if len(lowered) == stop_after[0]:
            raise KeyboardInterrupt
        lowered.append(spec)
        return lower(*args, spec=spec, **more)  # type: ignore[arg-type]

    def measure(spec: QuantSpec = QuantSpec()) -> Sensitivity:  # noqa: B008
        return measure_sensitivity(fragile, get_target("rtx"), samples=fragile_samples[:2], table=table_of_fragile,
                                   spec=spec, checkpoint=tmp_path / "part")

    monkeypatch.setattr(sensitivity, "lower", counted)
    with pytest.raises(KeyboardInterrupt):
        measure()
    lowered.clear()
    stop_after[0] = 100
    resumed = measure()
    assert len(lowered) == 1 + 3  # to find the layers, and the three of five that were not measured yet
    lowered.clear()
    assert measure() == resumed
    assert len(lowered) == 1
    (tmp_path / "part").write_text("{")
    assert measure() == resumed
    lowered.clear()
    assert measure(QuantSpec(percentile=99.0)) == resumed  # another spec: nothing of the file is used
    assert len(lowered) == 1 + 5


def test_layers_are_found_when_their_operators_were_replaced(fragile: onnx.ModelProto,
                                                             table_of_fragile: CalibrationTable) -> None:
    replaced = onnx.ModelProto()
    replaced.CopyFrom(fragile)
    next(node for node in replaced.graph.node if node.name == "Gemm_9").op_type = "MatMulInteger"
    assert [node.name for node in quantized_layers(fragile, replaced)] == ["Gemm_9"]
    del replaced.graph.node[-1]
    assert [node.name for node in quantized_layers(fragile, replaced)] == ["Gemm_9"]
    assert quantized_layers(fragile, fragile) == []


def test_sensitivity_is_refused_when_there_is_nothing_to_measure(fragile: onnx.ModelProto, fragile_samples: Samples,
                                                                 table_of_fragile: CalibrationTable) -> None:
    with pytest.raises(SpecError, match=r"on no samples\. Give a few"):
        measure_sensitivity(fragile, get_target("rtx"), samples=[], table=table_of_fragile)
    with pytest.raises(SpecError, match="No layer of the model is quantized in fp16 for 'rtx'"):
        measure_sensitivity(fragile, get_target("rtx"), Precision.FP16, samples=fragile_samples[:1])
    with pytest.raises(SpecError, match=r"no sensitivity of layers .* Run: trtkit sensitivity"):
        Sensitivity.from_json({"layers": []})


def test_plot_draws_each_format_and_refuses_others(fragile: onnx.ModelProto, table_of_fragile: CalibrationTable,
                                                   fragile_samples: Samples, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    found = measure_sensitivity(fragile, get_target("rtx"), samples=fragile_samples[:1], table=table_of_fragile)
    plot_sensitivity(found, tmp_path / "bars.png")
    picture = np.asarray(Image.open(tmp_path / "bars.png").convert("RGB"))
    assert (picture[0, 0] == 255).all()
    assert ((picture == (72, 120, 168)).all(axis=-1)).sum() > 1000  # bars
    plot_sensitivity(found, tmp_path / "bars.svg", top=2)
    drawn = (tmp_path / "bars.svg").read_text()
    assert "2 of 5 layers" in drawn or drawn.startswith("<?xml")
    with pytest.raises(SpecError, match=r"ending '.gif'. Choose one of: .png, .svg, .pdf"):
        plot_sensitivity(found, tmp_path / "bars.gif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bars.png", "bars.svg"]

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from trtkit.compress.pruning.latency import MeasuredLatency, TableLatency
from trtkit.compress.pruning.latency_kit import make_kit
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.runtime.latency_kit import MODEL, LatencyKit
from trtkit.runtime.latency_table import LatencyTable
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.probe import probe_device
from trtkit.runtime.recording import record_latencies
from trtkit.target import Target, get_target, load_targets


class Small(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.body(torch.relu(self.stem(x))))
        return self.head(y.mean((2, 3)))


EXAMPLE = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)


@pytest.fixture(scope="module")
def here() -> Target:
    """A target that this machine is."""
    device = probe_device()
    return next(each for each in load_targets().values() if each.runs_on(device.machine, device.cpu_flags))


@pytest.fixture(scope="module")
def kit(here: Target, tmp_path_factory: pytest.TempPathFactory) -> LatencyKit:
    torch.manual_seed(0)
    return make_kit(Small(), EXAMPLE, here, Precision.FP32, tmp_path_factory.mktemp("kit") / "small.kit", widths=2)


@pytest.fixture(scope="module")
def table(kit: LatencyKit) -> LatencyTable:
    return record_latencies(kit, threads=1, seconds=0.001)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8], ids=str)
def test_measured_latency_tells_a_module_from_one_that_does_sixteen_times_the_work(here: Target, precision: Precision
                                                                                   ) -> None:
    measure = MeasuredLatency(EXAMPLE, here, precision, threads=1, seconds=0.05)
    wide, narrow = measure(Small(128)), measure(Small(32))
    assert 0.0 < narrow < wide < 1.0


def test_measured_latency_leaves_the_module_as_it_was(here: Target) -> None:
    module = Small().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    MeasuredLatency(EXAMPLE, here, threads=1, seconds=0.01)(module)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("name", ["jetson-orin-jp6", "pi5"])
def test_measured_latency_refuses_a_target_that_this_machine_is_not(name: str) -> None:
    elsewhere = dataclasses.replace(get_target(name), arch="riscv64") if name == "pi5" else get_target(name)
    with pytest.raises(SpecError, match=rf"Target '{name}' needs .* cannot be measured on this machine .*"
                                        rf"trtkit latency kit FACTORY .*--target {name} .*trtkit latency record KIT"):
        MeasuredLatency(EXAMPLE, elsewhere)


def test_measured_latency_refuses_a_precision_that_the_target_lacks(here: Target) -> None:
    with pytest.raises(SpecError, match="does not run fp16"):
        MeasuredLatency(EXAMPLE, here, Precision.FP16)


def test_a_kit_has_each_kind_of_layer_at_several_widths_and_the_whole_model(kit: LatencyKit, here: Target) -> None:
    widths = {(layer.point.kind.split()[0], layer.point.inputs, layer.point.outputs) for layer in kit.layers}
    step = here.channel_multiple(Precision.FP32)
    assert ("Conv", 32, 64) in widths
    assert ("Conv", step, step) in widths
    assert {inputs for op, inputs, _ in widths if op == "Conv"} == {3, step, 32}
    assert [point.outputs for point in kit.whole] == [32, 64, 10]
    assert OrtSession(kit.read(MODEL)[0]).inputs[0].shape == (1, 3, 16, 16)


def test_a_layer_and_its_base_differ_by_the_layer_alone(kit: LatencyKit) -> None:
    import onnx

    for layer in kit.layers:
        with_layer, base = (onnx.load_model_from_string(kit.read(name)[0]) for name in (layer.model, layer.base))
        more = [node.op_type for node in with_layer.graph.node]
        for node in base.graph.node:
            more.remove(node.op_type)
        assert set(more) <= {layer.point.kind.split()[0], "Relu"}


def test_a_kit_reads_back_as_it_was_written(kit: LatencyKit) -> None:
    assert LatencyKit.load(kit.path) == kit


def test_the_table_predicts_the_whole_model_as_it_was_measured(table: LatencyTable) -> None:
    torch.manual_seed(0)
    assert TableLatency(table, EXAMPLE)(Small()) == pytest.approx(table.conditions["model_seconds"], rel=1e-6)


def test_the_table_predicts_a_narrower_module_from_its_layers(table: LatencyTable) -> None:
    flat = dataclasses.replace(table, factor=2.0, seconds={
        point: 1e-9 * point.inputs * point.outputs for point in table.seconds})
    module = Small(16)
    expected = 2e-9 * (3 * 16 + 16 * 32 + 32 * 10)
    assert TableLatency(flat, EXAMPLE)(module) == pytest.approx(expected)


def test_the_table_is_refused_for_another_input_size(table: LatencyTable) -> None:
    with pytest.raises(SpecError, match=r"has no layer 'Conv .* on input 1xCx8x8'\. .*at this input size"):
        TableLatency(table, EXAMPLE[:, :, :8, :8])(Small())


def test_the_table_is_refused_for_a_wider_module(table: LatencyTable) -> None:
    with pytest.raises(SpecError, match=r"has 3 inputs and 48 outputs; .*ends at 32\. Make the kit from the widest"):
        TableLatency(table, EXAMPLE)(Small(48))


def test_the_table_is_refused_for_another_target(table: LatencyTable) -> None:
    with pytest.raises(SpecError, match=r"recorded for '.*', not for 'pi4'"):
        TableLatency(table, EXAMPLE, get_target("pi4"))


def test_a_kit_needs_layers(here: Target, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no convolution or linear layer"):
        make_kit(nn.ReLU(), EXAMPLE, here, Precision.FP32, tmp_path / "k.kit")


@pytest.mark.parametrize(("target", "precision"), [
    ("jetson-xavier-jp5", Precision.INT8), ("rtx", Precision.INT8_FP16), ("x86-vnni", Precision.INT8_DYNAMIC),
    ("orin-dla", Precision.INT8)], ids=str)
def test_a_kit_is_lowered_for_its_target(target: str, precision: Precision, tmp_path: Path) -> None:
    kit = make_kit(Small(), EXAMPLE, get_target(target), precision, tmp_path / "k.kit", widths=2)
    loaded = LatencyKit.load(tmp_path / "k.kit")
    assert (loaded.target, loaded.precision) == (get_target(target), precision)
    _, cache = kit.read(kit.layers[0].model)
    assert (cache is not None) == (get_target(target).typing == "weak")

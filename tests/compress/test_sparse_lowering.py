"""2:4 zeros on their way: export, graph passes, every precision and quantization step, engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from trtkit.build import BuildOptions, build_plan
from trtkit.calib import calibrate, open_data
from trtkit.compress.pruning.two_four import sparsify_two_four
from trtkit.errors import GraphError
from trtkit.export import Exporter, ExportOptions, export_onnx
from trtkit.graph import check_two_four, layer_sparsity, model_inputs, preset, rewrite
from trtkit.precision import Precision, QuantSpec, Rounding
from trtkit.quant import lower
from trtkit.ranges import CalibrationTable
from trtkit.target import get_target

LAYERS = 5
"""Eligible ones: all but the stem, which has 3 input channels, and the depthwise layer."""


class Net(nn.Module):  # type: ignore[misc]
    """Convolutions with BatchNorm, a depthwise one, and a normalized two-layer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, groups=32), nn.BatchNorm2d(32), nn.ReLU())
        self.second = nn.Conv2d(32, 64, 1)
        self.norm = nn.LayerNorm(64)
        self.up, self.down, self.head = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.second(self.depthwise(self.first(self.stem(x)))).flatten(2).transpose(1, 2)
        tokens = tokens + self.down(self.up(self.norm(tokens)).relu())
        return self.head(tokens.mean(1))


@dataclass(frozen=True)
class Sparse:
    """A sparse model on its way."""

    exported: onnx.ModelProto
    rewritten: onnx.ModelProto
    table: CalibrationTable


@pytest.fixture(scope="module")
def sparse() -> Sparse:
    torch.manual_seed(1)
    net = Net()
    for _ in range(3):  # BatchNorms that do something
        net(torch.randn(8, 3, 12, 12) * 2 + 1)
    sparsify_two_four(net.eval(), loader=[torch.randn(8, 3, 12, 12)])
    made = export_onnx(net, torch.randn(1, 3, 12, 12), ExportOptions(exporters=(Exporter.TORCHSCRIPT,)))
    exported = onnx.load_from_string(made.model)
    rewritten = rewrite(exported, preset(get_target("rtx"))).model
    feeds = [{"input": np.random.default_rng(n).normal(size=(1, 3, 12, 12)).astype(np.float32)} for n in range(4)]
    table = calibrate(rewritten, open_data(feeds, input=model_inputs(rewritten)[0]), workers=1)
    return Sparse(exported, rewritten, table)


def names(model: onnx.ModelProto) -> set[str]:
    return {layer.name for layer in layer_sparsity(model) if layer.is_two_four}


def test_masks_survive_export_and_rewriting(sparse: Sparse) -> None:
    assert len(check_two_four(sparse.exported, LAYERS)) == LAYERS
    assert not any(node.op_type == "BatchNormalization" for node in sparse.rewritten.graph.node)
    assert len(check_two_four(sparse.rewritten, LAYERS)) == LAYERS


STEPS = QuantSpec(equalize=True, smoothing=0.5, bias_correction=True)


@pytest.mark.parametrize(("target", "precision", "spec"), [
    ("rtx", Precision.FP16, QuantSpec()),
    ("trt10", Precision.BF16, QuantSpec()),
    ("rtx", Precision.INT8, STEPS),
    ("rtx", Precision.INT8_FP16, STEPS),
    ("trt10", Precision.FP8, QuantSpec()),
    ("rtx", Precision.INT4, QuantSpec(rounding=Rounding.ADAPTIVE, block=32)),
    ("jetson-xavier-jp5", Precision.INT8, STEPS),
], ids=["fp16", "bf16", "int8", "int8+fp16", "fp8", "int4", "weak int8"])
def test_masks_survive_every_lowering(sparse: Sparse, target: str, precision: Precision, spec: QuantSpec) -> None:
    lowered = lower(sparse.rewritten, get_target(target), precision, table=sparse.table, spec=spec)
    assert len(check_two_four(onnx.load_from_string(lowered.model), LAYERS)) == LAYERS


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8], ids=["fp16", "int8"])
def test_lowered_masks_turn_sparse_kernels_on_when_built(sparse: Sparse, precision: Precision) -> None:
    target = get_target("rtx")
    lowered = lower(sparse.rewritten, target, precision, table=sparse.table)
    plan = build_plan(lowered.model, BuildOptions.for_target(target, precision, batch=(1, 1, 2)))
    assert plan.key.flags == ("SPARSE_WEIGHTS",)


def test_check_tells_the_layer_when_a_mask_did_not_survive(sparse: Sparse) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(sparse.rewritten)
    weight = next(tensor for tensor in broken.graph.initializer if list(tensor.dims) == [32, 16, 3, 3])
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, :4] = 1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    lost, = names(sparse.rewritten) - names(broken)
    with pytest.raises(GraphError, match=f"4 layers .* 5 should be. Nearest: {lost} "):
        check_two_four(broken, LAYERS)

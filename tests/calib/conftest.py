from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from trtkit.preprocess import Preprocess
from trtkit.tensors import TensorSpec


def residual_model(batch: int | str = "batch", scale: float = 1.0) -> onnx.ModelProto:
    """Conv, Relu, Conv, Add, Relu, pooling, Flatten and Gemm, with 16 channels, and a shape computed on the way."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * scale / 4).astype(np.float32), name)

    nodes = [helper.make_node("Conv", ["input", "w1", "b1"], ["conv1"], pads=[1, 1, 1, 1]),
             helper.make_node("Relu", ["conv1"], ["relu1"]),
             helper.make_node("Conv", ["relu1", "w2"], ["conv2"], pads=[1, 1, 1, 1]),
             helper.make_node("Add", ["conv2", "relu1"], ["sum"]),
             helper.make_node("Relu", ["sum"], ["relu2"]),
             helper.make_node("GlobalAveragePool", ["relu2"], ["pooled"]),
             helper.make_node("Shape", ["pooled"], ["shape"]),
             helper.make_node("Cast", ["shape"], ["shape_float"], to=TensorProto.FLOAT),
             helper.make_node("Flatten", ["pooled"], ["flat"]),
             helper.make_node("Gemm", ["flat", "w3"], ["logits"])]
    graph = helper.make_graph(
        nodes, "residual", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5]),
         helper.make_tensor_value_info("shape_float", TensorProto.FLOAT, [4])],
        [weight("w1", 16, 3, 3, 3), weight("b1", 16), weight("w2", 16, 16, 3, 3), weight("w3", 16, 5)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def model() -> onnx.ModelProto:
    return residual_model()


@pytest.fixture
def make_model() -> Callable[..., onnx.ModelProto]:
    return residual_model


@pytest.fixture
def spec() -> TensorSpec:
    return TensorSpec("input", "float32", ("batch", 3, 12, 12))


@pytest.fixture
def preprocess() -> Preprocess:
    return Preprocess((12, 12), resize="stretch")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten pictures in two classes."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "images"
    for index in range(10):
        place = folder / ("cat" if index % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        small.resize((20, 16), Image.Resampling.BICUBIC).save(place / f"{index}.png")
    return folder

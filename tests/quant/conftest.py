"""ONNX text -> model, model -> calibration table, and what ONNX Runtime makes of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from trtkit.calib import Sample, calibrate, open_data
from trtkit.graph import infer_shapes, model_inputs
from trtkit.ranges import CalibrationTable

Feeds = dict[str, np.ndarray]


def parse(text: str, opset: int = 17, **weights: object) -> onnx.ModelProto:
    """Return the model of an ONNX text; float arrays become float32 initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    for name, value in weights.items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return infer_shapes(model)


def feeds_of(model: onnx.ModelProto, count: int = 6, scale: float = 1.0, mean: float = 0.0) -> list[Feeds]:
    """Return normal random inputs."""
    rng = np.random.default_rng(7)
    return [{spec.name: (rng.standard_normal([d if isinstance(d, int) else 1 for d in spec.shape]) * scale
                         + mean).astype(np.float32) for spec in model_inputs(model) if spec.dtype == "float32"}
            for _ in range(count)]


def table_of(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> CalibrationTable:
    """Return the real calibration of a model on these feeds."""
    return calibrate(model, open_data(list(feeds), input=model_inputs(model)[0]), workers=1)


@pytest.fixture
def make() -> Callable[..., onnx.ModelProto]:
    return parse


@pytest.fixture
def feeds() -> Callable[..., list[Feeds]]:
    return feeds_of


@pytest.fixture
def table() -> Callable[..., CalibrationTable]:
    return table_of


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[[onnx.ModelProto], list[str]]:
    """Return a function: model -> operators of the graph that ONNX Runtime really runs, in order."""

    def run(model: onnx.ModelProto) -> list[str]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]

    return run


@pytest.fixture
def residual(rng: np.random.Generator) -> onnx.ModelProto:
    """Conv + Relu, a residual block with Conv + Add + Relu, pooling, Flatten and Gemm: a ResNet in small."""
    return parse("""g (float[1,3,8,8] x) => (float[1,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        r = Relu(a)
        c = Conv<pads=[1,1,1,1]>(r, w2, b2)
        s = Add(c, r)
        t = Relu(s)
        p = GlobalAveragePool(t)
        f = Flatten(p)
        y = Gemm<transB=1>(f, w3, b3) }""", w1=rng.normal(size=(8, 3, 3, 3)) / 4, b1=rng.normal(size=8),
                 w2=rng.normal(size=(8, 8, 3, 3)) / 8, b2=rng.normal(size=8), w3=rng.normal(size=(5, 8)),
                 b3=rng.normal(size=5))


@pytest.fixture
def fragile(rng: np.random.Generator) -> onnx.ModelProto:
    """Four convolutions and a Gemm; the third one does not survive INT8.

    Its first input channel is always 0 and has weights of 2000, so that one scale a channel leaves nothing of the
    others.
    """
    first, *rest = (rng.normal(size=(8, channels, 3, 3)) / np.sqrt(9 * channels) for channels in (3, 8, 8, 8))
    head = rng.normal(size=(5, 512))
    head -= head.mean(axis=1, keepdims=True)
    rest[0][0] = 0.0
    bias = rng.normal(size=8) / 4
    bias[0] = -1.0
    rest[1][:, 0] = 2000.0
    return parse("""g (float[1,3,8,8] x) => (float[1,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        ra = Relu(a)
        b = Conv<pads=[1,1,1,1]>(ra, w2, b2)
        rb = Relu(b)
        c = Conv<pads=[1,1,1,1]>(rb, w3)
        rc = Relu(c)
        d = Conv<pads=[1,1,1,1]>(rc, w4)
        rd = Relu(d)
        f = Flatten(rd)
        y = Gemm<transB=1>(f, w5) }""", w1=first, w2=rest[0], b2=bias, w3=rest[1], w4=rest[2],
                 w5=head)


@pytest.fixture
def fragile_samples(fragile: onnx.ModelProto) -> list[Sample]:
    """Inputs of `fragile`."""
    return [Sample(str(place), feeds) for place, feeds in enumerate(feeds_of(fragile, count=24))]

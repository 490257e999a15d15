from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from trtkit.calib import calibrate, open_data
from trtkit.compress.qat.places import fake_quantize
from trtkit.compress.qat.spec import Scales
from trtkit.compress.qat.training import QuantizationTrained, train_quantized
from trtkit.compress.training.losses import step_for
from trtkit.compress.training.spec import TrainSpec
from trtkit.errors import CalibrationError, SpecError
from trtkit.graph import infer_shapes, model_bytes, model_inputs, random_feeds
from trtkit.graph.run import run_model
from trtkit.metrics import cosine
from trtkit.precision import NodeSelector, Precision, QuantSpec
from trtkit.quant import lower
from trtkit.quant.placement import get_placement
from trtkit.quant.ready import static_subject
from trtkit.quant.static.plan import plan_quantization
from trtkit.ranges import CalibrationTable
from trtkit.target import get_target

INT8, INT8_FP16 = Precision.INT8, Precision.INT8_FP16
TRAIN = TrainSpec(epochs=2, learning_rate=3e-3, seed=1)
STEP = step_for("cross_entropy")


def graph(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value, np.float32), name)
                                   for name, value in weights.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return infer_shapes(model)


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    """A residual block, a Clip, a HardSwish, an Add of a number, a Concat, pooling and a Gemm."""
    rng = np.random.default_rng(0)
    return graph("""g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        r = Relu(a)
        c = Conv<pads=[1,1,1,1]>(r, w2)
        s = Add(c, r)
        t = Clip(s, zero, six)
        d = Conv<pads=[1,1,1,1]>(t, w3, b3)
        h = HardSwish(d)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)
        e = Conv(m, w4, b4)
        k = Concat<axis=1>(e, m)
        p = GlobalAveragePool(k)
        f = Flatten(p)
        y = Gemm<transB=1>(f, w5, b5) }""",
                 w1=rng.normal(size=(8, 3, 3, 3)) / 3, b1=rng.normal(size=8) / 4, w2=rng.normal(size=(8, 8, 3, 3)) / 8,
                 zero=np.array(0), six=np.array(6), w3=rng.normal(size=(16, 8, 3, 3)) / 8, b3=rng.normal(size=16) / 4,
                 w4=rng.normal(size=(8, 16, 1, 1)) / 3, b4=rng.normal(size=8), w5=rng.normal(size=(5, 24)),
                 b5=rng.normal(size=5) / 4)


@pytest.fixture(scope="module")
def table(net: onnx.ModelProto) -> CalibrationTable:
    return calibrate(net, open_data([random_feeds(net, seed) for seed in range(8)], input=model_inputs(net)[0]),
                     workers=1)


@pytest.fixture(scope="module")
def loader() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.randint(5, (8,), generator=generator))
            for _ in range(4)]


def scales_in(model: bytes) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name of each scale, its values and its zero points."""
    proto = onnx.load_from_string(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear":
            yield (node.input[1].split("_scale")[0], stored[node.input[1]].astype(np.float32),
                   stored[node.input[2]])


def on_torch(trained: QuantizationTrained, target: str, precision: Precision, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return what the fake-quantized graph computes."""
    subject, spec = static_subject(trained.model, get_target(target), precision, QuantSpec())
    plan = plan_quantization(subject, trained.table, get_placement(get_target(target).placement), spec)
    module = fake_quantize(plan, subject, scales=Scales.FIXED, half=precision is INT8_FP16, follow=False).module.eval()
    with torch.no_grad():
        return np.asarray(module(*(torch.from_numpy(value) for value in feeds.values())))


@pytest.mark.parametrize(("name", "precision"), [
    ("trt10", INT8), ("trt10", INT8_FP16), ("rtx", INT8), ("x86-vnni", INT8), ("x86-avx2", INT8), ("pi5", INT8),
    ("jetson-xavier-jp5", INT8)])
def test_lowered_model_has_the_trained_scales_to_the_bit_and_computes_the_same(
        name: str, precision: Precision, net: onnx.ModelProto, table: CalibrationTable,
        loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    target = get_target(name)
    trained = train_quantized(net, table, target, loader, STEP, precision=precision, train=TRAIN)
    again = CalibrationTable.from_bytes(trained.table.to_bytes())
    lowered = lower(trained.model, target, precision, table=again)
    learned, seen = again.learned, set()
    weights = {weight: scales for (weight, _), scales in learned.weights.items()}
    for tensor, scale, zero_point in scales_in(lowered.simulation):
        if tensor in learned.grids:
            assert scale == np.float32(learned.grids[tensor].scale)
            assert zero_point == learned.grids[tensor].zero_point
        elif tensor in weights:
            np.testing.assert_array_equal(scale, weights[tensor].scale)
        else:
            continue
        seen.add(tensor)
    assert {"x", "r", "w1", "w2", "w3", "w5"} <= seen
    before = {tensor: scale for tensor, scale, _ in scales_in(lower(net, target, precision, table=table).simulation)}
    assert all(np.any(before[tensor] != scale) for tensor, scale, _ in scales_in(lowered.simulation)
               if tensor in {"x", "r", "w1", "w2"})
    feeds = {"x": np.random.default_rng(5).normal(size=(64, 3, 8, 8)).astype(np.float32)}
    expected, actual = run_model(lowered.simulation, feeds, optimize=not lowered.as_written)["y"], on_torch(
        trained, name, precision, feeds)
    assert cosine(expected, actual) > (0.9999 if precision is INT8 else 0.999)
    agreement = (expected.argmax(1) == actual.argmax(1)).mean()
    assert agreement == 1

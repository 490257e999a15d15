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
from trtkit.graph import fingerprint, infer_shapes, model_bytes, model_inputs, random_feeds
from trtkit.graph.run import run_model
from trtkit.metrics import cosine
from trtkit.precision import NodeSelector, Precision, QuantSpec, Rounding
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
    for name, value in weights.items():
        stored = value if value.dtype.kind == "i" else value.astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(stored, name))
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
                 zero=np.array(0.0), six=np.array(6.0), w3=rng.normal(size=(16, 8, 3, 3)) / 8,
                 b3=rng.normal(size=16) / 4,
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


def on_torch(trained: QuantizationTrained, target: str, precision: Precision,
             feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return what the fake-quantized graph computes."""
    assert trained.table is not None
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
    assert trained.table is not None
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
    assert (expected.argmax(1) == actual.argmax(1)).all()


def losses(trained: QuantizationTrained) -> list[float]:
    return [row.loss for row in trained.fit.history]


def test_training_lowers_the_loss_of_the_lowered_model(net: onnx.ModelProto, table: CalibrationTable,
                                                       loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    target, train = get_target("x86-vnni"), replace(TRAIN, epochs=8)
    trained = train_quantized(net, table, target, loader, STEP, train=train)
    found = []
    for model, ranges in ((net, table), (trained.model, trained.table)):
        lowered = lower(model, target, INT8, table=ranges)
        outputs = [torch.from_numpy(run_model(lowered.simulation, {"x": images.numpy()})["y"]) for images, _ in loader]
        found.append(np.mean([torch.nn.functional.cross_entropy(output, labels).item()
                              for output, (_, labels) in zip(outputs, loader)]))
    assert found[1] < 0.8 * found[0]


@pytest.mark.parametrize("per_channel", [True, False])
def test_training_begins_where_ptq_ends(per_channel: bool, net: onnx.ModelProto, table: CalibrationTable,
                                        loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    target, spec = get_target("x86-vnni"), QuantSpec(per_channel=per_channel)
    images, labels = loader[0]
    first = losses(train_quantized(net, table, target, loader[:1], STEP, spec=spec, train=replace(TRAIN, epochs=1)))[0]
    output = run_model(lower(net, target, INT8, table=table, spec=spec).simulation, {"x": images.numpy()})["y"]
    assert first == pytest.approx(torch.nn.functional.cross_entropy(torch.from_numpy(output), labels).item(), abs=1e-3)


def test_fixed_scales_are_those_of_ptq(net: onnx.ModelProto, table: CalibrationTable,
                                       loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    target = get_target("pi5")
    trained = train_quantized(net, table, target, loader, STEP, train=TRAIN, scales=Scales.FIXED)
    before, after = ({name: scale for name, scale, _ in scales_in(lower(model, target, INT8, table=ranges).simulation)
                      if not name.endswith("_bias")}
                     for model, ranges in ((net, table), (trained.model, trained.table)))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_kept_and_end_layers_stay_in_float(net: onnx.ModelProto, table: CalibrationTable,
                                           loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    spec = QuantSpec(keep=NodeSelector(names=("Conv_2",)), ends=False)
    trained = train_quantized(net, table, get_target("trt10"), loader, STEP, precision=INT8, spec=spec, train=TRAIN)
    assert trained.table is not None
    assert {name for name, _ in trained.table.learned.weights} == {"w3", "w4"}


def test_one_scale_a_tensor_is_trained_when_asked_for(net: onnx.ModelProto, table: CalibrationTable,
                                                      loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    spec, target = QuantSpec(per_channel=False), get_target("x86-vnni")
    trained = train_quantized(net, table, target, loader, STEP, spec=spec, train=TRAIN)
    assert trained.table is not None
    assert {scales.scale.shape for scales in trained.table.learned.weights.values()} == {()}
    stored = {name: scale for name, scale, _ in scales_in(lower(trained.model, target, INT8, table=trained.table,
                                                                spec=spec).simulation)}
    assert all(stored[name] == scales.scale for (name, _), scales in trained.table.learned.weights.items())


def test_clip_is_still_performed_by_saturation_after_training(net: onnx.ModelProto, table: CalibrationTable,
                                                              loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    target = get_target("x86-vnni")
    wide = calibrate(net, open_data([{"x": 20 * random_feeds(net, seed)["x"]} for seed in range(4)],
                                    input=model_inputs(net)[0]), workers=1)
    trained = train_quantized(net, wide, target, loader, STEP, train=replace(TRAIN, learning_rate=0.1))
    lowered = onnx.load_from_string(lower(trained.model, target, INT8, table=trained.table).simulation)
    assert "Clip" not in {node.op_type for node in lowered.graph.node}


@pytest.mark.parametrize("kept", [True, False])
def test_zeros_stay_when_asked_for(kept: bool, net: onnx.ModelProto, table: CalibrationTable,
                                   loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    sparse = onnx.ModelProto()
    sparse.CopyFrom(net)
    (stored,) = (tensor for tensor in sparse.graph.initializer if tensor.name == "w2")
    weight = numpy_helper.to_array(stored).copy()
    weight[:, ::2] = 0
    stored.CopyFrom(numpy_helper.from_array(weight, "w2"))
    trained = train_quantized(sparse, replace(table, model=fingerprint(sparse)), get_target("trt10"), loader, STEP,
                              precision=INT8, train=TRAIN, keep_zeros=kept)
    (after,) = (numpy_helper.to_array(each) for each in trained.model.graph.initializer if each.name == "w2")
    assert (after[:, 1::2] != weight[:, 1::2]).any()
    assert (after[:, ::2] == 0).all() == kept


def test_table_goes_on_where_a_training_ended(net: onnx.ModelProto, table: CalibrationTable,
                                              loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    target = get_target("trt10")
    first = train_quantized(net, table, target, loader, STEP, precision=INT8, train=TRAIN)
    second = train_quantized(first.model, first.table, target, loader, STEP, precision=INT8,
                             train=replace(TRAIN, learning_rate=1e-9))
    assert first.table is not None
    assert second.table is not None
    assert second.table.learned == first.table.learned


def test_equalization_comes_before_training(net: onnx.ModelProto, table: CalibrationTable,
                                            loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    spec, target = QuantSpec(equalize=True), get_target("trt10")
    trained = train_quantized(net, table, target, loader, STEP, precision=INT8, spec=spec, train=TRAIN)
    lowered = lower(trained.model, target, INT8, table=trained.table, spec=spec)
    assert any("left as they were in training" in note for note in lowered.notes)


@pytest.mark.parametrize("name", ["trt10", "x86-vnni"])
@pytest.mark.parametrize("rounding", list(Rounding))
def test_int4_layers_are_built_with_the_integers_that_were_trained(name: str, rounding: Rounding) -> None:
    rng, target = np.random.default_rng(1), get_target(name)
    model = graph("g (float[N,64] x) => (float[N,8] y) { h = MatMul(x, u)  r = Relu(h)  y = Gemm<transB=1>(r, v, b) }",
                  u=rng.normal(size=(64, 512)) / 8, v=rng.normal(size=(8, 512)) / 22, b=np.zeros(8))
    batches = [(torch.from_numpy(rng.normal(size=(16, 64)).astype(np.float32)), torch.randint(8, (16,)))
               for _ in range(3)]
    trained = train_quantized(model, None, target, batches, STEP, precision=Precision.INT4, train=TRAIN)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in trained.model.graph.initializer}
    assert len(np.unique(weights["u"][:32, 0])) <= 16
    lowered = lower(trained.model, target, Precision.INT4, spec=QuantSpec(rounding=rounding))
    feeds = {"x": batches[0][0].numpy()}
    expected = run_model(model_bytes(trained.model), feeds)["y"]
    assert cosine(expected, run_model(lowered.simulation, feeds, optimize=not lowered.as_written)["y"]) > 0.9999
    assert losses(trained)[-1] < losses(trained)[0]


@pytest.mark.parametrize(("precision", "error", "words"), [
    (Precision.FP16, SpecError, "int8, int8.fp16 or int4"), (INT8, CalibrationError, "there is no table")])
def test_training_is_refused_without_grids_or_a_table(precision: Precision, error: type[Exception], words: str,
                                                      net: onnx.ModelProto) -> None:
    with pytest.raises(error, match=words):
        train_quantized(net, None, get_target("trt10"), [], STEP, precision=precision)


def test_training_is_refused_when_the_table_is_of_another_model(net: onnx.ModelProto, table: CalibrationTable) -> None:
    with pytest.raises(CalibrationError, match="stale"):
        train_quantized(net, replace(table, model="other"), get_target("trt10"), [], STEP, precision=INT8)


def test_training_is_refused_when_nothing_is_quantized(net: onnx.ModelProto, table: CalibrationTable) -> None:
    with pytest.raises(SpecError, match="no grids to train on"):
        train_quantized(net, table, get_target("rtx"), [], STEP, precision=INT8_FP16)


@pytest.fixture(scope="module")
def transformer() -> onnx.ModelProto:
    """Patches, LayerNormalization, attention of one head, Gelu by Erf, a residual sum and a head."""
    rng = np.random.default_rng(3)
    return graph("""g (float[N,3,8,8] x) => (float[N,5] y) {
        c = Conv<kernel_shape=[2,2], strides=[2,2]>(x, w0, b0)
        r = Reshape(c, flat)
        e = Transpose<perm=[0,2,1]>(r)
        n = LayerNormalization<axis=-1>(e, g1, b1)
        q = MatMul(n, wq)
        k = MatMul(n, wk)
        v = MatMul(n, wv)
        kt = Transpose<perm=[0,2,1]>(k)
        s = MatMul(q, kt)
        a = Softmax<axis=-1>(s)
        o = MatMul(a, v)
        z = Add(e, o)
        u = MatMul(z, w1)
        t = Erf(u)
        h = Mul(u, t)
        l = MatMul(h, w2)
        m = ReduceMean<axes=[1], keepdims=0>(l)
        y = Gemm<transB=1>(m, w3, b3) }""",
                 w0=rng.normal(size=(64, 3, 2, 2)) / 4, b0=rng.normal(size=64) / 4, g1=rng.normal(size=64) + 2,
                 b1=rng.normal(size=64) / 4, wq=rng.normal(size=(64, 64)) / 24, wk=rng.normal(size=(64, 64)) / 24,
                 wv=rng.normal(size=(64, 64)) / 8, w1=rng.normal(size=(64, 64)) / 8, w2=rng.normal(size=(64, 64)) / 8,
                 w3=rng.normal(size=(5, 64)) / 4, b3=rng.normal(size=5), flat=np.array([0, 64, -1]))


@pytest.mark.parametrize("name", ["trt10", "x86-vnni"])
def test_transformer_computes_as_it_was_trained(name: str, transformer: onnx.ModelProto,
                                                loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    target = get_target(name)
    table = calibrate(transformer, open_data([random_feeds(transformer, seed) for seed in range(4)],
                                             input=model_inputs(transformer)[0]), workers=1)
    trained = train_quantized(transformer, table, target, loader, STEP, precision=INT8, train=TRAIN)
    lowered = lower(trained.model, target, INT8, table=trained.table)
    feeds = {"x": np.random.default_rng(5).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    expected = run_model(lowered.simulation, feeds, optimize=not lowered.as_written)["y"]
    actual = on_torch(trained, name, INT8, feeds)
    assert cosine(expected, actual) > 0.9999
    assert (expected.argmax(1) == actual.argmax(1)).all()


def test_stopped_training_goes_on_to_the_same_scales(tmp_path: Path, net: onnx.ModelProto, table: CalibrationTable,
                                                     loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    target, calls = get_target("x86-vnni"), []

    def stopping(module: torch.nn.Module, batch: object) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return STEP(module, batch)

    train = replace(TRAIN, checkpoint_seconds=0.0)
    whole = train_quantized(net, table, target, loader, STEP, train=train)
    with pytest.raises(KeyboardInterrupt):
        train_quantized(net, table, target, loader, stopping, train=train, folder=tmp_path)
    resumed = train_quantized(net, table, target, loader, STEP, train=train, folder=tmp_path)
    assert resumed.fit.resumed == 5
    assert resumed.table == whole.table


def test_number_that_a_zero_point_adds_stays_with_its_grid(loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    rng, target = np.random.default_rng(4), get_target("x86-vnni")
    model = graph("""g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv(x, w1)
        b = Mul(a, two)
        c = Add(b, one)
        d = Conv(c, w2)
        p = GlobalAveragePool(d)
        y = Flatten(p) }""", w1=rng.normal(size=(8, 3, 3, 3)) / 4, two=np.array([2.0]), one=np.array([1.0]),
                  w2=rng.normal(size=(5, 8, 3, 3)) / 4)
    counted = calibrate(model, open_data([random_feeds(model, seed) for seed in range(4)],
                                         input=model_inputs(model)[0]), workers=1)
    trained = train_quantized(model, counted, target, loader, STEP, train=TRAIN)
    assert trained.table is not None
    lowered = lower(trained.model, target, INT8, table=trained.table)
    assert "Add" not in {node.op_type for node in onnx.load_from_string(lowered.model).graph.node}
    read = {name: (scale, zero) for name, scale, zero in scales_in(lowered.simulation)}["c"]
    assert read == (trained.table.learned.grids["c"].scale, trained.table.learned.grids["c"].zero_point)
    feeds = {"x": np.random.default_rng(5).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    assert cosine(run_model(lowered.simulation, feeds)["y"], on_torch(trained, "x86-vnni", INT8, feeds)) > 0.9999

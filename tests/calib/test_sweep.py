from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from trtkit.calib.sample import Sample
from trtkit.calib.sources.iterable import IterableSource
from trtkit.calib.sweep import calibrate
from trtkit.errors import CalibrationError, GraphError, SpecError
from trtkit.graph import fingerprint, run_model
from trtkit.ranges import Histogram
from trtkit.tensors import TensorSpec

SAMPLES = np.random.default_rng(1).standard_normal((30, 1, 3, 12, 12)).astype(np.float32)


def source(spec: TensorSpec, samples: object = SAMPLES) -> IterableSource:
    return IterableSource(samples, spec, None, None)


def reference(model: onnx.ModelProto, name: str) -> Histogram:
    """Count one tensor with an unoptimized session."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options)
    return Histogram.sum(Histogram.of(session.run([name], {"input": x})[0]) for x in SAMPLES)


def test_calibrate_counts_what_lowerings_quantize_and_nothing_else(model: onnx.ModelProto, spec: TensorSpec) -> None:
    table = calibrate(model, source(spec))
    assert set(table.tensors) == {"input", "relu1", "conv2", "relu2", "pooled", "flat", "logits"}
    assert table.samples == 30
    assert table.model == fingerprint(model)


@pytest.mark.parametrize("name", ["relu1", "conv2", "relu2", "pooled", "flat", "logits"])
def test_calibrate_agrees_with_an_unoptimized_session(model: onnx.ModelProto, spec: TensorSpec, name: str) -> None:
    counted, expected = calibrate(model, source(spec)).tensors[name], reference(model, name)
    assert counted.total == expected.total
    assert (counted.min, counted.max) == pytest.approx((expected.min, expected.max), rel=1e-4, abs=1e-5)
    assert counted.mean() == pytest.approx(expected.mean(), rel=1e-3, abs=1e-4)
    moved = np.zeros(1 << 16)
    moved[counted.bins] = counted.counts
    moved[expected.bins] -= expected.counts
    assert np.abs(moved).sum() <= 0.002 * expected.total + 4  # rounding may carry a value over the edge of its bin


def test_calibrate_counts_the_input_exactly(model: onnx.ModelProto, spec: TensorSpec) -> None:
    assert calibrate(model, source(spec)).tensors["input"] == Histogram.of(SAMPLES)


def test_calibrate_keeps_the_range_of_each_channel_between_convolutions_and_behind_a_normalization() -> None:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,8] x) => (float[1,8,8,4] y) { a = Conv(x, w)  b = Relu(a)  c = Conv(b, v)
        t = Transpose<perm=[0,2,3,1]>(c)  n = LayerNormalization(t, s)  y = MatMul(n, m) }""")
    for name, shape in (("w", (16, 3, 1, 1)), ("v", (6, 16, 1, 1)), ("s", (6,)), ("m", (6, 4))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    samples = rng.normal(size=(5, 1, 3, 8, 8)).astype(np.float32)
    table = calibrate(model, IterableSource(samples, TensorSpec("x", "float32", (1, 3, 8, 8)), None, None))
    assert set(table.channel_ranges) == {"b", "n"}
    between, behind = (np.concatenate([run_model(model, {"x": x}, [name])[name] for x in samples]) for name in "bn")
    np.testing.assert_allclose(table.channel_ranges["b"].high, between.max(axis=(0, 2, 3)), rtol=1e-5)
    assert not table.channel_ranges["b"].low.any()
    np.testing.assert_allclose(table.channel_ranges["n"].high, behind.max(axis=(0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(table.channel_ranges["n"].low, behind.min(axis=(0, 1, 2)), rtol=1e-4)


def test_calibrate_gives_the_same_bytes_whatever_the_workers(model: onnx.ModelProto, spec: TensorSpec) -> None:
    tables = [calibrate(model, source(spec), workers=workers).to_bytes() for workers in (1, 2, 5)]
    assert tables[0] == tables[1] == tables[2]


def test_calibrate_counts_every_sample_when_the_last_batch_is_short(model: onnx.ModelProto, spec: TensorSpec) -> None:
    table = calibrate(model, source(spec), batch=8)
    assert table.samples == 30
    assert table.tensors["relu1"].total == 30 * 16 * 12 * 12


def test_calibrate_takes_the_batch_of_the_model_when_it_is_fixed(make_model: Callable[..., onnx.ModelProto],
                                                                spec: TensorSpec) -> None:
    table = calibrate(make_model(batch=4), source(spec))
    assert table.samples == 28
    four = TensorSpec("input", "float32", (4, 3, 12, 12))
    whole = calibrate(make_model(batch=4), source(four, [np.concatenate(SAMPLES[i:i + 4]) for i in range(0, 28, 4)]))
    assert (whole.samples, whole.tensors) == (28, table.tensors)
    with pytest.raises(CalibrationError, match="no batch of 4"):
        calibrate(make_model(batch=4), source(spec, SAMPLES[:3]))


def test_calibrate_takes_bytes_and_files(model: onnx.ModelProto, spec: TensorSpec, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    expected = calibrate(model, source(spec)).to_bytes()
    assert calibrate(tmp_path / "m.onnx", source(spec)).to_bytes() == expected
    assert calibrate(model.SerializeToString(), source(spec)).to_bytes() == expected
    with pytest.raises(GraphError, match="no ONNX model"):
        calibrate(b"not a model", source(spec))


def interrupted(after: int) -> Callable[[], Iterator[np.ndarray]]:
    """Return a loader in which Ctrl-C is pressed once, before sample `after`."""
    pressed: list[bool] = []

    def load() -> Iterator[np.ndarray]:
        for index, sample in enumerate(SAMPLES):
            if index == after and not pressed:
                pressed.append(True)
                raise KeyboardInterrupt
            yield sample

    return load


@pytest.mark.parametrize("after", [9, 17, 29])
@pytest.mark.parametrize("batch", [1, 4])
def test_calibrate_resumes_byte_identical_when_interrupted(model: onnx.ModelProto, spec: TensorSpec, tmp_path: Path,
                                                           after: int, batch: int) -> None:
    part = tmp_path / "t.part"
    data = source(spec, interrupted(after))
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, data, batch=batch, checkpoint=part)
    resumed = calibrate(model, data, batch=batch, checkpoint=part, progress=lambda _, done, __: seen.append(done))
    assert seen[0] >= after - batch
    whole = source(spec, lambda: iter(SAMPLES))
    assert resumed.to_bytes() == calibrate(model, whole, batch=batch).to_bytes()


def test_calibrate_leaves_a_checkpoint_every_so_often(model: onnx.ModelProto, spec: TensorSpec,
                                                      tmp_path: Path) -> None:
    part = tmp_path / "t.part"
    found: list[bool] = []
    table = calibrate(model, source(spec), checkpoint=part, checkpoint_every=10,
                      progress=lambda *_: found.append(part.exists()))
    assert found.index(True) == 9
    again = calibrate(model, source(spec), checkpoint=part)
    assert again.to_bytes() == table.to_bytes()


def test_calibrate_refuses_a_stale_checkpoint(make_model: Callable[..., onnx.ModelProto], spec: TensorSpec,
                                              tmp_path: Path) -> None:
    part = tmp_path / "t.part"
    calibrate(make_model(), source(spec), checkpoint=part)
    with pytest.raises(CalibrationError, match="another model"):
        calibrate(make_model(scale=2.0), source(spec), checkpoint=part)
    with pytest.raises(CalibrationError, match="another data"):
        calibrate(make_model(), source(spec, SAMPLES[:20]), checkpoint=part)
    with pytest.raises(CalibrationError, match="another batch size"):
        calibrate(make_model(), source(spec), checkpoint=part, batch=2)
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(CalibrationError, match="damaged"):
        calibrate(make_model(), source(spec), checkpoint=part)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("batch", [1, 4])
def test_calibrate_names_sample_and_tensor_when_the_data_is_not_finite(model: onnx.ModelProto, spec: TensorSpec,
                                                                       value: float, batch: int) -> None:
    samples = [Sample(f"s{i}.png", {"input": x.copy()}) for i, x in enumerate(SAMPLES)]
    samples[13].feeds["input"][0, 1, 2, 3] = value
    with pytest.raises(CalibrationError, match=r"Tensor 'input' has 1 infinite .* sample 's13\.png', the"):
        calibrate(model, source(spec, samples), batch=batch)


def test_calibrate_names_the_tensor_when_an_activation_overflows(make_model: Callable[..., onnx.ModelProto],
                                                                 spec: TensorSpec) -> None:
    with pytest.raises(CalibrationError, match=r"Tensor 'conv2' .* computed by the model"):
        calibrate(make_model(scale=1e25), source(spec))


def test_calibrate_fails_when_there_is_no_data(model: onnx.ModelProto, spec: TensorSpec) -> None:
    with pytest.raises(CalibrationError, match="gave no samples"):
        calibrate(model, source(spec, []))


def test_calibrate_explains_when_a_sample_does_not_fit(model: onnx.ModelProto, spec: TensorSpec) -> None:
    with pytest.raises(SpecError, match="has size 4 in dimension 1"):
        calibrate(model, source(spec, [np.zeros((1, 4, 12, 12), np.float32)]))


def test_halves_merge_into_the_whole(model: onnx.ModelProto, spec: TensorSpec) -> None:
    halves = calibrate(model, source(spec, SAMPLES[:11])).merge(calibrate(model, source(spec, SAMPLES[11:])))
    whole = calibrate(model, source(spec))
    assert halves.tensors == whole.tensors
    assert halves.channel_ranges == whole.channel_ranges

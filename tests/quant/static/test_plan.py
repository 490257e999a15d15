from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtkit.graph import fingerprint
from trtkit.precision import Precision, QuantSpec
from trtkit.quant import lower
from trtkit.quant.placement import get_placement
from trtkit.quant.static.plan import plan_quantization
from trtkit.quant.static.qdq import insert_qdq
from trtkit.ranges import CalibrationTable, Learned, LearnedGrid, LearnedScales
from trtkit.ranges.cache import parse_cache
from trtkit.target import get_target

Table = Callable[..., CalibrationTable]
Feeds = Callable[..., list[dict[str, np.ndarray]]]


def with_learned(table: CalibrationTable, **learned: object) -> CalibrationTable:
    return replace(table, learned=Learned(**learned))  # type: ignore[arg-type]


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("placement", ["tensorrt", "onnxruntime-u8", "onnxruntime-s8"])
def test_weights_have_one_scale_when_not_per_channel(placement: str, residual: onnx.ModelProto, table: Table,
                                                     feeds: Feeds) -> None:
    counted = table(residual, feeds(residual))
    for per_channel, rank in ((True, 1), (False, 0)):
        quantized, _ = insert_qdq(residual, counted, get_placement(placement), QuantSpec(per_channel=per_channel))
        scales = [value for name, value in initializers(quantized).items() if name in ("w1_scale", "w2_scale",
                                                                                       "w3_scale")]
        assert [scale.ndim for scale in scales] == [rank] * 3
        onnx.checker.check_model(quantized, full_check=True)


def test_learned_grid_and_scales_are_written_to_the_bit(residual: onnx.ModelProto, table: Table, feeds: Feeds) -> None:
    counted = table(residual, feeds(residual))
    scale, weights = np.float32(0.0123), np.linspace(0.01, 0.02, 8, dtype=np.float32)
    trained = with_learned(counted, grids={"r": LearnedGrid(float(scale), 3, (0, 255))},
                           weights={("w2", 0): LearnedScales(weights, 127)})
    quantized, _ = insert_qdq(residual, trained, get_placement("onnxruntime-u8"), QuantSpec())
    stored = initializers(quantized)
    assert stored["r_scale"] == scale
    assert stored["r_zero_point"] == 3
    np.testing.assert_array_equal(stored["w2_scale"], weights)
    value = initializers(residual)["w2"]
    np.testing.assert_array_equal(stored["w2_quantized"],
                                  np.clip(np.rint(value / weights[:, None, None, None]), -127, 127))


def test_bias_stays_as_it_was_trained_beside_learned_weights(residual: onnx.ModelProto, table: Table,
                                                             feeds: Feeds) -> None:
    counted = table(residual, feeds(residual))
    trained = with_learned(counted, weights={("w1", 0): LearnedScales(np.full(8, 0.5, np.float32), 127)})
    quantized, _ = insert_qdq(residual, trained, get_placement("tensorrt"), QuantSpec())
    stored = initializers(quantized)
    assert "b1" in stored
    assert "b2" not in stored


def test_learned_grids_are_left_apart_when_they_have_become_alike(make: Callable[..., onnx.ModelProto], table: Table,
                                                                  feeds: Feeds, rng: np.random.Generator) -> None:
    model = make("""g (float[1,4,8,8] x) => (float[1,4,4,4] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)
        b = Conv<pads=[1,1,1,1]>(p, w2)
        q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        y = Add(b, q) }""", w1=rng.normal(size=(4, 4, 3, 3)), w2=rng.normal(size=(4, 4, 3, 3)))
    counted, rules = table(model, feeds(model)), replace(get_placement("tensorrt"), few_products=0)
    joined = plan_quantization(model, counted, rules, QuantSpec())
    assert joined.owners["p"] == "x"
    grids = {name: LearnedGrid(scale, 0, (-127, 127)) for name, scale in (("x", 0.03125), ("p", 0.03))}
    apart = plan_quantization(model, with_learned(counted, grids=grids), rules, QuantSpec())
    assert (apart.grids["x"].scale, apart.grids["p"].scale) == (np.float32(0.03125), np.float32(0.03))


@pytest.mark.parametrize(("placement", "scale", "zero_point"), [
    ("onnxruntime-u8", 0.5, 0), ("onnxruntime-s8", 0.5, -128), ("tensorrt", 255 * 0.5 / 127, 0)])
def test_learned_range_moves_to_the_integers_of_another_placement(placement: str, scale: float, zero_point: int,
                                                                  residual: onnx.ModelProto, table: Table,
                                                                  feeds: Feeds) -> None:
    trained = with_learned(table(residual, feeds(residual)), grids={"r": LearnedGrid(0.5, 0, (0, 255))})
    grid = plan_quantization(residual, trained, get_placement(placement), QuantSpec()).grids["r"]
    assert grid.scale == pytest.approx(scale, rel=1e-6)
    assert grid.zero_point == zero_point


def test_calibration_cache_carries_learned_scales(residual: onnx.ModelProto, table: Table, feeds: Feeds) -> None:
    counted = replace(table(residual, feeds(residual)), model=fingerprint(residual))
    learned = float(np.float32(0.0321))
    trained = with_learned(counted, grids={"r": LearnedGrid(learned, 0, (-127, 127))})
    lowered = lower(residual, get_target("jetson-xavier-jp5"), Precision.INT8, table=trained)
    assert lowered.cache is not None
    assert parse_cache(lowered.cache)["r"] == learned
    assert any("learned" in note for note in lowered.notes)


def test_channels_stay_as_trained_when_equalization_is_asked_for(residual: onnx.ModelProto, table: Table,
                                                                 feeds: Feeds) -> None:
    trained = with_learned(table(residual, feeds(residual)), grids={"r": LearnedGrid(0.5, 0, (-127, 127))})
    lowered = lower(residual, get_target("trt10"), Precision.INT8, table=trained, spec=QuantSpec(equalize=True))
    assert any("left as they were in training" in note for note in lowered.notes)

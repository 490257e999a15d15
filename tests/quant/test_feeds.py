from __future__ import annotations

import numpy as np
from onnx import parser

from trtkit.quant import feeds_like
from trtkit.ranges import CalibrationTable, Histogram

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
both (float[batch,3,16,16] image, int64[batch] place) => (float[batch,3,16,16] out, int64[batch] same) {
    out = Relu(image)
    same = Identity(place)
}
"""


def test_feeds_follow_the_histogram_of_the_input() -> None:
    seen = np.random.default_rng(0).normal(120, 30, 5000).astype(np.float32)
    table = CalibrationTable({"image": Histogram.of(seen)}, 1, "m", "d", "")
    feeds = feeds_like(table, parser.parse_model(MODEL))
    assert (feeds["image"].shape, feeds["image"].dtype) == ((1, 3, 16, 16), np.float32)
    assert seen.min() <= feeds["image"].min() < 60
    assert abs(feeds["image"].mean() - 120) < 5
    assert abs(feeds["image"].std() - 30) < 5
    assert feeds["place"].dtype == np.int64
    again = feeds_like(table, parser.parse_model(MODEL))
    assert np.array_equal(again["image"], feeds["image"])

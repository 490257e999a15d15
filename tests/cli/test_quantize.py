from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from trtkit.errors import CalibrationError, SpecError
from trtkit.graph import load_model
from trtkit.ranges import CalibrationTable, Learned, LearnedGrid, LearnedScales
from trtkit.ranges.cache import parse_cache

Trtkit = Callable[..., str]

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,3,8,8] image) => (float[batch,5] scores) {
    edges = Conv<kernel_shape: ints = [3, 3]>(image, weight)
    lively = Relu(edges)
    pooled = GlobalAveragePool(lively)
    flat = Flatten<axis: int = 1>(pooled)
    scores = Gemm<transB: int = 1>(flat, head)
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    from onnx import numpy_helper, parser

    rng = np.random.default_rng(0)
    proto = parser.parse_model(NET)
    proto.graph.initializer.extend(numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
                                   for name, shape in {"weight": (8, 3, 3, 3), "head": (5, 8)}.items())
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def table(tmp_path: Path, net: Path, trtkit: Trtkit) -> Path:
    np.save(tmp_path / "data.npy", 10 + np.random.default_rng(1).random((8, 3, 8, 8), np.float32))
    trtkit("calibrate", net, "--data", tmp_path / "data.npy", "-o", tmp_path / "net.calib")
    return tmp_path / "net.calib"


def _operators(path: Path) -> list[str]:
    return [node.op_type for node in load_model(path).graph.node]


def test_quantize_takes_the_scales_that_a_table_has_learned(tmp_path: Path, net: Path, table: Path,
                                                            trtkit: Trtkit) -> None:
    learned = Learned({"lively": LearnedGrid(0.125, 0, (0, 255))},
                      {("weight", 0): LearnedScales(np.full(8, 0.0625, np.float32), 127)})
    replace(CalibrationTable.load(table), learned=learned).save(table)
    out = tmp_path / "out.onnx"
    assert "learned in training" in trtkit("quantize", net, "--target", "x86-vnni", "--calib", table, "-o", out)
    stored = {each.name: numpy_helper.to_array(each) for each in load_model(out).graph.initializer}
    assert stored["lively_scale"] == 0.125
    np.testing.assert_array_equal(stored["weight_scale"], np.full(8, 0.0625, np.float32))


def test_quantize_writes_int8_and_says_how_near_it_is(tmp_path: Path, net: Path, table: Path, trtkit: Trtkit) -> None:
    out = tmp_path / "out.onnx"
    printed = trtkit("quantize", net, "--target", "x86-vnni", "--calib", table, "-o", out)
    assert f"{out}: int8 for x86-vnni, " in printed
    found = re.search(r"cosine with FP32 on noise like the calibrated input (\S+)", printed)
    assert found
    assert float(found[1]) > 0.99
    assert "2 weights" in printed
    assert "QuantizeLinear" in _operators(out)


@pytest.mark.parametrize(("flags", "says"), [
    (("--no-ends",), "0 weights and 0 activations"),
    (("--equalize",), "channel ranges of 0 tensors between convolutions equalized"),
    (("--smoothing", "0.5"), "outliers of 0 normalized tensors moved into weights"),
    (("--estimator", "auto"), "2 weights"),
])
def test_quantize_takes_every_step_by_flag(tmp_path: Path, net: Path, table: Path, trtkit: Trtkit,
                                           flags: tuple[str, ...], says: str) -> None:
    assert says in trtkit("quantize", net, "--target", "x86-vnni", "--calib", table, "-o", tmp_path / "o.onnx", *flags)


def test_quantize_writes_model_and_cache_for_a_weakly_typed_target(tmp_path: Path, net: Path, table: Path,
                                                                   trtkit: Trtkit) -> None:
    out = tmp_path / "out.onnx"
    printed = trtkit("quantize", net, "--target", "jetson-xavier-jp5", "--calib", table, "-o", out)
    assert "QuantizeLinear" not in _operators(out)
    assert "out.onnx.cache: calibration cache for TensorRT 8.5" in printed
    assert parse_cache((tmp_path / "out.onnx.cache").read_bytes())["image"] == pytest.approx(11 / 127, rel=0.02)
    trtkit("quantize", net, "--target", "orin-dla", "--calib", table, "-o", out, "--cache", tmp_path / "dla.cache")
    assert (tmp_path / "dla.cache").read_bytes().startswith(b"TRT-1003")


def test_quantize_writes_fp16_without_a_table(tmp_path: Path, net: Path, trtkit: Trtkit) -> None:
    out = tmp_path / "out.onnx"
    printed = trtkit("quantize", net, "--target", "rtx", "--precision", "fp16", "-o", out)
    assert "fp16 for rtx" in printed
    assert "Cast" in _operators(out)


def test_quantize_keeps_what_is_named_in_float(tmp_path: Path, net: Path, table: Path, trtkit: Trtkit) -> None:
    def quantizers(*flags: str) -> int:
        trtkit("quantize", net, "--target", "trt10", "--calib", table, "-o", tmp_path / "out.onnx", *flags)
        return _operators(tmp_path / "out.onnx").count("QuantizeLinear")

    assert quantizers("--keep-op", "Gemm") < quantizers()
    with pytest.raises(SpecError, match="Selector 'Gem' matches no node's operator"):
        quantizers("--keep-op", "Gem")


@pytest.mark.parametrize(("flags", "error", "says"), [
    ((), CalibrationError, "int8.fp16 for target 'rtx' needs a calibration table. Run: trtkit calibrate"),
    (("--calib", "absent.calib"), CalibrationError, r"'absent\.calib' cannot be read: No such file"),
    (("--target", "x86-vnni", "--precision", "fp16"), SpecError, r"does not run fp16. It runs: fp32, int8"),
    (("--target", "x68"), SpecError, "Target 'x68' is unknown. There are: rtx"),
    (("--estimator", "percentile", "--percentile", "150"), SpecError, "150"),
    (("--precision", "int4", "--block", "7"), SpecError, "block is 7. Choose 16, 32, 64 or 128"),
], ids=["no-table", "table", "precision", "target", "percentile", "block"])
def test_quantize_refuses_and_writes_nothing(tmp_path: Path, net: Path, trtkit: Trtkit, flags: tuple[str, ...],
                                             error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        trtkit("quantize", net, "--target", "rtx", "-o", tmp_path / "out.onnx", *flags)
    assert not (tmp_path / "out.onnx").exists()

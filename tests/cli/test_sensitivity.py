"""trtkit sensitivity and trtkit quantize --max-drop, from files to tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from trtkit.errors import AccuracyError, CalibrationError, SpecError
from trtkit.quant.budget import sensitivity as sensitivity_room
from trtkit.runtime.bench import Paired

Trtkit = Callable[..., str]

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,3,8,8] image) => (float[batch,5] scores) {
    a = Conv<pads: ints = [1, 1, 1, 1]>(image, first, bias)
    ra = Relu(a)
    b = Conv<pads: ints = [1, 1, 1, 1]>(ra, breaks)
    rb = Relu(b)
    flat = Flatten(rb)
    scores = Gemm<transB: int = 1>(flat, head)
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A network whose second convolution does not survive INT8: it reads a dead channel with weights of 2000."""
    rng = np.random.default_rng(3)
    first, breaks = (rng.normal(size=(8, channels, 3, 3)) / np.sqrt(9 * channels) for channels in (3, 8))
    head = rng.normal(size=(5, 512))
    first[0], breaks[:, 0] = 0.0, 2000.0
    weights = {"first": first, "breaks": breaks, "head": head - head.mean(axis=1, keepdims=True),
               "bias": np.where(np.arange(8) == 0, -1.0, 0.1)}
    model: onnx.ModelProto = parser.parse_model(NET)
    model.graph.initializer.extend(numpy_helper.from_array(value.astype(np.float32), name)
                                   for name, value in weights.items())
    for node in model.graph.node:
        node.name = f"make_{node.output[0]}"
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npy"
    np.save(path, np.random.default_rng(1).normal(size=(24, 3, 8, 8)).astype(np.float32))
    return path


@pytest.fixture
def calib(net: Path, data: Path, tmp_path: Path, trtkit: Trtkit) -> Path:
    trtkit("calibrate", net, "--data", data, "-o", tmp_path / "net.calib")
    return tmp_path / "net.calib"


def rows_of(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]


def test_sensitivity_prints_and_writes_the_layers_by_their_noise(net: Path, calib: Path, data: Path, tmp_path: Path,
                                                                 trtkit: Trtkit) -> None:
    out = tmp_path / "sens.json"
    printed = trtkit("sensitivity", net, "--target", "trt10", "--calib", calib, "--data", data, "--limit", 6, "-o", out,
                     "--plot", tmp_path / "sens.png")
    rows = rows_of(printed)
    assert [row[:2] for row in rows[:1]] == [["make_b", "Conv"]]
    assert len(rows) == 3
    assert "All layers quantized: SQNR" in printed
    found = json.loads(out.read_text())
    assert (found["samples"], found["metric"], found["layers"][0]["name"]) == (6, "agreement", "make_b")
    assert (tmp_path / "sens.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.part"))


def test_sensitivity_writes_csv_and_takes_noise_when_no_data_is_named(net: Path, calib: Path, tmp_path: Path,
                                                                      trtkit: Trtkit) -> None:
    out = tmp_path / "sens.csv"
    trtkit("sensitivity", net, "--target", "x86-vnni", "--calib", calib, "--limit", 2, "--probe", "rest", "-o", out)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert rows[0]["layer"] == "make_b"
    assert int(rows[0]["macs"]) == 64 * 8 * 8 * 9
    assert float(rows[0]["noise"]) > float(rows[1]["noise"])


def test_an_interrupted_sensitivity_is_resumed_by_the_same_command(net: Path, calib: Path, tmp_path: Path,
                                                                   trtkit: Trtkit, capfd: pytest.CaptureFixture[str],
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = sensitivity_room.lower, [0]

    def interrupted(*args: object, **more: object) -> object:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return real(*args, **more)  # type: ignore[arg-type]

    command = ("sensitivity", net, "--target", "trt10", "--calib", calib, "--limit", 2, "-o", tmp_path / "sens.json")
    monkeypatch.setattr(sensitivity_room, "lower", interrupted)
    with pytest.raises(SystemExit) as ended:
        trtkit(*command)
    assert ended.value.code == 130
    part = tmp_path / "sens.json.part"
    assert set(json.loads(part.read_text())["found"]) == {"", "make_a", "make_b"}
    calls[0] = 10
    trtkit(*command)
    assert calls[0] == 12
    assert not part.exists()


@pytest.mark.parametrize(("flags", "error", "says"), [
    (("-o", "x.txt"), SpecError, r"'x.txt' has the ending '.txt'. Give a .json or a .csv"),
    (("-o", "x.json", "--probe", "both"), SpecError, "--probe is 'both'. Choose one of: alone, rest"),
    (("-o", "x.json"), CalibrationError, "int8.fp16 for target 'rtx' needs a calibration table"),
    (("-o", "x.json", "--plot", "x.gif"), SpecError, "ending '.gif'. Choose one of: .png"),
], ids=["ending", "probe", "table", "plot"])
def test_sensitivity_refuses_before_the_work(net: Path, trtkit: Trtkit, flags: tuple[str, ...],
                                             error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        trtkit("sensitivity", net, "--target", "rtx", *flags)


def test_quantize_keeps_what_the_budget_needs_and_says_why(net: Path, calib: Path, data: Path, tmp_path: Path,
                                                           trtkit: Trtkit) -> None:
    printed = trtkit("quantize", net, "--target", "trt10", "--calib", calib, "--data", data, "--max-drop", 5, "-o",
                     tmp_path / "out.onnx", "--report", tmp_path / "report.json")
    assert [row[0] for row in rows_of(printed)] == ["make_b"]
    assert "int8+fp16 for trt10" in printed
    assert "One of 24 samples" not in printed
    assert "1 layers in float" in printed
    assert "Not measured: this machine is no such target" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert [each["name"] for each in report["kept"]] == ["make_b"]
    assert (report["metric"], report["max_drop"], report["precision"]) == ("agreement", 5.0, "int8+fp16")
    assert report["lost"] <= 5.0 < report["trials"][0]["lost"]
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("ratio", "quantized"), [((1.8, 2.2), True), ((0.8, 0.9), False)], ids=["faster", "slower"])
def test_quantize_within_a_budget_writes_fp32_when_int8_is_not_faster(
        net: Path, calib: Path, data: Path, tmp_path: Path, trtkit: Trtkit, monkeypatch: pytest.MonkeyPatch,
        ratio: tuple[float, float], quantized: bool) -> None:
    from trtkit.pipeline import measuring
    from trtkit.target import Target

    monkeypatch.setattr(Target, "runs_on", lambda *_: True)
    monkeypatch.setattr(measuring, "speedup_over", lambda *_: Paired(sum(ratio) / 2, *ratio, 1.0, 1.0, 15))
    printed = trtkit("quantize", net, "--target", "x86-vnni", "--calib", calib, "--data", data, "--limit", 12,
                     "--max-drop", 5, "-o", tmp_path / "out.onnx", "--report", tmp_path / "report.json")
    assert "One of 12 samples is 8.33 points, more than --max-drop 5: give more samples" in printed
    operators = {node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}
    assert ("QuantizeLinear" in operators) is quantized
    assert ("is not faster than FP32 here" in printed) is not quantized
    assert json.loads((tmp_path / "report.json").read_text())["written"] == ("lowered" if quantized else "fp32")


@pytest.mark.parametrize(("flags", "error", "says"), [
    (("--max-drop", "1"), SpecError, "--max-drop and --data go together"),
    (("--data", "data.npy"), SpecError, "--max-drop and --data go together"),
    (("--report", "r.json"), SpecError, "--report tells what --max-drop tried"),
], ids=["no-data", "no-budget", "report"])
def test_quantize_refuses_halves_of_a_budget(net: Path, tmp_path: Path, trtkit: Trtkit, flags: tuple[str, ...],
                                             error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        trtkit("quantize", net, "--target", "rtx", "-o", tmp_path / "out.onnx", *flags)


def test_quantize_says_what_to_do_when_no_quantized_model_holds(net: Path, calib: Path, data: Path, tmp_path: Path,
                                                                trtkit: Trtkit) -> None:
    with pytest.raises(AccuracyError, match=r"cannot stay within 0.0 points: it loses .* Allow more points, calibrate"):
        trtkit("quantize", net, "--target", "x86-vnni", "--calib", calib, "--data", data, "--max-drop", 0, "-o",
               tmp_path / "out.onnx", "--keep", "make_a", "--keep", "make_scores")
    assert not (tmp_path / "out.onnx").exists()

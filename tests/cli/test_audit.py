from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from trtkit.cli.app import app
from trtkit.errors import SpecError

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
    xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) wd = DequantizeLinear<axis=0>(w, ws, wz)
    c = Conv<pads=[1,1,1,1]>(xd, wd) yq = QuantizeLinear(c, s, z) y = DequantizeLinear(yq, s, z) }"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A Conv + Relu as ONNX Runtime's quantizer writes it: UINT8, the Relu in the saturation."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT)
    for name, value in {"s": np.float32(0.02), "z": np.uint8(0), "w": rng.integers(-127, 128, (16, 16, 3, 3), np.int8),
                        "ws": np.full(16, 0.002, np.float32), "wz": np.zeros(16, np.int8)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["audit", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code
    return result.stdout


def test_audit_shows_findings_and_ends_with_1_when_the_target_refuses_the_model(path: Path) -> None:
    shown = run(path, "--target", "rtx", code=1)
    assert "UINT8" in shown
    assert "1 of 1 layers would run in INT8" in shown


def test_audit_ends_with_0_when_the_target_takes_the_model(path: Path) -> None:
    assert "1 of 1 layers run in INT8 (100% of the multiply-accumulates)" in run(path, "--target", "x86-vnni")


def test_audit_repairs_and_ends_with_the_code_of_what_it_wrote(path: Path) -> None:
    fixed = path.with_name("fixed.onnx")
    shown = run(path, "--target", "rtx", "--fix", "-o", fixed)
    assert "1 weights (1 with the integers they had)" in shown
    assert "Cosine with the model as it was" in shown
    assert "1 of 1 layers run in INT8" in run(fixed, "--target", "rtx")


def test_audit_prints_json_with_all_names(path: Path) -> None:
    told = json.loads(run(path, "--target", "rtx", "--json", "--fix", "-o", path.with_name("f.onnx")))
    finding = next(each for each in told["findings"] if each["rule"] == "UINT8")
    assert (told["fits"], finding["severity"], len(finding["names"])) == (False, "error", 4)
    assert told["fixed"]["fits"] is True
    assert told["fixed"]["cosine"] > 0.9


def test_audit_wants_fix_and_output_together(path: Path) -> None:
    for arguments in (["--fix"], ["-o", path.with_name("f.onnx")]):
        with pytest.raises(SpecError, match="go together"):
            run(path, "--target", "rtx", *arguments)

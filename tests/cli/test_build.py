from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from trtkit.bundle.plan_header import read_plan_header
from trtkit.cli.app import app
from trtkit.errors import BuildError, CalibrationError, MissingDependencyError, SpecError, TrtkitError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,8,8] x) => (float[N,4,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"""
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def build(model: Path, *flags: str) -> str:
    """Run the command and return what it prints; an error of ours is raised as the program would report it."""
    result = CliRunner().invoke(app, ["build", str(model), "-o", str(model.with_suffix(".plan")), *flags])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("flags", [
    pytest.param(("--batch", "1,4,8"), id="batch"),
    pytest.param(("--batch", "2"), id="one-batch"),
    pytest.param(("--min", "x=1x3x8x8", "--opt", "x=2x3x8x8", "--max", "x=4x3x8x8"), id="shapes"),
    pytest.param(("--max", "x=4x3x8x8"), id="largest-shape-alone"),
    pytest.param(("--workspace", "1.5G", "--level", "1", "--no-tf32", "--flag", "STRICT_NANS"), id="settings"),
    pytest.param(("--target", "rtx", "--precision", "FP32"), id="target"),
])
def test_build_writes_a_plan_and_tells_size_time_and_key(model: Path, flags: tuple[str, ...]) -> None:
    printed = build(model, *flags)
    header = read_plan_header(model.with_suffix(".plan").read_bytes())
    assert "MB, built in" in printed
    assert f"For TensorRT-RTX {header.version}, SM 8.0+" in printed


@pytest.mark.parametrize("flags", [("--sparse",), ("--no-sparse",), ()], ids=["asked", "refused", "dense weights"])
def test_build_tries_sparse_kernels_when_asked_to(model: Path, flags: tuple[str, ...]) -> None:
    printed = build(model, *flags)
    assert (", SPARSE_WEIGHTS" in printed) == ("Sparse kernels are allowed" in printed) == (flags == ("--sparse",))


def test_build_takes_data_to_calibrate_with_on_the_weak_path_alone(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(SpecError, match="Calibration samples go with typing 'weak'"):
        build(model, "--precision", "int8", "--calib-data", str(tmp_path / "data.npz"))


def test_build_takes_several_compute_capabilities(model: Path) -> None:
    assert "SM 8.6, 8.9" in build(model, "--compute-capability", "8.6", "--compute-capability", "8.9")


@pytest.mark.parametrize(("flags", "error", "says"), [
    pytest.param(("--batch", "a"), SpecError, "Batch 'a' is not understood", id="batch-word"),
    pytest.param(("--batch", "1,2"), SpecError, "Batch '1,2' is not understood", id="batch-two"),
    pytest.param(("--batch", "8,4,1"), SpecError, "rising from 1", id="batch-falling"),
    pytest.param(("--batch", "1", "--max", "x=1x3x8x8"), SpecError, "the one or the other", id="batch-and-shapes"),
    pytest.param(("--max", "1x3x8x8"), SpecError, "not a named shape", id="no-name"),
    pytest.param(("--ranges-by", "layers"), SpecError, "ranges_by is 'layers'", id="ranges-by"),
    pytest.param(("--calib-data", "nowhere"), CalibrationError, "'nowhere' does not exist", id="no-data"),
    pytest.param(("--max", "x=big"), SpecError, "not a shape", id="no-shape"),
    pytest.param(("--workspace", "lots"), SpecError, "Workspace 'lots' is no size", id="workspace"),
    pytest.param(("--calib", "/nowhere/c"), SpecError, "'/nowhere/c' cannot be read", id="cache-missing"),
    pytest.param(("--precision", "fp5"), SpecError, "Precision 'fp5' is unknown", id="precision"),
    pytest.param(("--target", "moon"), SpecError, "Target 'moon' is unknown", id="target"),
    pytest.param(("--target", "pi5"), SpecError, "no plan to build", id="cpu-target"),
    pytest.param(("--target", "trt11"), MissingDependencyError, "needs tensorrt", id="no-tensorrt"),
    pytest.param(("--flag", "NOPE"), BuildError, "no builder flag 'NOPE'", id="flag"),
])
def test_build_fails_and_writes_nothing(model: Path, flags: tuple[str, ...], error: type[TrtkitError],
                                        says: str) -> None:
    with pytest.raises(error, match=says):
        build(model, *flags)
    assert not model.with_suffix(".plan").exists()


def test_build_tells_a_missing_folder_before_it_builds(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtkit.build.build_plan", lambda *_, **__: pytest.fail("built in vain"))
    with pytest.raises(SpecError, match=r"folder '.*absent' does not exist"):
        build(model, "-o", str(model.parent / "absent" / "m.plan"))


def test_build_keeps_the_old_plan_when_it_fails(model: Path) -> None:
    model.with_suffix(".plan").write_bytes(b"old")
    with pytest.raises(BuildError):
        build(model, "--flag", "NOPE")
    assert model.with_suffix(".plan").read_bytes() == b"old"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from trtkit.bundle import Artifact, open_bundle
from trtkit.device import Device
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.runtime import open as open_session
from trtkit.runtime.measured import MeasuredHere


@pytest.fixture
def both(make_bundle: Callable[..., Path], colors: Callable[..., bytes]) -> Path:
    """FP32 and INT8 of a PC, and an INT8 model of another board, none measured."""
    return make_bundle([(Artifact("fp32.onnx", "x86-vnni", Precision.FP32, "onnx"), colors(gain=1.0)),
                        (Artifact("int8.onnx", "x86-vnni", Precision.INT8, "onnx"), colors(gain=2.0)),
                        (Artifact("pi.onnx", "pi5", Precision.INT8, "onnx"), colors(gain=3.0))])


def test_what_was_measured_here_decides(both: Path, pc: Device, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with open_bundle(both) as bundle:
        fp32, int8, pi = (a.sha256 for a in bundle.manifest.artifacts)
    assert open_session(both, machine=pc, cache_dir=folder).choice.artifact.file == "fp32.onnx"
    MeasuredHere(pc, folder).remember({fp32: 3.0, int8: 1.0, pi: 0.1})
    choice = open_session(both, machine=pc, cache_dir=folder).choice
    assert choice.artifact.file == "int8.onnx"
    assert choice.reason.startswith("the fastest measured on this machine (1.00 ms)")
    MeasuredHere(pc, folder).remember({int8: 4.0})
    assert open_session(both, machine=pc, cache_dir=folder).choice.artifact.file == "fp32.onnx"


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"cores": 1}, {"onnxruntime": "9.9"}], ids=str)
def test_numbers_of_another_machine_do_not_count(pc: Device, tmp_path: Path, change: dict[str, object]) -> None:
    MeasuredHere(pc, tmp_path).remember({"ab": 1.0})
    assert MeasuredHere(pc, tmp_path).load() == {"ab": 1.0}
    assert MeasuredHere(replace(pc, **change), tmp_path).load() == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "[1]", '{"a": "b"}', '{"a": null}'])
def test_damaged_numbers_are_ignored_with_a_warning(pc: Device, tmp_path: Path, text: str,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    here = MeasuredHere(pc, tmp_path)
    here.path.write_text(text)
    assert here.load() == {}
    assert "is ignored" in caplog.text
    here.remember({"ab": 2.0})
    assert here.load() == {"ab": 2.0}


def test_remember_says_where_it_cannot_write(pc: Device, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SpecError, match="Set XDG_CACHE_HOME"):
        MeasuredHere(pc, tmp_path / "cache").remember({"ab": 1.0})

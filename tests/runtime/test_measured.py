from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from trtkit.bundle import Artifact, open_bundle
from trtkit.device import Device, TensorRt
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.runtime import open as open_session
from trtkit.runtime.measured import MeasuredHere, Setting, setting_key


@pytest.fixture
def both(make_bundle: Callable[..., Path], colors: Callable[..., bytes]) -> Path:
    """FP32 and INT8 of a PC, and an INT8 model of another board, none measured."""
    return make_bundle([(Artifact("fp32.onnx", "x86-vnni", Precision.FP32, "onnx"), colors(gain=1.0)),
                        (Artifact("int8.onnx", "x86-vnni", Precision.INT8, "onnx"), colors(gain=2.0)),
                        (Artifact("pi.onnx", "pi5", Precision.INT8, "onnx"), colors(gain=3.0))])


def keys(path: Path) -> list[str]:
    with open_bundle(path) as bundle:
        return [setting_key(artifact, "cpu") for artifact in bundle.manifest.artifacts]


def test_what_was_measured_here_decides_and_brings_its_threads(both: Path, pc: Device, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    fp32, int8, pi = keys(both)
    assert open_session(both, machine=pc, cache_dir=folder).choice.artifact.file == "fp32.onnx"
    MeasuredHere(pc, folder).remember({fp32: Setting(3.0), int8: Setting(1.0, 2, False), pi: Setting(0.1)})
    with open_session(both, machine=pc, cache_dir=folder) as session:
        assert session.choice.artifact.file == "int8.onnx"
        assert "measured on this machine (1.00 ms, 2 threads, no spinning)" in session.choice.reason
        assert session.backend.endswith("2 threads")
    with open_session(both, machine=pc, cache_dir=folder, threads=1) as session:
        assert session.backend.endswith("1 threads")
    MeasuredHere(pc, folder).remember({int8: Setting(4.0)})
    assert open_session(both, machine=pc, cache_dir=folder).choice.artifact.file == "fp32.onnx"


def test_half_a_measurement_decides_nothing(both: Path, pc: Device, tmp_path: Path) -> None:
    fp32, int8, _ = keys(both)
    MeasuredHere(pc, tmp_path / "cache").remember({int8: Setting(1.0)})
    assert open_session(both, machine=pc, cache_dir=tmp_path / "cache").choice.artifact.file == "fp32.onnx"
    MeasuredHere(pc, tmp_path / "cache").remember({fp32: Setting(None)})  # measured: it does not run here
    assert open_session(both, machine=pc, cache_dir=tmp_path / "cache").choice.artifact.file == "int8.onnx"


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"cores": 1}, {"onnxruntime": "9.9"},
                                    {"tensorrt": TensorRt("tensorrt", "10.3.0")}], ids=str)
def test_numbers_of_another_machine_do_not_count(pc: Device, tmp_path: Path, change: dict[str, object]) -> None:
    MeasuredHere(pc, tmp_path).remember({"ab": Setting(1.0, 2)})
    assert MeasuredHere(pc, tmp_path).load() == {"ab": Setting(1.0, 2)}
    assert MeasuredHere(replace(pc, **change), tmp_path).load() == {}  # type: ignore[arg-type]


def row(**changes: object) -> str:
    return json.dumps({"format": 1, "artifacts": {"ab": {"p50_ms": 1.0, "threads": 2, "spinning": True, **changes}}})


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"format": 2, "artifacts": {}}', '{"format": 1, "artifacts": [1]}',
                                  row(p50_ms="fast"), row(p50_ms=-1), row(p50_ms=float("nan")), row(threads=0),
                                  row(threads=1.5), '{"format": 1, "artifacts": {"ab": {"p50_ms": 1.0}}}'])
def test_damaged_numbers_are_ignored_with_a_warning(pc: Device, tmp_path: Path, text: str,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    here = MeasuredHere(pc, tmp_path)
    here.path.write_text(text)
    assert here.load() == {}
    assert "is ignored" in caplog.text
    here.remember({"ab": Setting(2.0)})
    assert here.load() == {"ab": Setting(2.0)}


def test_remember_says_where_it_cannot_write(pc: Device, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SpecError, match="Set XDG_CACHE_HOME"):
        MeasuredHere(pc, tmp_path / "cache").remember({"ab": Setting(1.0)})

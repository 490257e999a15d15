from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trtkit.errors import BundleError, CalibrationError, SpecError

Trtkit = Callable[..., str]


def test_inspect_shows_a_bundle_of_either_form(bundle: Path, model: Path, tmp_path: Path, trtkit: Trtkit) -> None:
    printed = trtkit("inspect", bundle, "--verify")
    for what in ("image: float32", "x86-avx2", "pi4", "3: red, green, blue", "all verified"):
        assert what in printed
    trtkit("pack", "-o", tmp_path / "folder", "--artifact", f"pi5:fp32={model}")
    assert "pi5" in trtkit("inspect", tmp_path / "folder")


def test_inspect_verify_finds_a_flipped_byte(bundle: Path, trtkit: Trtkit) -> None:
    data = bytearray(bundle.read_bytes())
    data[data.find(b"GlobalAveragePool")] ^= 1
    bundle.write_bytes(data)
    trtkit("inspect", bundle)
    with pytest.raises(BundleError, match=r"'colors\.onnx' is damaged"):
        trtkit("inspect", bundle, "--verify")


def test_inspect_tells_files_apart_by_content(bundle: Path, trtkit: Trtkit, tmp_path: Path) -> None:
    renamed = tmp_path / "x.onnx"
    renamed.write_bytes(bundle.read_bytes())
    assert "Bundle" in trtkit("inspect", renamed)


def test_inspect_shows_a_plan(tmp_path: Path, trtkit: Trtkit) -> None:
    (tmp_path / "a.bin").write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(100))
    printed = trtkit("inspect", tmp_path / "a.bin")
    assert "10.3.0" in printed
    assert "tensorrt" in printed


def test_inspect_shows_a_model(model: Path, trtkit: Trtkit) -> None:
    printed = trtkit("inspect", model)
    for what in ("image: float32", "GlobalAveragePool", "onnx 17", "nodes"):
        assert what in printed


def test_inspect_shows_a_table(tmp_path: Path, trtkit: Trtkit) -> None:
    import numpy as np

    from trtkit.ranges import CalibrationTable, Histogram

    histogram = Histogram.of(np.array([0, 1, 2.5], np.float32))
    CalibrationTable({f"t{i}": histogram for i in range(5)}, 3, "m", "d", "").save(tmp_path / "a.calib")
    printed = trtkit("inspect", tmp_path / "a.calib", "--limit", "2")
    for what in ("samples", "2.5", "33.3", "3 more; show them with --limit 5"):
        assert what in printed


def test_inspect_shows_a_calibration_cache(tmp_path: Path, trtkit: Trtkit) -> None:
    (tmp_path / "a.cache").write_text("TRT-8502-EntropyCalibration2\nconv1: 3f000000\n")
    printed = trtkit("inspect", tmp_path / "a.cache")
    assert "conv1" in printed
    assert "63.5" in printed  # 127 times the scale 0.5
    (tmp_path / "a.cache").write_text("TRT-8502-EntropyCalibration2\nconv1: zz\n")
    with pytest.raises(CalibrationError, match="Line 2"):
        trtkit("inspect", tmp_path / "a.cache")


def test_inspect_refuses_a_missing_file(tmp_path: Path, trtkit: Trtkit) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        trtkit("inspect", tmp_path / "none")

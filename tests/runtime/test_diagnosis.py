from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trtkit.device import Device, TensorRt
from trtkit.runtime.diagnosis import Finding, diagnose, installed_packages
from trtkit.runtime.probe import Probe


def by_topic(probe: Probe, packages: dict[str, str] | None = None, root: Path = Path("/none")) -> dict[str, Finding]:
    return {finding.topic: finding for finding in diagnose(probe, packages or {}, root)}


def test_diagnosis_of_a_pc_without_gpu(pc: Device) -> None:
    found = by_topic(Probe(pc, {}, ("tensorrt", "tensorrt_rtx")), {"pillow": "10.0"})
    assert found["CPU targets"].found == "x86-vnni, x86-avx2"
    assert found["Run on the CPU"].ok
    assert not found["Run on the GPU"].ok
    assert found["TensorRT"].remedy == "pip install 'trtkit[rtx]'"
    assert found["Read pictures"].ok
    assert found["Export from torch"].found == "lacks torch, onnx, onnxscript"
    assert found["Export from torch"].remedy == "pip install 'trtkit[export]'"


def test_diagnosis_of_a_jetson_where_all_works(orin: Device) -> None:
    found = by_topic(Probe(orin, {}, ()), {"pycuda": "2026.1"})
    assert found["Run on the GPU"].ok
    assert found["Build plans"].ok
    assert "TensorRT 10.3.0" in found["JetPack"].found
    assert found["JetPack"].found.startswith("6.1 (Jetson Linux 36.4.0)")


def test_diagnosis_keeps_the_words_of_a_broken_tensorrt(orin: Device) -> None:
    broken = replace(orin, tensorrt=None)
    found = by_topic(Probe(broken, {"tensorrt": "does not load (libnvdla_compiler.so: cannot open)"}, ()))
    assert "libnvdla_compiler.so" in found["TensorRT"].found
    assert "JetPack" in found["TensorRT"].remedy


def test_diagnosis_finds_the_tensorrt_that_a_virtual_environment_hides(orin: Device, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", "/some/venv")
    found = by_topic(Probe(replace(orin, tensorrt=None), {}, ("tensorrt",)), root=tmp_path)
    assert found["TensorRT"].remedy == "python3 -m venv --system-site-packages .venv"


@pytest.mark.parametrize(("tensorrt", "warns"), [
    ("10.3.0", True), ("8.5.2", True), ("10.16.2", False), ("11.4.0", False),
])
def test_diagnosis_warns_of_numpy_2_with_old_bindings(orin: Device, monkeypatch: pytest.MonkeyPatch, tensorrt: str,
                                                      warns: bool) -> None:
    probe = Probe(replace(orin, tensorrt=TensorRt("tensorrt", tensorrt)), {}, ())
    monkeypatch.setattr(np, "__version__", "2.2.6")
    assert ("numpy" in by_topic(probe)) is warns
    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert "numpy" not in by_topic(probe)


def test_every_failure_has_a_remedy(pc: Device, orin: Device) -> None:
    for device in (pc, orin, replace(pc, onnxruntime=""), replace(orin, tensorrt=None)):
        for finding in diagnose(Probe(device, {}, ()), {}, Path("/none")):
            assert finding.ok is not False or finding.remedy


def test_installed_packages_imports_nothing() -> None:
    assert "numpy" not in installed_packages()
    assert installed_packages().get("onnx", "").count(".") == 2

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

Trtkit = Callable[..., str]


def test_bench_prints_a_table_with_the_conditions(bundle: Path, trtkit: Trtkit) -> None:
    printed = trtkit("bench", bundle, "--seconds", "0.05", "--warmup", "0", "--threads", "1")
    for what in ("p50 ms", "p99 ms", "peak MB", "backend: onnxruntime", "copies_included: True"):
        assert what in printed


def test_bench_prints_json(bundle: Path, trtkit: Trtkit) -> None:
    row = json.loads(trtkit("bench", bundle, "--seconds", "0.05", "--warmup", "0", "--batch", "2", "--json",
                            "--threads", "1"))
    assert row["batch"] == 2
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["conditions"]["threads"] == 1
    assert row["size_bytes"] > 100


@pytest.mark.skipif(platform.system() != "Linux", reason="reads peak memory from /proc")
def test_bench_all_measures_each_artifact_in_a_process_of_its_own(bundle: Path, trtkit: Trtkit) -> None:
    content = json.loads(trtkit("bench", bundle, "--all", "--seconds", "0.05", "--warmup", "0", "--json", "--device",
                                "cpu"))
    assert [row["target"] for row in content["results"]] == ["x86-avx2", "pi4"]
    assert content["failed"] == []
    assert all(row["peak_memory_bytes"] < 1 << 30 for row in content["results"])


def test_bench_all_keeps_to_a_target(bundle: Path, trtkit: Trtkit) -> None:
    content = json.loads(trtkit("bench", bundle, "--all", "--target", "pi4", "--seconds", "0.05", "--warmup", "0",
                                "--json", "--device", "cpu"))
    assert [row["target"] for row in content["results"]] == ["pi4"]


def test_bench_all_measures_nothing_in_place_of_a_gpu(tmp_path: Path, model: Path, trtkit: Trtkit,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    path = tmp_path / "both.trtkit"
    trtkit("pack", "-o", path, "--artifact", f"pi4:fp32={model}", "--artifact", f"jetson-orin-jp6:fp32={model}")
    content = json.loads(trtkit("bench", path, "--all", "--seconds", "0.05", "--warmup", "0", "--json"))
    assert [row["target"] for row in content["results"]] == ["pi4"]
    (failed,) = content["failed"]
    assert failed.startswith("jetson-orin-jp6 fp32: not measurable here: ")
    assert "no usable NVIDIA GPU" in failed

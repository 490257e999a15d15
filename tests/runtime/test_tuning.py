"""Measuring everything that fits this machine, in real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trtkit.bundle import Artifact, open_bundle
from trtkit.bundle.engine_key import EngineKey
from trtkit.device import Device
from trtkit.errors import BundleError, DeviceError
from trtkit.precision import Precision
from trtkit.runtime import open as open_session
from trtkit.runtime import tuning
from trtkit.runtime.candidates import rank
from trtkit.runtime.measured import MeasuredHere, Setting
from trtkit.runtime.opener import Opener, tensorrt_session
from trtkit.runtime.plan_cache import PlanCache
from trtkit.runtime.probe import physical_cores, usable_cores
from trtkit.runtime.select import tune
from trtkit.runtime.trial import Trial
from trtkit.runtime.tuning import thread_counts, tune_candidates

SLOW = """
<ir_version: 8, opset_import: ["" : 17]>
slow (float[batch,3,8,8] image) => (float[batch,3] scores) {
    big = Constant<value_ints: ints = [300,300]>()
    most = ReduceMax<keepdims: int = 0>(image)
    a = Expand(most, big)
    b = MatMul(a, a)
    c = ReduceMax<keepdims: int = 0>(b)
    d = Mul(image, c)
    e = GlobalAveragePool(d)
    scores = Flatten<axis: int = 1>(e)
}
"""


@pytest.fixture
def bundle(make_bundle: Callable[..., Path], colors: Callable[..., bytes], onnx_text: Callable[[str], bytes]) -> Path:
    """A slow FP32, a quick INT8, an INT4 that no runtime loads, and a model of another board."""
    return make_bundle([(Artifact("slow.onnx", "x86-vnni", Precision.FP32, "onnx"), onnx_text(SLOW)),
                        (Artifact("quick.onnx", "x86-vnni", Precision.INT8, "onnx"), colors()),
                        (Artifact("broken.onnx", "x86-vnni", Precision.INT4, "onnx"), b"no model"),
                        (Artifact("pi.onnx", "pi5", Precision.INT8, "onnx"), colors(gain=2.0))])


def test_tune_finds_the_fastest_and_open_takes_it_from_then_on(bundle: Path, pc: Device, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "thread_counts", lambda: (2,))
    assert open_session(bundle, machine=pc, cache_dir=tmp_path).choice.artifact.file == "slow.onnx"
    steps: list[tuple[str, int, int | None]] = []
    tuned = tune(bundle, machine=pc, cache_dir=tmp_path, seconds=0.2, progress=lambda *step: steps.append(step))
    assert tuned.best.candidate.artifact.file == "quick.onnx"
    assert tuned.best.in_turns
    assert {each.candidate.artifact.file for each in tuned.measurements} == {"slow.onnx", "quick.onnx", "broken.onnx"}
    latencies = [each.p50_ms for each in tuned.measurements]
    assert latencies == sorted(latencies)
    assert all("does not load" in each.error for each in tuned.measurements if each.p50_ms == float("inf"))
    assert steps[0][0] == "Measuring"
    assert {each.setting.spinning for each in tuned.measurements if each.in_turns} == {True, False}
    with open_session(bundle, machine=pc, cache_dir=tmp_path) as session:
        assert session.choice.artifact.file == "quick.onnx"
        assert "2 threads" in session.backend


def test_open_measures_first_when_asked_and_only_once(make_bundle: Callable[..., Path], colors: Callable[..., bytes],
                                                      pc: Device, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "thread_counts", lambda: (1,))
    monkeypatch.setattr(tuning, "_SECONDS", 0.1)
    path = make_bundle([(Artifact("fp32.onnx", "x86-vnni", Precision.FP32, "onnx"), colors()),
                        (Artifact("broken.onnx", "x86-vnni", Precision.INT8, "onnx"), b"no model")])
    with open_session(path, machine=pc, cache_dir=tmp_path, tune=True) as session:
        assert "measured on this machine" in session.choice.reason
    monkeypatch.setattr("trtkit.runtime.tuning.tune_candidates", None)
    with open_session(path, machine=pc, cache_dir=tmp_path, tune=True) as session:
        assert session.choice.reason.startswith("the fastest measured on this machine")
        assert session.backend.endswith("1 threads")


def test_tune_keeps_the_winner_first_when_the_machine_slows_down_in_between(
        bundle: Path, pc: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_turns(bench: tuning._Bench, finalists: list[tuning.Measurement], progress: object
                 ) -> list[tuning.Measurement]:
        return [each.taking(1000 * each.p50_ms, in_turns=True) for each in finalists]

    monkeypatch.setattr(tuning._Bench, "in_turns", in_turns)
    with open_bundle(bundle) as opened:
        opener = Opener(opened, pc, None, tensorrt_session, PlanCache(tmp_path), None)
        tuned = tune_candidates(rank(opened.manifest, pc).candidates, opener, seconds=0.2, threads=(1,))
    assert tuned.best.candidate.artifact.file == "quick.onnx"
    best = min(tuned.settings().items(), key=lambda pair: pair[1].p50_ms or float("inf"))
    assert best == (tuned.best.candidate.key, tuned.best.setting)


def test_tune_says_why_nothing_runs(make_bundle: Callable[..., Path], colors: Callable[..., bytes], pc: Device,
                                    tmp_path: Path) -> None:
    broken = make_bundle([(Artifact("a.onnx", "x86-vnni", Precision.FP32, "onnx"), b"no model")])
    with pytest.raises(BundleError, match=r"Nothing that fits this machine runs: a\.onnx .* does not load"):
        tune(broken, machine=pc, cache_dir=tmp_path, seconds=0.1)
    foreign = make_bundle([(Artifact("a.onnx", "pi5", Precision.INT8, "onnx"), colors())])
    with pytest.raises(BundleError, match="was made for such a machine"):
        tune(foreign, machine=pc, cache_dir=tmp_path)
    assert MeasuredHere(pc, tmp_path).load() == {}


def test_plan_that_does_not_run_is_remembered_as_such(make_bundle: Callable[..., Path], colors: Callable[..., bytes],
                                                      orin: Device, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "thread_counts", lambda: (1,))
    key = EngineKey("tensorrt", "10.3.0", ("8.7",), "linux-aarch64", Precision.INT8)
    plan = Artifact("a.plan", "jetson-orin-jp6", Precision.INT8, "plan", engine=key)
    path = make_bundle([(plan, b"ftrt" + bytes(60)),
                        (Artifact("cpu.onnx", "pi5", Precision.FP32, "onnx"), colors())])
    tuned = tune(path, machine=orin, cache_dir=tmp_path, seconds=0.1)
    assert [each.candidate.artifact.file for each in tuned.measurements] == ["cpu.onnx", "a.plan"]
    assert tuned.measurements[1].error
    with open_session(path, machine=orin, cache_dir=tmp_path) as session:
        assert session.choice.artifact.file == "cpu.onnx"
        assert not any("a.plan" in reason for reason in session.choice.rejected)  # it is not tried again


def test_trial_tells_of_a_crash_in_its_own_process(tmp_path: Path, colors: Callable[..., bytes]) -> None:
    (tmp_path / "m.onnx").write_bytes(colors())
    request = {"file": str(tmp_path / "m.onnx"), "kind": "onnx", "threads": 1, "spinning": False, "batch": 2,
               "warmup": 0.01, "io": []}
    with Trial(request, tmp_path / "a") as trial:
        assert 0 < trial.measure(0.01) < 1000
        trial._child.kill()
        with pytest.raises(DeviceError, match="measuring process"):
            trial.measure(0.01)
    with pytest.raises(DeviceError, match="is no file"):
        Trial({**request, "file": str(tmp_path / "none")}, tmp_path / "b")


def test_thread_counts_rise_from_one_to_all(tmp_path: Path) -> None:
    counts = thread_counts()
    assert counts[0] == 1
    assert counts[-1] == usable_cores()
    assert list(counts) == sorted(set(counts))


def test_physical_cores_count_siblings_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert physical_cores(tmp_path) == 2
    assert physical_cores(tmp_path / "nowhere") == 4


def test_setting_says_how_many_threads() -> None:
    assert [str(each) for each in (Setting(1.0), Setting(1.0, 1), Setting(1.0, 4, False))] == [
        "", "1 thread", "4 threads, no spinning"]

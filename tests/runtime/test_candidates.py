from __future__ import annotations

from dataclasses import replace

import pytest

from trtkit.bundle import Artifact, BundleManifest
from trtkit.bundle.engine_key import EngineKey
from trtkit.device import Device, TensorRt
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.runtime.candidates import Ranking, Wish, rank
from trtkit.runtime.measured import Setting
from trtkit.target import get_target
from trtkit.tensors import TensorSpec

FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8


def onnx(target: str, precision: Precision, p50: float | None = None) -> Artifact:
    measured = {} if p50 is None else {"p50_ms": p50}
    return Artifact(f"{target}-{precision.value}.onnx", target, precision, "onnx", measurements=measured)


def plan(target: str, precision: Precision, sm: str, version: str = "10.3.0", p50: float | None = None) -> Artifact:
    key = EngineKey("tensorrt", version, (sm,), "linux-aarch64", precision)
    measured = {} if p50 is None else {"p50_ms": p50}
    file = f"{target}-{precision.value}-{sm}.plan"
    return Artifact(file, target, precision, "plan", engine=key, measurements=measured)


def manifest(*artifacts: Artifact, **more: object) -> BundleManifest:
    spec = TensorSpec("x", "float32", (1,))
    return BundleManifest("m", (spec,), (spec,), artifacts, **more)  # type: ignore[arg-type]


def order(ranking: Ranking) -> list[tuple[str, str]]:
    return [(c.action, c.artifact.file) for c in ranking.candidates]


def test_cpu_takes_the_fastest_measured(pc: Device) -> None:
    ranking = rank(manifest(onnx("x86-vnni", FP32, 3.5), onnx("x86-vnni", INT8, 1.5)), pc)
    assert order(ranking) == [("cpu", "x86-vnni-int8.onnx"), ("cpu", "x86-vnni-fp32.onnx")]
    assert ranking.candidates[0].reason == "the fastest measured for x86-vnni (1.50 ms)"


def test_cpu_takes_fp32_when_int8_was_measured_slower(pc: Device) -> None:
    ranking = rank(manifest(onnx("x86-vnni", FP32, 3.5), onnx("x86-vnni", INT8, 4.5)), pc)
    assert order(ranking)[0] == ("cpu", "x86-vnni-fp32.onnx")


def test_cpu_takes_fp32_when_nothing_was_measured(pc: Device) -> None:
    ranking = rank(manifest(onnx("x86-vnni", INT8), onnx("x86-vnni", FP32)), pc)
    assert order(ranking) == [("cpu", "x86-vnni-fp32.onnx"), ("cpu", "x86-vnni-int8.onnx")]


def test_measurements_of_another_target_do_not_count(pc: Device) -> None:
    ranking = rank(manifest(onnx("pi5", INT8, 0.1), onnx("x86-vnni", FP32)), pc)
    assert order(ranking) == [("cpu", "x86-vnni-fp32.onnx"), ("cpu", "pi5-int8.onnx")]


def test_the_more_demanding_target_that_fits_comes_first(pc: Device) -> None:
    both = manifest(onnx("x86-avx2", INT8, 1.0), onnx("x86-vnni", INT8, 2.0))
    assert order(rank(both, pc))[0] == ("cpu", "x86-vnni-int8.onnx")
    older = replace(pc, cpu_flags=frozenset({"avx2"}))
    assert order(rank(both, older))[0] == ("cpu", "x86-avx2-int8.onnx")


def test_a_targets_own_fp32_does_not_stand_before_what_was_measured_faster_on_another_that_fits(pc: Device) -> None:
    bundle = manifest(onnx("x86-vnni", FP32, 3.5), onnx("x86-avx2", FP32, 3.5), onnx("x86-avx2", INT8, 1.5))
    assert order(rank(bundle, pc))[0] == ("cpu", "x86-avx2-int8.onnx")
    slower = manifest(onnx("x86-vnni", FP32, 3.5), onnx("x86-avx2", FP32, 3.5), onnx("x86-avx2", INT8, 4.5))
    assert order(rank(slower, pc))[0] == ("cpu", "x86-vnni-fp32.onnx")


def test_the_ratio_to_fp32_measured_in_turns_counts_more_than_latencies_measured_apart(pc: Device) -> None:
    full, static = onnx("x86-vnni", FP32, 3.0), onnx("x86-vnni", INT8, 1.0)
    dynamic = onnx("x86-vnni", Precision.INT8_DYNAMIC, 1.1)
    assert order(rank(manifest(full, static, dynamic), pc))[0][1] == static.file
    static, dynamic = (replace(each, measurements={**each.measurements, "speedup_over_fp32": ratio})
                       for each, ratio in ((static, 2.0), (dynamic, 2.5)))
    assert order(rank(manifest(full, static, dynamic), pc))[0][1] == dynamic.file


@pytest.mark.parametrize(("cpu", "threads", "taken"), [
    ("some CPU", 2, 2), ("another", 2, None), ("some CPU", "x", None)])
def test_threads_of_the_bundle_count_on_the_same_cpu(pc: Device, cpu: str, threads: object, taken: int | None) -> None:
    conditions = {"cpu": cpu, "cores": 2, "threads": threads}
    full = replace(onnx("x86-vnni", FP32), measurements={"p50_ms": 3.0, "conditions": conditions})
    setting = rank(manifest(full), pc).candidates[0].setting
    assert (setting.threads if setting else None) == taken


def test_what_fits_is_told_from_ways_out(pc: Device) -> None:
    bundle = manifest(onnx("x86-vnni", INT8), onnx("pi5", INT8), onnx("pi5", FP32), onnx("rtx", FP32))
    assert {each.artifact.file for each in rank(bundle, pc).candidates if each.fits} == {
        "x86-vnni-int8.onnx", "pi5-fp32.onnx"}


def test_numbers_of_this_machine_decide_between_gpu_and_cpu(orin: Device) -> None:
    fast = replace(plan("jetson-orin-jp6", INT8, "8.7"), sha256="a")
    source, cpu = replace(onnx("jetson-orin-jp6", INT8), sha256="b"), replace(onnx("pi5", FP32), sha256="c")
    here = {"a int8 cuda": Setting(2.0), "c fp32 cpu": Setting(1.0, 4)}
    ranking = rank(manifest(fast, source, cpu), orin, can_build=True, measured_here=here)
    assert order(ranking)[:2] == [("cpu", cpu.file), ("load", fast.file)]
    assert ranking.candidates[0].setting == Setting(1.0, 4)
    assert not next(each for each in ranking.candidates if each.action == "build").fits  # the plan is there already


def test_any_fp32_serves_a_cpu_for_which_nothing_was_made(pc: Device) -> None:
    ranking = rank(manifest(onnx("rtx", INT8), onnx("pi5", INT8), onnx("rtx", FP32), onnx("pi5", FP32)), pc)
    assert order(ranking)[:2] == [("cpu", "pi5-fp32.onnx"), ("cpu", "rtx-fp32.onnx")]
    assert len(ranking.candidates) == 4


def test_a_target_of_the_bundle_itself_counts(pc: Device) -> None:
    mine = replace(get_target("x86-vnni"), name="my-server")
    ranking = rank(manifest(onnx("x86-vnni", INT8, 2.0), onnx("my-server", INT8, 3.0), targets=(mine,)), pc)
    assert order(ranking)[0] == ("cpu", "my-server-int8.onnx")


def test_gpu_takes_the_plan_that_fits_and_says_why_not_the_others(orin: Device) -> None:
    ranking = rank(manifest(plan("jetson-thor", INT8, "11.0", "10.13.0"), plan("jetson-orin-jp6", FP16, "8.7"),
                            onnx("jetson-orin-jp6", FP16), onnx("pi5", FP32)), orin, can_build=True)
    assert order(ranking) == [("load", "jetson-orin-jp6-fp16-8.7.plan"), ("build", "jetson-orin-jp6-fp16.onnx"),
                              ("cpu", "pi5-fp32.onnx"), ("cpu", "jetson-orin-jp6-fp16.onnx")]
    assert any("SM 11.0" in reason and "SM 8.7" in reason for reason in ranking.rejected)


def test_gpu_prefers_measured_then_narrow_plans(orin: Device) -> None:
    int8, fp16 = plan("jetson-orin-jp6", INT8, "8.7"), plan("jetson-orin-jp6", FP16, "8.7")
    assert order(rank(manifest(fp16, int8), orin))[0][1] == int8.file
    slow = replace(int8, measurements={"p50_ms": 3.0})
    quick = replace(fp16, measurements={"p50_ms": 2.0})
    assert order(rank(manifest(slow, quick), orin))[0][1] == fp16.file


def test_building_prefers_the_lowering_nearest_to_this_machine(orin: Device) -> None:
    ranking = rank(manifest(onnx("jetson-thor", INT8), onnx("trt10", INT8), onnx("jetson-orin-jp72", INT8),
                            onnx("jetson-orin-jp6", INT8), onnx("jetson-xavier-jp5", FP32), onnx("trt11", INT8),
                            onnx("rtx", INT8)), orin, Wish("cuda"), can_build=True)
    assert [file.partition("-int8")[0] for _, file in order(ranking)] == [
        "jetson-orin-jp6", "jetson-orin-jp72", "trt10", "trt11", "jetson-thor", "jetson-xavier-jp5-fp32.onnx"]
    assert [r for r in ranking.rejected if "lowered for tensorrt_rtx" in r]


@pytest.mark.parametrize(("tensorrt", "builds"), [
    (TensorRt("tensorrt", "8.5.2"), "jetson-xavier-jp5-fp32.onnx"),
    (TensorRt("tensorrt", "11.4.0"), "trt10-int8.onnx"),
    (TensorRt("tensorrt_rtx", "1.7.1"), "rtx-int8.onnx"),
], ids=lambda value: str(value))
def test_building_respects_typing_and_flavour(orin: Device, tensorrt: TensorRt, builds: str) -> None:
    here = replace(orin, tensorrt=tensorrt)
    sources = manifest(onnx("jetson-xavier-jp5", FP32), onnx("trt10", INT8), onnx("rtx", INT8))
    ranking = rank(sources, here, Wish("cuda"), can_build=True)
    assert order(ranking) == [("build", builds)]
    assert len(ranking.rejected) == 2


def test_nothing_is_built_without_a_builder(orin: Device) -> None:
    ranking = rank(manifest(onnx("jetson-orin-jp6", FP16)), orin, Wish("cuda"))
    assert ranking.candidates == ()
    assert ranking.rejected == ("building a plan here: not asked for (trtkit.open does it)",)


def test_rejections_name_what_the_machine_lacks(pc: Device, orin: Device) -> None:
    trt = manifest(plan("jetson-orin-jp6", FP16, "8.7"), onnx("jetson-orin-jp6", FP16))
    assert "no usable NVIDIA GPU" in rank(trt, pc).rejected[0]
    without = replace(orin, tensorrt=None, onnxruntime="")
    reasons = " ".join(rank(trt, without, can_build=True).rejected)
    assert "no TensorRT can be imported" in reasons
    assert "pip install 'trtkit[cpu]'" in reasons


def test_wish_for_a_device_keeps_to_it(orin: Device) -> None:
    both = manifest(plan("jetson-orin-jp6", FP16, "8.7"), onnx("pi5", FP32))
    assert order(rank(both, orin, Wish("cpu"))) == [("cpu", "pi5-fp32.onnx")]
    assert order(rank(both, orin, Wish("cuda"))) == [("load", "jetson-orin-jp6-fp16-8.7.plan")]
    with pytest.raises(SpecError, match="device is 'tpu'"):
        Wish("tpu")


def test_wish_for_a_target_or_precision_is_an_error_when_the_bundle_has_none(pc: Device) -> None:
    with pytest.raises(SpecError, match=r"has nothing for pi5 int8\. It has: x86-vnni fp32"):
        rank(manifest(onnx("x86-vnni", FP32)), pc, Wish(target="pi5", precision=INT8))

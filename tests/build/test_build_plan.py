"""Real engines, built by TensorRT-RTX without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtkit.build import BuildOptions, Plan, build_plan
from trtkit.bundle.plan_header import read_plan_header
from trtkit.errors import BuildError, MissingDependencyError, SpecError
from trtkit.precision import Precision
from trtkit.tensors import ShapeProfile

RTX = BuildOptions(flavour="tensorrt_rtx")
Model = Callable[..., bytes]


def options(**more: object) -> BuildOptions:
    return BuildOptions(**{"flavour": "tensorrt_rtx", **more})  # type: ignore[arg-type]


def is_plan(plan: Plan) -> bool:
    return plan.data[:4] == b"vtrt" and len(plan.data) > 10_000


def test_build_makes_a_plan_when_the_model_is_static(conv_model: Model) -> None:
    plan = build_plan(conv_model("1,3,8,8"), RTX)
    assert is_plan(plan)
    assert plan.key.profiles == ()
    assert plan.key.sm == ("8.0+",)
    assert plan.key.version == read_plan_header(plan.data).version
    assert 0 < plan.seconds < 60


def test_build_takes_batch_one_when_the_batch_alone_is_dynamic_and_nothing_is_asked(conv_model: Model) -> None:
    (profile,) = build_plan(conv_model(), RTX).key.profiles
    assert profile.min == profile.opt == profile.max == {"x": (1, 3, 8, 8)}


def test_build_covers_the_batches_that_are_asked_for(conv_model: Model) -> None:
    plan = build_plan(conv_model(), options(batch=(1, 4, 8)))
    (profile,) = plan.key.profiles
    assert is_plan(plan)
    assert (profile.min["x"][0], profile.opt["x"][0], profile.max["x"][0]) == (1, 4, 8)


def test_build_holds_several_profiles(conv_model: Model) -> None:
    small, large = (ShapeProfile({"x": (n, 3, 8, 8)}, {"x": (n, 3, 8, 8)}, {"x": (2 * n, 3, 8, 8)}) for n in (1, 8))
    one, both = (build_plan(conv_model(), options(profiles=p)) for p in ((small,), (small, large)))
    assert both.key.profiles == (small, large)
    assert len(both.data) > 1.5 * len(one.data)


def test_build_takes_fp16_from_the_graph(conv_model: Model) -> None:
    wide, half = (build_plan(conv_model("1,3,8,8", element), options(precision=precision))
                  for element, precision in (("float", Precision.FP32), ("float16", Precision.FP16)))
    assert is_plan(half)
    assert half.data != wide.data
    assert half.key.precision is Precision.FP16


def test_build_takes_int8_from_qdq_nodes(qdq_model: Model) -> None:
    plan = build_plan(qdq_model(), options(precision=Precision.INT8, batch=(1, 2, 4)))
    assert is_plan(plan)
    assert plan.key.precision is Precision.INT8


def test_build_targets_the_compute_capabilities_that_are_asked_for(conv_model: Model) -> None:
    plan = build_plan(conv_model(), options(compute_capabilities=("8.6", "8.9")))
    assert plan.key.sm == read_plan_header(plan.data).compute_capabilities == ("8.6", "8.9")


@pytest.mark.parametrize("precision", [Precision.FP8, Precision.FP32], ids=["named", "not-named"])
def test_build_is_for_gpus_with_fp8_when_the_model_holds_it(fp8_model: bytes, precision: Precision) -> None:
    plan = build_plan(fp8_model, options(precision=precision))
    assert plan.key.sm == read_plan_header(plan.data).compute_capabilities == ("8.9", "12.0")


def test_build_is_for_all_gpus_when_the_model_holds_int8_alone(qdq_model: Model) -> None:
    plan = build_plan(qdq_model(), options(precision=Precision.INT8, batch=(1, 2, 4)))
    assert "8.9" not in plan.key.sm
    assert not {"8.9", "12.0"} >= set(plan.key.sm)


def test_build_feeds_values_when_an_input_is_a_shape_tensor(reshape_by_input_model: bytes) -> None:
    profile = ShapeProfile({"shape": (1, 1)}, {"shape": (4, 6)}, {"shape": (24, 24)})
    assert is_plan(build_plan(reshape_by_input_model, options(profiles=(profile,))))


def test_build_is_deterministic(conv_model: Model) -> None:
    assert build_plan(conv_model(), RTX).data == build_plan(conv_model(), RTX).data


def test_build_sets_what_is_asked_for_and_notes_flags_by_name(conv_model: Model) -> None:
    plan = build_plan(conv_model(), options(workspace_bytes=1 << 30, optimization_level=1, tf32=False,
                                            sparse_weights=True, flags=("STRICT_NANS",)))
    assert plan.key.flags == ("STRICT_NANS", "SPARSE_WEIGHTS")


def test_build_reports_progress(conv_model: Model) -> None:
    told: list[tuple[str, int, int | None]] = []
    build_plan(conv_model(), RTX, progress=lambda what, done, total: told.append((what, done, total)))
    assert told[-1][1] == told[-1][2] == told[-2][2]
    assert all(what == "Building" and total is not None and 0 <= done <= total for what, done, total in told)
    assert len(told) > 1


def test_build_keeps_what_tensorrt_said(conv_model: Model) -> None:
    log = build_plan(conv_model(), RTX).log
    assert any("Engine generation completed" in line.text for line in log)
    assert not any(line.is_error for line in log)


def test_build_reads_external_data_beside_a_path(tmp_path: Path, conv_model: Model) -> None:
    model = onnx.load_from_string(conv_model("1,3,8,8"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert is_plan(build_plan(tmp_path / "m.onnx", RTX))
    with pytest.raises(BuildError, match="weights lie in a file beside the model"):
        build_plan((tmp_path / "m.onnx").read_bytes(), RTX)


def test_build_removes_its_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conv_model: Model) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    build_plan(conv_model(), RTX)
    with pytest.raises(BuildError):
        build_plan(b"no model", RTX)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "says"), [
    pytest.param(b"", "empty", id="empty"),
    pytest.param(b"this is no model" * 20, "no ONNX model", id="garbage"),
])
def test_build_fails_clearly_when_the_file_is_no_model(content: bytes, says: str) -> None:
    with pytest.raises(BuildError, match=says):
        build_plan(content, RTX)


def test_build_fails_clearly_when_the_model_is_cut_off(conv_model: Model) -> None:
    with pytest.raises(BuildError, match="no ONNX model, or it is cut off"):
        build_plan(conv_model()[:-40], RTX)


def test_build_fails_clearly_when_the_model_has_no_outputs(no_output_model: bytes) -> None:
    with pytest.raises(BuildError, match="has no outputs"):
        build_plan(no_output_model, RTX)


def test_build_names_every_bad_node_when_operators_are_unknown(conv_model: Model) -> None:
    model = conv_model("1,3,8,8", nodes='a = Frobnicate(c)\n b = Relu(a)\n y = Twist(b)')
    with pytest.raises(BuildError) as caught:
        build_plan(model, RTX)
    message = str(caught.value)
    assert "(Frobnicate)" in message
    assert "(Twist)" in message
    assert "--plugin" in message


@pytest.mark.parametrize(("bad", "says"), [
    pytest.param({"int32_bias": True}, "bias is quantized to INT32", id="int32-bias"),
    pytest.param({"zero_point": 3}, "symmetric quantization only", id="zero-point"),
])
def test_build_explains_quantization_that_tensorrt_refuses(qdq_model: Model, bad: dict[str, object], says: str) -> None:
    with pytest.raises(BuildError, match=says):
        build_plan(qdq_model(**bad), RTX)


def test_build_explains_integer_operators_of_onnx_runtime(tmp_path: Path, conv_model: Model) -> None:
    model = conv_model("1,3,8,8", nodes="q, s, z = DynamicQuantizeLinear(c)\n y = DequantizeLinear(q, s, z)")
    with pytest.raises(BuildError, match="integer form"):
        build_plan(model, RTX)


@pytest.mark.parametrize(("text", "says"), [
    pytest.param("g (float[2,3] x) => (int64[2,K] y) { y = NonZero(x) }", r"\(NonZero\).*no kernel", id="nonzero"),
    pytest.param("g (float[1,6,4] b, float[1,2,6] s) => (int64[K,3] y) { y = NonMaxSuppression(b, s) }",
                 "NonMaxSuppression", id="nms"),
    pytest.param("g (float[1,3] x, float16[1,3] h) => (float[1,3] y) { y = Add(x, h) }", "writes the casts",
                 id="mixed"),
    pytest.param("g (string[4] x) => (string[4] y) { y = Identity(x) }", "strings", id="strings"),
    pytest.param("g (float[4] x) => (float[4] y) { y = Add(x, nothing) }", "not whole", id="dangling"),
    pytest.param("g (float[4,4] x) => (float y) { y = Det(x) }", r"\(Det\).*does not have this operator", id="det"),
])
def test_build_explains_what_tensorrt_rtx_refuses(text: str, says: str) -> None:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text).SerializeToString()
    with pytest.raises(BuildError, match=f"(?s){says}") as caught:
        build_plan(model, RTX)
    assert "cudaError 35" not in str(caught.value)


def test_build_explains_fp32_gemm_on_turing(gemm_model: bytes) -> None:
    with pytest.raises(BuildError, match=r"(?s)fc|Gemm|GEMM.*FP16 first"):
        build_plan(gemm_model, options(compute_capabilities=("7.5",)))


def test_build_asks_for_a_profile_when_more_than_the_batch_is_dynamic(two_dynamic_model: bytes) -> None:
    with pytest.raises(BuildError, match=r"x: \(-1, -1\).*--min, --opt and --max"):
        build_plan(two_dynamic_model, RTX)


@pytest.mark.parametrize(("shape", "says"), [
    pytest.param({"z": (1, 3, 8, 8)}, "'z', which is no input", id="unknown-name"),
    pytest.param({}, "nothing of the dynamic input 'x'", id="missing-input"),
    pytest.param({"x": (1, 3, 8)}, "Keep its rank", id="rank"),
    pytest.param({"x": (1, 3, 9, 8)}, "fixed sizes", id="fixed-size"),
])
def test_build_refuses_a_profile_that_does_not_fit(conv_model: Model, shape: dict[str, tuple[int, ...]],
                                                   says: str) -> None:
    with pytest.raises(BuildError, match=says):
        build_plan(conv_model(), options(profiles=(ShapeProfile(shape, shape, shape),)))


@pytest.mark.parametrize(("asked", "says"), [
    pytest.param({"typing": "weak"}, "has no weak typing.*TensorRT 11", id="weak"),
    pytest.param({"flags": ("NOPE",)}, "no builder flag 'NOPE'. It has: DEBUG", id="flag"),
    pytest.param({"flags": ("VERSION_COMPATIBLE",)}, "lean runtime", id="version-compatible"),
    pytest.param({"compute_capabilities": ("9.9",)}, "cannot build for SM 9.9. It can for: 7.5, 8.0", id="sm"),
    pytest.param({"workspace_bytes": 1 << 10}, "Raise or drop the workspace", id="workspace"),
    pytest.param({"version": "10.3"}, "target has TensorRT 10.3; here is TensorRT-RTX 1", id="version"),
    pytest.param({"plugins": (Path("/nowhere/lib.so"),)}, "lib.so", id="plugin"),
])
def test_build_refuses_what_this_tensorrt_cannot_do(conv_model: Model, asked: dict[str, object], says: str) -> None:
    with pytest.raises(BuildError, match=f"(?s){says}"):
        build_plan(conv_model(), options(**asked))


def test_build_refuses_a_dla_that_is_not_there(conv_model: Model) -> None:
    with pytest.raises(BuildError, match="0 DLA cores"):
        build_plan(conv_model(), BuildOptions(dla_core=0, precision=Precision.FP16))


def test_build_says_how_to_get_tensorrt_when_it_is_absent(conv_model: Model) -> None:
    with pytest.raises(MissingDependencyError, match=r"needs tensorrt, which is not installed.*JetPack"):
        build_plan(conv_model(), BuildOptions(flavour="tensorrt"))


def test_build_refuses_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is no file"):
        build_plan(tmp_path / "absent.onnx", RTX)


def test_build_refuses_a_timeout_that_is_not_positive(conv_model: Model) -> None:
    with pytest.raises(SpecError, match="timeout_s is 0"):
        build_plan(conv_model(), RTX, timeout_s=0)


def test_build_takes_a_model_as_memoryview(conv_model: Model) -> None:
    assert is_plan(build_plan(np.frombuffer(conv_model(), np.uint8).tobytes(), RTX))

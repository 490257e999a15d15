from __future__ import annotations

from pathlib import Path

import pytest

from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.records import read_toml
from trtkit.target import get_target, load_targets

ROW = {"description": "'A board'", "runtime": "'tensorrt'", "device": "'cuda'", "typing": "'strong'",
       "tensorrt": "'10.7'", "sm": "'8.6'", "placement": "'tensorrt'", "precisions": "['fp16', 'int8']",
       "opset": "17"}


def _file(tmp_path: Path, **changes: str | None) -> Path:
    rows = {key: value for key, value in {**ROW, **changes}.items() if value is not None}
    path = tmp_path / "mine.toml"
    path.write_text("[my-board]\n" + "".join(f"{key} = {value}\n" for key, value in rows.items()))
    return path


def test_a_user_s_file_adds_targets_to_the_built_in_ones(tmp_path: Path) -> None:
    target = get_target("my-board", _file(tmp_path))
    assert (target.tensorrt, target.sm, target.precisions) == ("10.7", "8.6", (Precision.FP16, Precision.INT8))
    assert set(load_targets(_file(tmp_path))) == {*load_targets(), "my-board"}
    assert "my-board" not in load_targets()


def test_a_user_s_row_wins_when_it_has_a_built_in_name(tmp_path: Path) -> None:
    path = _file(tmp_path)
    path.write_text(path.read_text().replace("[my-board]", "[rtx]"))
    assert get_target("rtx", path).description == "A board"
    assert get_target("rtx").description != "A board"


def test_an_unknown_target_is_an_error_that_lists_them() -> None:
    with pytest.raises(SpecError, match=r"Target 'rxt' is unknown\. There are: rtx, .*pi4\. .*--targets FILE"):
        get_target("rxt")


@pytest.mark.parametrize(("changes", "message"), [
    ({"presisions": "[]"}, "target 'my-board' has the unknown key 'presisions'. It takes: description"),
    ({"name": "'x'"}, "target 'my-board' has the unknown key 'name'"),
    ({"opset": None}, "target 'my-board' has no 'opset'"),
    ({"precisions": "'int8'"}, "target 'my-board' precisions is 'int8'. Give a list in brackets"),
    ({"precisions": "[8]"}, "target 'my-board' precisions is 8. Choose one of: fp32, fp16, bf16, int8, "),
    ({"precisions": "['int3']"}, "target 'my-board' precisions is 'int3'. Choose one of: fp32, fp16, bf16, int8, "),
    ({"precisions": "['fp8']"}, "Target 'my-board': precisions has fp8, but it needs compute capability 8.9"),
    ({"precisions": "['int8-dynamic']"}, "precisions has int8-dynamic, but TensorRT has no kernels for scales found"),
    ({"opset": "'17'"}, "target 'my-board' opset is '17'. Give a whole number"),
    ({"sm": "8.7"}, "target 'my-board' sm is 8.7. Give text in quotes"),
    ({"sm": "'sm_87'"}, "Target 'my-board': sm is 'sm_87'. Give a version such as '10.3'"),
    ({"tensorrt": "'ten'"}, "Target 'my-board': tensorrt is 'ten'"),
    ({"cpu_flags": "'avx2'"}, "target 'my-board' cpu_flags is 'avx2'. Give a list in brackets"),
    ({"runtime": "'tensort'"}, "Target 'my-board': runtime is 'tensort'. Choose one of: tensorrt, tensorrt_rtx, onnx"),
    ({"device": "'gpu'"}, "device is 'gpu'. Choose one of: cuda, dla, cpu"),
    ({"typing": "'strict'"}, "typing is 'strict'. Choose one of: strong, weak"),
    ({"device": "'cpu'"}, "device 'cpu' does not go with runtime 'tensorrt'"),
    ({"runtime": "'onnxruntime'"}, "device 'cuda' does not go with runtime 'onnxruntime'"),
    ({"typing": None}, "typing is ''. TensorRT targets are strong or weak"),
    ({"runtime": "'onnxruntime'", "device": "'cpu'"}, "typing is 'strong'. TensorRT targets are strong or weak, CPU"),
    ({"runtime": "'tensorrt_rtx'", "typing": "'weak'"}, "TensorRT 11 and TensorRT-RTX have no weak typing"),
    ({"tensorrt": "'11.4'", "typing": "'weak'"}, "TensorRT 11 and TensorRT-RTX have no weak typing"),
    ({"device": "'dla'", "sm": "'11.0'"}, "Xavier (7.2) and Orin (8.7) have them, Thor has none. Use device cuda"),
    ({"device": "'dla'", "sm": "'8.7'", "tensorrt": "'10.13'", "precisions": "['fp16']"}, "10.7 was the last that did"),
    ({"device": "'dla'", "tensorrt": "''", "sm": "''", "runtime": "'tensorrt_rtx'"}, "never uses a DLA"),
    ({"tensorrt": "'8.5'"}, "TensorRT 8.5 has no strong typing. Use typing weak"),
], ids=str)
def test_a_row_is_refused_when_it_is_wrong_or_contradicts_itself(
        tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_targets(_file(tmp_path, **changes))
    assert message in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [
    (b"my-board = 5", "target 'my-board' is 5, not a table"),
    (b"[my-board", "is not valid TOML: "),
    (b"\xff\xfe", "is not valid TOML: "),
], ids=["no-table", "no-toml", "no-text"])
def test_a_file_is_named_when_it_holds_no_rows(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_targets(path)
    assert str(caught.value).startswith(f"'{path}'")
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.toml' cannot be read: No such file or directory"):
        read_toml(tmp_path / "nowhere.toml")


def test_check_refuses_a_precision_that_the_target_does_not_run() -> None:
    get_target("orin-dla").check(Precision.INT8)
    with pytest.raises(SpecError, match=r"Target 'orin-dla' \(Deep.*\) does not run fp32\. It runs: fp16, int8"):
        get_target("orin-dla").check(Precision.FP32)


@pytest.mark.parametrize(("name", "machine", "flags", "runs"), [
    ("x86-vnni", "x86_64", {"avx2", "avx512_vnni"}, True),
    ("x86-vnni", "x86_64", {"avx2", "avx_vnni"}, True),
    ("x86-vnni", "x86_64", {"avx2"}, False),
    ("x86-avx2", "x86_64", {"avx2"}, True),
    ("pi5", "aarch64", {"asimd", "asimddp"}, True),
    ("pi5", "aarch64", {"asimd"}, False),
    ("pi4", "aarch64", {"asimd"}, True),
    ("pi4", "x86_64", {"asimd"}, False),
    ("rtx", "x86_64", {"avx2"}, False),
])
def test_a_cpu_target_runs_where_architecture_and_features_are(
        name: str, machine: str, flags: set[str], runs: bool) -> None:
    assert get_target(name).runs_on(machine, frozenset(flags)) is runs


def test_tensorrt_targets_are_told_from_cpu_targets() -> None:
    assert {name for name, target in load_targets().items() if not target.is_tensorrt} == {
        "x86-amx", "x86-vnni", "x86-avx2", "pi5", "pi4"}


@pytest.mark.parametrize(("name", "precision", "multiple"), [
    ("rtx", Precision.FP16, 8), ("rtx", Precision.INT8_FP16, 32), ("orin-dla", Precision.FP16, 16),
    ("x86-vnni", Precision.FP32, 16), ("x86-avx2", Precision.FP32, 8), ("pi5", Precision.FP32, 4),
    ("pi5", Precision.INT8, 16)], ids=str)
def test_channel_multiple_is_the_width_of_the_target_s_vectors(name: str, precision: Precision, multiple: int) -> None:
    assert get_target(name).channel_multiple(precision) == multiple


def test_channel_multiples_are_refused_when_below_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"float_channels is 0\. Give the channels"):
        get_target("my-board", _file(tmp_path, float_channels="0"))

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trtkit.bundle import open_bundle
from trtkit.errors import BundleError, SpecError

Trtkit = Callable[..., str]


def test_pack_writes_a_bundle_that_shares_files_and_knows_its_inputs(bundle: Path, model: Path) -> None:
    with open_bundle(bundle, verify="all") as opened:
        manifest = opened.manifest
        assert [(a.target, a.file) for a in manifest.artifacts] == [("x86-avx2", "colors.onnx"), ("pi4", "colors.onnx")]
        assert opened.read("colors.onnx") == model.read_bytes()
    assert str(manifest.inputs[0]) == "image: float32[batch, 3, 8, 8]"
    assert manifest.labels == ("red", "green", "blue")
    assert manifest.preprocess is not None
    assert manifest.preprocess.size == (8, 8)
    assert manifest.name == "colors"


def test_pack_reads_settings_from_json_and_from_a_recipe(tmp_path: Path, model: Path, trtkit: Trtkit) -> None:
    (tmp_path / "p.json").write_text('{"size": [8, 8], "color": "bgr"}')
    (tmp_path / "l.json").write_text('["r", "g", "b"]')
    (tmp_path / "recipe.toml").write_text('[postprocess]\ntask = "multi-label"\nactivation = "sigmoid"\n')
    trtkit("pack", "-o", tmp_path / "out", "--artifact", f"pi5:fp32={model}", "--preprocess", tmp_path / "p.json",
           "--labels", tmp_path / "l.json", "--postprocess", tmp_path / "recipe.toml", "--name", "mine")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["preprocess"]["color"] == "bgr"
    assert manifest["postprocess"]["task"] == "multi-label"
    assert (manifest["labels"], manifest["name"]) == (["r", "g", "b"], "mine")


def test_pack_reads_the_key_of_a_plan_from_its_header(tmp_path: Path, model: Path, trtkit: Trtkit) -> None:
    plan = tmp_path / "orin.plan"
    plan.write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(100))
    trtkit("pack", "-o", tmp_path / "m.trtkit", "--artifact", f"jetson-orin-jp6:fp16={plan}", "--os-arch",
           "linux-aarch64", "--artifact", f"jetson-orin-jp6:fp16={model}")
    with open_bundle(tmp_path / "m.trtkit") as opened:
        (artifact,) = opened.artifacts_for(kind="plan")
    assert artifact.engine is not None
    assert (artifact.engine.version, artifact.engine.sm, artifact.engine.os_arch) == (
        "10.3.0.26", ("8.7",), "linux-aarch64")


def test_pack_carries_targets_of_the_user(tmp_path: Path, model: Path, trtkit: Trtkit) -> None:
    (tmp_path / "mine.toml").write_text(
        '[my-board]\ndescription = "d"\nruntime = "onnxruntime"\ndevice = "cpu"\nplacement = "onnxruntime-s8"\n'
        'precisions = ["fp32"]\nopset = 17\narch = "riscv64"\n')
    trtkit("pack", "-o", tmp_path / "m.trtkit", "--artifact", f"my-board:fp32={model}", "--targets",
           tmp_path / "mine.toml")
    with open_bundle(tmp_path / "m.trtkit") as opened:
        assert [target.arch for target in opened.manifest.targets] == ["riscv64"]


@pytest.mark.parametrize(("artifact", "says"), [
    ("pi5-fp32=m.onnx", "Write target:precision=file"),
    ("pi5:fp32", "Write target:precision=file"),
    ("pi5:fp99=m.onnx", "Precision 'fp99' is unknown"),
    ("pi5:fp16={model}", "does not run fp16"),
    ("pi9:fp32={model}", "Target 'pi9' of .* is unknown"),
])
def test_pack_refuses_an_artifact_that_makes_no_sense(tmp_path: Path, model: Path, trtkit: Trtkit, artifact: str,
                                                      says: str) -> None:
    with pytest.raises(SpecError, match=says):
        trtkit("pack", "-o", tmp_path / "m.trtkit", "--artifact", artifact.format(model=model))
    assert not (tmp_path / "m.trtkit").exists()


@pytest.mark.parametrize("data", [b"", b"text\n" * 20], ids=["empty", "text"])
def test_pack_refuses_a_file_that_is_no_model(tmp_path: Path, trtkit: Trtkit, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"m\.onnx' for pi5: .*does not load"):
        trtkit("pack", "-o", tmp_path / "m.trtkit", "--artifact", f"pi5:fp32={tmp_path / 'm.onnx'}")


def test_pack_refuses_models_with_different_inputs(tmp_path: Path, model: Path, trtkit: Trtkit) -> None:
    from onnx import parser

    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    other = parser.parse_model(text)
    (tmp_path / "other.onnx").write_bytes(other.SerializeToString())
    with pytest.raises(SpecError, match="do not take and return the same"):
        trtkit("pack", "-o", tmp_path / "m.trtkit", "--artifact", f"pi5:fp32={model}", "--artifact",
               f"pi4:fp32={tmp_path / 'other.onnx'}")


@pytest.mark.parametrize(("name", "text", "says"), [
    ("labels.json", "{", "not valid JSON"),
    ("labels.json", '{"a": 1}', "no JSON list"),
    ("none.txt", None, "cannot be read"),
])
def test_pack_refuses_unusable_labels(tmp_path: Path, model: Path, trtkit: Trtkit, name: str, text: str | None,
                                      says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=says):
        trtkit("pack", "-o", tmp_path / "m.trtkit", "--artifact", f"pi5:fp32={model}", "--labels", tmp_path / name)

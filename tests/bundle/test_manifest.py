from __future__ import annotations

import json
from dataclasses import replace

import pytest

from trtkit.bundle import Artifact, BundleManifest, Postprocess
from trtkit.bundle.engine_key import EngineKey
from trtkit.bundle.manifest import check_member
from trtkit.errors import BundleError, SpecError
from trtkit.precision import Precision
from trtkit.target import get_target
from trtkit.tensors import ShapeProfile

KEY = EngineKey("tensorrt", "10.3.0", ("8.7",), "linux-aarch64", Precision.FP16)
PROFILE = ShapeProfile({"input": (1, 3, 8, 8)}, {"input": (1, 3, 8, 8)}, {"input": (4, 3, 8, 8)})

ROW = {"file": "x", "target": "pi5", "precision": "fp32", "kind": "onnx", "sha256": "", "size_bytes": 0}


def test_manifest_survives_a_round_trip(manifest: BundleManifest) -> None:
    plan = Artifact("a.plan", "jetson-orin-jp6", Precision.FP16, "plan", "ab" * 32, 7, KEY, PROFILE, {"p50_ms": 2})
    full = replace(manifest, artifacts=(*manifest.artifacts, plan),
                   postprocess=Postprocess("multi-label", threshold=0.3),
                   targets=(replace(get_target("pi5"), name="my-board"),))
    assert BundleManifest.from_bytes(full.to_bytes()) == full
    assert full.to_bytes() == BundleManifest.from_bytes(full.to_bytes()).to_bytes()


def test_from_bytes_says_upgrade_when_the_format_is_newer(manifest: BundleManifest) -> None:
    newer = {**json.loads(manifest.to_bytes()), "format_version": 2, "artifacts": "quite different"}
    with pytest.raises(BundleError, match=r"format 2; this trtkit reads format 1. Run: pip install --upgrade trtkit"):
        BundleManifest.from_bytes(json.dumps(newer).encode())


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0, [1]])
def test_from_bytes_refuses_an_unknown_format(manifest: BundleManifest, version: object) -> None:
    strange = {**json.loads(manifest.to_bytes()), "format_version": version}
    with pytest.raises(BundleError, match="bundle format"):
        BundleManifest.from_bytes(json.dumps(strange).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"null"],
                         ids=["empty", "cut", "binary", "deep", "list", "null"])
def test_from_bytes_refuses_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(BundleError, match="is damaged"):
        BundleManifest.from_bytes(data)


def _edited(manifest: BundleManifest, key: str, value: object) -> bytes:
    """Bytes of a manifest made by some other program: well-formed, digest right, one value strange."""
    from trtkit.bundle.manifest import _digest

    body = {**manifest.to_json(), key: value}
    return json.dumps({**body, "digest": _digest(body)}).encode()


@pytest.mark.parametrize(("key", "value"), [
    ("name", 3), ("name", ""), ("inputs", []), ("inputs", [{"name": "x"}]), ("inputs", 5), ("artifacts", [[]]),
    ("artifacts", [{**ROW, "file": "../x"}]), ("artifacts", [{**ROW, "precision": "fp3"}]),
    ("artifacts", [{**ROW, "kind": "plan"}]), ("artifacts", [{**ROW, "size_bytes": "many"}]),
    ("preprocess", {"size": 3}), ("labels", [1]), ("targets", [{}]), ("postprocess", {"top": 0}),
])
def test_from_bytes_refuses_a_strange_value(manifest: BundleManifest, key: str, value: object) -> None:
    with pytest.raises(BundleError):
        BundleManifest.from_bytes(_edited(manifest, key, value))


def test_to_bytes_refuses_nan_in_measurements(manifest: BundleManifest) -> None:
    bad = replace(manifest, provenance={"loss": float("nan")})
    with pytest.raises(SpecError, match="cannot be written as JSON"):
        bad.to_bytes()


@pytest.mark.parametrize("change", [
    {"kind": "torch"}, {"kind": "plan"}, {"engine": KEY}, {"size_bytes": -1}, {"file": "manifest.json"},
], ids=str)
def test_artifact_refuses_what_contradicts_itself(change: dict[str, object]) -> None:
    row = {"file": "m.onnx", "target": "pi5", "precision": Precision.FP32, "kind": "onnx", **change}
    with pytest.raises(SpecError):
        Artifact(**row)  # type: ignore[arg-type]


def test_manifest_refuses_one_file_with_two_hashes(manifest: BundleManifest) -> None:
    rows = (replace(manifest.artifacts[0], sha256="aa"), replace(manifest.artifacts[1], sha256="bb"))
    with pytest.raises(SpecError, match="disagree about its hash"):
        replace(manifest, artifacts=rows)


@pytest.mark.parametrize("name", ["", "/a", "a/", "a/../b", "..", ".", "a\\b", "a\nb", "a\0b", "c:/x"])
def test_check_member_refuses_names_that_could_leave(name: str) -> None:
    with pytest.raises(BundleError):
        check_member(name)


@pytest.mark.parametrize("name", ["a", "a/b.onnx", "ü/ß.plan", "..a", "a..b/.c"])
def test_check_member_accepts_plain_names(name: str) -> None:
    assert check_member(name) == name


@pytest.mark.parametrize("change", [
    {"task": "x"}, {"activation": "x"}, {"top": 0}, {"threshold": 2.0}, {"colour": 1},
], ids=str)
def test_postprocess_refuses_unusable_values(change: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        Postprocess.from_json(change)

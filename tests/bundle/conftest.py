"""A small manifest with its files, in both forms of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trtkit.bundle import Artifact, BundleManifest, write_bundle
from trtkit.precision import Precision
from trtkit.preprocess import Preprocess
from trtkit.tensors import TensorSpec

FILES = {"onnx/fp32.onnx": b"fp32 " * 200, "onnx/int8.onnx": b"int8 " * 50,
         "jp5.cache": b"TRT-8500-EntropyCalibration2\n"}


@pytest.fixture
def files() -> dict[str, bytes | Path]:
    return dict(FILES)


@pytest.fixture
def manifest() -> BundleManifest:
    return BundleManifest(
        name="tiny",
        inputs=(TensorSpec("input", "float32", ("batch", 3, 8, 8)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
        artifacts=(
            Artifact("onnx/fp32.onnx", "x86-vnni", Precision.FP32, "onnx", measurements={"p50_ms": 3.5}),
            Artifact("onnx/fp32.onnx", "pi5", Precision.FP32, "onnx"),
            Artifact("onnx/int8.onnx", "x86-vnni", Precision.INT8, "onnx", measurements={"p50_ms": 1.5}),
            Artifact("jp5.cache", "jetson-xavier-jp5", Precision.INT8, "calibration-cache"),
        ),
        preprocess=Preprocess((8, 8)),
        labels=("cat", "dog"),
        provenance={"source": "tests", "epoch": 3},
    )


@pytest.fixture(params=["folder", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a bundle of either form goes."""
    return tmp_path / ("tiny" if request.param == "folder" else "tiny.trtkit")


@pytest.fixture
def written(place: Path, manifest: BundleManifest, files: dict[str, bytes | Path]) -> Path:
    write_bundle(place, manifest, files)
    return place


@pytest.fixture
def patch_byte() -> Callable[[Path, bytes], None]:
    """Return a function that flips one bit of the first byte where `needle` stands in a bundle of either form."""

    def patch(place: Path, needle: bytes) -> None:
        candidates = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
        for path in candidates:
            data = bytearray(path.read_bytes())
            if (at := data.find(needle)) >= 0:
                data[at] ^= 1
                path.write_bytes(data)
                return
        raise AssertionError(f"{needle!r} is nowhere in {place}")

    return patch

"""Small models, a session without any library, and bundles made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtkit.bundle import Artifact, BundleManifest, write_bundle
from trtkit.device import Device, Gpu, TensorRt
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.preprocess import Preprocess
from trtkit.tensors import Array, FeedChecker, Feeds, TensorSpec

INPUTS = (TensorSpec("x", "float32", ("batch", 3)),)
OUTPUTS = (TensorSpec("y", "float32", ("batch", 3)), TensorSpec("total", "float32", ("batch", 1)))

DOUBLE = """
<ir_version: 8, opset_import: ["" : 17]>
double (float[batch,3] x) => (float[batch,3] y, float[batch,1] total) {
    two = Constant<value_float: float = 2.0>()
    y = Mul(x, two)
    total = ReduceSum<keepdims: int = 1>(y, axes)
}
"""

COLORS = """
<ir_version: 8, opset_import: ["" : 17]>
colors (float[{batch},3,8,8] image) => (float[{batch},3] scores) {{
    pooled = GlobalAveragePool(image)
    gain = Constant<value_float: float = {gain}>()
    scaled = Mul(pooled, gain)
    scores = Flatten<axis: int = 1>(scaled)
}}
"""


def onnx_bytes(text: str) -> bytes:
    """Return the bytes of a model written as ONNX text."""
    from onnx import parser

    data: bytes = parser.parse_model(text).SerializeToString()
    return data


DOUBLE = DOUBLE.replace("total = ReduceSum", "axes = Constant<value_ints: ints = [1]>()\n    total = ReduceSum")


def colors_model(batch: str = "batch", gain: float = 20.0) -> bytes:
    """Return a classifier whose scores are the mean red, green and blue of a picture, times `gain`."""
    return onnx_bytes(COLORS.format(batch=batch, gain=gain))


class FakeSession:
    """y = 2 x, total = sum(y), in numpy: what the contract asks of every session, without any library."""

    def __init__(self) -> None:
        self.inputs, self.outputs, self.backend = INPUTS, OUTPUTS, "numpy"
        self._check, self._check_outputs = FeedChecker(INPUTS), FeedChecker(OUTPUTS)
        self.is_closed = False

    def run(self, feeds: Feeds) -> dict[str, Array]:
        if self.is_closed:
            raise SpecError("The session is closed. Open the model again")
        self._check(feeds)
        y = feeds["x"] * np.float32(2)
        return {"y": y, "total": y.sum(axis=1, keepdims=True)}

    def run_into(self, feeds: Feeds, outputs: Mapping[str, Array]) -> None:
        results = self.run(feeds)
        self._check_outputs(outputs)
        for name, array in results.items():
            if outputs[name].shape != array.shape or not outputs[name].flags.c_contiguous:
                raise SpecError(f"Output array '{name}' does not fit")
            if not outputs[name].flags.writeable:
                raise SpecError(f"Output array '{name}' is not writeable")
            outputs[name][:] = array

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def double_model() -> bytes:
    return onnx_bytes(DOUBLE)


@pytest.fixture
def pc() -> Device:
    """A PC with VNNI and no GPU."""
    return Device("x86_64", "Linux", "some CPU", frozenset({"avx2", "avx512_vnni"}), 2, 8 << 30, onnxruntime="1.20.0")


@pytest.fixture
def orin() -> Device:
    """A Jetson Orin with JetPack 6.1."""
    return Device("aarch64", "Linux", "Cortex-A78AE", frozenset({"asimd", "asimddp"}), 6, 8 << 30, board="Jetson Orin",
                  l4t="36.4.0", jetpack="6.1", gpu=Gpu("Orin", "8.7", 8 << 30, "12.6"),
                  tensorrt=TensorRt("tensorrt", "10.3.0"), onnxruntime="1.23.2")


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a bundle of color classifiers: artifacts with the bytes of each."""

    def make(artifacts: Mapping[Artifact, bytes] | list[tuple[Artifact, bytes]], **more: Any) -> Path:
        rows = list(artifacts.items()) if isinstance(artifacts, Mapping) else artifacts
        manifest = BundleManifest(
            "colors", (TensorSpec("image", "float32", ("batch", 3, 8, 8)),),
            (TensorSpec("scores", "float32", ("batch", 3)),), tuple(a for a, _ in rows),
            **{"preprocess": Preprocess((8, 8)), "labels": ("red", "green", "blue"), **more})
        path = tmp_path / "colors.trtkit"
        write_bundle(path, manifest, {a.file: data for a, data in rows})
        return path

    return make


@pytest.fixture
def fp32() -> tuple[Artifact, bytes]:
    """The FP32 artifact of the PC."""
    return Artifact("fp32.onnx", "x86-vnni", Precision.FP32, "onnx"), colors_model()


@pytest.fixture
def fake_session() -> Callable[[], FakeSession]:
    return FakeSession


@pytest.fixture
def colors() -> Callable[..., bytes]:
    return colors_model


@pytest.fixture
def onnx_text() -> Callable[[str], bytes]:
    return onnx_bytes


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))

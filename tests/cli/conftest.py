"""A packed bundle of color classifiers, and a way to call commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

COLORS = """
<ir_version: 8, opset_import: ["" : 17]>
colors (float[batch,3,8,8] image) => (float[batch,3] scores) {
    pooled = GlobalAveragePool(image)
    gain = Constant<value_float: float = 20.0>()
    scaled = Mul(pooled, gain)
    scores = Flatten<axis: int = 1>(scaled)
}
"""

Trtkit = Callable[..., str]


@pytest.fixture
def trtkit(monkeypatch: pytest.MonkeyPatch) -> Trtkit:
    """Return a function that runs one command and returns what it printed; its errors are raised."""
    from typer.testing import CliRunner

    from trtkit.cli.app import app

    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from onnx import parser

    path = tmp_path / "colors.onnx"
    path.write_bytes(parser.parse_model(COLORS).SerializeToString())
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A red picture."""
    from PIL import Image

    path = tmp_path / "red.png"
    Image.fromarray(np.full((8, 8, 3), (250, 10, 30), np.uint8)).save(path)
    return path


@pytest.fixture
def bundle(tmp_path: Path, model: Path, trtkit: Trtkit) -> Path:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "pre.toml").write_text("size = [8, 8]\n")
    path = tmp_path / "colors.trtkit"
    trtkit("pack", "-o", path, "--artifact", f"x86-avx2:fp32={model}", "--artifact", f"pi4:fp32={model}",
           "--preprocess", tmp_path / "pre.toml", "--labels", tmp_path / "labels.txt")
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))

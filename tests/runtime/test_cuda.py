from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trtkit.device import Gpu
from trtkit.errors import MissingDependencyError
from trtkit.runtime.cuda import PyCuda, probe_gpu

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., str]:
    """Return a function: C macros -> path of a CUDA driver that behaves so."""

    def compile_driver(*macros: str) -> str:
        library = tmp_path / "libcuda.so.1"
        source = Path(__file__).with_name("fake_driver.c")
        subprocess.run(["cc", "-shared", "-fPIC", *macros, "-o", library, source], check=True)
        return str(library)

    return compile_driver


@needs_compiler
def test_probe_describes_the_first_gpu(driver: Callable[..., str]) -> None:
    assert probe_gpu(driver("-DDEVICES=1")) == Gpu("NVIDIA Test GPU", "8.9", 24 << 30, "13.2")


@needs_compiler
def test_probe_finds_none_when_the_driver_has_no_device(driver: Callable[..., str]) -> None:
    assert probe_gpu(driver("-DDEVICES=0")) is None


@needs_compiler
def test_probe_finds_none_when_the_driver_lacks_a_function(driver: Callable[..., str]) -> None:
    assert probe_gpu(driver("-DDEVICES=1", "-DWITHOUT_VERSION")) is None


def test_probe_finds_none_when_there_is_no_driver() -> None:
    assert probe_gpu("libcuda-absent.so.1") is None


def test_probe_finds_none_when_the_library_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library")
    assert probe_gpu(str(tmp_path / "libcuda.so.1")) is None


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is installed")
def test_pycuda_says_how_to_get_it_when_it_is_absent() -> None:
    with pytest.raises(MissingDependencyError, match=r"Running a plan needs pycuda.*trtkit\[trt\]"):
        PyCuda()


@pytest.mark.gpu
def test_pycuda_copies_there_and_back() -> None:
    cuda = PyCuda()
    with cuda.active():
        pinned, device = cuda.pinned_memory(1024), cuda.device_memory(1024)
        pinned.array[:] = np.arange(1024) % 251
        before = cuda.record()
        cuda.copy_in(device, pinned.array)
        back = np.zeros(1024, np.uint8)
        cuda.copy_out(back, device)
        after = cuda.record()
        cuda.synchronize()
        assert (back == pinned.array).all()
        assert after.elapsed_ms(before) >= 0
        pinned.free()
        device.free()
    cuda.close()
    cuda.close()

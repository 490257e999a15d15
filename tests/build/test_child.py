"""The child process ends in every way that it can: the worker is the real one, a plugin library of ours kills it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trtkit.build import BuildOptions, build_plan
from trtkit.errors import BuildError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

Library = Callable[[str], Path]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Return a function: C statements -> library that runs them in the process that loads it, after noting its pid."""

    def compile_library(body: str) -> Path:
        source, made = tmp_path / "plugin.c", tmp_path / "plugin.so"
        source.write_text(f"""
            #include <signal.h>
            #include <stdio.h>
            #include <stdlib.h>
            #include <unistd.h>
            __attribute__((constructor)) static void loaded(void) {{
                FILE *f = fopen("{tmp_path}/pid.part", "w"); fprintf(f, "%d", getpid()); fclose(f);
                rename("{tmp_path}/pid.part", "{tmp_path}/pid");
                {body}
            }}""")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", made, source], check=True)
        return made

    return compile_library


def with_plugin(plugin: Path) -> BuildOptions:
    return BuildOptions(flavour="tensorrt_rtx", plugins=(plugin,))


def wait_for_pid(folder: Path) -> int:
    for _ in range(300):
        if (folder / "pid").exists():
            return int((folder / "pid").read_text())
        time.sleep(0.05)
    raise AssertionError("the child never loaded the library")


def is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("body", "says"), [
    pytest.param("abort();", r"crashed \(SIGABRT\) inside TensorRT", id="abort"),
    pytest.param("*(volatile int *)0 = 1;", r"crashed \(SIGSEGV\) inside TensorRT", id="segfault"),
    pytest.param("raise(SIGKILL);", r"killed \(SIGKILL\), most often because memory ran out", id="out-of-memory"),
    pytest.param("_exit(7);", r"exit code 7 and no plan", id="exit"),
])
def test_build_fails_and_this_process_lives_when_the_child_dies(library: Library, conv_model: Callable[..., bytes],
                                                                body: str, says: str) -> None:
    plugin = library(f'fputs("terminate called by the plugin\\n", stderr); {body}')
    with pytest.raises(BuildError, match=says) as caught:
        build_plan(conv_model(), with_plugin(plugin))
    assert "terminate called by the plugin" in str(caught.value)
    assert "TensorRT-RTX" in str(caught.value)


def test_build_survives_what_libraries_print(library: Library, conv_model: Callable[..., bytes]) -> None:
    plugin = library('puts("{\\"event\\": \\"error\\", \\"kind\\": \\"BuildError\\", \\"message\\": \\"printed\\"}");'
                     ' puts("no JSON"); fflush(stdout); _exit(0);')
    with pytest.raises(BuildError, match="exit code 0 and no plan"):
        build_plan(conv_model(), with_plugin(plugin))


def test_build_ends_the_child_when_time_is_up(library: Library, tmp_path: Path,
                                              conv_model: Callable[..., bytes]) -> None:
    plugin = library("sleep(60);")
    started = time.monotonic()
    with pytest.raises(BuildError, match=r"was ended after 3 s .* Allow more time"):
        build_plan(conv_model(), with_plugin(plugin), timeout_s=3)
    assert time.monotonic() - started < 20
    assert is_gone(wait_for_pid(tmp_path))


def test_build_ends_the_child_and_leaves_nothing_when_interrupted(library: Library, tmp_path: Path,
                                                                  conv_model: Callable[..., bytes]) -> None:
    plugin, scratch, model = library("sleep(60);"), tmp_path / "scratch", tmp_path / "m.onnx"
    scratch.mkdir()
    model.write_bytes(conv_model())
    script = ("import sys; from pathlib import Path; from trtkit.build import *\n"
              "build_plan(Path(sys.argv[1]), BuildOptions(flavour='tensorrt_rtx', plugins=(Path(sys.argv[2]),)))")
    parent = subprocess.Popen([sys.executable, "-c", script, model, plugin], stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "TMPDIR": str(scratch)})
    child = wait_for_pid(tmp_path)
    parent.send_signal(signal.SIGINT)
    _, stderr = parent.communicate(timeout=20)
    assert "KeyboardInterrupt" in stderr
    assert is_gone(child)
    assert list(scratch.iterdir()) == []


def test_worker_leaves_when_its_parent_is_gone() -> None:
    script = ("import threading, time; from trtkit.build.worker import _leave_with_parent\n"
              "threading.Thread(target=_leave_with_parent).start(); print('ready', flush=True); time.sleep(60)")
    worker = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    worker.stdin.close()
    assert worker.wait(timeout=20) == 1
    worker.stdout.close()

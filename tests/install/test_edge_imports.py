from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import trtkit
from trtkit.cli.app import COMMANDS

RunBlocked = Callable[..., subprocess.CompletedProcess[str]]

EDGE_ROOMS = ("runtime", "bundle", "build", "cli")
LIMIT_MS = 150.0


def _modules(*rooms: str) -> Iterator[str]:
    """Names of the modules of the package itself, and of everything in these rooms."""
    for info in pkgutil.iter_modules(trtkit.__path__, "trtkit."):
        if not info.ispkg:
            yield info.name
        elif info.name.removeprefix("trtkit.") in rooms:
            yield info.name
            package = importlib.import_module(info.name)
            yield from (module.name for module in pkgutil.walk_packages(package.__path__, f"{info.name}."))


EDGE_MODULES = sorted({"trtkit", *_modules(*EDGE_ROOMS)} - {"trtkit.pipeline", "trtkit.report"})


def test_edge_modules_are_found() -> None:
    assert {"trtkit.runtime.ort", "trtkit.bundle.store", "trtkit.cli.run", "trtkit.opening"} <= set(EDGE_MODULES)


def test_every_edge_module_imports_when_heavy_packages_are_absent(run_blocked: RunBlocked) -> None:
    code = """
import importlib, traceback
failed = 0
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        failed += 1
        print(name, traceback.format_exc())
sys.exit(failed)
"""
    done = run_blocked(code, *EDGE_MODULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_blocker_blocks(run_blocked: RunBlocked) -> None:
    assert "No module named 'onnx'" in run_blocked("import onnx").stderr
    done = run_blocked("from trtkit.runtime import OrtSession; OrtSession(b'x')")
    assert "Running a model on the CPU needs onnxruntime, which is not installed. Run: pip install" in done.stderr


def test_importing_the_edge_set_changes_nothing(run_blocked: RunBlocked) -> None:
    code = """
import logging, warnings, threading, numpy, rich.logging, typer
before = list(logging.root.handlers), list(warnings.filters), threading.active_count()
import trtkit, trtkit.runtime, trtkit.bundle, trtkit.build
assert (list(logging.root.handlers), list(warnings.filters), threading.active_count()) == before, before
assert not [name for name in logging.root.manager.loggerDict if logging.getLogger(name).handlers]
"""
    done = run_blocked(code)
    assert done.returncode == 0, done.stderr


def test_runtime_imports_in_150_ms_on_top_of_numpy() -> None:
    code = "import numpy, time; t = time.perf_counter(); import trtkit.runtime; print(1000 * (time.perf_counter() - t))"
    times = [float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
             for _ in range(5)]
    assert min(times) < LIMIT_MS


@pytest.mark.parametrize("command", [name for name in COMMANDS if f"trtkit.cli.{name}" in EDGE_MODULES])
def test_every_command_shows_its_help_when_heavy_packages_are_absent(run_blocked: RunBlocked, command: str) -> None:
    done = run_blocked("from trtkit.cli import main; main()", command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_doctor_works_when_heavy_packages_are_absent(run_blocked: RunBlocked) -> None:
    done = run_blocked("from trtkit.cli import main; main()", "doctor")
    assert done.returncode == 0, done.stderr
    assert "pip install 'trtkit[cpu]'" in done.stdout


def test_an_error_is_one_message_and_exit_code_1(run_blocked: RunBlocked) -> None:
    done = run_blocked("from trtkit.cli import main; main()", "inspect", "/nowhere/m.trtkit")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: SpecError: '/nowhere/m.trtkit' cannot be read")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", EDGE_MODULES)
def test_all_names_exist_and_are_sorted_out(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    for public in names:
        assert getattr(module, public) is not None, public

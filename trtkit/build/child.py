"""The parent's side of a build: start the child, follow its events, and turn its end, whatever it is, into a result."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from trtkit import errors
from trtkit.build.live import write_samples
from trtkit.build.options import BuildOptions
from trtkit.build.plan import Plan
from trtkit.bundle.engine_key import FLAVOURS, EngineKey
from trtkit.bundle.plan_header import read_plan_header
from trtkit.errors import BuildError, SpecError
from trtkit.progress import Progress, silent
from trtkit.runtime.cuda import probe_gpu
from trtkit.runtime.trial import child_environment
from trtkit.runtime.trt_log import LogLine
from trtkit.tensors import Feeds, ShapeProfile

__all__ = ["build_plan"]

_DEFAULT = BuildOptions()
_TAIL_LINES = 8
_TAIL_CHARACTERS = 1500


@dataclass
class _Story:
    """What the child has told so far."""

    flavour: str = ""
    version: str = ""
    profiles: tuple[ShapeProfile, ...] | None = None
    sparse: bool = False
    error: tuple[str, str] | None = None
    log: list[LogLine] = field(default_factory=list)
    timed_out: bool = False

    @property
    def builder(self) -> str:
        return f"{FLAVOURS[self.flavour]} {self.version}" if self.flavour else "TensorRT"


def build_plan(model: bytes | Path, options: BuildOptions = _DEFAULT, *, samples: Iterable[Feeds] | None = None,
               progress: Progress = silent, timeout_s: float | None = None) -> Plan:
    """Build a TensorRT plan from an ONNX model, in a child process.

    Args:
        model: The ONNX file's bytes, or its path; a model with external data needs its path.
        options: How to build.
        samples: Weak INT8 without a cache: what TensorRT calibrates with on this GPU, in batches of the profile's opt
            shape. Each sample has an array of one or more rows for every input.
        progress: Told TensorRT's own steps (TensorRT 10 and later).
        timeout_s: Give up, and end the child, after so many seconds.

    Raises:
        SpecError: `model` is neither, the file is missing, or samples do not go with the options.
        BuildError: TensorRT refused the model or an option, crashed, ran out of memory or of time.
        MissingDependencyError: No TensorRT can be imported.
    """
    if timeout_s is not None and timeout_s <= 0:
        raise SpecError(f"timeout_s is {timeout_s}. Give seconds above 0, or None to wait")
    if samples is not None and (not options.is_weak_int8 or options.calibration_cache is not None):
        raise SpecError(f"Calibration samples go with typing 'weak', an INT8 precision and no calibration cache, not "
                        f"with '{options.typing}' and '{options.precision.value}'. Leave them out, or the cache")
    _check_gpu(options)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trtkit-build-") as name:
        folder = Path(name)
        request = {"model": str(_model_file(model, folder)), "options": options.to_json()}
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        if samples is not None:
            write_samples(samples, folder / "samples")
        story = _run(folder, progress, timeout_s)
        data = (folder / "plan").read_bytes()
        cache = (folder / "cache").read_bytes() if (folder / "cache").exists() else None
    return Plan(data, _key(data, options, story), tuple(story.log), time.monotonic() - started, cache)


def _check_gpu(options: BuildOptions) -> None:
    gpu = probe_gpu() if options.sm else None
    if gpu is not None and gpu.sm != options.sm:
        raise BuildError(f"The target's GPU is SM {options.sm}; this machine's {gpu.name} is SM {gpu.sm}, and "
                         "TensorRT builds for the GPU that is there. Build on the target")


def _model_file(model: bytes | Path, folder: Path) -> Path:
    if isinstance(model, (bytes, bytearray, memoryview)):
        path = folder / "model.onnx"
        path.write_bytes(model)
        return path
    path = Path(model).absolute()
    if not path.is_file():
        raise SpecError(f"Model '{model}' is no file. Give the path of an ONNX file, or its bytes")
    return path


def _run(folder: Path, progress: Progress, timeout_s: float | None) -> _Story:
    story = _Story()
    with open(folder / "stderr", "w+b") as stderr:
        child = subprocess.Popen(_command(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                                 cwd=folder, env=child_environment(), start_new_session=True)
        alarm = threading.Timer(timeout_s or 0, _give_up, (child, story))
        try:
            if timeout_s is not None:
                alarm.start()
            assert child.stdout is not None
            _follow(child.stdout, story, progress)
            code = child.wait()
        finally:  # Ctrl-C among others: the child has a session of its own and is ended here
            alarm.cancel()
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        _judge(story, code, timeout_s, _tail(stderr))
    return story


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "trtkit.build.worker", str(folder)]


def _give_up(child: subprocess.Popen[bytes], story: _Story) -> None:
    story.timed_out = True
    child.kill()


def _follow(lines: IO[bytes], story: _Story, progress: Progress) -> None:
    steps = 1  # where TensorRT has no progress monitor, the end is the only step
    for line in lines:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:  # the child died in the middle of it
            continue
        kind = event["event"]
        if kind == "progress":
            steps = event["total"]
            progress("Building", event["done"], steps)
        elif kind == "log":
            story.log.append(LogLine(event["severity"], event["text"]))
        elif kind == "loaded":
            story.flavour, story.version = event["flavour"], event["version"]
        elif kind == "built":
            story.profiles = tuple(map(ShapeProfile.from_json, event["profiles"]))
            story.sparse = event["sparse"]
            progress("Building", steps, steps)
        elif kind == "error":
            story.error = (event["kind"], event["message"])


def _tail(stderr: IO[bytes]) -> str:
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _TAIL_CHARACTERS))
    return stderr.read().decode("utf-8", "replace").strip()


def _judge(story: _Story, code: int, timeout_s: float | None, stderr: str) -> None:
    """Return when the child built a plan, and raise what it told, or what its end tells, when not."""
    if story.error is not None:
        kind, message = story.error
        raise getattr(errors, kind, BuildError)(message)
    if code == 0 and story.profiles is not None:
        return
    said = [line.text for line in story.log[-_TAIL_LINES:]] + stderr.splitlines()[-_TAIL_LINES:]
    last = " Its last lines: " + " | ".join(said) if said else ""
    if story.timed_out:
        raise BuildError(f"Building with {story.builder} was ended after {timeout_s:g} s without a plan.{last} Allow "
                         "more time, or lower the optimization level")
    raise BuildError(f"The process that builds with {story.builder} {_end(code)}.{last}")


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no plan"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    if name == "SIGKILL":
        return ("was killed (SIGKILL), most often because memory ran out. Lower the workspace limit, the largest "
                "profile shape or the optimization level, or add swap")
    return (f"crashed ({name}) inside TensorRT. Simplify the model (trtkit rewrite), drop plugins and unusual "
            "operators, or try another TensorRT version")


def _key(data: bytes, options: BuildOptions, story: _Story) -> EngineKey:
    sm = read_plan_header(data).compute_capabilities
    if story.flavour == "tensorrt":
        gpu = probe_gpu()
        sm = (gpu.sm,) if gpu is not None else ()
    flags = options.flags + ("SPARSE_WEIGHTS",) * story.sparse
    return EngineKey(story.flavour, story.version, sm, f"{platform.system().lower()}-{platform.machine()}",
                     options.precision, story.profiles or (), tuple(path.name for path in options.plugins), flags)

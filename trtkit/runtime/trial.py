"""One model in one setting, in a process of its own: its memory and its crashes are its own as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import trtkit
from trtkit.errors import DeviceError

__all__ = ["Trial", "child_environment"]

_LOADING_S = 300.0
_PATIENCE_S = 60.0
_TAIL_CHARACTERS = 300


def child_environment() -> dict[str, str]:
    """Return an environment in which a child imports this very trtkit, when it runs from a source tree."""
    home = Path(trtkit.__file__).parent.parent
    if home.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))}


class Trial:
    """A child that has a model loaded and warm.

    Args:
        request: As trtkit.runtime.trial_worker reads it.
        folder: For its files.

    Raises:
        DeviceError: It does not load, crashes or takes too long; with its own last words.
    """

    def __init__(self, request: Mapping[str, Any], folder: Path) -> None:
        folder.mkdir()
        (folder / "request.json").write_text(json.dumps(dict(request)), encoding="utf-8")
        self._stderr = open(folder / "stderr", "w+b")  # noqa: SIM115  # closed in close()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "trtkit.runtime.trial_worker", str(folder / "request.json")], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._stderr, env=child_environment(), start_new_session=True)
        try:
            self.backend = str(self._answer(_LOADING_S)["backend"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def measure(self, seconds: float) -> float:
        """Run for so many seconds and at least three times, and return the median latency in milliseconds.

        Raises:
            DeviceError: The child failed.
        """
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(f"{seconds}\n".encode())
            self._child.stdin.flush()
        except OSError as err:
            raise DeviceError(f"The measuring process is gone. {self._last_words()}") from err
        return float(self._answer(seconds + _PATIENCE_S)["p50_ms"])

    def close(self) -> None:
        """End the child; closing twice is fine."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._stderr):
            assert pipe is not None
            pipe.close()

    def _answer(self, limit_s: float) -> dict[str, Any]:
        assert self._child.stdout is not None
        alarm = threading.Timer(limit_s, self._child.kill)
        alarm.start()
        try:
            line = self._child.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise DeviceError(f"The measuring process ended with code {self._child.wait()}, or took more than "
                              f"{limit_s:g} s. {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DeviceError(str(answer["error"]))
        return answer

    def _last_words(self) -> str:
        self._stderr.seek(0)
        said = self._stderr.read().decode("utf-8", "replace").strip()[-_TAIL_CHARACTERS:]
        return f"Its last words: {said}" if said else "It said nothing"

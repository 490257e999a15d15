"""The child process of a build: reads a request, writes the plan beside it, and tells events as lines of JSON.

    python -m trtkit.build.worker FOLDER     FOLDER/request.json -> FOLDER/plan, events on standard output

FOLDER/samples, where it is there, holds calibration samples, and FOLDER/cache what TensorRT makes of them.

It ends when its standard input is closed, so that it never outlives the process that asked.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from trtkit.build.compile import compile_model
from trtkit.build.flavour import load_flavour
from trtkit.build.options import BuildOptions
from trtkit.errors import TrtkitError
from trtkit.runtime.trt_log import LogLine, capture_log

__all__ = ["main"]


class Events:
    """Lines of JSON to the parent, on a descriptor of their own: TensorRT's libraries print to standard output."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def tell(self, event: str, **values: Any) -> None:
        """Send one event at once: the process may be gone the moment after."""
        with self._lock:
            self._out.write(json.dumps({"event": event, **values}) + "\n")
            self._out.flush()

    def progress(self, done: int, total: int) -> None:
        """Send steps done and steps known so far."""
        self.tell("progress", done=done, total=total)

    def log(self, line: LogLine) -> None:
        """Send one line of TensorRT's log."""
        self.tell("log", severity=line.severity, text=line.text)


def main() -> None:
    """Build what the folder named on the command line asks for."""
    events = Events()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    code = 0
    try:
        _build(Path(sys.argv[1]), events)
    except TrtkitError as err:
        events.tell("error", kind=type(err).__name__, message=str(err))
        code = 1
    # Without Python's and TensorRT's teardown: the plan is written by now, and a crash there would look like a failure.
    sys.stderr.flush()
    os._exit(code)


def _build(folder: Path, events: Events) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    options = BuildOptions.from_json(request["options"])
    flavour = load_flavour(options.flavour, options.version)
    events.tell("loaded", flavour=flavour.name, version=flavour.version)
    capture_log(flavour.trt)[0].listener = events.log
    samples = folder / "samples"
    compiled = compile_model(flavour, Path(request["model"]), options, events.progress,
                             samples if samples.is_dir() else None)
    (folder / "plan").write_bytes(compiled.data)
    if compiled.cache is not None:
        (folder / "cache").write_bytes(compiled.cache)
    events.tell("built", profiles=[profile.to_json() for profile in compiled.profiles],
                sparse=compiled.sparse)


def _leave_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()

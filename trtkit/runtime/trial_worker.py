"""The child process of a measurement: loads one model in one setting, and measures when it is told to.

    python -m trtkit.runtime.trial_worker REQUEST     seconds as lines on standard input -> lines of JSON

It ends when its standard input is closed, so that it never outlives the process that asked.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.runtime.bench import random_feeds, time_runs
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.session import Session
from trtkit.runtime.trt import TrtSession
from trtkit.tensors import TensorSpec

__all__ = ["main"]

_LEAST_RUNS = 3


def main() -> None:
    """Serve the request named on the command line."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to standard output

    def tell(**values: Any) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    code = 0
    try:
        request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        session = _open(request)
        feeds = random_feeds(session.inputs, batch=request["batch"])
        time_runs(session, feeds, seconds=request["warmup"], at_least=2)
        tell(backend=session.backend)
        for line in sys.stdin:
            session.run(feeds)  # back into the cache
            times = time_runs(session, feeds, seconds=float(line), at_least=_LEAST_RUNS)
            tell(p50_ms=float(np.median(times)) / 1e6)
    except TrtkitError as err:
        tell(error=str(err))
        code = 1
    sys.stderr.flush()
    os._exit(code)  # without the runtimes' teardown, which may crash after all is told


def _open(request: dict[str, Any]) -> Session:
    path = Path(request["file"])
    if request["kind"] == "plan":
        return TrtSession(path.read_bytes(), io=tuple(map(TensorSpec.from_json, request["io"])))
    return OrtSession(path, threads=request["threads"], spinning=request["spinning"])


if __name__ == "__main__":
    main()

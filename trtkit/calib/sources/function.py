"""The text "path.py:function" -> the samples of the iterable that the user's function returns."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trtkit.calib.sample import DataSource, Sample
from trtkit.calib.sources.iterable import IterableSource
from trtkit.errors import CalibrationError, TrtkitError
from trtkit.preprocess import Preprocess
from trtkit.tensors import TensorSpec

__all__ = ["is_function", "open_function"]

_PATTERN = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_function(source: Any) -> bool:
    """Whether `source` is text of the form path.py:function."""
    return isinstance(source, (str, Path)) and _PATTERN.fullmatch(str(source)) is not None


class _FunctionSource(IterableSource):
    """Samples of a function in a file; the file's own bytes are part of the fingerprint."""

    path: Path

    def samples(self, start: int = 0) -> Iterator[Sample]:
        samples = super().samples(start)
        while True:
            try:
                sample = next(samples)
            except StopIteration:
                return
            except TrtkitError:
                raise
            except Exception as err:
                raise _fault(self.name, self.path, err) from err
            yield sample

    def fingerprint(self) -> str:
        return hashlib.sha256(self.path.read_bytes() + super().fingerprint().encode()).hexdigest()[:16]


def open_function(source: str, input: TensorSpec, preprocess: Preprocess | None, limit: int | None) -> DataSource:
    """Return the samples that a function without arguments returns or yields; its file is run.

    Raises:
        CalibrationError: There is no such file or function, or it raises an exception of its own.
    """
    match = _PATTERN.fullmatch(str(source))
    assert match is not None
    path, name = Path(match["path"]), match["name"]
    if not path.is_file():
        raise CalibrationError(f"'{path}' does not exist, so '{source}' cannot be called. Name a Python file")
    spec = importlib.util.spec_from_file_location(f"_trtkit_data_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        raise _fault(str(source), path, err) from err
    function = getattr(module, name, None)
    if not callable(function):
        known = ", ".join(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise CalibrationError(f"'{path}' has no function '{name}'. It has: {known or 'none'}")
    opened = _FunctionSource(function, input, preprocess, limit, name=str(source))
    opened.path = path
    return opened


def _fault(source: str, path: Path, err: Exception) -> CalibrationError:
    """Return the error that names the last line of the user's file that was running."""
    lines = [frame.lineno for frame in traceback.extract_tb(err.__traceback__) if Path(frame.filename) == path]
    line = err.lineno if isinstance(err, SyntaxError) else lines[-1] if lines else None
    return CalibrationError(f"'{source}' failed{f' in line {line}' if line else ''}: {type(err).__name__}: {err}. "
                            "Repair the function; trtkit -v shows the whole traceback")

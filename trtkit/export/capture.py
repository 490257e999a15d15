"""What exporters warn of, print and log -> lines for the report; everything is as it was when the block ends."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

__all__ = ["captured"]

_LOGGERS = ("torch", "onnxscript", "onnx_ir", "onnx", "transformers")
_LONGEST_LINE = 300
_MOST_LINES = 200


@contextmanager
def captured() -> Iterator[list[str]]:
    """Yield a list that holds, once the block has ended, each distinct warning, printed line and log message."""
    notes: list[str] = []
    printed = io.StringIO()
    with (warnings.catch_warnings(record=True) as warned, redirect_stdout(printed), redirect_stderr(printed),
          _logs_to(printed)):
        warnings.simplefilter("always")
        try:
            yield notes
        finally:
            lines = [f"{w.category.__name__}: {w.message}" for w in warned] + printed.getvalue().splitlines()
            tidy = (line.strip()[:_LONGEST_LINE] for text in lines for line in text.splitlines())
            notes.extend(list(dict.fromkeys(filter(None, tidy)))[:_MOST_LINES])


@contextmanager
def _logs_to(stream: io.StringIO) -> Iterator[None]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    loggers = [logging.getLogger(name) for name in (*_LOGGERS, *_loggers_below())]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before):
            logger.handlers, logger.propagate = handlers, propagate


def _loggers_below() -> list[str]:
    """Return the loggers of these packages that have handlers of their own, as torch gives to many."""
    known = list(logging.root.manager.loggerDict.items())
    return [name for name, logger in known if name.partition(".")[0] in _LOGGERS and name not in _LOGGERS
            and isinstance(logger, logging.Logger) and logger.handlers]

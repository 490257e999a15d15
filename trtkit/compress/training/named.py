"""The names of a loader, a loss and an evaluation in the user's own code -> what training takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trtkit.compress.training.losses import LOSSES, step_for
from trtkit.compress.training.spec import Evaluate, Loader, LossStep
from trtkit.errors import SpecError, TrainingError
from trtkit.export.named import find_named

__all__ = ["evaluate_named", "loader_named", "step_named"]


def loader_named(text: str) -> Loader:
    """Return the loader that `text` names: an iterable of batches, or a function without arguments that returns one.

    Args:
        text: "pkg.module:name" or "path/to/file.py:name".

    Raises:
        SpecError: `text` is not of either form.
        ExportError: It cannot be imported, or has nothing of that name.
        TrainingError: The function fails, or there are no batches to iterate over.
    """
    with find_named(text, "loader") as found:
        made: Any = found
        if callable(found) and not (isinstance(found, Iterable) and not isinstance(found, type)):
            try:
                made = found()
            except Exception as err:
                raise TrainingError(f"Loader '{text}' fails: {type(err).__name__}: {err}. "
                                    "It is called without arguments") from err
    if not isinstance(made, Iterable):
        raise TrainingError(f"Loader '{text}' is a {type(made).__name__}, which cannot be iterated over. "
                            "Return a DataLoader or a list of batches")
    return made


def step_named(text: str) -> LossStep:
    """Return the step of a loss: "cross_entropy", "bce", "mse", or a function (module, batch) -> loss of one's own.

    Raises:
        SpecError: There is no such loss, or it is no function.
        ExportError: It cannot be imported, or has nothing of that name.
    """
    if text in LOSSES or ":" not in text:
        return step_for(text)
    step: LossStep = _function(text, "step", "(module, batch) -> loss")
    return step


def evaluate_named(text: str) -> Evaluate:
    """Return the evaluation that `text` names: a function (module) -> score, higher is better.

    Raises:
        SpecError: `text` names no function.
        ExportError: It cannot be imported, or has nothing of that name.
    """
    evaluate: Evaluate = _function(text, "evaluation", "(module) -> score")
    return evaluate


def _function(text: str, what: str, form: str) -> Any:
    with find_named(text, what) as found:
        if not callable(found):
            raise SpecError(f"'{text}' is a {type(found).__name__}. Name a function {form}")
        return found

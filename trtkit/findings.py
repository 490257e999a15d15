"""What is told about tensors and nodes: the findings of an audit, and many names in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Severity", "some_of"]

_SHOWN = 3


class Severity(str, Enum):
    """How bad a finding is."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong.

    Attributes:
        severity: ERROR: it is refused, or its numbers are wrong; WARNING: slower or less accurate than it could be.
        names: The tensors or nodes concerned, all of them; empty for the whole.
        message: What, with values.
        fix: What to do next.
        share: Of the whole work (a model's multiply-accumulates), what runs slower for it; 0 where that is not known.
        rule: The rule that found it, in a word or two.
    """

    severity: Severity
    names: tuple[str, ...]
    message: str
    fix: str
    share: float = 0.0
    rule: str = ""

    @property
    def where(self) -> str:
        """The first names, and how many more there are; "" for the whole."""
        return some_of(self.names)


def some_of(names: Sequence[str]) -> str:
    """Return the first names and how many more there are, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

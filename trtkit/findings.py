"""What an audit found: of a calibration, or of a quantized model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Severity"]

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
        shown = ", ".join(self.names[:_SHOWN])
        return shown + (f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else "")

"""What a module was called with: so that a teacher gets its student's inputs, whoever calls the student."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Call", "last_call"]


@dataclass
class Call:
    """The last forward of a module: what went in and what came out; `made` is False until there was one."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    made: bool = False


@contextmanager
def last_call(module: nn.Module) -> Iterator[Call]:
    """Yield a record of the module's last forward within the block."""
    record = Call()

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        record.args, record.kwargs, record.output, record.made = args, kwargs, output, True

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        yield record
    finally:
        handle.remove()

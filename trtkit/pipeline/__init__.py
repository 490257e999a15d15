"""recipe -> bundle: the whole way as a list of steps, each of which calls the function that its command calls, too."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtkit.pipeline.deployment import STEPS, Deployed, deploy
    from trtkit.pipeline.state import Candidate, State

__all__ = ["STEPS", "Candidate", "Deployed", "State", "deploy"]

_HOMES = {"STEPS": "deployment", "Deployed": "deployment", "deploy": "deployment",
          "Candidate": "state", "State": "state"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trtkit.pipeline' has no attribute '{name}'")
    return getattr(importlib.import_module(f"trtkit.pipeline.{_HOMES[name]}"), name)

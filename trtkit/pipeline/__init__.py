"""recipe -> bundle: the whole way as a list of steps, each of which calls the function that its command calls, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtkit._lazy import lazy_names

if TYPE_CHECKING:
    from trtkit.pipeline.compression import Compressed, compress
    from trtkit.pipeline.deployment import STEPS, Deployed, deploy
    from trtkit.pipeline.state import Candidate, State, Trained

__all__ = ["STEPS", "Candidate", "Compressed", "Deployed", "State", "Trained", "compress", "deploy"]

_HOMES = {"STEPS": "deployment", "Deployed": "deployment", "deploy": "deployment",
          "Compressed": "compression", "compress": "compression",
          "Candidate": "state", "State": "state", "Trained": "state"}

__getattr__ = lazy_names(__name__, _HOMES)

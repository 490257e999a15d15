"""What a build returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from trtkit.bundle.engine_key import EngineKey
from trtkit.runtime.trt_log import LogLine

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """A serialized engine.

    Attributes:
        data: Its bytes.
        key: What it was built for and with.
        log: What TensorRT said while building, VERBOSE left out.
        seconds: Wall-clock time of the build, the start of the child process included.
        calibration_cache: What TensorRT calibrated from live samples, fit for BuildOptions; None where there were none.
    """

    data: bytes = field(repr=False)
    key: EngineKey
    log: tuple[LogLine, ...] = field(repr=False)
    seconds: float
    calibration_cache: bytes | None = field(default=None, repr=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What TensorRT warned of, each once."""
        return tuple(dict.fromkeys(line.text for line in self.log if line.severity == "WARNING"))

    @property
    def sparsity(self) -> tuple[str, ...]:
        """What TensorRT said on 2:4 sparse kernels: the layers that could have one, and those that got one.

        Empty without the flag SPARSE_WEIGHTS, and from TensorRT-RTX 1.7.
        """
        return tuple(line.text for line in self.log if line.text.startswith("(Sparsity)"))

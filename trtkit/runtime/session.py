"""What runs a model, whatever runs it: inputs by name in, outputs by name out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from trtkit.tensors import Array, Feeds, TensorSpec

__all__ = ["Session"]


@runtime_checkable
class Session(Protocol):
    """A loaded model, ready to run.

    One contract for all (tests/runtime/test_session_contract.py): feeds are checked, the first bad one is told together
    with all others; outputs belong to the caller and never change afterwards; a closed session refuses to run.

    Attributes:
        inputs: What `run` must be fed.
        outputs: What `run` returns.
        backend: What runs it, with version, such as "onnxruntime 1.20.1 CPU, 2 threads"; for people.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def backend(self) -> str: ...

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return every output by name, as arrays of the caller's own.

        Args:
            feeds: One array an input, of its dtype and sizes.

        Raises:
            SpecError: The feeds do not fit, the model refuses them, or the session is closed.
        """

    def run_into(self, feeds: Feeds, outputs: Mapping[str, Array]) -> None:
        """Run, and write every output into an array that the caller gives.

        Args:
            feeds: One array an input, of its dtype and sizes.
            outputs: One writeable C-contiguous array an output, of its dtype and of the very shape that it will have.

        Raises:
            SpecError: Feeds or outputs do not fit, the model refuses them, or the session is closed.
        """

    def close(self) -> None:
        """Release the model; closing twice is fine."""

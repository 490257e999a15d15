"""What an export did: who won, why the others failed, and how close ONNX Runtime comes to torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtkit.export.options import Exporter
from trtkit.tensors import TensorSpec

__all__ = ["Attempt", "CaseParity", "Exported", "OutputParity", "ParityReport"]


@dataclass(frozen=True)
class Attempt:
    """One exporter's try.

    Attributes:
        exporter: Which one.
        error: Why it failed, in one line; None for the one that won.
        notes: Everything it warned of or printed, one entry a line, without repetitions.
    """

    exporter: Exporter
    error: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutputParity:
    """One output of ONNX Runtime against torch's.

    Attributes:
        name: Of the output.
        max_abs_error: Largest absolute difference, in the output's own units; inf where only one of both is finite.
        tolerance: Largest difference accepted.
        cosine: Of the angle between both as vectors.
        agreement: Share of equal top-1 classes over the last axis; None unless the shape is (N, C) or (N, T, C).
        divergence: Where and by how much it is beyond the tolerance; None when it is within.
    """

    name: str
    max_abs_error: float
    tolerance: float
    cosine: float
    agreement: float | None
    divergence: str | None


@dataclass(frozen=True)
class CaseParity:
    """All outputs for one set of input sizes.

    Attributes:
        label: What was fed, such as "batch 2".
        outputs: In the order of the model.
    """

    label: str
    outputs: tuple[OutputParity, ...]


@dataclass(frozen=True)
class ParityReport:
    """ONNX Runtime against torch over several input sizes.

    Attributes:
        cases: One for each set of sizes.
        warnings: Why a match means less than it seems, such as outputs that are always zero; and sizes at which
            torch itself does not run.
        vacuous: Every output has one and the same value whatever goes in, so nothing was compared.
    """

    cases: tuple[CaseParity, ...]
    warnings: tuple[str, ...] = ()
    vacuous: bool = False

    @property
    def divergence(self) -> str | None:
        """The first output beyond its tolerance, in words; None when there is none."""
        return next((f"at {case.label}, {output.divergence}" for case in self.cases for output in case.outputs
                     if output.divergence), None)

    @property
    def matches(self) -> bool:
        """Whether the model computes what the module computes, and that was possible to see."""
        return self.divergence is None and not self.vacuous


@dataclass(frozen=True)
class Exported:
    """An ONNX model that was checked against its module.

    Attributes:
        model: The serialized model, or its file where a path was asked for.
        exporter: Which one made it.
        opset: ONNX opset of the default domain.
        inputs, outputs: As the model declares them; dynamic sizes carry their names.
        attempts: Every exporter that was tried, in order; the last one made the model.
        parity: How close ONNX Runtime comes to torch.
    """

    model: bytes | Path
    exporter: Exporter
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attempts: tuple[Attempt, ...]
    parity: ParityReport

    def read(self) -> bytes:
        """Return the serialized model; weights in a file of their own are not part of it."""
        return self.model if isinstance(self.model, bytes) else self.model.read_bytes()

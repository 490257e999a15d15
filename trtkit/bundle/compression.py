"""One row of the trade-off that compression makes: what a model scores, costs and takes after a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trtkit.records import read_record

__all__ = ["COMPRESSION", "CompressionRow", "rows_of"]

COMPRESSION = "compression"
"""Key of the rows in a manifest's provenance, which older versions keep as they are."""


@dataclass(frozen=True)
class CompressionRow:
    """A model after one step of compression.

    Attributes:
        step: What was done last: "original", then "1 prune" and so on.
        macs: Multiply-accumulates of one sample.
        parameters: Values in its weights.
        size_bytes: Of the FP32 ONNX model.
        metric: "top-1", "mAP" or, without labels, "agreement" with the original; "" where nothing was evaluated.
        score: In FP32, in points from 0 to 100.
        latency_ms: Of one sample in FP32 on a CPU target that this machine is; the median.
        speedup: Over the original in FP32, measured in turns; 1 for the original.
        quantized: Target and precision of the next four, such as "x86-vnni int8"; "" where nothing is quantized.
        quantized_score, quantized_size_bytes, quantized_latency_ms, quantized_speedup: The same of the quantized
            model; the speedup is over the original in FP32.
        note: What a person should read.
    """

    step: str
    macs: int
    parameters: int
    size_bytes: int
    metric: str = ""
    score: float | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    quantized: str = ""
    quantized_score: float | None = None
    quantized_size_bytes: int | None = None
    quantized_latency_ms: float | None = None
    quantized_speedup: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CompressionRow:
        """Read what `to_json` wrote.

        Raises:
            SpecError: A key is unknown or missing, or a value has another type.
        """
        return read_record(cls, data, "Row of the trade-off")


def rows_of(provenance: Mapping[str, Any]) -> tuple[CompressionRow, ...]:
    """Return the rows in a manifest's provenance; none where nothing was compressed.

    Raises:
        SpecError: A row is malformed.
    """
    return tuple(map(CompressionRow.from_json, provenance.get(COMPRESSION, ())))

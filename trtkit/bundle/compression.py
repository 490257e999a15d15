"""What each compress step of a recipe changed: one row a step of a bundle's manifest, read from and written as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trtkit.errors import SpecError
from trtkit.records import read_record

__all__ = ["CompressionRow", "shared_metric"]


@dataclass(frozen=True)
class CompressionRow:
    """The model after one step of compression, or before the first: a row of the trade-off table.

    Attributes:
        step: Name for people: "start" for the starting model, then such as "prune", "distill", "qat".
        metric: Name of the score, such as "top-1" or "mAP"; the same in all rows of a table.
        score: Of the model as this step leaves it, higher is better; a share from 0 to 1, whose hundredths are points.
            None where nothing was evaluated.
        macs: Multiply-accumulates of one sample.
        parameters: Numbers in the weights, zeros counted.
        size_bytes: Of the model's file.
        fp32_ms: Median latency of the FP32 model on the target, in milliseconds. None where it was not measured, and
            where the step leaves a quantized model, whose score is not that of the FP32 one.
        int8_ms: The same of the INT8 model.
    """

    step: str
    metric: str
    score: float | None
    macs: int
    parameters: int
    size_bytes: int
    fp32_ms: float | None
    int8_ms: float | None

    def __post_init__(self) -> None:
        if not self.step:
            raise SpecError("A compression row has no name of its step. Give one, such as 'start' or 'prune'")
        if self.score is not None and not math.isfinite(self.score):
            raise SpecError(f"Compression step '{self.step}': {self.metric} is {self.score}. "
                            "Give a finite number or None")
        for key in ("macs", "parameters", "size_bytes"):
            if getattr(self, key) < 0:
                raise SpecError(f"Compression step '{self.step}': {key} is {getattr(self, key)}. "
                                "It must not be negative")
        for key in ("fp32_ms", "int8_ms"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise SpecError(f"Compression step '{self.step}': {key} is {value}. Give milliseconds > 0, or None")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CompressionRow:
        """Read what `to_json` wrote.

        Raises:
            SpecError: A key is unknown or missing, or a value is not usable.
        """
        return read_record(cls, data, "Compression row")


def shared_metric(rows: Sequence[CompressionRow]) -> str:
    """Return the one metric that the scores of these rows are of.

    Raises:
        SpecError: There are no rows, or they were scored by several metrics.
    """
    metrics = list(dict.fromkeys(row.metric for row in rows))
    if len(metrics) != 1:
        raise SpecError(f"{len(rows)} compression rows have the metrics {metrics}, which cannot stand in one table. "
                        "Give at least one row, all with the same metric")
    return metrics[0]

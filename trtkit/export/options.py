"""What an export is asked to do, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from trtkit.errors import SpecError

__all__ = ["ExportOptions", "Exporter"]


class Exporter(str, Enum):
    """A way from torch to ONNX, in the order in which they are tried."""

    DYNAMO = "dynamo"
    """torch.export and onnxscript: the smallest graphs."""
    TORCHSCRIPT = "torchscript"
    """The tracer: larger graphs, takes modules that torch.export refuses."""
    STATIC = "static"
    """Either of them with every size fixed and batch 1."""


@dataclass(frozen=True)
class ExportOptions:
    """How a module becomes an ONNX model.

    Attributes:
        opset: ONNX opset of the model; Target.opset, 19 for FP16 scales, 21 for INT4.
        batch: Name of the dynamic first dimension of every input; None fixes it at the example's size.
        dynamic_axes: Further dynamic dimensions, input name -> axis -> name.
        output_names: New names of the outputs, in the order of the module; the module's own when None.
        exporters: What to try, in this order.
        batches: Batch sizes at which ONNX Runtime is compared with torch.
        rtol: Largest error accepted, as a share of the output's largest absolute value; 1e-3 for FP32 and 1e-2 for
            FP16 when None.
        atol: Error accepted on top, in the output's own units.
        external_data_bytes: Weights of a larger model go to a file of their own beside it (protobuf ends at 2 GB).
    """

    opset: int = 17
    batch: str | None = "batch"
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    output_names: tuple[str, ...] | None = None
    exporters: tuple[Exporter, ...] = tuple(Exporter)
    batches: tuple[int, ...] = (1, 2, 5)
    rtol: float | None = None
    atol: float = 1e-6
    external_data_bytes: int = 2_000_000_000

    def __post_init__(self) -> None:
        if not 9 <= self.opset <= 25:
            raise SpecError(f"opset is {self.opset}. TensorRT 8.x takes 17, FP16 scales need 19, INT4 needs 21")
        for name in (self.batch, *(name for axes in self.dynamic_axes.values() for name in axes.values())):
            if name is not None and not name.isidentifier():
                raise SpecError(f"Dynamic dimension '{name}' is no usable name. Use letters, digits and _, such as "
                                "batch")
        if not self.exporters:
            raise SpecError(f"exporters is empty. Name one of: {', '.join(e.value for e in Exporter)}")
        if not self.batches or min(self.batches) < 1:
            raise SpecError(f"batches are {self.batches}. Give sizes >= 1 to compare at, such as 1, 2 and 5")
        if self.atol < 0 or (self.rtol is not None and self.rtol < 0):
            raise SpecError(f"Tolerances are rtol {self.rtol} and atol {self.atol}; they must not be negative")

    @property
    def is_dynamic(self) -> bool:
        """Whether any size of the inputs may vary."""
        return self.batch is not None or any(self.dynamic_axes.values())

    def tolerance(self, dtype: str, peak: float) -> float:
        """Return the largest error accepted in an output, in its own units.

        Args:
            dtype: numpy dtype name of the output; integers and booleans must be equal.
            peak: Largest absolute value of the output.
        """
        if not dtype.startswith(("float", "bfloat")):
            return 0.0
        share = self.rtol if self.rtol is not None else 1e-3 if dtype in ("float32", "float64") else 1e-2
        return self.atol + share * peak

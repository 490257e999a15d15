"""A module -> its latency on a target, in seconds: measured here, or predicted from what a board measured.

Either is a `Latency` (trtkit.compress.pruning.spec), as pruning for Goal.LATENCY asks for it after every cut.
"""

from __future__ import annotations

import torch

from trtkit.calib import DataSource
from trtkit.compress.pruning.layers import find_layers
from trtkit.compress.pruning.lowering import example_feeds, lowered_for, rewritten_for
from trtkit.errors import SpecError
from trtkit.export.inputs import Example
from trtkit.precision import Precision
from trtkit.runtime.bench import shortest
from trtkit.runtime.latency_table import LatencyTable
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.probe import probe_device
from trtkit.target import Target, get_target
from trtkit.tensors import Feeds

__all__ = ["MeasuredLatency", "TableLatency"]


class MeasuredLatency:
    """Exports a module, lowers it and times it in ONNX Runtime on this machine.

    The first module that it is called with becomes the reference: every later one is measured in turns with it, and its
    latency is the reference's times the ratio of their shortest runs. So neither what else this machine does nor what
    changes its clock looks like a slower module.

    Args:
        example: As export_onnx takes it; its batch is the batch that is timed.
        target: A CPU target that this machine is.
        precision: What the module will run in.
        samples: What INT8 is calibrated on; the example alone when None, which is enough for timing.
        threads: Of ONNX Runtime; its own choice when None.
        seconds: How long to measure, for each module.

    Raises:
        SpecError: This machine is no such target, or the target does not run the precision.
    """

    def __init__(self, example: Example, target: Target, precision: Precision = Precision.FP32, *,
                 samples: DataSource | None = None, threads: int | None = None, seconds: float = 1.5) -> None:
        target.check(precision)
        _refuse_other_machines(target)
        self.example, self.target, self.precision = example, target, precision
        self.samples, self.threads, self.seconds = samples, threads, seconds
        self._reference: tuple[OrtSession, Feeds, float] | None = None

    def __call__(self, module: torch.nn.Module) -> float:
        """Return the latency of one forward, in seconds.

        Raises:
            ExportError: The module cannot be exported.
        """
        feeds = example_feeds(module, self.example)
        model = rewritten_for(module, self.example, self.target)
        lowered = lowered_for(model, self.target, self.precision, feeds, self.samples)
        session = OrtSession(lowered.model, threads=self.threads)
        if self._reference is None:
            (seconds,) = shortest(((session, feeds),), seconds=self.seconds)
            self._reference = session, feeds, seconds
            return seconds
        reference, reference_feeds, seconds = self._reference
        try:
            before, now = shortest(((reference, reference_feeds), (session, feeds)), seconds=self.seconds)
        finally:
            session.close()
        return seconds * now / before


def _refuse_other_machines(target: Target) -> None:
    """Return when this machine is a CPU target's.

    Raises:
        SpecError: It is not; the way to measure there is told.
    """
    device = probe_device()
    if target.runs_on(device.machine, device.cpu_flags):
        return
    needs = (f"{target.runtime} on {target.device}" if target.is_tensorrt
             else " with ".join(filter(None, (target.arch, ", ".join(target.cpu_flags)))))
    raise SpecError(f"Target '{target.name}' needs {needs}, so latency cannot be measured on this machine "
                    f"({device.machine}, {device.cpu}). Record a table on the board and predict from it. Here: trtkit "
                    f"latency kit FACTORY --input SHAPE --target {target.name} -o KIT; there: trtkit latency record "
                    "KIT -o TABLE")


class TableLatency:
    """Predicts a module's latency from a table that was recorded on the target.

    Channels should be multiples of what the target computes at once (`Target.channel_multiple`): other numbers can
    cost more than the next multiple, which is what is predicted (benchmarks/latency_table.py).

    Args:
        table: For the module before it was pruned, or for one with the same kinds of layers.
        example: As export_onnx takes it, of the shape that the kit was made for.
        target: The table's, when None; give it when it is one of your own.

    Raises:
        SpecError: The table is another target's.
    """

    def __init__(self, table: LatencyTable, example: Example, target: Target | None = None) -> None:
        if target is not None and target.name != table.target:
            raise SpecError(f"The latency table was recorded for '{table.target}', not for '{target.name}'. "
                            "Make a kit for this target and record it there: trtkit latency")
        self.table, self.example = table, example
        self.target = target if target is not None else get_target(table.target)

    def __call__(self, module: torch.nn.Module) -> float:
        """Return the predicted latency of one forward, in seconds.

        Raises:
            ExportError: The module cannot be exported.
            SpecError: It has a kind of layer that the table lacks, or a wider one.
        """
        model = rewritten_for(module, self.example, self.target)
        return self.table.predict([layer.point for layer in find_layers(model)])

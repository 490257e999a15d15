"""The sections [train] and [[compress]]: what a module is made smaller by, in order, and what it is trained on.

    [train]
    data = "data.py:loader"
    loss = "cross_entropy"
    [[compress]]
    step = "prune"
    amount = 0.5
    [[compress]]
    step = "distill"
    train = { epochs = 20 }

Each step takes the keys of its own specification (PruneSpec, DistillSpec), and `train` changes [train] for it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import ClassVar, TypeAlias

from trtkit.compress.distillation.spec import DistillSpec
from trtkit.compress.pruning.spec import Goal, Importance, Method, PruneSpec
from trtkit.compress.qat.spec import Scales
from trtkit.compress.training.spec import TrainSpec
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.target import Target

__all__ = ["CompressStep", "DistillStep", "FinetuneStep", "ModuleSource", "PruneStep", "QatStep", "ResolutionStep",
           "TrainSection", "check_order"]


@dataclass(frozen=True)
class TrainSection:
    """What a module is trained on, and how.

    Attributes:
        data: "file.py:name" or "pkg.module:name" of a loader, or of a function without arguments that returns one.
        loss: "cross_entropy", "bce", "mse", or the name of a function (module, batch) -> loss.
        spec: Of the training.
    """

    data: str
    loss: str = "cross_entropy"
    spec: TrainSpec = field(default_factory=TrainSpec)


@dataclass(frozen=True)
class ModuleSource:
    """A module other than the recipe's.

    Attributes:
        factory: "pkg.module:name" or "file.py:name".
        weights: For it; random ones when None.
    """

    factory: str
    weights: Path | None = None


@dataclass(frozen=True)
class PruneStep:
    """Take channels or weights out.

    Attributes:
        spec: How; its `max_drop` is in points of [evaluate], from 0 to 100.
        train: Fine-tuning after each of its steps; None leaves that to a later step.
        reads: What Importance.TAYLOR and the choice of 2:4 weights read; None where there is no [train].
        target, precision: What latency is measured on, for Goal.LATENCY.
        table: Latencies that a board recorded, instead of measuring.
    """

    spec: PruneSpec
    train: TrainSection | None = None
    reads: TrainSection | None = None
    target: Target | None = None
    precision: Precision = Precision.FP32
    table: Path | None = None
    name: ClassVar[str] = "prune"

    def __post_init__(self) -> None:
        if self.spec.goal is Goal.LATENCY and self.target is None and self.table is None:
            raise SpecError("goal is latency, and nothing says on what. Add target = 'NAME' of a CPU that this machine "
                            "is, or latency_table = 'FILE' that a board recorded")
        if self.spec.importance is Importance.TAYLOR and self.reads is None:
            raise SpecError("importance is taylor, which reads data and a loss. Add [train], or choose l1 or l2")


@dataclass(frozen=True)
class FinetuneStep:
    """Train the module as it is.

    Attributes:
        train: On what and how.
    """

    train: TrainSection
    name: ClassVar[str] = "finetune"


@dataclass(frozen=True)
class DistillStep:
    """Train a student to say what a teacher says.

    Attributes:
        spec: What it learns. With the loss "bce" soft tags, where the recipe says nothing.
        train: On what and how; its loss is that of true labels, for `spec.hard`.
        teacher: The recipe's own model, uncompressed, when None: as the finetune steps before all others left it.
        student: The module that the steps before have made when None, scaled by width and depth.
        width, depth: Factors on the channels and layers of a module that is made from a `config`; the student begins
            with a selection of its weights.
    """

    spec: DistillSpec
    train: TrainSection
    teacher: ModuleSource | None = None
    student: ModuleSource | None = None
    width: float = 1.0
    depth: float = 1.0
    name: ClassVar[str] = "distill"

    def __post_init__(self) -> None:
        if not (0 < self.width <= 1 and 0 < self.depth <= 1):
            raise SpecError(f"width is {self.width} and depth {self.depth}; they are factors, above 0 and at most 1")
        if self.student is not None and self.is_scaled:
            raise SpecError("student names a module, and width or depth would scale another. Give one of them")

    @property
    def is_scaled(self) -> bool:
        """Whether the student is a scaled copy of the recipe's model."""
        return (self.width, self.depth) != (1.0, 1.0)

    @property
    def is_new(self) -> bool:
        """Whether the student holds nothing of what the steps before have made."""
        return self.student is not None or self.is_scaled


@dataclass(frozen=True)
class ResolutionStep:
    """Take another input size.

    Attributes:
        size: Height and width in pixels.
        train: Fine-tuning there; None changes the size alone.
    """

    size: tuple[int, int]
    train: TrainSection | None = None
    name: ClassVar[str] = "resolution"

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise SpecError(f"size is {list(self.size)}. Give height and width in pixels, such as [160, 160]")


@dataclass(frozen=True)
class QatStep:
    """Train on the integer grids of a target.

    Attributes:
        target, precision: Whose grids; all targets get the trained weights in this precision.
        train: On what and how.
        scales: Learned or fixed.
    """

    target: Target
    precision: Precision
    train: TrainSection
    scales: Scales = Scales.LEARNED
    name: ClassVar[str] = "qat"

    def __post_init__(self) -> None:
        self.target.check(self.precision)
        if self.precision not in (Precision.INT8, Precision.INT8_FP16, Precision.INT4):
            raise SpecError(f"precision is {self.precision.value}, which has no integer grids to train on. Choose "
                            "int8, int8+fp16 or int4")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What the trained weights are for."""
        return (Precision.INT4,) if self.precision is Precision.INT4 else (Precision.INT8, Precision.INT8_FP16)


CompressStep: TypeAlias = PruneStep | FinetuneStep | DistillStep | ResolutionStep | QatStep


def check_order(steps: Sequence[CompressStep]) -> None:
    """Return when every step can build on those before it.

    Raises:
        SpecError: One cannot.
    """
    sparse, changed, smaller = "", "", ""
    leading = sum(1 for _ in takewhile(lambda each: isinstance(each, FinetuneStep), steps))
    for number, each in enumerate(steps, start=1):
        what = f"[[compress]] {number} ({each.name})"
        if isinstance(each, QatStep) and number < len(steps):
            raise SpecError(f"{what} is followed by {steps[number].name}. It trains the exported graph, from which "
                            "there is no way back to torch: make it the last one, and the only one of its kind")
        if isinstance(each, PruneStep) and sparse and each.spec.method is Method.CHANNELS:
            raise SpecError(f"{what} takes channels out after {sparse} set single weights to zero, and would tear "
                            "their pattern. Prune channels first")
        if isinstance(each, DistillStep):
            lost = changed if each.teacher else smaller
            if each.is_new and lost:
                raise SpecError(f"{what} begins with a new student, so what {lost} made would be lost. Leave "
                                "student, width and depth out to train that, or make this step the first")
            if not smaller and not each.is_new and each.teacher is None:
                raise SpecError(f"{what} would have the model learn from itself: nothing before it makes it smaller. "
                                "Name a teacher or a student, or put prune before it")
        if isinstance(each, PruneStep) and each.spec.method is not Method.CHANNELS:
            sparse = f"[[compress]] {number}"
        if not isinstance(each, ResolutionStep) or each.train is not None:
            changed = f"[[compress]] {number}"
            if number > leading:
                smaller = changed

"""A student and the layers that it should imitate -> one module to train: the student with a projection for each hint.

    loss = mean((projection(student's feature) - n(teacher's feature))**2),    n: mean 0 and variance 1 per channel

A projection is a learned 1x1 convolution for maps (N, C, H, W), a linear layer for tokens (N, T, C) and vectors (N, C).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trtkit.compress.distillation.spec import Hint
from trtkit.compress.training.batches import call, device_of, to_device
from trtkit.errors import ExportError, SpecError
from trtkit.export.adapter import evaluating
from trtkit.export.outputs import named_tensors
from trtkit.precision import NodeSelector

__all__ = ["HintedStudent", "Pair", "features_of", "hint_loss", "hinted", "pairs_of"]


@dataclass(frozen=True)
class Pair:
    """One module of each, chosen by a hint: their names, and the weight of their loss."""

    teacher: str
    student: str
    weight: float


class HintedStudent(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """A student with the projections of its hints; its forward is the student's.

    Attributes:
        student: Train it through this module, so that the projections are trained with it; keep it alone afterwards.
        projections: One for each pair, from the student's channels to the teacher's.
        pairs: In the order of `projections`.
    """

    def __init__(self, student: nn.Module, projections: Iterable[nn.Module], pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.student = student
        self.projections = nn.ModuleList(projections)
        self.pairs = tuple(pairs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the student returns."""
        return self.student(*args, **kwargs)

    def hint_losses(self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of all hints.

        Args:
            student, teacher: Feature of each module by its name, from `features_of`.

        Returns:
            A tensor of one element, float32.
        """
        losses = [pair.weight * hint_loss(projection, student[pair.student], teacher[pair.teacher])
                  for pair, projection in zip(self.pairs, self.projections)]
        return torch.stack(losses).sum()


def hinted(student: nn.Module, teacher: nn.Module, inputs: Any, hints: Sequence[Hint]) -> HintedStudent:
    """Return the student with a projection for each hint, sized by running both modules once.

    The projections draw from torch's random numbers; seed them first where runs should be alike.

    Args:
        student, teacher: Their modes and statistics stay as they are.
        inputs: What both take: a tensor, a tuple in forward's order, or a dict by keyword.
        hints: At least one.

    Raises:
        SpecError: A selector matches nothing or the two match different numbers, or two features cannot be compared.
    """
    pairs = pairs_of(student, teacher, hints)
    theirs = _features_at_rest(teacher, [pair.teacher for pair in pairs], inputs)
    ours = _features_at_rest(student, [pair.student for pair in pairs], inputs)
    projections = [_projection(pair, ours[pair.student], theirs[pair.teacher]) for pair in pairs]
    return HintedStudent(student, projections, pairs)


def pairs_of(student: nn.Module, teacher: nn.Module, hints: Sequence[Hint]) -> tuple[Pair, ...]:
    """Return the modules that the hints join, in the order of the modules.

    Raises:
        SpecError: A selector matches nothing, or the two of a hint match different numbers of modules.
    """
    found: list[Pair] = []
    for hint in hints:
        theirs, ours = _chosen(teacher, hint.teacher, "Teacher"), _chosen(student, hint.student, "Student")
        if len(theirs) != len(ours):
            raise SpecError(f"Hint '{hint.teacher}' chooses {len(theirs)} modules of the teacher ({_some(theirs)}) and "
                            f"'{hint.student}' {len(ours)} of the student ({_some(ours)}). Pair equally many, or give "
                            "one hint for each")
        found += [Pair(*names, hint.weight) for names in zip(theirs, ours)]
    return tuple(found)


@contextmanager
def features_of(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a dict that holds, after each forward within the block, the first output tensor of the named modules."""
    seen: dict[str, torch.Tensor] = {}
    modules = dict(module.named_modules())
    handles = [modules[name].register_forward_hook(_keep(seen, name)) for name in dict.fromkeys(names)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def hint_loss(projection: nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of the projected feature and the teacher's, normalized.

    Each channel of the teacher is brought to mean 0 and variance 1 in the batch, so that layers of any scale weigh
    alike, and rare features as much as frequent ones. The student's are not: a loss that does not see their scale lets
    them die out (a digit recognizer of 12 channels fell to chance).

    Maps of different height or width are brought to the smaller of each by average pooling.

    Args:
        projection: From the student's channels to the teacher's.
        student, teacher: Maps (N, C, H, W), tokens (N, T, C) or vectors (N, C).

    Returns:
        A tensor of one element, float32: 0 when the student tells all of the teacher's feature, 1 when nothing.

    Source: Romero et al., "FitNets", ICLR 2015, equation 3 (the regressor); batch normalization, there of both, from
        Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024.
    """
    if student.ndim == 4:
        size = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:])]
        student, teacher = (functional.adaptive_avg_pool2d(each, size) for each in (student, teacher))
    return functional.mse_loss(projection(student).float(), _normalized(teacher))


def _chosen(module: nn.Module, pattern: str, whose: str) -> list[str]:
    modules = [(name, type(each).__name__) for name, each in module.named_modules() if name]
    try:
        chosen = NodeSelector((pattern,)).select(modules)
    except SpecError as err:
        raise SpecError(f"{whose} has no module '{pattern}' for a hint. There are, among others: "
                        f"{_some([name for name, _ in modules])}") from err
    return [name for name, _ in modules if name in chosen]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _keep(seen: dict[str, torch.Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        try:
            seen[name] = named_tensors(output)[0][1]
        except ExportError as err:
            raise SpecError(f"Module '{name}' of a hint returns no tensor: {err}. Choose another module") from err

    return hook


def _features_at_rest(module: nn.Module, names: Sequence[str], inputs: Any) -> dict[str, torch.Tensor]:
    with evaluating(module), features_of(module, names) as seen:
        call(module, to_device(inputs, device_of(module)))
    absent = [name for name in names if name not in seen]
    if absent:
        raise SpecError(f"Module '{absent[0]}' of {type(module).__name__} is not called in forward, so it "
                        "gives no hint. Choose one that is, such as its parent")
    return seen


def _projection(pair: Pair, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
    tokens = student.ndim == 3 and teacher.ndim == 3 and student.shape[1] != teacher.shape[1]
    if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4) or tokens:
        raise SpecError(f"Hint from '{pair.teacher}' {tuple(teacher.shape)} to '{pair.student}' {tuple(student.shape)} "
                        "compares features of different kinds. Choose two maps (N, C, H, W), two with equally many "
                        "tokens (N, T, C) or two vectors (N, C)")
    axis = _channel_axis(teacher)
    ours, theirs = student.shape[axis], teacher.shape[axis]
    made = nn.Conv2d(ours, theirs, 1) if student.ndim == 4 else nn.Linear(ours, theirs)
    return made.to(student.device)


def _normalized(feature: torch.Tensor) -> torch.Tensor:
    axis = _channel_axis(feature)
    last = feature.float().movedim(axis, -1)
    rows = functional.batch_norm(last.flatten(0, -2), None, None, training=True)
    return rows.view(last.shape).movedim(-1, axis)


def _channel_axis(feature: torch.Tensor) -> int:
    return 1 if feature.ndim == 4 else -1

"""What a student learns from: the weights of the losses, and the layers that it imitates."""

from __future__ import annotations

from dataclasses import dataclass

from trtkit.errors import SpecError

__all__ = ["DistillSpec", "Hint"]


@dataclass(frozen=True)
class Hint:
    """A layer of the student that learns to say what a layer of the teacher says.

    Attributes:
        teacher: Name of a module in the teacher, as in `named_modules()`, or a shell-style pattern such as
            "stages.*.out".
        student: Same in the student; both must choose equally many modules, which are paired in order.
        weight: Of this hint in the sum of losses; above 0. The loss is 1 while the student knows nothing of the layer.
    """

    teacher: str
    student: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.teacher or not self.student:
            raise SpecError(f"A hint joins '{self.teacher}' of the teacher and '{self.student}' of the student. "
                            "Name a module of each, as in named_modules()")
        if not self.weight > 0:
            raise SpecError(f"Hint '{self.teacher}' has weight {self.weight}; it must be above 0. Leave it out instead")


@dataclass(frozen=True)
class DistillSpec:
    """A weighted sum of losses: logits + tags + hard + each hint.

    Attributes:
        logits: Weight of the divergence between the classes of teacher and student, for models with one class each.
        tags: Weight of the binary cross-entropy against the teacher's soft tags, for multi-label models. It is a sum
            over labels, so it is larger than a hint by about the number of labels that are in doubt.
        hard: Weight of the loss against true labels; 0 needs no targets in the batches.
        temperature: Divides the logits of both before the softmax; the divergence is multiplied by its square.
        tag_temperature: Same for tags and the sigmoid. Tags are rare, and a higher one makes all labels that are absent
            look likely: on 114 labels the student's mAP fell with every step above 1.
        hard_loss: "cross_entropy", "bce" or "mse".
        hints: Layers to imitate. Their losses begin near 1, so beside tags they want a weight of about 8.
        output: Which output holds the logits where a module returns several; None takes "logits", or the only one.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (logits, temperature); Romero
        et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (hints).
    """

    logits: float = 1.0
    tags: float = 0.0
    hard: float = 0.0
    temperature: float = 4.0
    tag_temperature: float = 1.0
    hard_loss: str = "cross_entropy"
    hints: tuple[Hint, ...] = ()
    output: str | None = None

    def __post_init__(self) -> None:
        weights = {"logits": self.logits, "tags": self.tags, "hard": self.hard}
        negative = [f"{name} = {weight}" for name, weight in weights.items() if not weight >= 0]
        if negative:
            raise SpecError(f"Distillation weight {negative[0]}; it must not be negative. Use 0 to leave it out")
        for name, value in (("temperature", self.temperature), ("tag_temperature", self.tag_temperature)):
            if not value > 0:
                raise SpecError(f"{name} is {value}; it must be above 0, and is mostly 1 to 8")
        if not (self.logits or self.tags or self.hints):
            raise SpecError("Nothing is learned from the teacher: logits and tags are 0 and there is no hint. Give one "
                            "of them, or train without a teacher")

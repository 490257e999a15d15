"""Points of the task metric that a model loses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtkit.errors import CalibrationError, SpecError
from trtkit.evaluate import Judge, Loss, Task
from trtkit.tensors import Array


class Item:
    """A sample as evaluation reads it."""

    def __init__(self, name: str, x: Array, labels: tuple[int, ...] | None = None) -> None:
        self.name, self.feeds, self.labels = name, {"x": x}, labels


def linear(weight: Array, shape: str = "1, 3", x_shape: str = "1, 3") -> bytes:
    """Return y = x @ weight."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g (float[{x_shape}] x) => '
                                    f"(float[{shape}] y) {{ y = MatMul (x, w) }}")
    model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), "w"))
    return bytes(model.SerializeToString())


def items(labels: list[tuple[int, ...]] | None = None) -> list[Item]:
    """Return the three unit vectors, and the first one again."""
    rows = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    return [Item(str(place), row[None], labels[place] if labels else None) for place, row in enumerate(rows)]


SWAPPED = np.eye(3)[[1, 0, 2]]
"""Puts 0 and 1 in each other's place: right for the third of the unit vectors alone."""


def test_loss_is_of_top1_when_samples_have_labels() -> None:
    judge = Judge(linear(np.eye(3)), items([(0,), (1,), (2,), (1,)]))
    loss = judge(linear(SWAPPED))
    assert loss == Loss("top-1", 50.0, 75.0)
    assert loss.points == 25.0
    assert judge(linear(np.eye(3))).points == 0.0


def test_loss_is_of_map_when_labels_are_present_at_once() -> None:
    loss = Judge(linear(np.eye(3)), items([(0,), (1,), (2,), (0,)]), task=Task.MULTI_LABEL)(linear(SWAPPED))
    assert (loss.metric, loss.reference) == ("mAP", 100.0)
    assert 0 < loss.value < 100


def test_loss_is_of_agreement_when_nothing_has_labels() -> None:
    assert Judge(linear(np.eye(3)), items())(linear(SWAPPED)) == Loss("agreement", 25.0, 100.0)


def test_loss_is_negative_when_the_model_does_better_than_its_reference() -> None:
    assert Judge(linear(SWAPPED), items([(0,), (1,), (2,), (0,)]))(linear(np.eye(3))).points == -75.0


def test_steps_are_compared_one_by_one_when_the_output_is_a_sequence() -> None:
    lines = [Item("line", np.eye(3, dtype=np.float32)[None, [0, 1, 2, 2]])]
    judge = Judge(linear(np.eye(3), "1, 4, 3", "1, 4, 3"), lines)
    assert judge(linear(SWAPPED, "1, 4, 3", "1, 4, 3")) == Loss("agreement", 50.0, 100.0)


@pytest.mark.parametrize(("samples", "error", "says"), [
    ([], CalibrationError, "no sample to evaluate on"),
    ([Item("plane", np.eye(3, dtype=np.float32)[None, None])], SpecError, r"no output of shape \(1, C\) .*y\[1, 1, "),
], ids=["empty", "shape"])
def test_judging_is_refused_when_there_is_nothing_to_judge(samples: list[Item], error: type[Exception],
                                                           says: str) -> None:
    with pytest.raises(error, match=says):
        Judge(linear(np.eye(3), "1, 1, 3, 3", "1, 1, 3, 3"), samples)

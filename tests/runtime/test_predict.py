from __future__ import annotations

import numpy as np
import pytest

from trtkit.bundle import Postprocess
from trtkit.errors import SpecError
from trtkit.runtime.predict import Prediction, predict, sigmoid, softmax

LABELS = ("cat", "dog", "fox")
SCORES = {"scores": np.array([[1.0, 3.0, 2.0], [9.0, -9.0, 9.0]], np.float32)}


def test_classification_returns_the_best_first() -> None:
    first, second = predict(SCORES, Postprocess(top=2), LABELS)
    assert [p.label for p in first] == ["dog", "fox"]
    assert first[0].score == pytest.approx(np.exp(3) / np.exp([1, 3, 2]).sum(), rel=1e-6)
    assert [p.index for p in second] == [0, 2]  # equal scores keep the order of the classes


def test_multi_label_returns_what_passes_the_threshold() -> None:
    rows = predict(SCORES, Postprocess("multi-label", activation="sigmoid", threshold=0.9), LABELS)
    assert [[p.label for p in row] for row in rows] == [["dog"], ["cat", "fox"]]


def test_activation_none_and_missing_labels_keep_scores_and_indices() -> None:
    rows = predict({"a": np.zeros((1, 2)), "b": np.array([[0.25, 0.75]], np.float16)}, Postprocess(
        output="b", activation="none", top=1))
    assert rows == [[Prediction(1, "1", 0.75)]]


def test_scores_may_have_trailing_ones() -> None:
    assert predict({"s": np.ones((2, 3, 1, 1), np.float32)}, Postprocess(top=1), LABELS)[1][0].label == "cat"


@pytest.mark.parametrize(("outputs", "postprocess", "says"), [
    (SCORES, Postprocess(output="other"), "wants output 'other'; the model has: scores"),
    ({"s": np.zeros((1, 2))}, Postprocess(), "has 2 classes, the bundle has 3 labels"),
    ({"s": np.zeros(3)}, Postprocess(), r"has shape \(3,\)"),
    ({"s": np.zeros((1, 3, 2))}, Postprocess(), "has shape"),
    ({"s": np.full((1, 3), np.nan)}, Postprocess(), "holds NaN"),
])
def test_predict_refuses_scores_that_make_no_sense(outputs: dict[str, np.ndarray], postprocess: Postprocess,
                                                   says: str) -> None:
    with pytest.raises(SpecError, match=says):
        predict(outputs, postprocess, LABELS)


def test_activations_do_not_overflow() -> None:
    extreme = np.array([[-1e4, 0.0, 1e4]], np.float16)
    np.testing.assert_allclose(softmax(extreme), [[0, 0, 1]])
    np.testing.assert_allclose(sigmoid(extreme), [[0, 0.5, 1]])
    assert softmax(extreme).dtype == np.float32

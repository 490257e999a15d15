"""Running a model over samples and judging its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trtkit.errors import CalibrationError, SpecError
from trtkit.evaluate import Task, evaluate
from trtkit.runtime.ort import OrtSession


def perfect(feeds):
    return {"features": feeds["x"][:, :, None], "logits": np.eye(6, dtype=np.float32)[[int(feeds["x"][0, 0])]]}


@pytest.fixture
def told(items):
    """Samples whose input says their label."""
    return type(items)(replace(item, feeds={"x": np.full((1, 4), item.labels[0], np.float32)}) for item in items)


def test_evaluate_gives_one_when_every_answer_is_right(told):
    accuracy = evaluate(perfect, told)
    assert (accuracy.output, accuracy.samples, accuracy.labelled) == ("logits", 24, 24)
    assert accuracy.top1 == accuracy.top5 == 1.0
    assert accuracy.mean_average_precision is None
    assert accuracy.scores.shape == (24, 6)


def test_evaluate_counts_any_accepted_label_and_only_labelled_samples(told):
    told[0] = replace(told[0], labels=(5, 0))
    told[1] = replace(told[1], labels=(0,))
    told[2] = replace(told[2], labels=None)
    accuracy = evaluate(perfect, told)
    assert accuracy.labelled == 23
    assert accuracy.top1 == pytest.approx(22 / 23)


def test_evaluate_has_no_metric_without_labels(items):
    accuracy = evaluate(perfect, [replace(i, labels=None, feeds={"x": np.zeros((1, 4), np.float32)}) for i in items])
    assert (accuracy.labelled, accuracy.top1, accuracy.top5) == (0, None, None)


def test_evaluate_judges_multi_label(told):
    accuracy = evaluate(perfect, told, task=Task.MULTI_LABEL)
    assert accuracy.f1_micro == accuracy.f1_macro == accuracy.mean_average_precision == 1.0
    assert accuracy.top1 is None
    told[0] = replace(told[0], labels=(0, 1))
    assert evaluate(perfect, told, task=Task.MULTI_LABEL).f1_micro == pytest.approx(48 / 49)


def test_agreement_is_the_share_of_equal_first_classes(reference, candidate, items):
    first, second = (evaluate(OrtSession(model).run, items) for model in (reference, candidate))
    same = np.mean(first.scores.argmax(1) == second.scores.argmax(1))
    assert second.agreement(first) == pytest.approx(same)
    assert first.agreement(first) == 1.0


def test_agreement_refuses_other_samples(reference, items):
    run = OrtSession(reference).run
    with pytest.raises(SpecError, match="same samples"):
        evaluate(run, items).agreement(evaluate(run, items[:5]))


def test_evaluate_reports_progress(told):
    seen = []
    evaluate(perfect, told, progress=lambda *step: seen.append(step))
    assert seen[0] == ("Evaluating", 1, 24)
    assert seen[-1] == ("Evaluating", 24, 24)
    evaluate(perfect, iter(told), progress=lambda *step: seen.append(step))
    assert seen[-1] == ("Evaluating", 24, None)


def test_evaluate_refuses_no_samples():
    with pytest.raises(CalibrationError, match="no sample"):
        evaluate(perfect, [])


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("labels", [(6,), (-1,)], ids=["beyond", "negative"])
def test_evaluate_refuses_a_label_that_is_no_class(told, task, labels):
    told[3] = replace(told[3], labels=labels)
    with pytest.raises(SpecError, match="classes 0 to 5"):
        evaluate(perfect, told, task=task)


def test_evaluate_lists_outputs_when_none_can_be_judged(items):
    with pytest.raises(SpecError, match=r"'s0'.*map\(1, 2, 3, 3\)"):
        evaluate(lambda feeds: {"map": np.zeros((1, 2, 3, 3))}, items)
    with pytest.raises(SpecError, match="no output absent"):
        evaluate(perfect, items, output="absent")

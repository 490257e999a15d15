from __future__ import annotations

import numpy as np
import pytest

TEXT = """g (float[N, 2, 5, 4] q, float[N, 2, 4, 5] k) => (float[N, 2, 5, 5] y) {{
    n = Shape<start=0, end=1>(q)
    sizes = Concat<axis=0>(n, rest)
    {} }}"""
MASKED = """see = Expand({condition}, sizes) mask = Where(see, zero, hide) s = MatMul(q, k) m = Add(s, mask)
    p = Softmax(m) """
GUARD = "lost = IsNaN(p) y = Where(lost, zero, p)"
CONSTANTS = {"rest": np.array([1, 5, 5], np.int64), "zero": np.float32(0), "hide": np.float32(-np.inf),
             "all": np.ones((1, 1, 5, 1), bool), "some": np.array([1, 1, 1, 1, 0], bool).reshape(1, 1, 1, 5),
             "shift": np.float32(1), "infinite": np.float32(-np.inf), "scale": np.float32(0.5)}


def model_of(parse, body: str):
    text = TEXT.format(body)
    used = {name: value for name, value in CONSTANTS.items() if f"({name}," in text or f" {name})" in text
            or f" {name}," in text}
    return parse(text, **used)


def test_mask_and_guard_go_when_every_position_is_seen(parse, rewritten, ops) -> None:
    done = rewritten(model_of(parse, MASKED.format(condition="all") + GUARD), "remove-empty-masks")
    assert ops(done.model) == {"MatMul": 1, "Softmax": 1}


def test_mask_and_guard_stay_when_a_position_is_hidden(parse, rewritten, ops) -> None:
    model = model_of(parse, MASKED.format(condition="some") + GUARD)
    done = rewritten(model, "remove-empty-masks")
    assert ops(done.model) == ops(model)
    assert "may be masked" in done.results[0][1].refusals[0]


@pytest.mark.parametrize(("shift", "goes"), [("shift", True), ("infinite", False)])
def test_guard_goes_when_only_finite_constants_shift_the_scores(parse, rewritten, ops, shift: str, goes: bool) -> None:
    body = f"s = MatMul(q, k) t = Mul(s, scale) m = Add(t, {shift}) p = Softmax(m) lost = IsNaN(p) {GUARD[16:]}"
    done = rewritten(model_of(parse, body), "remove-empty-masks")
    assert ("IsNaN" not in ops(done.model)) is goes


def test_guard_stays_when_it_is_not_that_of_a_softmax(parse, rewritten, ops) -> None:
    done = rewritten(model_of(parse, f"p = MatMul(q, k) {GUARD}"), "remove-empty-masks")
    assert done.changes == 0


def test_zeros_stay_when_they_enlarge_what_they_are_added_to(parse, rewritten, ops) -> None:
    model = parse("""g (float[1, 5] x, float[N, 5] like) => (float[N, 5] y) {
        sizes = Shape(like) zeros = Expand(zero, sizes) y = Add(x, zeros) }""", zero=np.float32(0))
    done = rewritten(model, "remove-empty-masks")
    assert done.changes == 0
    assert "larger shape" in done.results[0][1].refusals[0]

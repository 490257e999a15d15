from __future__ import annotations

import numpy as np
import pytest

FORM = """g (float[N, 3, 5, 4] x) => (float[N, 3, 4, 5] y) {
    a = Reshape(x, flat) b = Transpose<perm=[0, 2, 1]>(a) y = Reshape(b, whole) }"""
FLAT, WHOLE = np.array([-1, 5, 4], np.int64), np.array([-1, 3, 4, 5], np.int64)


def test_stacked_transpose_needs_no_reshape_when_the_leading_sizes_come_back(parse, rewritten, ops) -> None:
    done = rewritten(parse(FORM, flat=FLAT, whole=WHOLE), "unflatten-transposes")
    assert ops(done.model) == {"Transpose": 1}
    assert list(done.model.graph.node[0].attribute[0].ints) == [0, 1, 3, 2]


def test_transposes_join_when_the_heads_were_split_by_one(parse, rewritten, ops) -> None:
    text = FORM.replace("float[N, 3, 5, 4] x", "float[N, 5, 3, 4] h").replace(
        "a = ", "x = Transpose<perm=[0, 2, 1, 3]>(h) a = ")
    done = rewritten(parse(text, flat=FLAT, whole=WHOLE), "unflatten-transposes", "remove-noops")
    assert ops(done.model) == {"Transpose": 1}
    assert list(done.model.graph.node[0].attribute[0].ints) == [0, 2, 3, 1]


NEAR_MISSES = {
    "other-order": FORM.replace("[0, 2, 1]", "[1, 0, 2]").replace("3, 4, 5] y", "a, b, c] y"),
    "rows-regrouped": FORM.replace("3, 4, 5] y", "6, 2, 5] y"),
    "inside-is-read": FORM.replace("5] y)", "5] y, float[M, 4, 5] b)"),
}


@pytest.mark.parametrize("text", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_miss_stays(parse, rewritten, text: str) -> None:
    whole = np.array([-1, 6, 2, 5], np.int64) if "6, 2" in text else WHOLE
    whole = np.array([5, -1, 4, 3], np.int64) if "a, b, c" in text else whole
    assert rewritten(parse(text, flat=FLAT, whole=whole), "unflatten-transposes").changes == 0

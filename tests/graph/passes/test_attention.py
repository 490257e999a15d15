from __future__ import annotations

import numpy as np
import pytest

TEXT = "g (float[N, 2, 5, 4] q, float[N, 2, 4, 5] k) => (float[N, 2, 5, 5] y) {{ {} y = Softmax(s) }}"
FORMS = {
    "both-operands": ("a = Mul(q, c) b = Mul(k, c) s = MatMul(a, b)", 0.25),
    "scores-divided": ("m = MatMul(q, k) s = Div(m, c)", 2.0),
    "scores-and-query": ("a = Mul(q, c) m = MatMul(a, k) s = Mul(m, c)", 0.25),
    "scores-before-mask": ("m = MatMul(q, k) t = Mul(m, c) s = Add(t, mask)", 0.5),
}


@pytest.mark.parametrize(("body", "total"), FORMS.values(), ids=FORMS)
def test_scales_merge_into_one_on_query(parse, rewritten, ops, body: str, total: float) -> None:
    constants = {"c": np.float32(0.5), **({"mask": np.zeros((1, 1, 5, 5), np.float32)} if "mask" in body else {})}
    done = rewritten(parse(TEXT.format(body), **constants), "merge-attention-scale")
    assert ops(done.model)["Mul"] == 1
    assert ops(done.model)["Div"] == 0
    scale = next(node for node in done.model.graph.node if node.op_type == "Mul")
    assert scale.input[0] == "q"
    assert total in [t.float_data[0] if t.float_data else np.frombuffer(t.raw_data, np.float32)[0]
                     for t in done.model.graph.initializer if t.name == scale.input[1]]


NEAR_MISSES = {
    "canonical": "a = Mul(q, c) s = MatMul(a, k)",
    "no-scale": "s = MatMul(q, k)",
    "scale-by-row": "m = MatMul(q, k) s = Mul(m, r)",
}


@pytest.mark.parametrize("body", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_miss_stays(parse, rewritten, ops, body: str) -> None:
    constants = {"c": np.float32(0.5)} if ", c)" in body else {}
    constants |= {"r": np.arange(5, dtype=np.float32)} if ", r)" in body else {}
    model = parse(TEXT.format(body), **constants)
    done = rewritten(model, "merge-attention-scale")
    assert done.changes == 0


def test_product_outside_attention_stays(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 5, 4] q, float[N, 4, 5] k) => (float[N, 5, 5] y) { m = MatMul(q, k) y = Mul(m, c) }",
                  c=np.float32(0.5))
    assert rewritten(model, "merge-attention-scale").changes == 0


def test_scores_keep_their_scale_when_read_by_others(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 5, 4] q, float[N, 4, 5] k) => (float[N, 5, 5] y, float[N, 5, 5] m) "
                  "{ m = MatMul(q, k) s = Mul(m, c) y = Softmax(s) }", c=np.float32(0.5))
    assert rewritten(model, "merge-attention-scale").changes == 0

from __future__ import annotations

import math

import numpy as np
import pytest

from trtkit.graph import rewrite

TEXT = "g (float[N, 6] x) => (float[N, 6] y) {{ {} }}"
C = {"half": 0.5, "one": 1.0, "root2": math.sqrt(2), "iroot2": math.sqrt(0.5), "k": 0.044715, "three": 3.0,
     "rp": math.sqrt(2 / math.pi), "zero": 0.0, "six": 6.0, "isix": 1 / 6, "minus": -1.0}


def _model(parse, body: str, opset: int):
    used = {name: np.float32(value) for name, value in C.items() if f" {name})" in body or f"({name}," in body
            or f" {name}," in body}
    return parse(TEXT.format(body), opset=opset, **used)


GELUS = {
    "erf-torch": "a = Div(x, root2) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
    "erf-half-first": "h = Mul(half, x) a = Mul(x, iroot2) b = Erf(a) c = Add(one, b) y = Mul(h, c)",
    "erf-half-on-sum": "a = Div(x, root2) b = Erf(a) c = Add(b, one) d = Mul(c, half) y = Mul(x, d)",
    "tanh-pow": "p = Pow(x, three) q = Mul(p, k) r = Add(x, q) s = Mul(r, rp) t = Tanh(s) u = Add(t, one) "
                "v = Mul(x, u) y = Mul(v, half)",
    "tanh-mul": "p = Mul(x, x) p3 = Mul(p, x) q = Mul(k, p3) r = Add(q, x) s = Mul(rp, r) t = Tanh(s) u = Add(one, t) "
                "h = Mul(x, half) y = Mul(h, u)",
}


@pytest.mark.parametrize("body", GELUS.values(), ids=GELUS)
def test_gelu_fuses(parse, rewritten, ops, body: str) -> None:
    done = rewritten(_model(parse, body, 20), "fuse-gelu")
    assert ops(done.model) == {"Gelu": 1}
    approximate = done.model.graph.node[0].attribute[0].s
    assert approximate == (b"tanh" if "Tanh" in body else b"none")


@pytest.mark.parametrize("name", ["erf-half-first", "erf-half-on-sum"])
def test_erf_form_is_written_as_runtimes_know_it_when_there_is_no_gelu(parse, rewritten, ops, name: str) -> None:
    done = rewritten(_model(parse, GELUS[name], 17), "fuse-gelu")
    assert [node.op_type for node in done.model.graph.node] == ["Div", "Erf", "Add", "Mul", "Mul"]
    assert done.model.graph.node[-1].input[0] == done.model.graph.node[-2].output[0]
    assert rewrite(done.model, ("fuse-gelu",)).changes == 0


GELU_MISSES = {
    "wrong-factor": GELUS["erf-torch"].replace("half", "one"),
    "wrong-root": GELUS["erf-torch"].replace("Div(x, root2)", "Mul(x, half)"),
    "other-input": "o = Neg(x) " + GELUS["erf-torch"].replace("Mul(x, c)", "Mul(o, c)"),
    "square": GELUS["tanh-mul"].replace("p3 = Mul(p, x)", "p3 = Mul(p, p)"),
}


@pytest.mark.parametrize("body", GELU_MISSES.values(), ids=GELU_MISSES)
def test_near_miss_of_gelu_stays(parse, rewritten, ops, body: str) -> None:
    model = _model(parse, body, 20)
    assert ops(rewritten(model, "fuse-gelu").model) == ops(model)


def test_gelu_stays_when_inside_is_read(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 6] x) => (float[N, 6] y, float[N, 6] b) { " + GELUS["erf-torch"] + " }", opset=20,
                  root2=np.float32(C["root2"]), one=np.float32(1), half=np.float32(0.5))
    done = rewritten(model, "fuse-gelu")
    assert ops(done.model) == ops(model)
    assert "read by others" in done.results[0][1].refusals[0]


def test_tanh_form_stays_below_opset_20(parse) -> None:
    done = rewrite(_model(parse, GELUS["tanh-mul"], 17), ["fuse-gelu"])
    assert done.changes == 0
    assert "Gelu needs opset 20, the model has 17" in done.results[0][1].refusals[0]


def test_canonical_erf_form_stays_below_opset_20(parse) -> None:
    assert rewrite(_model(parse, GELUS["erf-torch"], 17), ["fuse-gelu"]).changes == 0


HARDSWISHES = {
    "clip-div": "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six)",
    "clip-mul-first": "a = Add(three, x) b = Clip(a, zero, six) c = Mul(b, isix) y = Mul(c, x)",
    "hard-sigmoid": "a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, a)",
}


@pytest.mark.parametrize("body", HARDSWISHES.values(), ids=HARDSWISHES)
def test_hardswish_fuses(parse, rewritten, ops, body: str) -> None:
    assert ops(rewritten(_model(parse, body, 17), "fuse-hardswish").model) == {"HardSwish": 1}


HARDSWISH_MISSES = {
    "wrong-slope": "a = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(x, a)",
    "wrong-limit": HARDSWISHES["clip-div"].replace("Clip(a, zero, six)", "Clip(a, zero, three)"),
    "wrong-shift": HARDSWISHES["clip-div"].replace("Add(x, three)", "Add(x, one)"),
    "gate-only": "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)",
}


@pytest.mark.parametrize("body", HARDSWISH_MISSES.values(), ids=HARDSWISH_MISSES)
def test_near_miss_of_hardswish_stays(parse, rewritten, ops, body: str) -> None:
    model = _model(parse, body, 17)
    assert ops(rewritten(model, "fuse-hardswish").model) == ops(model)


def test_hardswish_stays_below_opset_14(parse) -> None:
    done = rewrite(_model(parse, HARDSWISHES["clip-div"], 13), ["fuse-hardswish"])
    assert "opset 14" in done.results[0][1].refusals[0]


SILUS = {
    "quotient": "n = Neg(x) e = Exp(n) s = Add(e, one) y = Div(x, s)",
    "inverse": "n = Mul(x, minus) e = Exp(n) s = Add(one, e) i = Div(one, s) y = Mul(i, x)",
    "reciprocal": "n = Neg(x) e = Exp(n) s = Add(e, one) i = Reciprocal(s) y = Mul(x, i)",
}


@pytest.mark.parametrize("body", SILUS.values(), ids=SILUS)
def test_silu_becomes_product_with_sigmoid(parse, rewritten, ops, body: str) -> None:
    assert ops(rewritten(_model(parse, body, 17), "fuse-silu").model) == {"Sigmoid": 1, "Mul": 1}


SILU_MISSES = {
    "positive": "e = Exp(x) s = Add(e, one) y = Div(x, s)",
    "other-sum": "n = Neg(x) e = Exp(n) s = Add(e, half) y = Div(x, s)",
    "other-input": "o = Abs(x) n = Neg(x) e = Exp(n) s = Add(e, one) y = Div(o, s)",
}


@pytest.mark.parametrize("body", SILU_MISSES.values(), ids=SILU_MISSES)
def test_near_miss_of_silu_stays(parse, rewritten, ops, body: str) -> None:
    model = _model(parse, body, 17)
    assert ops(rewritten(model, "fuse-silu").model) == ops(model)


def test_silu_stays_when_inside_is_read(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 6] x) => (float[N, 6] y, float[N, 6] e) { " + SILUS["quotient"] + " }",
                  one=np.float32(1))
    done = rewritten(model, "fuse-silu")
    assert ops(done.model) == ops(model)
    assert "read by others" in done.results[0][1].refusals[0]


def test_constant_that_adds_a_dimension_is_no_factor(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 6] x) => (float[1, N, 6] y) { a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) "
                  "b = Mul(x, a) y = Mul(b, one) }", one=np.ones((1, 1, 1), np.float32))
    assert ops(rewritten(model, "fuse-hardswish").model) == {"HardSwish": 1, "Mul": 1}

from __future__ import annotations

import numpy as np
import pytest

from trtkit.graph import rewrite

NORM = """m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes = [-1]>(q)
          e = Add(v, eps) r = Sqrt(e) n = Div(d, r)"""
AFFINE = "g1 = Mul(n, gamma) y = Add(g1, beta)"
TEXT = "g (float[N, 5, 6] x) => (float[N, 5, 6] y) {{ {} }}"
CONSTANTS = {"two": np.float32(2), "eps": np.float32(1e-6)}
AFFINE_CONSTANTS = {"gamma": np.linspace(-1, 2, 6, dtype=np.float32), "beta": np.linspace(3, 1, 6, dtype=np.float32)}


def _epsilon(model) -> float:
    return next(a.f for n in model.graph.node if n.op_type == "LayerNormalization"
                for a in n.attribute if a.name == "epsilon")


FORMS = {
    "affine": (f"{NORM} {AFFINE}", {**CONSTANTS, **AFFINE_CONSTANTS}),
    "affine-swapped": (f"{NORM} g1 = Mul(gamma, n) y = Add(beta, g1)", {**CONSTANTS, **AFFINE_CONSTANTS}),
    "squared-by-mul": (f"{NORM} {AFFINE}".replace("Pow(d, two)", "Mul(d, d)"),
                       {"eps": CONSTANTS["eps"], **AFFINE_CONSTANTS}),
    "reciprocal": (f"{NORM} {AFFINE}".replace("n = Div(d, r)", "i = Reciprocal(r) n = Mul(d, i)"),
                   {**CONSTANTS, **AFFINE_CONSTANTS}),
    "two-axes": (f"{NORM} {AFFINE}".replace("[-1]", "[1, 2]"), {**CONSTANTS, **AFFINE_CONSTANTS}),
    "plain": (NORM.replace("n = Div", "y = Div"), CONSTANTS),
    "scale-only": (f"{NORM} y = Mul(n, gamma)", {**CONSTANTS, "gamma": AFFINE_CONSTANTS["gamma"]}),
}


@pytest.mark.parametrize(("body", "constants"), FORMS.values(), ids=FORMS)
def test_layernorm_fuses(parse, rewritten, ops, body: str, constants: dict) -> None:
    done = rewritten(parse(TEXT.format(body), **constants), "fuse-layernorm")
    assert ops(done.model) == {"LayerNormalization": 1}
    assert _epsilon(done.model) == np.float32(1e-6)


def test_layernorms_in_a_row_all_fuse(parse, rewritten, ops) -> None:
    first = f"{NORM} {AFFINE}".replace("y =", "x2 =")
    second = f"{NORM} {AFFINE}"
    for name in ("m", "d", "q", "v", "e", "r", "n", "g1"):
        second = second.replace(f"{name} =", f"{name}b =").replace(f"({name},", f"({name}b,").replace(
            f", {name})", f", {name}b)").replace(f"({name})", f"({name}b)")
    second = second.replace("(x)", "(x2)").replace("(x,", "(x2,")
    done = rewritten(parse(TEXT.format(first + second), **CONSTANTS, **AFFINE_CONSTANTS), "fuse-layernorm")
    assert ops(done.model) == {"LayerNormalization": 2}


def test_axes_as_input_fuse(parse, rewritten, ops) -> None:
    body = f"{NORM} {AFFINE}".replace("ReduceMean<axes = [-1]>(x)", "ReduceMean(x, ax)").replace(
        "ReduceMean<axes = [-1]>(q)", "ReduceMean(q, ax)")
    model = parse(TEXT.format(body), opset=18, ax=np.array([2]), **CONSTANTS, **AFFINE_CONSTANTS)
    assert ops(rewritten(model, "fuse-layernorm").model) == {"LayerNormalization": 1}


NEAR_MISSES = {
    "first-axis": (f"{NORM} {AFFINE}".replace("[-1]", "[1]"), {**CONSTANTS, **AFFINE_CONSTANTS}),
    "cubed": (f"{NORM} {AFFINE}", {**CONSTANTS, "two": np.float32(4), **AFFINE_CONSTANTS}),
    "other-mean": (f"{NORM} {AFFINE}".replace("(x) d", "(o) d").replace("m = ", "o = Relu(x) m = "),
                   {**CONSTANTS, **AFFINE_CONSTANTS}),
    "mixed-axes": (f"{NORM} {AFFINE}".replace("[-1]>(q)", "[1, 2]>(q)"), {**CONSTANTS, **AFFINE_CONSTANTS}),
}


@pytest.mark.parametrize(("body", "constants"), NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_miss_stays(parse, rewritten, ops, body: str, constants: dict) -> None:
    model = parse(TEXT.format(body), **constants)
    assert ops(rewritten(model, "fuse-layernorm").model) == ops(model)


def test_layernorm_stays_when_inside_is_read(parse, rewritten, ops) -> None:
    model = parse(f"g (float[N, 5, 6] x) => (float[N, 5, 6] y, float[N, 5, 1] r) {{ {NORM} {AFFINE} }}",
                  **CONSTANTS, **AFFINE_CONSTANTS)
    done = rewritten(model, "fuse-layernorm")
    assert ops(done.model) == ops(model)
    assert "read by others" in done.results[0][1].refusals[0]


def test_layernorm_stays_below_opset_17(parse) -> None:
    model = parse(TEXT.format(f"{NORM} {AFFINE}"), opset=16, **CONSTANTS, **AFFINE_CONSTANTS)
    result = rewrite(model, ["fuse-layernorm"]).results[0][1]
    assert result.refusals == ("LayerNormalization needs opset 17, the model has 16",)


def test_scale_per_token_stays_outside(parse, rewritten, ops) -> None:
    gamma = np.linspace(1, 2, 5, dtype=np.float32).reshape(5, 1)
    model = parse(TEXT.format(f"{NORM} y = Mul(n, gamma)"), **CONSTANTS, gamma=gamma)
    assert ops(rewritten(model, "fuse-layernorm").model) == {"LayerNormalization": 1, "Mul": 1}

from __future__ import annotations

import numpy as np
import pytest


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


IMAGE = "g (float[N, 4, 6, 6] x) => (float[N, 8, H, W] y)"
CHANNELS = {"s": _weight(1, 8, 1, 1), "n": np.float32([1.5]), "c": _weight(8), "r": _weight(1, 8)}
AFTER = {
    "scale": (f"{IMAGE} {{ h = Conv(x, w) y = Mul(n, h) }}", (8, 4, 3, 3)),
    "bias": (f"{IMAGE} {{ h = Conv(x, w) y = Add(h, s) }}", (8, 4, 3, 3)),
    "scale-and-shift": (f"{IMAGE} {{ h = Conv(x, w, c) i = Mul(h, s) y = Add(i, n) }}", (8, 4, 3, 3)),
    "quotient": (f"{IMAGE} {{ h = Conv<group = 2>(x, w, c) y = Div(h, n) }}", (8, 2, 3, 3)),
    "difference": (f"{IMAGE} {{ h = Conv(x, w, c) y = Sub(h, s) }}", (8, 4, 3, 3)),
    "negated": (f"{IMAGE} {{ h = Conv(x, w, c) y = Sub(s, h) }}", (8, 4, 3, 3)),
    "transposed": (f"{IMAGE} {{ h = ConvTranspose<group = 2>(x, w) y = Mul(h, n) }}", (4, 4, 2, 2)),
    "gemm": ("g (float[N, 5] x) => (float[N, 8] y) { h = Gemm(x, w, c) i = Mul(h, n) y = Add(i, r) }", (5, 8)),
}


@pytest.mark.parametrize(("text", "shape"), AFTER.values(), ids=AFTER)
def test_affine_folds_into_the_layer_before(parse, rewritten, ops, text: str, shape: tuple[int, ...]) -> None:
    done = rewritten(parse(text, w=_weight(*shape), **CHANNELS), "fold-affine")
    assert sum(ops(done.model).values()) == 1


FOUR = {"s": _weight(1, 4, 1, 1) + 3, "t": _weight(1, 4, 1, 1), "n": np.float32([1.5]), "m": np.float32([-0.25])}
BEFORE = {
    "scale": ("i = Mul(r, s) y = Conv<pads = [1, 1, 1, 1]>(i, w)", (8, 4, 3, 3), 0),
    "grouped-scale": ("i = Mul(r, s) y = Conv<group = 2>(i, w)", (8, 2, 3, 3), 0),
    "scale-and-shift": ("i = Mul(r, n) j = Add(i, t) y = Conv<group = 4>(j, w)", (8, 1, 3, 3), 0),
    "padded-shift-stays": ("i = Mul(n, r) j = Add(i, t) y = Conv<pads = [1, 1, 1, 1]>(j, w)", (8, 4, 3, 3), 1),
    "same-padding": ('i = Mul(r, n) j = Add(i, m) y = Conv<auto_pad = "SAME_UPPER">(j, w)', (8, 4, 3, 3), 1),
    "shift": ("i = Add(r, m) y = Conv(i, w)", (8, 4, 3, 3), 0),
}


@pytest.mark.parametrize(("text", "shape", "adds"), BEFORE.values(), ids=BEFORE)
def test_affine_folds_into_the_convolution_after(parse, rewritten, ops, text: str, shape: tuple[int, ...],
                                                 adds: int) -> None:
    done = rewritten(parse(f"{IMAGE} {{ r = Relu(x) {text} }}", w=_weight(*shape), **FOUR), "fold-affine")
    assert ops(done.model) == {"Relu": 1, "Conv": 1, **({"Add": adds} if adds else {})}


def test_affine_folds_into_every_convolution_that_reads_it(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 4, 6, 6] x) => (float[N, 8, 4, 4] y, float[N, 8, 6, 6] z) {"
                  " r = Relu(x) i = Mul(r, n) j = Add(i, m) y = Conv(j, w) z = Conv<pads = [1, 1, 1, 1]>(j, w) }",
                  w=_weight(8, 4, 3, 3), **FOUR)
    assert ops(rewritten(model, "fold-affine").model) == {"Relu": 1, "Add": 1, "Conv": 2}


LEFT = {
    "padded-shift": f"{IMAGE} {{ r = Relu(x) i = Add(r, n) y = Conv<pads = [1, 1, 1, 1]>(i, w) }}",
    "read-twice": f"{IMAGE} {{ h = Conv(x, w) i = Mul(h, n) z = Relu(h) y = Add(i, z) }}",
    "by-pixel": f"{IMAGE} {{ h = Conv(x, w) y = Add(h, p) }}",
    "along-the-width": f"{IMAGE} {{ h = Conv(x, w) y = Add(h, q) }}",
    "larger": "g (float[1, 4, 6, 6] x) => (float[2, 8, 4, 4] y) { h = Conv(x, w) y = Add(h, two) }",
    "variable": f"{IMAGE} {{ h = Conv(x, w) y = Mul(h, h) }}",
    "inverse": f"{IMAGE} {{ h = Conv(x, w) y = Div(n, h) }}",
    "read-by-others": "g (float[N, 4, 6, 6] x) => (float[N, 8, 4, 4] y, float[N, 4, 6, 6] i) {"
                      " r = Relu(x) i = Mul(r, n) y = Conv(i, w) }",
    "gelu": f"{IMAGE} {{ e = Erf(x) a = Add(e, n) o = Mul(x, a) i = Mul(o, n) y = Conv(i, w) }}",
}


@pytest.mark.parametrize("text", LEFT.values(), ids=LEFT)
def test_affine_stays_where_it_cannot_fold(parse, rewritten, ops, text: str) -> None:
    model = parse(text, w=_weight(8, 4, 3, 3), n=np.float32([1.5]), p=_weight(1, 8, 4, 4), q=_weight(1, 1, 1, 4),
                  two=_weight(2, 8, 1, 1))
    assert ops(rewritten(model, "fold-affine").model) == ops(model)

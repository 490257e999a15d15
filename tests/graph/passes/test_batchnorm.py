from __future__ import annotations

import numpy as np
import pytest


def _parameters(channels: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    scale, shift, mean = generator.standard_normal((3, channels), np.float32)
    return {"s": scale, "b": shift, "m": mean, "v": generator.random(channels, np.float32) + 0.1}


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


BN = "y = BatchNormalization<epsilon = 0.001>(h, s, b, m, v)"
IMAGE = "g (float[N, 4, 6, 6] x) => (float[N, 8, H, W] y)"
HOSTS = {
    "conv": (f"{IMAGE} {{ h = Conv(x, w) {BN} }}", (8, 4, 3, 3), False),
    "conv-bias": (f"{IMAGE} {{ h = Conv(x, w, c) {BN} }}", (8, 4, 3, 3), True),
    "conv-grouped": (f"{IMAGE} {{ h = Conv<group = 2>(x, w, c) {BN} }}", (8, 2, 3, 3), True),
    "transpose": (f"{IMAGE} {{ h = ConvTranspose<strides = [2, 2]>(x, w, c) {BN} }}", (4, 8, 2, 2), True),
    "transpose-grouped": (f"{IMAGE} {{ h = ConvTranspose<group = 2>(x, w) {BN} }}", (4, 4, 2, 2), False),
    "gemm": (f"g (float[N, 5] x) => (float[N, 8] y) {{ h = Gemm(x, w, c) {BN} }}", (5, 8), True),
    "gemm-transposed": (f"g (float[N, 5] x) => (float[N, 8] y) {{ h = Gemm<transB = 1>(x, w) {BN} }}", (8, 5), False),
}


@pytest.mark.parametrize(("text", "shape", "bias"), HOSTS.values(), ids=HOSTS)
def test_batchnorm_folds(parse, rewritten, ops, text: str, shape: tuple[int, ...], bias: bool) -> None:
    weights = {"w": _weight(*shape), **({"c": _weight(8)} if bias else {}), **_parameters(8)}
    done = rewritten(parse(text, **weights), "fold-batchnorm")
    assert "BatchNormalization" not in ops(done.model)
    assert len(done.model.graph.node) == 1
    assert len(done.model.graph.initializer) == 2


REFUSED = {
    "standalone": ("g (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) { h = Relu(x) "
                   f"{BN} }}", {}, "comes from Relu"),
    "input": ("g (float[N, 8, 6, 6] h) => (float[N, 8, 6, 6] y) { " f"{BN} }}", {}, "a graph input"),
    "read-twice": ("g (float[N, 4, 6, 6] x) => (float[N, 8, 4, 4] y, float[N, 8, 4, 4] z) { h = Conv(x, w) z = Relu(h) "
                   f"{BN} }}", {"w": (8, 4, 3, 3)}, "read by others"),
    "an-output": ("g (float[N, 4, 6, 6] x) => (float[N, 8, 4, 4] y, float[N, 8, 4, 4] h) { h = Conv(x, w) "
                  f"{BN} }}", {"w": (8, 4, 3, 3)}, "read by others"),
    "computed": ("g (float[N, 4, 6, 6] x, float[8, 4, 3, 3] w) => (float[N, 8, 4, 4] y) { h = Conv(x, w) "
                 f"{BN} }}", {}, "computed"),
    "alpha": ("g (float[N, 5] x) => (float[N, 8] y) { h = Gemm<alpha = 2.0>(x, w) "
              f"{BN} }}", {"w": (5, 8)}, "alpha"),
    "bias-by-row": ("g (float[2, 5] x) => (float[2, 8] y) { h = Gemm(x, w, c) "
                    f"{BN} }}", {"w": (5, 8), "c": (2, 8)}, "per channel"),
}


@pytest.mark.parametrize(("text", "shapes", "reason"), REFUSED.values(), ids=REFUSED)
def test_batchnorm_stays_and_says_why(parse, rewritten, ops, text: str, shapes: dict, reason: str) -> None:
    model = parse(text, **{name: _weight(*shape) for name, shape in shapes.items()}, **_parameters(8))
    done = rewritten(model, "fold-batchnorm")
    assert ops(done.model) == ops(model)
    assert reason in done.results[0][1].refusals[0]

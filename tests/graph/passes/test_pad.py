from __future__ import annotations

import numpy as np
import onnx
import pytest

W = np.random.default_rng(1).standard_normal((4, 3, 3, 3), np.float32)
PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1])
HEAD = "g (float[N, 3, 8, 8] x) => (float[N, C, H, W] y)"


def _attributes(model: onnx.ModelProto) -> dict[str, object]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in model.graph.node[-1].attribute}


def test_pad_folds_into_conv(parse, rewritten, ops) -> None:
    done = rewritten(parse(f"{HEAD} {{ p = Pad(x, pads) y = Conv<pads = [1, 1, 0, 0]>(p, w) }}", w=W, pads=PADS),
                     "fold-pad")
    assert ops(done.model) == {"Conv": 1}
    assert _attributes(done.model)["pads"] == [2, 1, 2, 1]


def test_pad_folds_when_it_names_axes_and_value(parse, rewritten, ops) -> None:
    model = parse(f'{HEAD} {{ p = Pad(x, pads, zero, axes) y = Conv<auto_pad = "VALID", strides = [2, 2]>(p, w) }}',
                  opset=18, w=W, pads=np.array([1, 0, 2, 1]), zero=np.float32(0), axes=np.array([3, 2]))
    done = rewritten(model, "fold-pad")
    assert ops(done.model) == {"Conv": 1}
    assert _attributes(done.model)["pads"] == [0, 1, 1, 2]


def test_pad_folds_into_all_its_convs(parse, rewritten, ops) -> None:
    model = parse(f"{HEAD} {{ p = Pad(x, pads) a = Conv(p, w) b = Conv(p, w) y = Add(a, b) }}", w=W, pads=PADS)
    assert ops(rewritten(model, "fold-pad").model) == {"Conv": 2, "Add": 1}


@pytest.mark.parametrize("attributes", ["", ", count_include_pad = 1, pads = [1, 0, 0, 0]"], ids=["plain", "counting"])
def test_pad_folds_into_average_pool(parse, rewritten, ops, attributes: str) -> None:
    text = f"{HEAD} {{ p = Pad(x, pads) y = AveragePool<kernel_shape = [4, 4]{attributes}>(p) }}"
    done = rewritten(parse(text, pads=PADS), "fold-pad")
    assert ops(done.model) == {"AveragePool": 1}
    assert _attributes(done.model)["count_include_pad"] == 1


def test_pad_folds_into_max_pool_when_it_pads_with_minus_infinity(parse, rewritten, ops) -> None:
    text = f"{HEAD} {{ p = Pad(x, pads, low) y = MaxPool<kernel_shape = [3, 3]>(p) }}"
    assert ops(rewritten(parse(text, pads=PADS, low=np.float32(-np.inf)), "fold-pad").model) == {"MaxPool": 1}


REFUSED = {
    "reflect": ('p = Pad<mode = "reflect">(x, pads) y = Conv(p, w)', PADS, "reflect"),
    "value": ("p = Pad(x, pads, one) y = Conv(p, w)", PADS, "pads with 1"),
    "channels": ("p = Pad(x, pads) y = Relu(p)", np.array([0, 1, 0, 0, 0, 0, 0, 0]), "channels"),
    "crop": ("p = Pad(x, pads) y = Conv(p, w)", np.array([0, 0, -1, 0, 0, 0, 0, 0]), "crops"),
    "other-reader": ("p = Pad(x, pads) a = Conv<pads = [1, 1, 1, 1]>(p, w) b = ReduceMean(p) y = Add(a, b)", PADS,
                     "reads it as well"),
    "relu": ("p = Pad(x, pads) y = Relu(p)", PADS, "reads it"),
    "same": ('p = Pad(x, pads) y = Conv<auto_pad = "SAME_UPPER">(p, w)', PADS, "auto_pad"),
    "max-zero": ("p = Pad(x, pads) y = MaxPool<kernel_shape = [3, 3]>(p)", PADS, "-inf"),
    "uncounted": ("p = Pad(x, pads) y = AveragePool<kernel_shape = [4, 4], pads = [1, 1, 1, 1]>(p)", PADS, "not count"),
    "ceil": ("p = Pad(x, pads) y = AveragePool<kernel_shape = [4, 4], ceil_mode = 1>(p)", PADS, "ceil_mode"),
    "wide": ("p = Pad(x, pads) y = AveragePool<kernel_shape = [2, 2]>(p)", PADS, "as large as its kernel"),
}


@pytest.mark.parametrize(("body", "pads", "reason"), REFUSED.values(), ids=REFUSED)
def test_pad_stays_and_says_why(parse, rewritten, ops, body: str, pads: np.ndarray, reason: str) -> None:
    used = {"pads": pads, **({"w": W} if ", w)" in body else {}), **({"one": np.float32(1)} if "one)" in body else {})}
    model = parse(f"{HEAD} {{ {body} }}", **used)
    done = rewritten(model, "fold-pad")
    assert ops(done.model) == ops(model)
    assert reason in done.results[0][1].refusals[0]

from __future__ import annotations

import numpy as np
import pytest

NOOPS = {
    "cast": "y = Cast<to = 1>(h)",
    "slice": "s = Constant<value_ints = [0, 0]>() e = Constant<value_ints = [9223372036854775807, 6]>() "
             "y = Slice(h, s, e)",
    "slice-negative-start": "s = Constant<value_ints = [-6]>() e = Constant<value_ints = [6]>() "
                            "a = Constant<value_ints = [1]>() y = Slice(h, s, e, a)",
    "pad": "p = Constant<value_ints = [0, 0, 0, 0]>() y = Pad(h, p)",
    "reshape": "s = Constant<value_ints = [-1, 6]>() y = Reshape(h, s)",
    "reshape-copy": "s = Constant<value_ints = [0, 6]>() y = Reshape(h, s)",
    "transpose": "y = Transpose<perm = [0, 1]>(h)",
    "expand": "s = Constant<value_ints = [1, 6]>() y = Expand(h, s)",
    "concat": "y = Concat<axis = 1>(h)",
}
NEAR_MISSES = {
    "cast": "d = Cast<to = 11>(h) y = Cast<to = 1>(d)",
    "slice-shorter": "s = Constant<value_ints = [0]>() e = Constant<value_ints = [5]>() "
                     "a = Constant<value_ints = [1]>() i = Slice(h, s, e, a) "
                     "p = Constant<value_ints = [0, 0, 0, 1]>() y = Pad(i, p)",
    "slice-of-batch": "s = Constant<value_ints = [0]>() e = Constant<value_ints = [2]>() "
                      "a = Constant<value_ints = [0]>() y = Slice(h, s, e, a)",
    "reshape": "s = Constant<value_ints = [-1, 3]>() y = Reshape(h, s)",
    "transpose": "y = Transpose<perm = [1, 0]>(h)",
    "expand": "s = Constant<value_ints = [2, 1, 6]>() y = Expand(h, s)",
    "concat": "y = Concat<axis = 1>(h, h)",
}


def _text(body: str) -> str:
    return f"g (float[batch, 6] x) => (float y) {{ h = Relu(x) {body} }}"




@pytest.mark.parametrize("body", NOOPS.values(), ids=NOOPS)
def test_noop_is_removed(parse, rewritten, ops, body: str) -> None:
    model = parse(_text(body).replace("float y", "float[batch, 6] y"))
    done = rewritten(model, "remove-noops")
    assert ops(done.model) == {"Relu": 1}
    assert done.changes == 1


@pytest.mark.parametrize("body", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_miss_stays(parse, rewritten, ops, body: str) -> None:
    shape = {"y = Expand": "[2, batch, 6]", "perm = [1": "[6, batch]", "(h, h)": "[batch, 12]",
             "[-1, 3]": "[rows, 3]", "[2]>": "[few, 6]"}
    known = next((s for key, s in shape.items() if key in body), "[batch, 6]")
    model = parse(_text(body).replace("float y", f"float{known} y"))
    done = rewritten(model, "remove-noops")
    assert done.changes == 0
    assert ops(done.model) == {k: v for k, v in ops(model).items() if k != "Constant"}


def test_transposes_cancel(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 2, 3] x) => (float[N, 2, 3] y) "
                  "{ a = Transpose<perm = [2, 0, 1]>(x) b = Transpose<perm = [1, 2, 0]>(a) y = Relu(b) }")
    assert ops(rewritten(model, "remove-noops").model) == {"Relu": 1}


def test_transposes_join_when_they_do_not_cancel(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 2, 3] x) => (float[2, 3, N] y) "
                  "{ a = Transpose<perm = [0, 2, 1]>(x) b = Transpose<perm = [2, 1, 0]>(a) y = Relu(b) }")
    assert ops(rewritten(model, "remove-noops").model) == {"Transpose": 1, "Relu": 1}


def test_reshapes_join(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 2, 3] x) => (float[N, 6] y) { a = Reshape(x, s) y = Reshape(a, t) }",
                  s=np.array([-1, 3, 2]), t=np.array([-1, 6]))
    assert ops(rewritten(model, "remove-noops").model) == {"Reshape": 1}


def test_reshape_after_reshape_stays_when_it_copies_sizes(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 2, 3] x) => (float[M, 6] y) { a = Reshape(x, s) y = Reshape(a, t) }",
                  s=np.array([-1, 3, 2]), t=np.array([0, -1]))
    assert ops(rewritten(model, "remove-noops").model) == {"Reshape": 2}


def test_identities_are_removed_and_interface_names_stay(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 4] x) => (float[N, 4] y) "
                  "{ a = Identity(x) b = Relu(a) c = Identity(b) y = Identity(c) }")
    done = rewritten(model, "remove-identities")
    assert ops(done.model) == {"Relu": 1}
    assert list(done.model.graph.node[0].output) == ["y"]


def test_identity_stays_when_it_joins_input_and_output(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { y = Identity(x) z = Relu(x) }")
    done = rewritten(model, "remove-identities")
    assert done.changes == 0
    assert "graph output" in done.results[0][1].refusals[0]


def test_identity_stays_between_two_outputs(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { y = Relu(x) z = Identity(y) }")
    assert ops(rewritten(model, "remove-identities").model) == {"Relu": 1, "Identity": 1}


def test_dropout_is_removed_when_inferring(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 4] x) => (float[N, 4] y) { a = Dropout(x, r) y = Relu(a) }", r=np.float32(0.5))
    assert ops(rewritten(model, "remove-dropout").model) == {"Relu": 1}


def test_dropout_stays_when_mask_is_used(parse, rewritten, ops) -> None:
    model = parse("g (float[N, 4] x) => (float[N, 4] y, bool[N, 4] m) { a, m = Dropout(x) y = Relu(a) }")
    done = rewritten(model, "remove-dropout")
    assert ops(done.model) == {"Relu": 1, "Dropout": 1}
    assert "mask is used" in done.results[0][1].refusals[0]


def test_dropout_stays_when_training(parse, ops) -> None:
    from trtkit.graph import rewrite

    model = parse("g (float[N, 4] x) => (float[N, 4] y) { a = Dropout(x, r, t) y = Relu(a) }",
                  r=np.float32(0.5), t=np.array(True))
    done = rewrite(model, ["remove-dropout"])
    assert ops(done.model) == {"Relu": 1, "Dropout": 1}
    assert "training mode" in done.results[0][1].refusals[0]

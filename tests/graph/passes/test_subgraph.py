from __future__ import annotations

import numpy as np
import pytest

from trtkit.errors import PassError, SpecError
from trtkit.graph import model_inputs, model_outputs, parse_pass, rewrite, run_model

TEXT = "g (float[N, 4] x, float[N, 4] z) => (float[N, 4] y, float[N, 4] u) " \
       "{ a = Relu(x) b = Mul(a, w) c = Add(b, z) y = Neg(c) u = Abs(z) }"


@pytest.fixture
def model(parse):
    return parse(TEXT, w=np.arange(4, dtype=np.float32))


def test_extract_cuts_between_inner_tensors(model, ops) -> None:
    done = rewrite(model, ["extract:a,z->c"])
    assert ops(done.model) == {"Mul": 1, "Add": 1}
    assert [s.name for s in model_inputs(done.model)] == ["a", "z"]
    assert [s.name for s in model_outputs(done.model)] == ["c"]
    ones = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(run_model(done.model, {"a": ones, "z": ones})["c"], [[1, 2, 3, 4]])


def test_extract_names_the_input_that_is_missing(model) -> None:
    with pytest.raises(PassError, match="depend on input 'z'"):
        rewrite(model, ["extract:a->c"])


@pytest.mark.parametrize("argument", ["q->y", "x->q", "w,z->y"], ids=["no-input", "no-output", "constant"])
def test_extract_names_a_tensor_that_cannot_serve(model, argument: str) -> None:
    with pytest.raises(PassError, match=r"'[qw]'"):
        rewrite(model, [f"extract:{argument}"])


@pytest.mark.parametrize("argument", ["a", "a->", "->y", "->"])
def test_extract_needs_both_sides(argument: str) -> None:
    with pytest.raises(SpecError, match="in1,in2->out1"):
        parse_pass(f"extract:{argument}")


def test_dropped_output_takes_its_nodes_with_it(model, ops) -> None:
    done = rewrite(model, ["drop-outputs:y"])
    assert ops(done.model) == {"Abs": 1}
    assert not done.model.graph.initializer
    assert [s.name for s in model_inputs(done.model)] == ["x", "z"]


def test_dropping_an_unknown_or_the_last_output_fails(model) -> None:
    with pytest.raises(PassError, match="no output 'q'"):
        rewrite(model, ["drop-outputs:q"])
    with pytest.raises(PassError, match="leave no output"):
        rewrite(model, ["drop-outputs:y,u"])

from __future__ import annotations

import numpy as np
import pytest

from trtkit.errors import SpecError
from trtkit.graph import model_inputs, model_outputs, parse_pass, rewrite

TEXT = "g (float[batch, 3, 4] x, float[batch, L] z) => (float[batch, 12] y, float[batch, L] u) " \
       "{ s = Shape(x) n = Gather(s, i) t = Concat<axis = 0>(n, r) y = Reshape(x, t) u = Relu(z) }"


@pytest.fixture
def model(parse):
    return parse(TEXT, i=np.array([0]), r=np.array([-1]))


def test_batch_is_fixed_everywhere_and_other_dims_stay(model) -> None:
    done = rewrite(model, ["fix-batch:5"])
    assert [spec.shape for spec in model_inputs(done.model)] == [(5, 3, 4), (5, "L")]
    assert [spec.shape for spec in model_outputs(done.model)] == [(5, 12), (5, "L")]


def test_fixed_batch_lets_shapes_fold(model, ops) -> None:
    done = rewrite(model, ["fix-batch:5", "fold-constants"])
    assert ops(done.model) == {"Reshape": 1, "Relu": 1}


def test_static_batch_is_refused(parse) -> None:
    result = rewrite(parse("g (float[1, 3] x) => (float[1, 3] y) { y = Relu(x) }"), ["fix-batch:4"]).results[0][1]
    assert result.changes == 0
    assert "no input has a dynamic batch" in result.refusals[0]


@pytest.mark.parametrize("argument", ["0", "-1", "two", "1.5"])
def test_size_must_be_positive(argument: str) -> None:
    with pytest.raises(SpecError, match="fix-batch"):
        parse_pass(f"fix-batch:{argument}")

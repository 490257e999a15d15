"""Small ONNX models, written as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.graph import rewrite
from trtkit.graph.rewriting import Rewritten
from trtkit.graph.run import random_feeds, run_model


@pytest.fixture
def parse() -> Callable[..., onnx.ModelProto]:
    """Turn ONNX graph text and named weights into a valid model."""

    def build(text: str, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
        model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
        onnx.checker.check_model(model)
        return model

    return build


@pytest.fixture
def ops() -> Callable[[onnx.ModelProto], Counter[str]]:
    """Count the operators of the main graph."""
    return lambda model: Counter(node.op_type for node in model.graph.node)


@pytest.fixture
def rewritten() -> Callable[..., Rewritten]:
    """Rewrite, and compare on batch 1 and 3 beyond the check that rewrite makes itself."""

    def run(model: onnx.ModelProto, *passes: str) -> Rewritten:
        done = rewrite(model, passes)
        onnx.checker.check_model(done.model, full_check=True)
        for batch in (1, 3):
            feeds = random_feeds(model, seed=7, batch=batch)
            before, after = run_model(model, feeds), run_model(done.model, feeds)
            assert before.keys() == after.keys()
            for name, value in before.items():
                np.testing.assert_allclose(after[name], value, rtol=1e-4, atol=1e-5)
        return done

    return run

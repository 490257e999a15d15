"""A tiny classifier as ONNX text, lowerings of it, and labelled samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

CLASSES = 6


@dataclass(frozen=True)
class Item:
    """A sample as evaluation reads it."""

    name: str
    feeds: dict
    labels: tuple[int, ...] | None


def classifier(weight: np.ndarray, *, x: str = "x", y: str = "logits") -> bytes:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[n, 4] {x}) => (float[n, {CLASSES}] {y}) {{
        hidden = MatMul ({x}, w)
        active = Relu (hidden)
        {y} = MatMul (active, v)
    }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((8, CLASSES), np.float32), "v"))
    return model.SerializeToString()


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 8), np.float32)


@pytest.fixture
def make_classifier():
    return classifier


@pytest.fixture
def reference(weight) -> bytes:
    return classifier(weight)


@pytest.fixture
def candidate(weight) -> bytes:
    return classifier(np.round(weight * 4) / 4)


@pytest.fixture
def items() -> list[Item]:
    rng = np.random.default_rng(2)
    return [Item(f"s{i}", {"x": rng.standard_normal((1, 4)).astype(np.float32)}, (i % CLASSES,)) for i in range(24)]

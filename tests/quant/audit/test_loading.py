from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from trtkit.errors import GraphError
from trtkit.quant.audit import audit_quantization, fix_quantization, load_quantized
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]


@pytest.fixture
def old(conv: Make, tmp_path: Path) -> Path:
    """A scale a channel in a model of opset 11, as ONNX Runtime's quantizer writes it and ONNX has no words for."""
    model = conv()
    model.opset_import[0].version = 11
    onnx.save(model, tmp_path / "old.onnx")
    return tmp_path / "old.onnx"


def test_a_model_too_old_for_its_scales_is_audited_and_repaired(old: Path) -> None:
    model = load_quantized(old)
    for name, fits in (("rtx", True), ("x86-vnni", False)):
        report = audit_quantization(model, get_target(name))
        assert "opset" in {finding.rule for finding in report.findings}
        assert report.fits is fits
    fixed = fix_quantization(model, get_target("rtx"))
    onnx.checker.check_model(fixed.model)
    assert fixed.model.opset_import[0].version >= 13
    assert fixed.cosine > 0.999


def test_a_model_that_is_invalid_otherwise_is_refused(conv: Make, tmp_path: Path) -> None:
    model = conv()
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", 1))
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(GraphError, match="Unrecognized attribute: axis for operator Relu"):
        load_quantized(tmp_path / "bad.onnx")

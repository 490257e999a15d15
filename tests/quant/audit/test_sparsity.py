"""What zeros in weights give on a target."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.quant.audit import AuditReport, audit_quantization
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]


def audited(model: onnx.ModelProto, target: str = "rtx") -> AuditReport:
    return audit_quantization(model, get_target(target))


def rules(model: onnx.ModelProto, target: str = "rtx") -> set[str]:
    return {finding.rule for finding in audited(model, target).findings}


def integers(outputs: int = 16, inputs: int = 16) -> np.ndarray:
    """Return 2:4 sparse weights of a convolution, int8."""
    weight = np.random.default_rng(0).integers(1, 128, (outputs, inputs, 3, 3), np.int8)
    weight.reshape(outputs, -1, 4, 9)[:, :, ::2] = 0
    return weight


def test_audit_counts_what_is_and_could_be_sparse(conv: Make) -> None:
    dense, sparse = audited(conv()), audited(conv(w=integers()))
    assert (dense.eligible_layers, dense.wide_layers, dense.sparse_layers) == (1, 0, 0)
    assert (sparse.eligible_layers, sparse.wide_layers, sparse.sparse_layers) == (1, 0, 1)
    assert dense.sparsity == ("0 of 1 layers that can be 2:4 sparse are; 0 have at least 256 input and output "
                              "channels: sparse kernels would hardly pay")
    assert dense.findings == ()


def test_audit_advises_against_sparsity_below_256_channels(conv: Make, make: Make) -> None:
    narrow, = (each for each in audited(conv(w=integers())).findings)
    assert narrow.rule == "2:4 narrow"
    assert "fewer than 256 input or output channels" in narrow.message
    assert narrow.share == 1.0
    wide = make("g (float16[1,256] x) => (float16[1,256] y) { y = MatMul(x, w) }",
                w=integers(256, 256)[..., 0, 0].T.astype(np.float16))
    assert "2:4 narrow" not in rules(wide)
    assert audited(wide).sparsity == "1 of 1 layers that can be 2:4 sparse are; 1 have at least 256 input and output " \
                                     "channels"


def test_audit_tells_that_a_mask_was_lost_when_few_fours_are_dense(conv: Make) -> None:
    weight = integers()
    weight[0, :4, 0, 0] = 1
    assert rules(conv(w=weight)) == {"2:4 broken"}
    weight[:, :4] = 1
    assert "2:4 broken" not in rules(conv(w=weight))


@pytest.mark.parametrize("zeros", [0.6, 0.3], ids=["many", "few"])
def test_audit_tells_that_scattered_zeros_give_no_speed(conv: Make, zeros: float) -> None:
    weight = np.random.default_rng(0).integers(1, 128, (16, 16, 3, 3), np.int8)
    weight[np.random.default_rng(1).random(weight.shape) < zeros] = 0
    assert rules(conv(w=weight)) == ({"scattered zeros"} if zeros > 0.5 else set())


def test_audit_tells_that_an_older_gpu_has_no_sparse_kernels(conv: Make) -> None:
    model = conv(w=integers())
    unused, = (each for each in audited(model, "jetson-xavier-jp5").findings if each.rule == "2:4 unused")
    assert "came with SM 8.0, and 'jetson-xavier-jp5' is SM 7.2" in unused.message
    assert "2:4 unused" not in rules(model, "jetson-orin-jp6")


def test_audit_tells_that_a_cpu_has_no_sparse_kernels(conv: Make) -> None:
    report = audited(conv(w=integers()), "pi5")
    assert "2:4 unused" in {each.rule for each in report.findings}
    assert report.sparsity == ""


def test_audit_tells_that_sparse_kernels_are_not_for_fp32(make: Make) -> None:
    text = "g ({t}[1,256] x) => ({t}[1,256] y) {{ y = MatMul(x, w) }}"
    weight = integers(256, 256)[..., 0, 0].T
    assert "2:4 in FP32" in rules(make(text.format(t="float"), w=weight.astype(np.float32)))
    assert "2:4 in FP32" not in rules(make(text.format(t="float16"), w=weight.astype(np.float16)))

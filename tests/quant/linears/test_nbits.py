from __future__ import annotations

import numpy as np
import onnx
import pytest

from trtkit.errors import SpecError
from trtkit.graph.run import run_model
from trtkit.metrics import sqnr_db
from trtkit.precision import NodeSelector, Precision, QuantSpec, Rounding
from trtkit.quant import lower
from trtkit.quant.linears.nbits import to_matmul_nbits
from trtkit.quant.scales.blocks import quantize_blocks
from trtkit.target import get_target

TEXT = "g (float[N,5,{k}] x) => (float[N,5,24] y) {{ m = MatMul(x, w) y = Add(m, b) }}"


@pytest.mark.parametrize("k", [128, 96, 72], ids=["even-blocks", "odd-blocks", "padded-block"])
@pytest.mark.parametrize("rounding", list(Rounding))
def test_product_is_that_of_the_dequantized_weights_when_k_has_any_size(make, rng, feeds, k: int,
                                                                        rounding: Rounding) -> None:
    weight = (rng.normal(size=(k, 24)) + 0.3).astype(np.float32)
    model = make(TEXT.format(k=k), w=weight, b=rng.normal(size=24))
    changed, notes = to_matmul_nbits(model, QuantSpec(block=32, rounding=rounding))
    assert notes == ("1 weights in INT4",)
    assert [node.op_type for node in changed.graph.node] == ["MatMulNBits", "Add"]
    sample = feeds(model, 1)[0]
    exact = quantize_blocks(weight, 32, rounding, symmetric=False).dequantized()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(exact, model.graph.initializer[0].name))
    assert sqnr_db(run_model(model, sample)["y"], run_model(changed, sample)["y"]) > 35


def test_error_is_smaller_when_rounding_minimises_it(make, rng, feeds) -> None:
    model = make(TEXT.format(k=128), w=rng.normal(size=(128, 24)), b=np.zeros(24))
    sample = feeds(model, 1)[0]
    expected = run_model(model, sample)["y"]
    near, best = (sqnr_db(expected, run_model(to_matmul_nbits(model, QuantSpec(rounding=rounding))[0], sample)["y"])
                  for rounding in (Rounding.NEAREST, Rounding.ADAPTIVE))
    assert best > near + 0.3


def test_file_shrinks_when_a_cpu_target_gets_int4(make, rng) -> None:
    model = make("g (float[2,256] x) => (float[2,256] y) { y = Gemm<transB=1>(x, w, b) }",
                 w=rng.normal(size=(256, 256)), b=rng.normal(size=256))
    lowered = lower(model, get_target("x86-vnni"), Precision.INT4)
    assert len(lowered.model) < len(model.SerializeToString()) / 5
    assert "1 weights in INT4" in lowered.notes


def test_model_is_refused_when_its_only_layer_is_kept_or_smaller_than_a_block(make, rng) -> None:
    model = make(TEXT.format(k=16), w=rng.normal(size=(16, 24)), b=np.zeros(24))
    with pytest.raises(SpecError, match="fewer than 32 inputs"):
        to_matmul_nbits(model, QuantSpec())
    with pytest.raises(SpecError, match="kept"):
        to_matmul_nbits(model, QuantSpec(block=16, keep=NodeSelector(op_types=("MatMul",))))

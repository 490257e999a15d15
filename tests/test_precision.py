from __future__ import annotations

import pytest

from trtkit.errors import SpecError
from trtkit.precision import NodeSelector, Precision, QuantSpec

NODES = [("/stem/conv", "Conv"), ("/head/pool", "GlobalAveragePool"), ("/head/fc", "Gemm"), ("/head/fc2", "Gemm")]


def test_parse_reads_a_precision_in_either_case() -> None:
    assert [Precision.parse(text) for text in ("fp32", "FP16", "Int8+FP16")] == [
        Precision.FP32, Precision.FP16, Precision.INT8_FP16]


def test_parse_lists_the_choices_when_there_is_none_of_that_name() -> None:
    with pytest.raises(SpecError, match=r"Precision 'int7' is unknown\. Choose one of: fp32, fp16, bf16, int8, "):
        Precision.parse("int7")


@pytest.mark.parametrize(("selector", "chosen"), [
    pytest.param(NodeSelector(), set(), id="nothing"),
    pytest.param(NodeSelector(names=("/head/*",)), {"/head/pool", "/head/fc", "/head/fc2"}, id="pattern"),
    pytest.param(NodeSelector(names=("/head/fc",)), {"/head/fc"}, id="exact-name"),
    pytest.param(NodeSelector(op_types=("Gemm", "C*")), {"/stem/conv", "/head/fc", "/head/fc2"}, id="operators"),
    pytest.param(NodeSelector(("/stem/*",), ("Gemm",)), {"/stem/conv", "/head/fc", "/head/fc2"}, id="either"),
])
def test_select_returns_the_nodes_that_a_pattern_matches(selector: NodeSelector, chosen: set[str]) -> None:
    assert selector.select(NODES) == chosen


def test_select_takes_a_name_to_the_letter_when_a_node_is_called_so() -> None:
    nodes = [("blocks[0]/conv*", "Conv"), ("blocks[0]/conv*2", "Conv"), ("blocks0/conv1", "Conv")]
    assert NodeSelector(names=("blocks[0]/conv*",)).select(nodes) == {"blocks[0]/conv*"}


@pytest.mark.parametrize(("selector", "match"), [
    pytest.param(NodeSelector(names=("/head/*", "/neck/*")), r"Selector '/neck/\*' matches no node's name.*/head/fc",
                 id="name"),
    pytest.param(NodeSelector(op_types=("gemm",)), "Selector 'gemm' matches no node's operator.*Conv, Gemm", id="case"),
])
def test_select_is_an_error_when_a_pattern_matches_nothing(selector: NodeSelector, match: str) -> None:
    with pytest.raises(SpecError, match=match):
        selector.select(NODES)


@pytest.mark.parametrize("percentile", [50.0, 100.1, -1.0, float("nan")])
def test_quant_spec_is_refused_when_the_percentile_is_out_of_range(percentile: float) -> None:
    with pytest.raises(SpecError, match="must lie above 50 and at most at 100"):
        QuantSpec(percentile=percentile)
    assert QuantSpec(percentile=100.0).percentile == 100.0

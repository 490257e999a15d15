from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from trtkit.errors import GraphError, PassError, SpecError
from trtkit.graph import PASSES, Pass, PassResult, parse_pass, preset, rewrite, run_model
from trtkit.target import load_targets

TEXT = "g (float[N, 4] x) => (float[N, 4] y) { a = Mul(x, w) b = Identity(a) y = Relu(b) }"


@pytest.fixture
def model(parse):
    return parse(TEXT, w=np.arange(1, 5, dtype=np.float32))


def _double(graph: gs.Graph) -> PassResult:
    weight = next(t for t in graph.tensors().values() if isinstance(t, gs.Constant))
    weight.values = weight.values * np.float32(1.01)
    return PassResult(1)


def _crash(graph: gs.Graph) -> PassResult:
    raise KeyError("axis")


def test_pass_that_changes_numbers_is_named_with_tensor_and_error(model) -> None:
    with pytest.raises(PassError, match=r"Pass 'double' changed the numbers: output 'y' is off by .* expected"):
        rewrite(model, ["remove-identities", Pass("double", "", _double)])
    assert rewrite(model, [Pass("double", "", _double)], verify=False).changes == 1


def test_pass_that_fails_is_named(model) -> None:
    with pytest.raises(PassError, match="Pass 'crash' failed: KeyError"):
        rewrite(model, [Pass("crash", "", _crash)])


def test_pass_that_breaks_its_promise_is_named(model) -> None:
    broken = replace(parse_pass("remove-identities"), ensures=lambda graph: "an Identity is left")
    with pytest.raises(PassError, match="an Identity is left"):
        rewrite(model, [broken])


def test_pass_that_makes_a_model_that_cannot_run_is_named(model) -> None:
    def unknown(graph: gs.Graph) -> PassResult:
        graph.nodes[-1].op = "Relux"
        return PassResult(1)

    with pytest.raises(PassError, match="'unknown' made a model that does not run"):
        rewrite(model, [Pass("unknown", "", unknown)])


def test_check_is_impossible_when_model_itself_cannot_run(parse) -> None:
    model = parse("g (float[N, 4] x) => (float[N, 4] y) { a = Identity(x) y = Relu(a) }")
    model.graph.node[1].domain, model.graph.node[1].op_type = "my.plugins", "Fast"
    model.opset_import.add(domain="my.plugins", version=1)
    with pytest.raises(GraphError, match="verify=False"):
        rewrite(model, ["remove-identities"])
    done = rewrite(model, ["remove-identities"], verify=False)
    assert [(n.op_type, n.domain) for n in done.model.graph.node] == [("Fast", "my.plugins")]
    assert {entry.domain for entry in done.model.opset_import} == {"", "my.plugins"}


def test_model_of_the_caller_stays_as_it_is(model) -> None:
    before = model.SerializeToString()
    rewrite(model, ["remove-identities", "fold-constants", "merge-initializers", "embed-softmax"])
    assert model.SerializeToString() == before


def test_metadata_and_refusals_survive(parse, caplog: pytest.LogCaptureFixture) -> None:
    model = parse(TEXT, opset=13, w=np.arange(1, 5, dtype=np.float32))
    model.metadata_props.add(key="author", value="somebody")
    with caplog.at_level(logging.DEBUG, logger="trtkit.graph"):
        done = rewrite(model, ["remove-identities", "fuse-hardswish"])
    assert done.model.metadata_props[0].value == "somebody"
    assert "fuse-hardswish refused: HardSwish needs opset 14" in caplog.text
    assert done.model.opset_import[0].version == 13
    assert done.model.ir_version == 8


def test_nothing_is_printed(model, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(model, [*preset(load_targets()["rtx"])])
    assert capsys.readouterr() == ("", "")


def test_unsorted_nodes_with_equal_names_are_rewritten(model, ops) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    for node in nodes:
        node.name = "same"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    done = rewrite(model, ["remove-identities"])
    assert [n.op_type for n in done.model.graph.node] == ["Mul", "Relu"]


CONTROL = """g (float[N, 4] x, bool c) => (float[N, 4] y) {
    a = Identity(x)
    b = Mul(a, w)
    k = Add(w, w)
    r = Identity(b)
    t = If (c) <
        then_branch = t1 () => (float[N, 4] p) { q = Add(r, k) p = Identity(q) },
        else_branch = t2 () => (float[N, 4] p2) { q2 = Identity(a) p2 = Mul(q2, w2) }
    >
    y = Relu(t)
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_references_from_subgraphs_stay_whole(parse, condition: bool) -> None:
    """Both branches read tensors of the outer graph that passes remove, fold or merge."""
    model = parse(CONTROL, w=np.arange(1, 5, dtype=np.float32), w2=np.arange(1, 5, dtype=np.float32))
    done = rewrite(model, [*preset(load_targets()["rtx"])])
    onnx.checker.check_model(done.model, full_check=True)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4), np.float32), "c": np.array(condition)}
    np.testing.assert_allclose(run_model(done.model, feeds)["y"], run_model(model, feeds)["y"], rtol=1e-6)
    inner = {n.op_type for n in done.model.graph.node for a in n.attribute for n in a.g.node}
    assert inner == {"Add", "Mul"}
    assert "Identity" not in {n.op_type for n in done.model.graph.node}


@pytest.mark.parametrize("condition", [True, False])
def test_outer_tensor_that_a_branch_returns_keeps_its_name(parse, condition: bool) -> None:
    model = parse("""g (float[N, 4] x, bool c) => (float[N, 4] y) {
        h = Neg(x) a = Identity(h)
        t = If (c) < then_branch = t1 () => (float[N, 4] p) { p = Identity(a) },
                     else_branch = t2 () => (float[N, 4] p2) { p2 = Abs(a) } >
        y = Relu(t) }""")
    done = rewrite(model, ["remove-identities"])
    onnx.checker.check_model(done.model)
    feeds = {"x": np.ones((2, 4), np.float32), "c": np.array(condition)}
    np.testing.assert_array_equal(run_model(done.model, feeds)["y"], run_model(model, feeds)["y"])


def test_loop_body_keeps_its_outer_constant(parse) -> None:
    model = parse("""g (float[N, 4] x) => (float[N, 4] y) {
        w2 = Add(w, w)
        y = Loop (n, go, x) < body = b (int64 i, bool ci, float[N, 4] s) => (bool co, float[N, 4] so) {
            co = Identity(ci) m = Identity(s) so = Add(m, w2) } > }""",
                  w=np.ones(4, np.float32), n=np.array(3), go=np.array(True))
    done = rewrite(model, [*preset(load_targets()["jetson-xavier-jp5"])])
    onnx.checker.check_model(done.model)
    x = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(run_model(done.model, {"x": x})["y"], np.full((1, 4), 6))


def test_every_entry_has_name_description_and_makes_its_pass() -> None:
    arguments = {"N": "2", "K[,OUTPUT]": "3", "IN,...->OUT,...": "a->b", "OUTPUT,...": "a"}
    for name, entry in PASSES.items():
        assert entry.name == name
        assert entry.description
        assert not entry.description.endswith(".")
        if name != "embed-preprocess":
            made = entry.make(arguments.get(entry.argument, ""))
            assert made.name.partition(":")[0] == name


@pytest.mark.parametrize(("text", "words"), [
    ("fold", "unknown"), ("fix-batch", "Write fix-batch:N"), ("fold-pad:3", "takes no argument"),
], ids=["unknown", "missing", "unwanted"])
def test_misspelt_pass_is_refused_before_any_runs(model, text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        rewrite(model, ["remove-identities", text])


@pytest.mark.parametrize("name", load_targets())
def test_preset_names_passes_that_exist(name: str) -> None:
    names = preset(load_targets()[name])
    assert all(parse_pass(step).name == step for step in names)
    assert ("int64-to-int32" in names) == (name == "jetson-xavier-jp5")
    assert ("fuse-layernorm" in names) == (name != "jetson-xavier-jp5")

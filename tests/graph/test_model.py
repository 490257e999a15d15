from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtkit.errors import GraphError, SpecError
from trtkit.graph import (
    fingerprint,
    infer_shapes,
    load_model,
    model_bytes,
    model_inputs,
    model_outputs,
    save_model,
    upgrade_opset,
)
from trtkit.tensors import TensorSpec

GEMM = "g (float[batch, 4] x) => (float[batch, 3] y) { h = MatMul(x, w) y = Relu(h) }"


@pytest.fixture
def model(parse):
    return parse(GEMM, w=np.arange(12, dtype=np.float32).reshape(4, 3))


@pytest.fixture
def path(model, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_load_returns_what_was_saved(model, path: Path) -> None:
    assert load_model(path) == model
    assert [p.name for p in path.parent.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"),
    (b"hello, this is text", "no ONNX"),
    (bytes(64), "no ONNX"),
    (b"\x08\x08", "no graph"),
], ids=["empty", "text", "zeros", "version-only"])
def test_load_fails_when_file_is_no_model(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(content)
    with pytest.raises(GraphError, match=words):
        load_model(file)


def test_load_fails_when_truncated_anywhere(path: Path) -> None:
    data = path.read_bytes()
    for end in range(1, len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(GraphError):
            load_model(path)


def test_load_fails_when_file_is_missing_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="No such file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(GraphError, match="cannot be read"):
        load_model(tmp_path)


def test_load_names_node_when_operator_is_unknown(parse, tmp_path: Path) -> None:
    model = parse(GEMM, w=np.ones((4, 3), np.float32))
    model.graph.node[1].op_type, model.graph.node[1].name = "Relux", "act"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"Node 'act' has the unknown operator 'Relux'"):
        load_model(tmp_path / "m.onnx")


def test_load_lists_custom_operators_unless_allowed(parse, tmp_path: Path) -> None:
    model = parse(GEMM, w=np.ones((4, 3), np.float32))
    model.graph.node[1].domain, model.graph.node[1].op_type = "my.plugins", "Fast"
    model.opset_import.add(domain="my.plugins", version=1)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"my\.plugins::Fast"):
        load_model(tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx", allow_custom=True).graph.node[1].op_type == "Fast"


def test_load_sorts_nodes_when_out_of_order(model, path: Path) -> None:
    nodes = [*reversed(model.graph.node)]
    shuffled = onnx.ModelProto.FromString(model.SerializeToString())
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    path.write_bytes(shuffled.SerializeToString())
    assert [n.op_type for n in load_model(path).graph.node] == ["MatMul", "Relu"]


def test_load_names_tensor_when_nothing_makes_it(model, path: Path) -> None:
    model.graph.node[1].input[0] = "ghost"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="'ghost', which nothing makes"):
        load_model(path)


def test_load_fails_when_nodes_form_a_cycle(model, path: Path) -> None:
    model.graph.node[0].input[0] = "y"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="cycle"):
        load_model(path)


@pytest.fixture
def split(parse, tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((4, 300), np.float32)
    model = parse(GEMM.replace("3", "300"), w=weights)
    save_model(model, tmp_path / "m.onnx", external_above=1000)
    return tmp_path / "m.onnx"


def test_save_splits_weights_above_limit_and_load_joins_them(split: Path) -> None:
    assert len(list(split.parent.glob("m.onnx.*.data"))) == 1
    assert split.stat().st_size < 1000
    loaded = load_model(split)
    expected = np.random.default_rng(0).standard_normal((4, 300), np.float32)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(loaded.graph.initializer[0]), expected)


def test_save_removes_data_of_the_old_model_last(split: Path, parse) -> None:
    old = set(split.parent.glob("*.data"))
    model = parse(GEMM.replace("3", "300"), w=np.ones((4, 300), np.float32))
    save_model(model, split, external_above=1000)
    new = set(split.parent.glob("*.data"))
    assert len(new) == 1
    assert not new & old
    assert fingerprint(load_model(split)) == fingerprint(model)


def test_save_keeps_old_model_when_folder_is_missing(model, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be written"):
        save_model(model, tmp_path / "none" / "m.onnx")


def test_load_names_file_when_external_data_is_missing(split: Path) -> None:
    data = next(split.parent.glob("*.data"))
    data.unlink()
    with pytest.raises(GraphError, match=data.name):
        load_model(split)


def test_load_names_file_when_external_data_is_truncated(split: Path) -> None:
    data = next(split.parent.glob("*.data"))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(GraphError, match="truncated"):
        load_model(split)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "C:\\secret", ""])
def test_load_refuses_external_data_outside_its_folder(split: Path, location: str) -> None:
    (split.parent.parent / "secret").write_bytes(bytes(4800))
    model = onnx.ModelProto.FromString(split.read_bytes())
    model.graph.initializer[0].external_data[0].value = location
    split.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="outside the model's folder"):
        load_model(split)


def test_load_refuses_external_data_behind_a_link(split: Path) -> None:
    (split.parent.parent / "secret").write_bytes(bytes(4800))
    data = next(split.parent.glob("*.data"))
    data.unlink()
    data.symlink_to(split.parent.parent / "secret")
    with pytest.raises(GraphError, match="outside the model's folder"):
        load_model(split)


def test_inputs_exclude_initializers_and_name_dynamic_dims(parse) -> None:
    model = parse("g (float[N, 4] x, float[?, 2] z, float[4, 3] w) => (float[N, 3] y, float[?, 2] u) "
                  "{ y = MatMul(x, w) u = Relu(z) }", w=np.ones((4, 3), np.float32))
    assert model_inputs(model) == (TensorSpec("x", "float32", ("N", 4)), TensorSpec("z", "float32", ("z_dim0", 2)))


def test_outputs_are_inferred_when_model_does_not_state_them(model) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert model_outputs(model) == (TensorSpec("y", "float32", ("batch", 3)),)


def test_infer_shapes_knows_inner_tensors_and_leaves_model_alone(model) -> None:
    before = model.SerializeToString()
    inferred = infer_shapes(model)
    assert [info.name for info in inferred.graph.value_info] == ["h"]
    assert len(inferred.graph.input) == 1
    assert inferred.graph.initializer == model.graph.initializer
    assert model.SerializeToString() == before


def test_fingerprint_ignores_names_of_nodes_order_and_docs(parse) -> None:
    text = "g (float[4] x) => (float[4] y) { a = Relu(x) b = Neg(x) y = Add(a, b) }"
    one, other = parse(text), parse(text)
    nodes = [other.graph.node[1], other.graph.node[0], other.graph.node[2]]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    nodes[0].name, nodes[0].doc_string = "n", "doc"
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    other.producer_name = "someone"
    assert fingerprint(one) == fingerprint(other)


def test_fingerprint_changes_with_weights_attributes_and_operators(parse) -> None:
    weights = np.ones((4, 3), np.float32)
    changed = weights.copy()
    changed[3, 2] += 1e-6
    prints = {fingerprint(parse(GEMM, w=weights)), fingerprint(parse(GEMM, w=changed)),
              fingerprint(parse(GEMM.replace("Relu", "Neg"), w=weights)), fingerprint(parse(GEMM, opset=18, w=weights)),
              fingerprint(parse(GEMM.replace("Relu", "Elu<alpha=2.0>"), w=weights)),
              fingerprint(parse(GEMM.replace("Relu", "Elu<alpha=3.0>"), w=weights))}
    assert len(prints) == 6


def test_fingerprint_does_not_depend_on_storage(parse) -> None:
    model = parse(GEMM, w=np.ones((4, 3), np.float32))
    other = parse(GEMM, w=np.ones((4, 3), np.float32))
    del other.graph.initializer[:]
    other.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, (4, 3), [1.0] * 12))
    assert fingerprint(model) == fingerprint(other)


def test_upgrade_opset_converts_and_turns_constants_into_initializers(parse) -> None:
    model = parse("g (float[2, 3] x) => (float[2, 3] y) { c = Constant<value_float = 2.0>() y = Mul(x, c) }", opset=13)
    upgraded = upgrade_opset(model, 17)
    assert upgraded.opset_import[0].version == 17
    assert [n.op_type for n in upgraded.graph.node] == ["Mul"]
    assert onnx.numpy_helper.to_array(upgraded.graph.initializer[0]) == np.float32(2)
    assert model.opset_import[0].version == 13


def test_upgrade_opset_keeps_a_newer_model(model) -> None:
    assert upgrade_opset(model, 11).opset_import[0].version == 17


def test_model_bytes_parse_back(model) -> None:
    assert onnx.ModelProto.FromString(model_bytes(model)) == model


def test_importing_graph_loads_no_onnx() -> None:
    code = "import sys, trtkit.graph; sys.exit(any(m in sys.modules for m in ('onnx', 'onnxruntime', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_resolves() -> None:
    import trtkit.graph

    for name in trtkit.graph.__all__:
        assert not isinstance(getattr(trtkit.graph, name), type(trtkit)), name

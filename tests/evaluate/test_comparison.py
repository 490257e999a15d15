"""Two models side by side: outputs, layers, labels."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from trtkit.errors import CalibrationError, GraphError, SpecError
from trtkit.evaluate import Task, compare
from trtkit.runtime.ort import OrtSession


def test_compare_finds_no_difference_when_models_are_equal(reference, items):
    comparison = compare(reference, reference, items)
    assert comparison.samples == 24
    (output,) = comparison.outputs
    assert (output.name, output.max_abs_error, output.sqnr_db, output.agreement) == ("logits", 0.0, math.inf, 1.0)
    assert comparison.reference == comparison.candidate
    assert comparison.layers == ()


def test_compare_measures_outputs_and_labels(reference, candidate, items):
    comparison = compare(reference, candidate, items)
    (output,) = comparison.outputs
    assert 10 < output.sqnr_db < 40
    assert output.agreement == comparison.candidate.agreement(comparison.reference)
    assert 0 <= comparison.candidate.top1 <= comparison.candidate.top5 <= 1
    assert "onnxruntime" in comparison.backends[0]


def test_compare_judges_multi_label(reference, candidate, items):
    comparison = compare(reference, candidate, items, task=Task.MULTI_LABEL)
    assert comparison.reference.mean_average_precision > 0
    assert comparison.reference.top1 is None


def test_compare_layers_names_shared_tensors_in_order_of_the_graph(reference, candidate, items):
    comparison = compare(reference, candidate, items, layers=True, layer_samples=3)
    assert [each.name for each in comparison.layers] == ["hidden", "active"]
    assert all(10 < each.sqnr_db < 60 for each in comparison.layers)
    worst = comparison.worst_layers()
    assert worst[0].sqnr_db <= worst[1].sqnr_db


def test_compare_layers_equals_numpy(reference, candidate, weight, items):
    (hidden, _) = compare(reference, candidate, items, layers=True, layer_samples=5).layers
    x = np.concatenate([item.feeds["x"] for item in items[:5]])
    wanted = np.abs(x @ weight - x @ (np.round(weight * 4) / 4)).max()
    assert hidden.max_abs_error == pytest.approx(wanted, rel=1e-4)


def test_compare_takes_files_and_sessions(reference, candidate, items, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(reference)
    by_file = compare(path, OrtSession(candidate), items)
    assert by_file.outputs == compare(reference, candidate, items).outputs


def test_compare_pairs_by_order_when_no_name_is_shared(reference, make_classifier, weight, items):
    comparison = compare(reference, make_classifier(weight, x="image", y="scores"), items)
    assert comparison.outputs[0].max_abs_error == 0.0
    assert comparison.candidate.output == "scores"


def test_compare_feeds_a_float16_model(reference, items):
    from onnx import numpy_helper
    model = onnx.load_from_string(reference)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    (output,) = compare(reference, model.SerializeToString(), items).outputs
    assert 40 < output.sqnr_db < 90


def test_compare_refuses_layers_of_a_session(reference, items):
    with pytest.raises(SpecError, match="ONNX models only"):
        compare(OrtSession(reference), reference, items, layers=True)


def test_compare_refuses_layers_when_nothing_is_shared(reference, items):
    model = onnx.load_from_string(reference)
    for node in model.graph.node:
        node.input[:] = [{"hidden": "h2", "active": "a2"}.get(name, name) for name in node.input]
        node.output[:] = [{"hidden": "h2", "active": "a2"}.get(name, name) for name in node.output]
    with pytest.raises(GraphError, match="no inner tensor"):
        compare(reference, model.SerializeToString(), items, layers=True)


def test_compare_refuses_models_whose_outputs_cannot_be_paired(reference, items):
    model = onnx.load_from_string(reference)
    model.graph.output.append(onnx.ValueInfoProto(name="hidden"))
    with pytest.raises(SpecError, match="cannot be paired"):
        compare(model.SerializeToString(), reference, items)


def test_compare_refuses_no_samples(reference):
    with pytest.raises(CalibrationError, match="no sample"):
        compare(reference, reference, [])


def test_compare_refuses_a_missing_file(reference, tmp_path, items):
    with pytest.raises(SpecError, match=r"absent\.onnx' does not exist"):
        compare(tmp_path / "absent.onnx", reference, items)


def test_compare_layers_reads_quantized_tensors_as_their_readers_do(reference, weight, items):
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[n, 4] x) => (float[n, {6}] logits) {{
        active = MatMul (x, w)
        q = QuantizeLinear (active, scale, zero)
        read = DequantizeLinear (q, scale, zero)
        logits = MatMul (read, v)
    }}"""
    model = onnx.parser.parse_model(text)
    head = onnx.numpy_helper.to_array(onnx.load_from_string(reference).graph.initializer[1])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in {
        "w": weight, "v": head, "scale": np.float32(1 / 32), "zero": np.uint8(0)}.items())
    (active,) = compare(reference, model.SerializeToString(), items, layers=True).layers
    assert active.name == "active"  # its Relu is gone: the saturation at 0 does the same
    assert active.sqnr_db > 30

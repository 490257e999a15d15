"""The whole way from a module to a checked ONNX model."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from trtkit.errors import ExportError, SpecError
from trtkit.export import Exporter, ExportOptions, export_onnx


def run(model: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, feeds)))


def test_export_names_outputs_and_dynamic_batch_when_module_returns_dict(modules):
    exported = export_onnx(modules["TwoOutputs"](), torch.randn(1, 3, 8, 8))
    assert [str(spec) for spec in exported.inputs] == ["input: float32[batch, 3, 8, 8]"]
    assert [str(spec) for spec in exported.outputs] == ["logits: float32[batch, 5]",
                                                        "features: float32[batch, 8, 8, 8]"]
    assert exported.exporter is Exporter.DYNAMO
    assert exported.attempts[-1].error is None
    assert exported.opset == 17
    assert onnx.load_from_string(exported.read()).ir_version == 8


def test_export_equals_torch_at_an_unseen_batch(modules):
    module = modules["TwoOutputs"]().eval()
    exported = export_onnx(module, torch.randn(1, 3, 8, 8))
    images = torch.randn(7, 3, 8, 8)
    got = run(exported.read(), {"input": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got["logits"], module(images)["logits"].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("exporter", "opset"), [
    (Exporter.DYNAMO, 17), (Exporter.DYNAMO, 19), (Exporter.DYNAMO, 21),
    (Exporter.TORCHSCRIPT, 17), (Exporter.TORCHSCRIPT, 19),  # the tracer ends at 20
])
def test_export_has_the_opset_asked_for(modules, exporter, opset):
    options = ExportOptions(opset=opset, exporters=(exporter,))
    exported = export_onnx(modules["TwoOutputs"](), torch.randn(1, 3, 8, 8), options)
    assert (exported.exporter, exported.opset) == (exporter, opset)
    onnx.checker.check_model(onnx.load_from_string(exported.read()), full_check=True)


@pytest.mark.parametrize("exporter", [Exporter.DYNAMO, Exporter.TORCHSCRIPT], ids=lambda e: e.value)
def test_export_leaves_no_wrapper_name_and_no_trace_of_the_machine(modules, exporter):
    model = export_onnx(modules["TwoOutputs"](), torch.randn(1, 3, 8, 8), ExportOptions(exporters=(exporter,))).read()
    assert b"module." not in model
    assert b"/module/" not in model
    assert b".py" not in model
    assert "head.weight" in {each.name for each in onnx.load_from_string(model).graph.initializer}


def test_export_checks_batch_1_2_and_5_and_negated_input(modules):
    parity = export_onnx(modules["TwoOutputs"](), torch.randn(1, 3, 8, 8)).parity
    assert [case.label for case in parity.cases] == ["batch 1", "batch 1, negated", "batch 2", "batch 5"]
    assert [each.name for each in parity.cases[0].outputs] == ["logits", "features"]
    assert parity.matches
    assert all(each.max_abs_error <= each.tolerance and each.cosine > 0.999999
               for case in parity.cases for each in case.outputs)
    assert [each.agreement for each in parity.cases[3].outputs] == [1.0, None]


def test_export_falls_back_to_torchscript_when_dynamo_refuses(modules):
    exported = export_onnx(modules["BranchOnWeights"](), torch.randn(1, 4))
    assert exported.exporter is Exporter.TORCHSCRIPT
    assert [attempt.exporter for attempt in exported.attempts] == [Exporter.DYNAMO, Exporter.TORCHSCRIPT]
    assert "data-dependent" in exported.attempts[0].error
    assert "\n" not in exported.attempts[0].error
    assert any("TracerWarning" in note for note in exported.attempts[1].notes)


def test_export_falls_back_to_static_when_torch_takes_one_batch_only(modules):
    exported = export_onnx(modules["FixedBatch"](), torch.randn(1, 12))
    assert exported.exporter is Exporter.STATIC
    assert exported.inputs[0].shape == (1, 12)
    assert "torch itself does not run at batch 2" in exported.attempts[0].error
    assert {case.label for case in exported.parity.cases} == {"batch 1", "batch 1, negated"}


def test_export_goes_on_to_static_when_the_traced_batch_is_frozen(modules):
    exported = export_onnx(modules["FrozenBatch"](), torch.randn(1, 4))
    assert exported.exporter is Exporter.STATIC
    assert [attempt.exporter for attempt in exported.attempts] == list(Exporter)
    assert "output" in exported.attempts[1].error


def test_export_names_output_and_values_when_every_model_diverges(modules):
    with pytest.raises(ExportError) as caught:
        export_onnx(modules["BranchOnData"](), torch.ones(1, 3))
    text = str(caught.value)
    assert re.search(r"torchscript: at batch \d.*, output 'output'\[\d, \d\] is \S+ in ONNX Runtime and \S+ in "
                     r"torch \(error \S+, tolerance \S+\)", text)
    assert "torch.where" in text
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:4]] == ["dynamo", "torchscript", "static"]


def test_export_is_beyond_tolerance_when_tolerance_is_zero():
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Softmax(1), nn.Conv2d(16, 8, 3), nn.Tanh())
    options = ExportOptions(rtol=0, atol=0, exporters=(Exporter.TORCHSCRIPT,))
    with pytest.raises(ExportError, match=r"output 'output'\[\d.*tolerance 0\)"):
        export_onnx(module, torch.randn(1, 3, 32, 32), options)


def test_export_calls_no_match_when_outputs_are_always_zero():
    module = nn.Linear(4, 3)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    parity = export_onnx(module, torch.randn(1, 4)).parity
    assert parity.vacuous
    assert not parity.matches
    assert parity.divergence is None
    assert "output 'output' is 0 whatever goes in" in parity.warnings[0]


def test_export_warns_of_one_constant_output_when_others_vary():
    class Partly(nn.Module):
        def forward(self, x):
            return x * 2, x * 0 + 3

    parity = export_onnx(Partly(), torch.rand(1, 4)).parity
    assert parity.matches
    assert "output_1" in parity.warnings[0]


def test_export_checks_other_dynamic_axes_at_double_size(modules):
    options = ExportOptions(dynamic_axes={"input": {2: "height", 3: "width"}})
    exported = export_onnx(modules["TwoOutputs"](), torch.randn(1, 3, 8, 8), options)
    assert exported.inputs[0].shape == ("batch", 3, "height", "width")
    assert exported.outputs[1].shape == ("batch", 8, "height", "width")
    assert {"height 16", "width 16"} <= {case.label for case in exported.parity.cases}


def test_export_checks_other_dynamic_axes_at_half_size_when_torch_refuses_double():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Parameter(torch.randn(8, 4))

        def forward(self, x):
            if x.shape[1] > 8:
                raise ValueError("too long")
            return x + self.positions[:x.shape[1]]

    options = ExportOptions(dynamic_axes={"input": {1: "length"}}, exporters=(Exporter.TORCHSCRIPT,))
    exported = export_onnx(Positions(), torch.randn(1, 8, 4), options)
    assert exported.outputs[0].shape == ("batch", "length", 4)
    assert exported.parity.cases[-1].label == "length 4"


def test_export_fixes_every_size_when_batch_is_none(modules):
    exported = export_onnx(modules["TwoOutputs"](), torch.randn(3, 3, 8, 8), ExportOptions(batch=None))
    assert exported.exporter is Exporter.DYNAMO
    assert exported.inputs[0].shape == (3, 3, 8, 8)
    assert [case.label for case in exported.parity.cases] == ["batch 3", "batch 3, negated"]


def test_export_passes_by_keyword_when_names_are_forward_parameters():
    class Masked(nn.Module):
        def forward(self, values, scale=None, *, mask=None):
            return values * mask

    exported = export_onnx(Masked(), {"mask": torch.ones(1, 4, dtype=torch.int64), "values": torch.randn(1, 4)})
    assert [spec.name for spec in exported.inputs] == ["mask", "values"]
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    mask = np.array([[1, 0, 2, 1]] * 2)
    np.testing.assert_array_equal(run(exported.read(), {"mask": mask, "values": values})["output"], values * mask)


def test_export_refuses_names_when_only_some_are_forward_parameters():
    class Two(nn.Module):
        def forward(self, left, right):
            return left + right

    with pytest.raises(SpecError, match=r"'rigth' is no parameter of Two\.forward"):
        export_onnx(Two(), {"left": torch.ones(1, 2), "rigth": torch.ones(1, 2)})


def test_export_flattens_nested_outputs_and_leaves_constants_out():
    @dataclass
    class Result:
        boxes: torch.Tensor
        scale: float
        nothing: torch.Tensor | None = None

    class Nested(nn.Module):
        def forward(self, x):
            return Result(x + 1, 2.0), [x * 2, {"deep": x * 3}]

    exported = export_onnx(Nested(), torch.randn(1, 2))
    assert [spec.name for spec in exported.outputs] == ["output_0_boxes", "output_1_0", "output_1_1_deep"]


def test_export_renames_outputs_and_refuses_a_wrong_number(modules):
    options = ExportOptions(output_names=("scores", "map"))
    exported = export_onnx(modules["TwoOutputs"](), torch.randn(1, 3, 8, 8), options)
    assert [spec.name for spec in exported.outputs] == ["scores", "map"]
    with pytest.raises(ExportError, match=r"1 output names for 2 outputs.*logits, features"):
        export_onnx(modules["TwoOutputs"](), torch.randn(1, 3, 8, 8), ExportOptions(output_names=("one",)))


def test_export_leaves_module_warnings_and_loggers_as_they_were(modules, capfd):
    module = modules["BranchOnWeights"]()
    module.head.eval()
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript")]
    before = [(each.handlers[:], each.propagate, each.level) for each in loggers], warnings.filters[:]
    export_onnx(module, torch.randn(1, 4))
    assert ([(each.handlers[:], each.propagate, each.level) for each in loggers], warnings.filters[:]) == before
    assert module.training
    assert not module.head.training
    assert all(weight.requires_grad for weight in module.parameters())
    assert capfd.readouterr() == ("", "")


def test_export_refuses_random_forward():
    class Noisy(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, training=True)

    with pytest.raises(ExportError, match="differs between two runs in torch"):
        export_onnx(Noisy(), torch.ones(1, 64))


def test_export_tells_shapes_when_module_fails_in_torch(modules):
    with pytest.raises(ExportError, match=r"TwoOutputs fails on its own example in torch, with input\(1, 4, 8, 8\)"):
        export_onnx(modules["TwoOutputs"](), torch.randn(1, 4, 8, 8))


@pytest.mark.parametrize(("value", "text"), [
    ("tensor", "is a str"), (torch.ones(1, 2, dtype=torch.bfloat16), "bfloat16"), (torch.ones(0, 2), "empty"),
], ids=["no-tensor", "bfloat16", "empty"])
def test_export_refuses_example(value, text):
    with pytest.raises(SpecError, match=text):
        export_onnx(nn.Identity(), (value,))


def test_export_writes_weights_beside_the_model_when_it_is_large(tmp_path, modules):
    path = tmp_path / "m.onnx"
    options = ExportOptions(external_data_bytes=512)
    module = nn.Sequential(nn.Linear(64, 64), modules["TwoOutputs"]().head.__class__(64, 3))
    exported = export_onnx(module, torch.randn(1, 64), options, path=path)
    assert exported.model == path
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx.data").stat().st_size >= 64 * 64 * 4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.ones((2, 64), np.float32)})[0].shape == (2, 3)


def test_export_keeps_the_old_file_when_it_fails(tmp_path, modules):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ExportError):
        export_onnx(modules["BranchOnData"](), torch.ones(1, 3), path=path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_export_reports_progress(modules):
    seen: list[str] = []
    export_onnx(modules["FixedBatch"](), torch.randn(1, 12), progress=lambda what, done, total: seen.append(what))
    assert "Exporting (static)" in seen

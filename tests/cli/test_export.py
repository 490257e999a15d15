"""trtkit export from flags to a checked file, and its refusals."""

from __future__ import annotations

import sys

import onnx
import pytest

from trtkit.errors import ExportError, SpecError

pytest.importorskip("torch")

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 3)

    def forward(self, image, gain):
        return {"scores": self.head(image.mean((2, 3))) * gain}

class Flip(torch.nn.Module):
    def forward(self, x):
        return x * 3 if x.sum() > 0 else x - 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net_for_cli.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("net_for_cli", None)


def test_export_writes_a_checked_model_and_says_how(trtkit, folder):
    printed = trtkit("export", "net_for_cli:Net", "--input", "image=1x4x8x8", "--input", "gain=1x1:float32",
                     "--dynamic", "batch", "--dynamic", "image:2=height", "--target", "jetson-xavier-jp5",
                     "-o", "m.onnx")
    model = onnx.load(folder / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 17
    assert "dynamo" in printed
    assert "batch 5" in printed
    assert "height 16" in printed
    assert "input  image: float32[batch, 4, height, 8]" in printed
    assert "output scores: float32[batch, 3]" in printed


def test_export_fixes_sizes_without_dynamic(trtkit, folder):
    trtkit("export", "net_for_cli:Net", "--input", "2x4x8x8", "--input", "2x1", "--opset", "19", "-o", "m.onnx")
    model = onnx.load(folder / "m.onnx")
    assert [each.name for each in model.graph.input] == ["image", "gain"]
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [2, 4, 8, 8]
    assert model.opset_import[0].version == 19


def test_export_writes_nothing_when_it_fails(trtkit, folder):
    with pytest.raises(ExportError, match="torchscript: at batch"):
        trtkit("export", "net_for_cli.py:Flip", "--input", "1x3", "-o", "m.onnx")
    assert [each.name for each in folder.iterdir() if "onnx" in each.name] == []


@pytest.mark.parametrize(("flags", "text"), [
    (["--input", "1xa"], "is not a shape"), (["--input", "x=1x3:flaot"], "'flaot' is no dtype"),
    (["--input", "x=1x3", "--input", "1x3"], "name all or none"),
    (["--input", "1x3", "--dynamic", "height"], "--dynamic 'height' is not understood"),
    (["--input", "1x3", "--dynamic", "x:2=h"], "names input 'x'"),
    (["--input", "1x3", "--target", "rtx", "--opset", "17"], "both name an opset"),
    (["--input", "1x3", "--target", "nonsense"], "Target 'nonsense' is unknown"),
    (["--input", "1x3", "--opset", "5"], "opset is 5"),
], ids=["shape", "dtype", "mixed-names", "dynamic", "dynamic-input", "two-opsets", "target", "opset"])
def test_export_refuses_flags(trtkit, folder, flags, text):
    with pytest.raises(SpecError, match=text):
        trtkit("export", "net_for_cli:Flip", *flags, "-o", "m.onnx")

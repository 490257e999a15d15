from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.runtime.latency_table import LatencyTable, Point
from trtkit.target import get_target

MODULE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))

def loader():
    torch.manual_seed(1)
    return [(torch.randn(4, 3, 8, 8), torch.arange(4)) for _ in range(2)]

def score(module):
    return 0.5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(MODULE)
    return path


def test_a_pruned_module_is_exported_and_computes_the_same(trtkit: Callable[..., str], file: Path,
                                                           tmp_path: Path) -> None:
    import onnxruntime
    import torch

    from trtkit.export import load_module

    pruned, model = tmp_path / "pruned.safetensors", tmp_path / "pruned.onnx"
    said = trtkit("prune", f"{file}:make", "--input", "1x3x8x8", "--amount", 0.5, "--steps", 2, "--train",
                  f"{file}:loader", "--evaluate", f"{file}:score", "--importance", "taylor", "--folder",
                  tmp_path / "steps", "-o", pruned)
    assert "of the macs is gone" in said
    assert "--weights" in said
    trtkit("export", f"{file}:make", "--weights", pruned, "--input", "1x3x8x8", "-o", model)
    picture = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    got = onnxruntime.InferenceSession(model).run(None, {"input": picture})[0]
    module = load_module(f"{file}:make", pruned)
    with torch.no_grad():
        wanted = module(torch.from_numpy(picture)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert module[3].out_channels < 16 or module[0].out_channels < 16


def test_latency_of_each_step_is_shown_when_it_is_the_goal(trtkit: Callable[..., str], file: Path,
                                                           tmp_path: Path) -> None:
    from trtkit.compress.pruning.layers import find_layers
    from trtkit.compress.pruning.lowering import rewritten_for
    from trtkit.export import load_module

    module = load_module(f"{file}:make")
    model = rewritten_for(module, np.zeros((1, 3, 8, 8), np.float32), get_target("pi5"))
    seconds = {}
    for point in (layer.point for layer in find_layers(model)):
        inputs, outputs = ({width, 1} if width == 16 else {width} for width in (point.inputs, point.outputs))
        seconds |= {Point(point.kind, i, o): 1e-6 * i * o for i in inputs for o in outputs}
    LatencyTable("pi5", Precision.FP32, 1, seconds, 1.0).save(tmp_path / "table.json")
    said = trtkit("prune", f"{file}:make", "--input", "1x3x8x8", "--goal", "latency", "--amount", 0.4, "--round-to", 8,
                  "--table", tmp_path / "table.json", "-o", tmp_path / "p.safetensors")
    steps = said[said.index("asked"):].splitlines()
    before, after = (line.split() for line in steps if line.strip()[:2] in ("0 ", "1 "))
    assert before[-2] == "0.368"  # (3 * 16 + 16 * 16 + 16 * 4) microseconds
    assert float(after[-2]) <= 0.6 * 0.368 + 0.0005


def test_zeros_are_said_to_give_no_speed(trtkit: Callable[..., str], file: Path, tmp_path: Path) -> None:
    said = trtkit("prune", f"{file}:make", "--input", "1x3x8x8", "--method", "unstructured", "-o",
                  tmp_path / "p.safetensors", "--train", f"{file}:loader")
    assert "give no speed" in said
    assert "moved weights" not in said


@pytest.mark.parametrize(("flags", "message"), [(("--goal", "size"), "--goal 'size' is unknown"),
                                                (("--goal", "latency"), "Give --target, or --table"),
                                                (("--train", "nowhere"), "is no loader")])
def test_unusable_flags_are_refused(trtkit: Callable[..., str], file: Path, tmp_path: Path, flags: tuple[str, ...],
                                    message: str) -> None:
    with pytest.raises(SpecError, match=message):
        trtkit("prune", f"{file}:make", "--input", "1x3x8x8", "-o", tmp_path / "p.safetensors", *flags)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trtkit.errors import SpecError
from trtkit.pipeline import rows
from trtkit.runtime.bench import Paired

pytest.importorskip("torch")

Trtkit = Callable[..., str]

CODE = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def loader():
    return [(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.tensor([0, 1, 2, 0]))
            for seed in range(2)]
"""
RECIPE = """
name = "[colors]"
output = "c.trtkit"
work = "work"
[model]
factory = "net.py:net"
input = "1x3x8x8"
[preprocess]
size = [8, 8]
[evaluate]
data = "photos"
[[target]]
name = "x86-avx2"
precisions = ["fp32"]
"""
STEPS = """
[train]
data = "net.py:loader"
[[compress]]
step = "finetune"
[[compress]]
step = "prune"
method = "unstructured"
finetune = false
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from PIL import Image

    monkeypatch.setattr(rows, "paired", lambda *_args, **_more: Paired(2.0, 1.9, 2.1, 2.0, 1.0, 15))
    monkeypatch.setattr(rows, "_alone", lambda _model: 4.0)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.full((8, 8, 3), 10, np.uint8)
        pixels[:, :, number] = 250
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "photos/labels.json").write_text(json.dumps({f"{number}.png": [number] for number in range(3)}))
    (tmp_path / "net.py").write_text(CODE)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE + STEPS)
    return path


def _steps(printed: str) -> list[str]:
    return [line.split("  ")[0].strip() for line in printed.splitlines()
            if line.strip().startswith(("start", "1 finetune  ", "2 prune  "))]


def test_compress_prints_a_row_for_each_step_and_names_the_files(recipe: Path, trtkit: Trtkit) -> None:
    printed = trtkit("compress", recipe)
    assert _steps(printed) == ["start", "1 finetune", "2 prune"]
    assert "Single zeros give no speed" in printed
    for name in ("compressed.safetensors", "compressed.onnx", "tradeoff.png"):
        assert str(recipe.parent / "work" / name) in printed
        assert (recipe.parent / "work" / name).is_file()
    assert f"Next: trtkit deploy {recipe}" in printed
    assert not (recipe.parent / "c.trtkit").exists()


def test_deploy_and_inspect_print_the_same_rows(recipe: Path, trtkit: Trtkit) -> None:
    assert _steps(trtkit("deploy", recipe)) == ["start", "1 finetune", "2 prune"]
    assert _steps(trtkit("inspect", recipe.parent / "c.trtkit")) == ["start", "1 finetune", "2 prune"]


def test_compress_without_an_evaluation_has_no_plot_and_says_so(recipe: Path, trtkit: Trtkit) -> None:
    recipe.write_text((RECIPE + STEPS).replace('[evaluate]\ndata = "photos"\n', ""))
    printed = trtkit("compress", recipe)
    assert "There is no plot: it needs [evaluate]" in printed
    assert not (recipe.parent / "work/tradeoff.png").exists()


def test_compress_refuses_a_recipe_without_steps(recipe: Path, trtkit: Trtkit) -> None:
    recipe.write_text(RECIPE)
    with pytest.raises(SpecError, match=r"has no \[\[compress\]\] section"):
        trtkit("compress", recipe)

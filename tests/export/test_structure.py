"""Pruned modules, saved and made again by their factory: sizes, numbers, ties and outputs; and what does not fit."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_pruning
from safetensors.torch import save_file
from torch import nn

from trtkit.errors import ExportError, SpecError
from trtkit.export import load_module, save_checkpoint
from trtkit.export.saving import STRUCTURE
from trtkit.export.structure import apply_structure, structure_of

FACTORY = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.size = (16, 16)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.layer_norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = nn.functional.interpolate(x, self.size)
        x = self.narrow(torch.relu(self.depthwise(torch.relu(self.norm(self.first(x))))))
        return self.head(self.layer_norm(x.mean((2, 3))))

class Tied(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.width = width
        self.embed = nn.Linear(4, width, bias=False)
        self.back = nn.Linear(4, width, bias=False)
        self.back.weight = self.embed.weight

    def forward(self, x):
        return self.embed(x) @ self.back.weight
"""


@pytest.fixture
def factory(tmp_path, monkeypatch) -> str:
    path = tmp_path / "structure_factory.py"
    path.write_text(FACTORY)
    yield str(path)
    sys.modules.pop("trtkit_factory_structure_factory", None)


@pytest.fixture
def pruned(factory) -> nn.Module:
    """The factory's module with about half of its channels, and statistics of its own."""
    module = load_module(f"{factory}:Block")
    pruner = torch_pruning.pruner.BasePruner(
        module, torch.randn(1, 3, 16, 16), importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5, ignored_layers=[module.head])
    pruner.step()
    nn.init.uniform_(module.norm.running_mean)
    return module


def test_load_module_makes_a_pruned_module_again(factory, pruned, tmp_path):
    save_checkpoint(pruned, tmp_path / "pruned.safetensors")
    loaded = load_module(f"{factory}:Block", tmp_path / "pruned.safetensors")
    image = torch.randn(2, 3, 16, 16)
    assert loaded.depthwise.weight.shape == (8, 1, 3, 3)
    assert (loaded.depthwise.groups, loaded.norm.num_features, loaded.narrow.out_channels) == (8, 8, 4)
    assert loaded.layer_norm.normalized_shape == (4,)
    assert isinstance(loaded.layer_norm.normalized_shape, tuple)
    assert loaded.head.in_features == 4
    assert torch.equal(loaded(image), pruned.eval()(image))
    assert structure_of(loaded) == structure_of(pruned)


def test_load_module_needs_no_torch_pruning(factory, pruned, tmp_path):
    save_checkpoint(pruned, tmp_path / "pruned.safetensors")
    code = ("import sys; from pathlib import Path; from trtkit.export import load_module; "
            f"load_module({factory + ':Block'!r}, Path({str(tmp_path / 'pruned.safetensors')!r})); "
            "assert 'torch_pruning' not in sys.modules")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_load_module_keeps_numbers_of_the_factory_where_no_size_changed(factory, tmp_path):
    module = load_module(f"{factory}:Block")
    save_checkpoint(module, tmp_path / "whole.safetensors")
    Path(factory).write_text(FACTORY.replace("(16, 16)", "(24, 24)"))
    sys.modules.pop("trtkit_factory_structure_factory")
    assert load_module(f"{factory}:Block", tmp_path / "whole.safetensors").size == (24, 24)


def test_apply_structure_keeps_ties_gradients_and_dtype(factory):
    make = type(load_module(f"{factory}:Tied"))
    small, whole = make(3), make(8).half()
    whole.embed.weight.requires_grad_(False)
    apply_structure(whole, structure_of(small))
    assert whole.back.weight is whole.embed.weight
    assert isinstance(whole.embed.weight, nn.Parameter)
    assert whole.embed.weight.shape == (3, 4)
    assert whole.embed.weight.dtype == torch.float16
    assert not whole.embed.weight.requires_grad
    assert (whole.width, whole.embed.out_features) == (3, 3)


def test_save_checkpoint_writes_tied_weights_that_load_again(factory, tmp_path):
    make = type(load_module(f"{factory}:Tied"))
    small = make(3)
    save_checkpoint(small, tmp_path / "w.safetensors")
    loaded = load_module(f"{factory}:Tied", tmp_path / "w.safetensors")
    assert loaded.back.weight is loaded.embed.weight
    assert torch.equal(loaded.embed.weight, small.embed.weight)


def test_structure_is_json_and_holds_whole_numbers_alone():
    module = nn.Conv2d(4, 6, 3, bias=False)
    module.flag, module.ratio, module.note, module.mixed, module.sizes = True, 0.5, "x", (1, "a"), [(1, 2), 3]
    structure = json.loads(json.dumps(structure_of(module)))
    assert structure["tensors"] == {"weight": [6, 4, 3, 3]}
    numbers = structure["numbers"][""]
    assert (numbers["in_channels"], numbers["out_channels"]) == (4, 6)
    assert numbers["sizes"] == [[1, 2], 3]
    assert not {"flag", "ratio", "note", "mixed", "training", "padding_mode"} & set(numbers)


@pytest.mark.parametrize(("structure", "text"), [
    ({}, "malformed"), ({"tensors": {"weight": ["x"]}, "numbers": {}}, "malformed"),
    ({"tensors": {"weight": [6, 4, 3, 3], "bias": [6], "extra": [1]}, "numbers": {}}, "names differ, such as extra"),
    ({"tensors": {"weight": [6, 4], "bias": [6]}, "numbers": {}}, r"'weight' has 4 dimensions .* and 2 there"),
    ({"tensors": {"weight": [-1, 4, 3, 3], "bias": [6]}, "numbers": {}}, "malformed"),
    ([], "malformed"),
], ids=["empty", "words", "names", "dimensions", "negative", "list"])
def test_apply_structure_refuses_what_does_not_fit_and_changes_nothing(structure, text):
    module = nn.Conv2d(4, 8, 3)
    with pytest.raises(ExportError, match=text):
        apply_structure(module, structure)
    assert module.weight.shape == (8, 4, 3, 3)
    assert module.out_channels == 8


def test_load_module_believes_no_size_that_the_tensors_do_not_have(factory, pruned, tmp_path):
    structure = structure_of(pruned)
    structure["tensors"]["first.weight"][0] = 1 << 40
    path = tmp_path / "w.safetensors"
    save_file(dict(pruned.state_dict()), path, {STRUCTURE: json.dumps(structure)})
    with pytest.raises(ExportError, match=r"w\.safetensors.*first\.weight"):
        load_module(f"{factory}:Block", path)


def test_load_module_refuses_a_structure_that_is_no_json(factory, pruned, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(dict(pruned.state_dict()), path, {STRUCTURE: "{"})
    with pytest.raises(ExportError, match=r"w\.safetensors"):
        load_module(f"{factory}:Block", path)


def test_load_module_lists_names_when_a_pruned_file_is_of_another_factory(factory, pruned, tmp_path):
    save_checkpoint(pruned, tmp_path / "pruned.safetensors")
    with pytest.raises(ExportError, match=r"does not fit Tied: 2 missing \(embed.weight"):
        load_module(f"{factory}:Tied", tmp_path / "pruned.safetensors")


def test_save_checkpoint_leaves_the_file_before_when_it_cannot_write(tmp_path):
    with pytest.raises(SpecError, match="cannot be written"):
        save_checkpoint(nn.Linear(1, 1), tmp_path / "absent" / "w.safetensors")


def test_save_checkpoint_writes_what_other_programs_read(pruned, tmp_path):
    save_checkpoint(pruned, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
    assert header["__metadata__"]["format"] == "pt"
    assert header["first.weight"]["shape"] == [8, 3, 3, 3]

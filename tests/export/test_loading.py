"""Factories and weights: every form that works, and a clear word for each that does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trtkit.errors import ExportError, SpecError
from trtkit.export import load_module

SOURCE = """
from dataclasses import dataclass
import torch
import neighbour

@dataclass
class Sizes:
    width: int = 3

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(neighbour.WIDTH, Sizes().width)
        self.tied = torch.nn.Linear(neighbour.WIDTH, 3)
        self.tied.weight = self.first.weight

def make():
    return Net()

ready = Net()
number = 3

def broken():
    raise RuntimeError("no such config")

def nothing():
    return None
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "factory_under_test.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    yield tmp_path
    for name in ("factory_under_test", "neighbour", "trtkit_factory_factory_under_test"):
        sys.modules.pop(name, None)


@pytest.fixture
def module(folder):
    return load_module(f"{folder}/factory_under_test.py:make")


@pytest.mark.parametrize("name", ["make", "Net", "ready"])
def test_load_module_takes_function_class_and_instance(folder, name):
    path_before = sys.path[:]
    module = load_module(f"{folder}/factory_under_test.py:{name}")
    assert module.first.weight.shape == (3, 4)
    assert not module.training
    assert sys.path == path_before


def test_load_module_finds_dotted_name_in_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load_module("factory_under_test:make").first.weight.shape == (3, 4)


@pytest.mark.parametrize(("name", "text"), [
    ("absent", "there is no 'absent'. There are: .*make"), ("number", "is a int"), ("broken", "no such config"),
    ("nothing", "returns a NoneType"),
])
def test_load_module_says_what_is_wrong_with_the_factory(folder, name, text):
    with pytest.raises(ExportError, match=text):
        load_module(f"{folder}/factory_under_test.py:{name}")


@pytest.mark.parametrize(("factory", "error", "text"), [
    ("no_colon", SpecError, "no factory"), ("no_such_package.x:make", ExportError, "cannot be imported"),
    ("missing.py:make", ExportError, "does not exist"),
])
def test_load_module_refuses_place(factory, error, text):
    with pytest.raises(error, match=text):
        load_module(factory)


def test_load_module_tells_syntax_error(tmp_path):
    (tmp_path / "bad.py").write_text("def make(:\n")
    with pytest.raises(ExportError, match=r"bad.py' cannot be imported: SyntaxError"):
        load_module(f"{tmp_path}/bad.py:make")


def saved(state: dict, path: Path, how: str) -> Path:
    if how == "safetensors":
        save_file({key: value.clone() for key, value in state.items()}, path)
    elif how == "nested":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif how == "parallel":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("how", ["safetensors", "torch", "nested", "parallel"])
def test_load_module_puts_weights_in(folder, module, tmp_path, how):
    state = {key: torch.full_like(value, 0.5) for key, value in module.state_dict().items()}
    weights = saved(state, tmp_path / "weights.bin", how)
    loaded = load_module(f"{folder}/factory_under_test.py:make", weights)
    assert all(bool((value == 0.5).all()) for value in loaded.state_dict().values())


def test_load_module_accepts_a_tied_weight_that_is_stored_once(folder, module, tmp_path):
    state = {key: value for key, value in module.state_dict().items() if key != "tied.weight"}
    load_module(f"{folder}/factory_under_test.py:make", saved(state, tmp_path / "w.safetensors", "safetensors"))


def test_load_module_lists_missing_unexpected_and_wrong_shapes(folder, module, tmp_path):
    state = module.state_dict()
    state["first.weight"] = torch.ones(2, 4)
    del state["first.bias"]
    state["extra"] = torch.ones(1)
    weights = saved(state, tmp_path / "w.pth", "torch")
    with pytest.raises(ExportError) as caught:
        load_module(f"{folder}/factory_under_test.py:make", weights)
    text = str(caught.value)
    assert "1 missing (first.bias)" in text
    assert "1 unexpected (extra)" in text
    assert "first.weight (2, 4) instead of (3, 4)" in text


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(("content", "name", "text"), [
    (None, "w.pth", "cannot be read"), (b"", "w.pth", "w.pth' (hold|cannot)"), (b"\x00" * 64, "w.pth", "w.pth' hold"),
    (b"root:x:0:0:root\n", "w.pth", "w.pth' cannot be read: .*"), (bytes(range(255, 0, -1)), "w.pth", "w.pth' "),
    (b"not weights", "w.safetensors", "no readable safetensors"), (b"\xff" * 8 + b"{", "w.bin", "no readable"),
], ids=["absent", "empty", "zeros", "lines", "noise", "text", "header"])
def test_load_module_refuses_unreadable_weights(folder, tmp_path, content, name, text):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=text):
        load_module(f"{folder}/factory_under_test.py:make", tmp_path / name)


def test_load_module_runs_no_code_from_weights(folder, tmp_path, capsys):
    torch.save({"first.weight": Payload()}, tmp_path / "w.pth")
    with pytest.raises(ExportError, match="could run code"):
        load_module(f"{folder}/factory_under_test.py:make", tmp_path / "w.pth")
    assert "code ran" not in capsys.readouterr().out


def test_load_module_refuses_truncated_weights(folder, module, tmp_path):
    weights = saved(module.state_dict(), tmp_path / "w.pth", "torch")
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ExportError, match=r"w\.pth"):
        load_module(f"{folder}/factory_under_test.py:make", weights)


def test_load_module_refuses_a_list_of_tensors(folder, tmp_path):
    torch.save([torch.ones(1)], tmp_path / "w.pth")
    with pytest.raises(ExportError, match="hold list, not names and tensors"):
        load_module(f"{folder}/factory_under_test.py:make", tmp_path / "w.pth")

"""The project as a whole: modules, targets, version, pins, and command lines in the documents."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

import trtkit
from trtkit.cli.app import COMMANDS, app
from trtkit.graph import PASSES, preset
from trtkit.quant.placement import PLACEMENTS, get_placement
from trtkit.records import read_toml
from trtkit.target import Target, load_targets

ROOT = Path(__file__).parents[1]
PYPROJECT = read_toml(ROOT / "pyproject.toml")
EDGE_ROOMS = ("trtkit.runtime", "trtkit.bundle", "trtkit.build", "trtkit.cli")
"""Their modules are held to more in tests/install."""
DOCUMENTS = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if path.exists()]


def _modules() -> Iterator[str]:
    for path in sorted((ROOT / "trtkit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = tuple(_modules())
UPPER_MODULES = [name for name in MODULES if name.count(".") and not name.startswith(EDGE_ROOMS)]


@pytest.mark.parametrize("name", UPPER_MODULES)
def test_module_imports_and_has_each_name_of_its_all(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    for public in names:
        assert hasattr(module, public), f"{name}.{public} does not exist"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_that_a_module_defines_have_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for public in getattr(module, "__all__", []):
        value = getattr(module, public)
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == name:
            assert value.__doc__, f"{name}.{public} has no docstring"
            assert not value.__doc__.startswith(f"{public}("), f"{name}.{public} has no docstring of its own"


def test_version_is_that_of_the_project() -> None:
    assert trtkit.__version__ == version("trtkit") == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("target", load_targets().values(), ids=lambda target: target.name)
def test_a_built_in_target_can_be_lowered_for(target: Target) -> None:
    placement = get_placement(target.placement)
    assert placement.symmetric or not target.is_tensorrt
    assert target.precisions
    assert {name.partition(":")[0] for name in preset(target)} <= set(PASSES)
    assert target.opset >= 13  # per-channel QuantizeLinear
    assert bool(target.arch) == (target.device == "cpu")


def test_every_placement_serves_a_target() -> None:
    assert {target.placement for target in load_targets().values()} == set(PLACEMENTS)


def test_every_command_has_a_file_and_every_file_a_command() -> None:
    folder = ROOT / "trtkit" / "cli"
    shared = {"__init__", "app", "compression_table", "console", "examples"}
    files = {path.stem for path in folder.glob("*.py")} - shared
    assert files == set(COMMANDS)
    assert list(_command_line().commands) == list(COMMANDS)


def test_the_installed_program_is_the_command_line() -> None:
    program = Path(sys.executable).with_name("trtkit")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in COMMANDS)


def test_constraints_pin_what_the_extras_name_and_torch_on_every_python() -> None:
    header, *lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert header.startswith("#")
    assert lines == sorted(lines, key=lambda line: line.partition("=")[0])
    pins = dict(re.fullmatch(r'([a-z0-9-]+)==([^;+ ]+(?:; python_version >= "3\.\d+")?)', line).groups()  # type: ignore
                for line in lines)
    assert ";" not in pins["torch"]
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = {re.split(r"[^A-Za-z0-9-]", entry)[0] for extra in extras.values() for entry in extra}
    assert wanted - set(pins) == {"trtkit", "pycuda"}  # itself, and what needs CUDA to be compiled


def _command_line() -> Any:
    return typer.main.get_command(app)


def _shell_lines(text: str) -> Iterator[str]:
    """Yield the commands in fenced blocks and in inline code, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in "\n".join([*(block.replace("\\\n", " ") for block in blocks), *inline]).splitlines():
        command = line.strip().removeprefix("$ ")
        if command.startswith("trtkit "):
            yield command


def _faults(command: str) -> list[str]:
    """Return what is wrong with a command line; capitals such as TARGET stand for a value."""
    words = shlex.split(command, comments=True)[1:]
    known = _command_line()
    name = next((word for word in words if not word.startswith("-")), "")
    if not name or name == "CMD":
        options, given = known.params, words
    elif name in known.commands:
        options, given = [*known.params, *known.commands[name].params], words
    else:
        return [f"there is no command '{name}'"]
    spellings = {text for each in options for text in (*each.opts, *each.secondary_opts)} | {"--help"}
    return [f"'{name}' has no option '{word}'" for word in given
            if re.match(r"--?[A-Za-z]", word) and word.partition("=")[0] not in spellings]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_in_the_documents_name_commands_and_options_that_exist(document: Path) -> None:
    faults = {line: found for line in _shell_lines(document.read_text(encoding="utf-8")) if (found := _faults(line))}
    assert not faults


@pytest.mark.parametrize(("command", "faults"), [
    ("trtkit rewrite m.onnx -o out.onnx --preset TARGET --no-verify  # all of it", []),
    ("trtkit -v doctor", []),
    ("trtkit --help", []),
    ("trtkit depoly recipe.toml", ["there is no command 'depoly'"]),
    ("trtkit rewrite m.onnx --presets=rtx", ["'rewrite' has no option '--presets=rtx'"]),
])
def test_the_check_of_command_lines_finds_what_is_wrong(command: str, faults: list[str]) -> None:
    assert _faults(command) == faults


def test_the_check_of_command_lines_finds_them_all() -> None:
    text = "Run `trtkit doctor` or\n\n```bash\n$ trtkit pack \\\n  -o x.trtkit\nls\n```\n`trtkit`, trtkit words\n"
    assert [line.split() for line in _shell_lines(text)] == [["trtkit", "pack", "-o", "x.trtkit"], ["trtkit", "doctor"]]

"""A model that is none, at every command that reads one: one clear message, exit status 1, and nothing lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

Cli = Callable[..., Any]
Untouched = Callable[[Path], AbstractContextManager[None]]

COMMANDS = {
    "rewrite": ("rewrite", "bad.onnx", "-o", "out.onnx", "--pass", "fold-constants"),
    "calibrate": ("calibrate", "bad.onnx", "--data", "photos", "-o", "out.calib", "-p", "pre.toml"),
    "quantize": ("quantize", "bad.onnx", "--target", "pi5", "--precision", "fp32", "-o", "out.onnx"),
    "compare": ("compare", "bad.onnx", "m.onnx", "--data", "photos", "--preprocess", '{"size": [8, 8]}'),
    "build": ("build", "bad.onnx", "--target", "rtx", "-o", "out.plan"),
    "pack": ("pack", "-o", "m.trtkit", "--artifact", "pi5:fp32=bad.onnx"),
    "inspect": ("inspect", "bad.onnx"),
    "deploy": ("deploy", "recipe.toml"),
}


def _truncated(home: Path) -> None:
    data = (home / "m.onnx").read_bytes()
    (home / "bad.onnx").write_bytes(data[:len(data) // 2])


def _empty(home: Path) -> None:
    (home / "bad.onnx").write_bytes(b"")


def _text(home: Path) -> None:
    (home / "bad.onnx").write_text("These are my notes about the model.\n" * 20)


def _missing(home: Path) -> None:
    """There is no such file."""


def _without_external_data(home: Path) -> None:
    onnx.save(onnx.load(home / "m.onnx"), home / "bad.onnx", save_as_external_data=True, location="bad.weights",
              size_threshold=0)
    (home / "bad.weights").unlink()


def _unknown_operator(home: Path) -> None:
    model = onnx.load(home / "m.onnx")
    model.graph.node[1].op_type = "Rellu"
    (home / "bad.onnx").write_bytes(model.SerializeToString())


def _unconnected(home: Path) -> None:
    model = onnx.load(home / "m.onnx")
    model.graph.node[1].input[0] = "frist"
    (home / "bad.onnx").write_bytes(model.SerializeToString())


BAD = {"truncated": _truncated, "empty": _empty, "text": _text, "missing": _missing,
       "external": _without_external_data, "operator": _unknown_operator, "unconnected": _unconnected}
SAYS = {"external": "bad.weights", "operator": "Rellu", "unconnected": "frist"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_model_is_one_message_and_nothing_is_lost(home: Path, cli: Cli, untouched: Untouched, kind: str,
                                                        command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "build":
        pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(home)
    BAD[kind](home)
    (home / "recipe.toml").write_text((home / "recipe.toml").read_text().replace('"m.onnx"', '"bad.onnx"'))
    (home / "m.trtkit.work").mkdir()
    with untouched(home):
        done = cli(*COMMANDS[command])
    assert done.code == 1
    assert len(re.findall(r"Error: \w+Error: ", done.err)) == 1
    assert "Traceback" not in done.err
    assert "bad.onnx" in done.err
    if command != "build":  # TensorRT's parser names the node only
        assert SAYS.get(kind, "") in done.err
    assert re.search(r"(Export|Copy|copy|Name|Check|Give|Write|export|Put|-> )", done.err)


def test_the_installed_program_says_the_same_and_prints_no_traceback(home: Path, process: Cli,
                                                                     untouched: Untouched) -> None:
    _truncated(home)
    with untouched(home):
        done = process("calibrate", "bad.onnx", "--data", "photos", "-o", "out.calib", "-p", "pre.toml", cwd=home)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: GraphError: 'bad.onnx'")
    assert "truncated" in done.err


def test_a_model_with_a_type_that_does_not_fit_is_refused(home: Path, cli: Cli) -> None:
    model = onnx.load(home / "m.onnx")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    (home / "bad.onnx").write_bytes(model.SerializeToString())
    done = cli("pack", "-o", home / "m.trtkit", "--artifact", f"pi5:fp32={home / 'bad.onnx'}")
    assert done.code == 1
    assert "bad.onnx" in done.err

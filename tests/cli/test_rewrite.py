from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from trtkit.cli.app import app
from trtkit.errors import SpecError
from trtkit.graph import PASSES, load_model

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) ' \
       "{ a = Identity(x) b = Mul(a, a) y = Relu(b) }"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(TEXT).SerializeToString())
    return tmp_path / "m.onnx"


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["rewrite", *map(str, arguments)], env={"COLUMNS": "200"}, catch_exceptions=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_list_shows_every_pass_with_its_argument() -> None:
    shown = run("--list")
    assert all(entry.spelling in shown for entry in PASSES.values())


def test_passes_run_after_the_preset_and_nodes_are_counted(path: Path) -> None:
    out = path.with_name("out.onnx")
    shown = run(path, "-o", out, "--preset", "rtx", "--pass", "embed-topk:2")
    assert "remove-identities" in shown
    assert "3 nodes -> 3, each change checked in ONNX Runtime" in shown
    assert [node.op_type for node in load_model(out).graph.node] == ["Mul", "Relu", "TopK"]
    assert np.array_equal([o.name for o in load_model(out).graph.output], ["y_values", "y_indices"])


def test_missing_arguments_are_told(path: Path) -> None:
    with pytest.raises(SpecError, match="needs a model and an output"):
        run(path)
    with pytest.raises(SpecError, match="no pass to run"):
        run(path, "-o", path.with_name("out.onnx"))

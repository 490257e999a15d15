from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trtkit.errors import SpecError

Trtkit = Callable[..., str]

RECIPE = """
name = "[colors]"
output = "c.trtkit"
[model]
onnx = "colors.onnx"
[preprocess]
size = [8, 8]
[evaluate]
data = "photos"
[[target]]
name = "pi4"
precisions = ["fp32"]
[[target]]
name = "jetson-orin-jp6"
precisions = ["fp16"]
"""


@pytest.fixture
def recipe(tmp_path: Path, model: Path) -> Path:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.full((8, 8, 3), 10, np.uint8)
        pixels[:, :, number] = 250
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "photos/labels.json").write_text(json.dumps({f"{number}.png": [number] for number in range(3)}))
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_deploy_prints_notes_a_row_for_each_candidate_and_what_comes_next(recipe: Path, trtkit: Trtkit) -> None:
    printed = trtkit("deploy", recipe)
    assert "[colors]" in printed
    assert "Built on the board at first opening: jetson-orin-jp6" in printed
    rows = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [(row[0], row[1], row[2], row[-1]) for row in cells] == [
        ("(source)", "fp32", "onnx", ""), ("pi4", "fp32", "onnx", "yes"),
        ("jetson-orin-jp6", "fp16", "onnx", "yes")]
    assert cells[1][4] == "not measurable here"
    assert "1.000 / " in cells[2][6]
    assert f"Next: trtkit run {recipe.parent / 'c.trtkit'} PICTURE" in printed
    assert (recipe.parent / "c.trtkit").is_file()


def test_deploy_writes_a_folder_as_well(recipe: Path, trtkit: Trtkit) -> None:
    recipe.write_text(RECIPE.replace("c.trtkit", "folder"))
    printed = trtkit("deploy", recipe)
    size = sum(path.stat().st_size for path in (recipe.parent / "folder").rglob("*") if path.is_file())
    assert size > 500
    assert f"Wrote {recipe.parent / 'folder'} (0.00 MB)" in printed


def test_deploy_refuses_a_recipe_without_a_trace(recipe: Path, trtkit: Trtkit) -> None:
    before = sorted(path.name for path in recipe.parent.iterdir())
    recipe.write_text(RECIPE + "limit = 5\n")
    with pytest.raises(SpecError, match=r"recipe\.toml': \[\[target\]\] has the unknown key 'limit'"):
        trtkit("deploy", recipe)
    assert sorted(path.name for path in recipe.parent.iterdir()) == before

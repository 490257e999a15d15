"""The table of an earlier deployment: used again, made anew, or finished."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from trtkit.errors import CalibrationError
from trtkit.pipeline import deploy
from trtkit.recipe import Recipe

WriteRecipe = Callable[..., Recipe]


def _swept(recipe: Recipe) -> int:
    """Deploy, and return how many samples were calibrated on anew."""
    seen = [0]

    def watch(what: str, done: int, total: int | None) -> None:
        if what == "Calibrating":
            seen.append(done)

    deploy(recipe, watch)
    return max(seen)


def test_the_table_is_used_again_when_nothing_changed(recipe_of: WriteRecipe) -> None:
    recipe = recipe_of({"pi5": ["int8"]})
    assert _swept(recipe) == 12
    table, bundle = (recipe.work / "calibration.table").read_bytes(), recipe.output.read_bytes()
    assert _swept(recipe) == 0
    assert (recipe.work / "calibration.table").read_bytes() == table
    assert recipe.output.read_bytes() == bundle
    assert not list(recipe.work.glob("*.part"))


def test_the_table_is_made_anew_when_a_picture_changed(recipe_of: WriteRecipe, project: Path) -> None:
    recipe = recipe_of({"pi5": ["int8"]})
    deploy(recipe)
    table = (recipe.work / "calibration.table").read_bytes()
    Image.new("RGB", (8, 8), (255, 0, 255)).save(project / "photos/00.png")
    assert _swept(recipe) == 12
    assert (recipe.work / "calibration.table").read_bytes() != table


@pytest.mark.parametrize("changes", [{"preprocess": {"size": [8, 8]}}, {"calibrate": {"data": "photos", "limit": 6}}],
                         ids=["preprocessing", "limit"])
def test_the_table_is_made_anew_when_the_recipe_changed(recipe_of: WriteRecipe, changes: dict[str, object]) -> None:
    deploy(recipe_of({"pi5": ["int8"]}))
    assert _swept(recipe_of({"pi5": ["int8"]}, **changes)) > 0


@pytest.mark.parametrize("content", [b"", b"TRTKCAL\0 and then nothing"], ids=["empty", "cut"])
def test_the_table_is_made_anew_when_it_is_damaged(recipe_of: WriteRecipe, content: bytes) -> None:
    recipe = recipe_of({"pi5": ["int8"]})
    deploy(recipe)
    table = recipe.work / "calibration.table"
    whole = table.read_bytes()
    table.write_bytes(content)
    assert _swept(recipe) == 12
    assert table.read_bytes() == whole


def _interrupt(recipe: Recipe, after: int) -> None:
    def watch(what: str, done: int, total: int | None) -> None:
        if what == "Calibrating" and done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy(recipe, watch)


def test_an_interrupted_sweep_goes_on_to_a_byte_identical_table(recipe_of: WriteRecipe, project: Path) -> None:
    recipe = recipe_of({"pi5": ["int8"]})
    deploy(recipe)
    table = recipe.work / "calibration.table"
    whole = table.read_bytes()
    table.unlink()
    _interrupt(recipe, after=5)
    assert (recipe.work / "calibration.table.part").exists()
    assert not table.exists()
    pictures = sorted((project / "photos").glob("*.png"))
    os.utime(pictures[0])  # another time is no other picture
    deploy(recipe)
    assert table.read_bytes() == whole
    assert not list(recipe.work.glob("*.part"))


def test_a_part_of_other_data_is_put_aside(recipe_of: WriteRecipe, project: Path) -> None:
    recipe = recipe_of({"pi5": ["int8"]})
    _interrupt(recipe, after=5)
    Image.new("RGB", (8, 8), (255, 0, 255)).save(project / "photos/00.png")
    assert _swept(recipe) == 12
    assert not list(recipe.work.glob("*.part"))


def test_a_part_that_is_damaged_is_put_aside(recipe_of: WriteRecipe) -> None:
    recipe = recipe_of({"pi5": ["int8"]})
    _interrupt(recipe, after=5)
    (recipe.work / "calibration.table.part").write_bytes(b"half of it")
    assert _swept(recipe) == 12
    assert not list(recipe.work.glob("*.part"))


def test_data_that_is_gone_is_an_error_even_beside_a_part(recipe_of: WriteRecipe, project: Path) -> None:
    recipe = recipe_of({"pi5": ["int8"]})
    _interrupt(recipe, after=5)
    for picture in (project / "photos").glob("*.png"):
        picture.unlink()
    with pytest.raises(CalibrationError, match="holds no images, nothing"):
        deploy(recipe)
    assert (recipe.work / "calibration.table.part").exists()


def test_nothing_is_calibrated_when_no_target_wants_int8(recipe_of: WriteRecipe) -> None:
    recipe = recipe_of({"pi5": ["fp32"]})
    assert _swept(recipe) == 0

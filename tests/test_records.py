from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from trtkit.errors import SpecError
from trtkit.records import check_keys, read_record, read_settings


class Shade(str, Enum):
    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True)
class Pot:
    name: str
    size: int = 1
    weight: float = 0.5
    glazed: bool = False
    file: Path | None = None
    shade: Shade = Shade.LIGHT
    tags: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    limit: int | None = None
    more: tuple[Shade, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise SpecError("A pot of negative size")


@dataclass(frozen=True)
class Shelf:
    pots: tuple[Pot, ...]
    best: Pot | None = None


def test_tables_inside_become_records_of_their_own() -> None:
    shelf = read_record(Shelf, {"pots": [{"name": "p"}, {"name": "q", "size": 2}], "best": Pot("r")}, "[shelf]")
    assert shelf == Shelf((Pot("p"), Pot("q", 2)), Pot("r"))
    with pytest.raises(SpecError, match=r"\[shelf\] pots has the unknown key 'colour'"):
        read_record(Shelf, {"pots": [{"name": "p", "colour": "red"}]}, "[shelf]")


def test_values_become_what_the_hints_say() -> None:
    pot = read_record(Pot, {"name": "p", "weight": 2, "file": "a/b", "shade": "DARK", "tags": ["x", "y"],
                            "pair": [3, 4], "limit": None, "glazed": True, "more": ["light"]}, "[pot]")
    assert pot == Pot("p", 1, 2.0, True, Path("a/b"), Shade.DARK, ("x", "y"), (3, 4.0), None, (Shade.LIGHT,))
    assert isinstance(pot.weight, float)


def test_defaults_stay_when_nothing_is_said() -> None:
    assert read_record(Pot, {"name": "p"}, "[pot]") == Pot("p")


@pytest.mark.parametrize(("data", "message"), [
    ({}, "[pot] has no 'name'. It takes: name, size, weight, "),
    ({"name": "p", "colour": 1}, "[pot] has the unknown key 'colour'. It takes: name, size, "),
    ({"name": 5}, "[pot] name is 5. Give text in quotes"),
    ({"name": None}, "[pot] name is None. Give text in quotes"),
    ({"name": "p", "size": "5"}, "[pot] size is '5'. Give a whole number"),
    ({"name": "p", "size": 5.0}, "[pot] size is 5.0. Give a whole number"),
    ({"name": "p", "size": True}, "[pot] size is true. Give a whole number"),
    ({"name": "p", "size": -1}, "A pot of negative size"),
    ({"name": "p", "weight": "1"}, "[pot] weight is '1'. Give a finite number"),
    ({"name": "p", "weight": False}, "[pot] weight is false. Give a finite number"),
    ({"name": "p", "weight": float("inf")}, "[pot] weight is inf. Give a finite number"),
    ({"name": "p", "glazed": 1}, "[pot] glazed is 1. Give true or false"),
    ({"name": "p", "glazed": "yes"}, "[pot] glazed is 'yes'. Give true or false"),
    ({"name": "p", "file": 3}, "[pot] file is 3. Give a path in quotes"),
    ({"name": "p", "shade": "grey"}, "[pot] shade is 'grey'. Choose one of: light, dark"),
    ({"name": "p", "shade": ["light"]}, "[pot] shade is ['light']. Choose one of: light, dark"),
    ({"name": "p", "tags": "xy"}, "[pot] tags is 'xy'. Give a list in brackets"),
    ({"name": "p", "tags": ["x", 1]}, "[pot] tags is 1. Give text in quotes"),
    ({"name": "p", "tags": {"x": 1}}, "[pot] tags is {'x': 1}. Give a list in brackets"),
    ({"name": "p", "pair": [1]}, "[pot] pair is [1]. Give a list in brackets of 2 values"),
    ({"name": "p", "pair": [1.5, 1]}, "[pot] pair is 1.5. Give a whole number"),
    ({"name": "p", "limit": "x"}, "[pot] limit is 'x'. Give a whole number"),
    ({"name": "p", "more": "light"}, "[pot] more is 'light'. Give a list in brackets"),
    ("words", "[pot] is 'words', not a table. Write one key a line: name, size, "),
    ([{"name": "p"}], "[pot] is [{'name': 'p'}], not a table"),
], ids=str)
def test_what_does_not_fit_is_told_with_its_place_and_what_to_write(data: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_record(Pot, data, "[pot]")
    assert str(caught.value).startswith(message)


def test_check_keys_passes_a_table_with_some_of_the_keys() -> None:
    check_keys({"a": 1}, ("a", "b"), "[pot]")
    with pytest.raises(SpecError, match="unknown key 'c'"):
        check_keys({"a": 1, "c": 2}, ("a", "b"), "[pot]")


@pytest.mark.parametrize(("name", "text"), [
    ("recipe.toml", "output = 'm'\n[preprocess]\nsize = [8, 8]\n"), ("alone.toml", "size = [8, 8]\n"),
    ("recipe.json", '{"preprocess": {"size": [8, 8]}}'), ("alone.json", '{"size": [8, 8]}')])
def test_settings_are_read_from_a_recipe_and_from_a_file_of_their_own(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_settings(tmp_path / name, "preprocess") == {"size": [8, 8]}


@pytest.mark.parametrize(("name", "text", "fault"), [
    ("a.toml", None, "cannot be read: No such file"), ("a.json", None, "cannot be read: No such file"),
    ("a.toml", "size = [", "is not valid TOML"), ("a.json", "{", "is not valid JSON"),
    ("a.json", "[1]", r"holds no settings. Write keys and values, at the top or in a table \[preprocess\]"),
    ("a.toml", "preprocess = 5", "holds no settings")])
def test_settings_that_cannot_be_read_name_the_file(tmp_path: Path, name: str, text: str | None, fault: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=rf"{name}' {fault}"):
        read_settings(tmp_path / name, "preprocess")

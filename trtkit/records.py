"""A table of TOML or JSON -> a frozen dataclass: its keys, and the type of every value, checked against the hints."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from trtkit.errors import SpecError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["check_keys", "read_record", "read_settings", "read_toml", "read_value"]

Record = TypeVar("Record")

_WANTED = {str: "text in quotes", Path: "a path in quotes", int: "a whole number", float: "a finite number",
           bool: "true or false"}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        SpecError: It is missing, or is no TOML (with TOML's own line and column).
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return content
    except OSError as err:
        raise SpecError(f"'{path}' cannot be read: {err.strerror}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise SpecError(f"'{path}' is not valid TOML: {err}") from err


def read_settings(path: Path, table: str) -> dict[str, Any]:
    """Return the settings in a TOML or JSON file: its table of this name, as a recipe has it, else all of it.

    Raises:
        SpecError: It cannot be read, or holds no settings.
    """
    content = _read_json(path) if path.suffix == ".json" else read_toml(path)
    settings = content.get(table, content) if isinstance(content, dict) else content
    if not isinstance(settings, dict):
        raise SpecError(f"'{path}' holds no settings. Write keys and values, at the top or in a table [{table}]")
    return settings


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise SpecError(f"'{path}' cannot be read: {err.strerror}") from err
    except ValueError as err:
        raise SpecError(f"'{path}' is not valid JSON: {err}") from err


def read_record(kind: type[Record], data: Any, what: str) -> Record:
    """Return `kind(**data)`; lists become tuples, texts become paths and enum members, whole numbers become floats.

    Args:
        kind: A dataclass whose fields are str, Path, int, float, bool, enums of texts, such dataclasses, tuples of
            these, or optional.
        data: What the file holds: a table.
        what: What to call the table in messages, such as "[calibrate]".

    Raises:
        SpecError: It is no table, a key is unknown or missing, a value has another type, or `kind` refuses the values.
    """
    known = fields(kind)  # type: ignore[arg-type]
    keys = tuple(each.name for each in known)
    check_keys(data, keys, what)
    for each in known:
        if each.name not in data and each.default is MISSING and each.default_factory is MISSING:
            raise SpecError(f"{what} has no '{each.name}'. It takes: {', '.join(keys)}")
    hints = get_type_hints(kind)
    return kind(**{key: read_value(hints[key], value, f"{what} {key}") for key, value in data.items()})


def check_keys(data: Any, keys: tuple[str, ...], what: str) -> None:
    """Return when `data` is a table that has none but these keys.

    Raises:
        SpecError: It is something else, or has another key.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"{what} is {data!r}, not a table. Write one key a line: {', '.join(keys)}")
    for key in data:
        if key not in keys:
            raise SpecError(f"{what} has the unknown key '{key}'. It takes: {', '.join(keys)}")


def read_value(hint: Any, value: Any, what: str) -> Any:
    """Return `value` as the type that `hint` names.

    Args:
        hint: str, Path, int, float, bool, an enum of texts, a dataclass, tuple[X, ...], tuple[X, Y] or X | None.
        value: As TOML or JSON gives it; a Path, an enum member and an instance of the dataclass pass, too.
        what: What to call the value in messages, such as "[calibrate] limit".

    Raises:
        SpecError: It has another type, or a tuple another length.
    """
    options = get_args(hint)
    if type(None) in options:
        return None if value is None else read_value(options[0], value, what)
    if get_origin(hint) is tuple:
        return _read_tuple(options, value, what)
    if isinstance(hint, type) and is_dataclass(hint):
        return value if isinstance(value, hint) else read_record(hint, value, what)
    if issubclass(hint, Enum):
        return _read_member(hint, value, what)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {str: isinstance(value, str), Path: isinstance(value, (str, Path)), bool: isinstance(value, bool),
            int: number and isinstance(value, int), float: number and math.isfinite(value)}
    if not fits[hint]:
        raise SpecError(f"{what} is {_shown(value)}. Give {_WANTED[hint]}")
    return hint(value)


def _read_tuple(items: tuple[Any, ...], value: Any, what: str) -> tuple[Any, ...]:
    free = items[-1] is Ellipsis
    if not isinstance(value, (list, tuple)) or not (free or len(value) == len(items)):
        count = "" if free else f" of {len(items)} values"
        raise SpecError(f"{what} is {_shown(value)}. Give a list in brackets{count}")
    hints = (items[0],) * len(value) if free else items
    return tuple(read_value(hint, each, what) for hint, each in zip(hints, value))


def _read_member(kind: type[Enum], value: Any, what: str) -> Enum:
    names = {member.value: member for member in kind}
    text = value.lower() if isinstance(value, str) else value
    if not isinstance(value, str) or text not in names:
        raise SpecError(f"{what} is {_shown(value)}. Choose one of: {', '.join(names)}")
    return names[text]


def _shown(value: Any) -> str:
    """Return a value as TOML and JSON spell it, near enough."""
    return str(value).lower() if isinstance(value, bool) else repr(value)

"""The text "pkg.module:name" or "path/to/file.py:name" -> the object of that name in the user's own code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from trtkit.errors import ExportError, SpecError

__all__ = ["find_named"]


@contextmanager
def find_named(text: str, what: str = "factory") -> Iterator[Any]:
    """Yield what `text` names; while the block runs, the modules beside it can be imported.

    Args:
        text: "pkg.module:name" (the current folder is importable) or "path/to/file.py:name"; a name may have dots.
        what: What it should be, for messages.

    Raises:
        SpecError: `text` is not of either form.
        ExportError: It cannot be imported, or has nothing of that name.
    """
    place, colon, name = text.rpartition(":")
    if not (colon and place and name):
        raise SpecError(f"'{text}' is no {what}. Write pkg.module:name or path/to/file.py:name")
    is_file = place.endswith(".py")
    with _importable(Path(place).resolve().parent if is_file else Path.cwd()):
        found: Any = _import_file(Path(place)) if is_file else _import_name(place)
        for part in name.split("."):
            if not hasattr(found, part):
                public = ", ".join(sorted(n for n in vars(found) if not n.startswith("_"))[:12])
                raise ExportError(f"'{text}' names nothing: there is no '{part}'. There are: {public}")
            found = getattr(found, part)
        yield found


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _import_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as err:
        raise ExportError(f"Module '{name}' cannot be imported: {type(err).__name__}: {err}. "
                          "Run trtkit from the folder that holds it, or give path/to/file.py:name") from err


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ExportError(f"'{path}' does not exist. Give the file that holds it")
    name = f"trtkit_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ExportError(f"'{path}' is no Python file. Give a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and torch.export look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        del sys.modules[name]
        raise ExportError(f"'{path}' cannot be imported: {type(err).__name__}: {err}. "
                          "Run it with python first") from err
    return module

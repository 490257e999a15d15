"""A folder -> its images, with labels from labels.json or from the names of the subfolders."""

from __future__ import annotations

import json
from pathlib import Path

from trtkit.calib.sources.image_files import IMAGE_SUFFIXES, ImageFile, ImageFiles
from trtkit.errors import CalibrationError
from trtkit.preprocess import Preprocess
from trtkit.tensors import TensorSpec

__all__ = ["open_folder"]


def open_folder(folder: Path, input: TensorSpec, preprocess: Preprocess | None, limit: int | None) -> ImageFiles:
    """Return the images under `folder`, by ascending path.

    labels.json holds {"relative/file.png": [accepted class ids]}. Without it, the subfolders of a folder without
    images of its own are the classes: their names when these are numbers, else their places in ascending order.

    Raises:
        CalibrationError: There are no images, or labels.json is not readable.
    """
    paths = sorted((p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
                    and not p.name.startswith(".")), key=lambda p: p.relative_to(folder).as_posix())
    if not paths:
        others = sorted({p.suffix or "(none)" for p in folder.rglob("*") if p.is_file()})
        what = f"only files of type {', '.join(others[:6])}" if others else "nothing"
        raise CalibrationError(f"Folder '{folder}' holds no images, {what}. Name a folder with files of type "
                               f"{', '.join(sorted(IMAGE_SUFFIXES))}")
    names = [p.relative_to(folder).as_posix() for p in paths]
    labels = _labels(folder, names)
    files = [ImageFile(name, path, labels.get(name)) for name, path in zip(names, paths)]
    return ImageFiles(str(folder), files, input, preprocess, limit)


def _labels(folder: Path, names: list[str]) -> dict[str, tuple[int, ...]]:
    listing = folder / "labels.json"
    if listing.is_file():
        return _read_labels(listing)
    classes = sorted({name.split("/")[0] for name in names if "/" in name})
    if not classes or any("/" not in name for name in names):
        return {}
    number = {name: int(name) if all(c.isdecimal() for c in classes) else place
              for place, name in enumerate(classes)}
    return {name: (number[name.split("/")[0]],) for name in names}


def _read_labels(listing: Path) -> dict[str, tuple[int, ...]]:
    try:
        data = json.loads(listing.read_text(encoding="utf-8"))
        return {str(name): (ids,) if isinstance(ids, int) else tuple(int(i) for i in ids)
                for name, ids in data.items()}
    except (OSError, ValueError, TypeError, AttributeError) as err:
        raise CalibrationError(f"'{listing}' is not readable as labels: {err}. "
                               'Write {"relative/file.png": [class id, ...], ...}') from err

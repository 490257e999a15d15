"""A COCO annotation file -> its images; the labels of an image are the categories that it shows.

Categories are numbered 0, 1, 2, ... by ascending COCO id, as detectors number their outputs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trtkit.calib.sources.image_files import ImageFile, ImageFiles
from trtkit.errors import CalibrationError
from trtkit.preprocess import Preprocess
from trtkit.tensors import TensorSpec

__all__ = ["open_coco"]


def open_coco(path: Path, input: TensorSpec, preprocess: Preprocess | None, limit: int | None) -> ImageFiles:
    """Return the images that a COCO file lists, in its order.

    They are looked for beside the file, in images/ beside it or one level up, and where COCO puts them:
    annotations/instances_val2017.json and val2017/.

    Raises:
        CalibrationError: The file is no COCO annotation, lists no images, or none of them is where it may be.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: str(image["file_name"]) for image in data["images"]}
        labels = _labels(data) if data.get("annotations") else {}
    except (OSError, ValueError, TypeError, KeyError) as err:
        raise CalibrationError(f"'{path}' is no COCO annotation file ({type(err).__name__}: {err}). It needs 'images' "
                               "with 'id' and 'file_name'") from err
    if not images:
        raise CalibrationError(f"'{path}' lists no images. Give an annotation file of a data set that has some")
    root = _find_root(path, list(images.values()))
    files = [ImageFile(name, root / name, labels.get(key, () if labels else None)) for key, name in images.items()]
    return ImageFiles(str(path), files, input, preprocess, limit)


def _labels(data: dict[str, Any]) -> dict[Any, tuple[int, ...]]:
    known = {c["id"] for c in data.get("categories", ())} or {a["category_id"] for a in data["annotations"]}
    number = {category: place for place, category in enumerate(sorted(known))}
    shown: dict[Any, set[int]] = {}
    for annotation in data["annotations"]:
        shown.setdefault(annotation["image_id"], set()).add(number[annotation["category_id"]])
    return {image: tuple(sorted(categories)) for image, categories in shown.items()}


def _find_root(path: Path, names: list[str]) -> Path:
    here, up = path.parent, path.parent.parent
    roots = [here, here / "images", up / "images", up / path.stem.rpartition("_")[2], up]
    for root in roots:
        if any((root / name).is_file() for name in names[:20]):
            return root
    raise CalibrationError(f"'{path}' lists {len(names)} images such as '{names[0]}', but none of the first is in "
                           f"{', '.join(map(str, roots))}. Put the images beside it")

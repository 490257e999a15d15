"""Anything that holds samples -> DataSource. One file a kind; a new kind is a new file and a row in `LOADERS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.calib.sample import DataSource
from trtkit.calib.sources.arrays import ArrayFile
from trtkit.calib.sources.coco import open_coco
from trtkit.calib.sources.function import is_function, open_function
from trtkit.calib.sources.image_folder import open_folder
from trtkit.calib.sources.iterable import IterableSource
from trtkit.calib.sources.video import Video
from trtkit.errors import CalibrationError
from trtkit.preprocess import Preprocess
from trtkit.tensors import TensorSpec

__all__ = ["LOADERS", "Loader", "open_data"]

Opener = Callable[[Any, TensorSpec, "Preprocess | None", "int | None"], DataSource]


@dataclass(frozen=True)
class Loader:
    """One kind of source.

    Attributes:
        kind: What it is, for messages.
        accepts: Whether a source is of this kind; asked in the order of `LOADERS`.
        open: (source, input, preprocess, limit) -> DataSource.
    """

    kind: str
    accepts: Callable[[Any], bool]
    open: Opener


def _has_suffix(*suffixes: str) -> Callable[[Any], bool]:
    return lambda source: isinstance(source, Path) and source.is_file() and source.suffix.lower() in suffixes


LOADERS: tuple[Loader, ...] = (
    Loader("a data source", lambda source: isinstance(source, DataSource), lambda source, *_: source),
    Loader("a function, path.py:function", is_function, open_function),
    Loader("a folder of images", lambda source: isinstance(source, Path) and source.is_dir(), open_folder),
    Loader("an .npz or .npy file", _has_suffix(".npz", ".npy"), ArrayFile),
    Loader("a COCO .json file", _has_suffix(".json"), open_coco),
    Loader("a video file", _has_suffix(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"), Video),
    Loader("an iterable", lambda source: not isinstance(source, Path) and (hasattr(source, "__iter__")
                                                                           or callable(source)), IterableSource),
)


def open_data(source: Any, *, input: TensorSpec, preprocess: Preprocess | None = None,
              limit: int | None = None) -> DataSource:
    """Return the samples in `source`.

    Args:
        source: A path (folder of images, .npz, .npy, COCO .json, video), "path.py:function", any iterable of arrays,
            of dicts by input name, or of (array, label), or a function that returns one.
        input: The model's image input: what arrays without a name are for.
        preprocess: How images become this input; needed for images and video.
        limit: At most so many samples, evenly spaced where the total is known, else the first ones.

    Raises:
        CalibrationError: There is no such source, it holds nothing usable, or limit is below 1.
    """
    if limit is not None and limit < 1:
        raise CalibrationError(f"limit is {limit}: calibration without data is not possible. Give at least 1")
    if isinstance(source, str) and not is_function(source):
        source = Path(source)
    for loader in LOADERS:
        if loader.accepts(source):
            return loader.open(source, input, preprocess, limit)
    kinds = ", ".join(loader.kind for loader in LOADERS[1:])
    state = "does not exist" if isinstance(source, Path) and not source.exists() else "is of no known kind"
    shown = f"'{source}'" if isinstance(source, Path) else type(source).__name__
    raise CalibrationError(f"Data {shown} {state}. Give one of: {kinds}")

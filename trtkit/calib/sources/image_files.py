"""A list of image files -> samples; unreadable ones are named, and too many of them are an error."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtkit.calib.sample import DataSource, Sample, pick
from trtkit.errors import CalibrationError, SpecError
from trtkit.preprocess import Preprocess, read_image
from trtkit.tensors import TensorSpec

__all__ = ["IMAGE_SUFFIXES", "ImageFile", "ImageFiles"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_UNREADABLE_SHARE = 0.01
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True)
class ImageFile:
    """One image: what to call it, where it is, and its accepted classes (None: not known)."""

    name: str
    path: Path
    labels: tuple[int, ...] | None = None


class ImageFiles(DataSource):
    """Image files in a fixed order.

    Args:
        place: What holds them, for messages.
        files: In order.
        input: The input that they feed.
        preprocess: How a picture becomes that input.
        limit: At most so many, evenly spaced.
    """

    cheap_start = True

    def __init__(self, place: str, files: Sequence[ImageFile], input: TensorSpec, preprocess: Preprocess | None,
                 limit: int | None) -> None:
        super().__init__()
        if not files:
            raise CalibrationError(f"'{place}' holds no images. Name a folder with files of type "
                                   f"{', '.join(sorted(IMAGE_SUFFIXES))}")
        if preprocess is None:
            raise CalibrationError(f"Images from '{place}' need a preprocessing to become input '{input}'. "
                                   "Give --preprocess p.toml, the same that the model was trained with")
        self.place, self.input, self.preprocess = place, input, preprocess
        self.files = [files[index] for index in pick(len(files), limit)]

    @property
    def count(self) -> int:
        """How many images there are, unreadable ones included."""
        return len(self.files)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the readable images."""
        assert self.preprocess is not None
        for index, file in enumerate(self.files[start:], start):
            try:
                pixels = read_image(file.path)
            except SpecError as err:
                self._skip(file, err)
                continue
            yield Sample(file.name, {self.input.name: self.preprocess(pixels)}, file.labels, index)

    def _skip(self, file: ImageFile, err: SpecError) -> None:
        logger.warning("Left out: %s", err)
        if file.name not in self.unreadable:
            self.unreadable.append(file.name)
        if len(self.unreadable) > _UNREADABLE_SHARE * len(self.files):
            raise CalibrationError(f"{len(self.unreadable)} of {len(self.files)} images in '{self.place}' cannot be "
                                   f"read, more than {_UNREADABLE_SHARE:.0%}: {', '.join(self.unreadable[:5])}. "
                                   "Repair or remove them") from err

    def fingerprint(self) -> str:
        """Return a hash of names, labels and sizes, and of the first and last 64 KiB of each file."""
        digest = hashlib.sha256()
        for file in self.files:
            try:
                size = file.path.stat().st_size
                digest.update(f"{file.name}:{size}:{file.labels};".encode())
                with open(file.path, "rb") as stream:
                    digest.update(stream.read(_PROBE_BYTES))
                    stream.seek(max(0, size - _PROBE_BYTES))
                    digest.update(stream.read(_PROBE_BYTES))
            except OSError as err:
                digest.update(f"{file.name}:{err.strerror};".encode())
        return digest.hexdigest()[:16]

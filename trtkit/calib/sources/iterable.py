"""Any Python iterable, or a function that returns one -> samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any

import numpy as np

from trtkit.calib.sample import DataSource, Sample, fit_array, hash_feeds
from trtkit.errors import CalibrationError
from trtkit.preprocess import Preprocess
from trtkit.tensors import Array, TensorSpec

__all__ = ["IterableSource"]

_FINGERPRINTED = 8  # samples


class IterableSource(DataSource):
    """Samples from Python: arrays for `input`, dicts by input name, (either, label) pairs, or `Sample` objects.

    An array with a larger batch dimension is as many samples. An iterator that can be read only once is kept in
    memory; for large data give a function that returns a new one.

    Args:
        source: The iterable or function.
        input: The input that arrays without a name feed.
        preprocess: For RGB pixels (H, W, 3), uint8.
        limit: The first so many.
        name: What to call it in messages.
    """

    def __init__(self, source: Iterable[Any] | Callable[[], Iterable[Any]], input: TensorSpec,
                 preprocess: Preprocess | None, limit: int | None, *, name: str = "the iterable") -> None:
        super().__init__()
        self.input, self.preprocess, self.limit, self.name = input, preprocess, limit, name
        if not callable(source) and iter(source) is source:
            source = list(source if limit is None else islice(source, limit))
        self.source = source

    @property
    def count(self) -> int | None:
        """The limit or the length, where it is known; batches count as one until they are read."""
        known = len(self.source) if isinstance(self.source, Sized) else None
        return known if self.limit is None or (known is not None and known < self.limit) else self.limit

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the samples, reading from the beginning."""
        index = -1
        for index, sample in enumerate(islice(self._all(), self.limit)):
            if index >= start:
                yield Sample(sample.name or f"{self.name}[{index}]", sample.feeds, sample.labels, index)
        if index < 0:
            raise CalibrationError(f"{self.name[:1].upper()}{self.name[1:]} gave no samples. Give at least one; a "
                                   "loader that was read to its end must be made anew")

    def fingerprint(self) -> str:
        """Return a hash of the length, where it is known, and of the first samples."""
        digest = hashlib.sha256(f"{self.count};{self.limit};".encode())
        for sample in islice(self.samples(), _FINGERPRINTED):
            digest.update(hash_feeds(sample.feeds).encode())
        return digest.hexdigest()[:16]

    def _all(self) -> Iterator[Sample]:
        for item in self.source() if callable(self.source) else self.source:
            yield from self._split(item)

    def _split(self, item: Any) -> Iterator[Sample]:
        if isinstance(item, Sample):
            yield item
            return
        labels: Any = None
        if isinstance(item, tuple) and len(item) == 2:
            item, labels = item
        named = item if isinstance(item, Mapping) else {self.input.name: item}
        feeds = {name: fit_array(value, self.input if name == self.input.name else None, self.preprocess)
                 for name, value in named.items()}
        size = self._batch_size(feeds)
        for row in range(size):
            yield Sample("", {name: array[row:row + 1] if size > 1 else array for name, array in feeds.items()},
                         _row_labels(labels, row, size))

    def _batch_size(self, feeds: dict[str, Array]) -> int:
        fixed = self.input.shape[0] if self.input.shape and isinstance(self.input.shape[0], int) else None
        sizes = {array.shape[0] if array.ndim else 1 for array in feeds.values()}
        return sizes.pop() if len(sizes) == 1 and (fixed is None or fixed == 1) else 1


def _row_labels(labels: Any, row: int, size: int) -> tuple[int, ...] | None:
    if labels is None:
        return None
    if size > 1:
        labels = labels[row]
    return tuple(int(label) for label in np.atleast_1d(np.asarray(labels)))

"""What a data set is to the rest of trtkit: named samples in a fixed order, and a fingerprint."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trtkit.preprocess import Preprocess
from trtkit.tensors import Array, TensorSpec

__all__ = ["DataSource", "Sample", "fit_array", "hash_feeds", "pick"]


@dataclass(frozen=True)
class Sample:
    """One input of the model.

    Attributes:
        name: What to call it in a message, such as its file name.
        feeds: Arrays by input name, batch dimension 1.
        labels: The class ids that count as right; None when not known.
        index: Its place in the source, where `DataSource.samples` can start again.
    """

    name: str
    feeds: dict[str, Array]
    labels: tuple[int, ...] | None = None
    index: int = 0


class DataSource(ABC):
    """Samples that can be read again and again in the same order.

    Attributes:
        preprocess: How raw images became inputs; None when the data came prepared.
        unreadable: Names of the samples that could not be read so far.
        cheap_start: `samples(start)` does not read what lies before `start`.
    """

    preprocess: Preprocess | None = None
    cheap_start: bool = False

    def __init__(self) -> None:
        self.unreadable: list[str] = []

    @abstractmethod
    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the samples whose index is `start` or more, by ascending index.

        Raises:
            CalibrationError: There is none at all, or more than 1 % cannot be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short hash that changes when other samples would be yielded."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many samples there are, unreadable ones included; None when not known before the end."""

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()

    def __len__(self) -> int:
        if self.count is None:
            raise TypeError("The length of this data source is not known before its end")
        return self.count

    def __bool__(self) -> bool:
        return True


def pick(total: int, limit: int | None) -> list[int]:
    """Return `limit` evenly spaced places out of `total`, ascending; all of them when there are not more."""
    if limit is None or limit >= total:
        return list(range(total))
    return [place * total // limit for place in range(limit)]


def fit_array(value: object, spec: TensorSpec | None, preprocess: Preprocess | None) -> Array:
    """Return a value as one input array with a batch dimension.

    RGB pixels (uint8, last dimension 3) go through `preprocess` where there is one; a missing batch dimension is
    added; floating-point values take the input's own floating-point dtype. What fits no input is left as it is, for
    the model's own check to explain.
    """
    array = np.asarray(value)
    if spec is None:
        return array
    if preprocess is not None and array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 3:
        return preprocess.batch(list(array if array.ndim == 4 else array[None]))
    if array.ndim == len(spec.shape) - 1:
        array = array[None]
    wanted = np.dtype(spec.dtype)
    if array.dtype != wanted and array.dtype.kind == "f" and wanted.kind == "f":
        array = array.astype(wanted)
    return np.ascontiguousarray(array)


def hash_feeds(feeds: dict[str, Array]) -> str:
    """Return a short hash of arrays and their names."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"{name}:{array.dtype}{array.shape};".encode())
        digest.update(array.view(np.uint8).reshape(-1).data if array.ndim else array.tobytes())
    return digest.hexdigest()[:16]

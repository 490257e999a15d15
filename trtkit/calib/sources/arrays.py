"""An .npz or .npy file -> samples along the first axis of its arrays."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trtkit.calib.sample import DataSource, Sample, fit_array, pick
from trtkit.errors import CalibrationError
from trtkit.preprocess import Preprocess
from trtkit.tensors import Array, TensorSpec

__all__ = ["ArrayFile"]

_LABELS = "labels"


class ArrayFile(DataSource):
    """Arrays of shape (samples, ...): one in an .npy, one an input in an .npz, which may hold "labels", too.

    Args:
        path: The file. Object arrays are refused.
        input: The input that an .npy, or the only array of an .npz, feeds.
        preprocess: For arrays of RGB pixels (N, H, W, 3), uint8.
        limit: At most so many samples, evenly spaced.
    """

    cheap_start = True

    def __init__(self, path: Path, input: TensorSpec, preprocess: Preprocess | None, limit: int | None) -> None:
        super().__init__()
        self.path, self.input, self.preprocess = path, input, preprocess
        arrays = _read(path, input.name)
        self.labels = arrays.pop(_LABELS, None) if input.name != _LABELS else None
        if len(arrays) == 1 and input.name not in arrays:
            arrays = {input.name: arrays.popitem()[1]}
        self.arrays = arrays
        parts = {**arrays, **({} if self.labels is None else {_LABELS: self.labels})}
        sizes = {name: array.shape[0] if array.ndim else 0 for name, array in parts.items()}
        if not arrays or len(set(sizes.values())) != 1 or not min(sizes.values()):
            raise CalibrationError(f"'{path}' must hold arrays with the same number of samples, at least 1, along the "
                                   f"first axis; it has {sizes or 'none'}. Save it with numpy.savez(path, "
                                   f"{input.name}=array)")
        self.places = pick(next(iter(sizes.values())), limit)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.places)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield one sample an entry of the first axis."""
        for index, place in enumerate(self.places[start:], start):
            feeds = {name: fit_array(array[place:place + 1], self.input if name == self.input.name else None,
                                     self.preprocess) for name, array in self.arrays.items()}
            labels = None if self.labels is None else tuple(int(i) for i in np.atleast_1d(self.labels[place]))
            yield Sample(f"{self.path.name}[{place}]", feeds, labels, index)

    def fingerprint(self) -> str:
        """Return a hash of names, dtypes, shapes and values."""
        digest = hashlib.sha256(repr(self.places).encode())
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(f"{name}:{array.dtype}{array.shape};".encode())
            for place in self.places:
                digest.update(np.ascontiguousarray(array[place]).tobytes())
        return digest.hexdigest()[:16]


def _read(path: Path, name: str) -> dict[str, Array]:
    try:
        if path.suffix.lower() == ".npy":
            return {name: np.load(path, mmap_mode="r", allow_pickle=False)}
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
        raise CalibrationError(f"'{path}' is not readable as NumPy data: {err}. Save it again with numpy.savez; "
                               "arrays of objects are not read") from err

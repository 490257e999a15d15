"""What crosses a boundary: tensor specifications, shape profiles, and named arrays checked against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtkit.errors import SpecError

__all__ = ["Array", "FeedChecker", "Feeds", "ShapeProfile", "TensorSpec", "check_unique_names", "parse_shape"]

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one input or output.

    Attributes:
        name: Tensor name.
        dtype: numpy dtype name, such as "float32" ("bfloat16" and "float8_e4m3fn" where ml_dtypes is present).
        shape: One entry a dimension: a size >= 0, or a name where the size is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("A tensor needs a name, got ''. Name every input and output of the model")
        for dim in self.shape:
            if isinstance(dim, int) and dim < 0:
                raise SpecError(f"Tensor '{self.name}' has a negative dimension in {self.shape}. Use a name such as "
                                "'batch' for a dynamic one")

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Read what `to_json` wrote."""
        return cls(str(data["name"]), str(data["dtype"]), tuple(data["shape"]))


def check_unique_names(specs: Iterable[TensorSpec]) -> None:
    """Raise SpecError when two specs share a name."""
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise SpecError(f"Two tensors are named '{spec.name}'. Names must be unique")
        seen.add(spec.name)


def parse_shape(text: str) -> tuple[int, ...]:
    """Read "1x3x224x224" as (1, 3, 224, 224).

    Raises:
        SpecError: Something other than positive sizes joined by 'x'.
    """
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError as err:
        raise SpecError(f"'{text}' is not a shape. Write sizes joined by x, such as 1x3x224x224") from err
    if any(size < 1 for size in shape):
        raise SpecError(f"Shape '{text}' has a size below 1. Write sizes joined by x, such as 1x3x224x224")
    return shape


@dataclass(frozen=True)
class ShapeProfile:
    """Smallest, typical and largest shape of each dynamic input: one TensorRT optimization profile.

    Attributes:
        min, opt, max: Shape of each input by tensor name; the same names and ranks in all three.
    """

    min: Mapping[str, tuple[int, ...]]
    opt: Mapping[str, tuple[int, ...]]
    max: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if not (self.min.keys() == self.opt.keys() == self.max.keys()):
            raise SpecError(f"A shape profile names different inputs: min {sorted(self.min)}, opt {sorted(self.opt)}, "
                            f"max {sorted(self.max)}. Give all three shapes for each input")
        for name in self.min:
            low, mid, high = self.min[name], self.opt[name], self.max[name]
            ordered = len(low) == len(mid) == len(high) and all(a <= b <= c for a, b, c in zip(low, mid, high))
            if not ordered:
                raise SpecError(f"Shape profile of input '{name}' is not min <= opt <= max with one rank: "
                                f"{low}, {mid}, {high}")

    @classmethod
    def for_batch(cls, specs: Iterable[TensorSpec], *, min: int = 1, opt: int = 1, max: int = 1) -> ShapeProfile:
        """Return a profile in which every dynamic dimension of every input takes the three given sizes."""
        dynamic = [spec for spec in specs if any(isinstance(dim, str) for dim in spec.shape)]

        def at(size: int) -> dict[str, tuple[int, ...]]:
            return {spec.name: tuple(dim if isinstance(dim, int) else size for dim in spec.shape) for spec in dynamic}

        return cls(at(min), at(opt), at(max))

    def to_json(self) -> dict[str, dict[str, list[int]]]:
        """Return a JSON-able dict that `from_json` reads."""
        return {which: {name: list(shape) for name, shape in getattr(self, which).items()}
                for which in ("min", "opt", "max")}

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Iterable[int]]]) -> ShapeProfile:
        """Read what `to_json` wrote."""
        return cls(*({name: tuple(shape) for name, shape in data[which].items()} for which in ("min", "opt", "max")))


class FeedChecker:
    """Checks feeds against input specs at a boundary: nothing to say costs microseconds, and faults are told at once.

    Args:
        specs: The inputs that must be fed, each exactly once.
    """

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        self.specs = tuple(specs)
        check_unique_names(self.specs)
        self._expected = tuple((s.name, np.dtype(s.dtype), s.shape, len(s.shape)) for s in self.specs)

    def __call__(self, feeds: Feeds) -> None:
        """Return when every input is there once, with its dtype, rank and sizes; one name is one size throughout.

        Raises:
            SpecError: One readable list of everything that is wrong.
        """
        if len(feeds) != len(self._expected):
            raise SpecError(self._explain(feeds))
        sizes: dict[str, int] = {}
        for name, dtype, shape, rank in self._expected:
            array = feeds.get(name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != rank:
                raise SpecError(self._explain(feeds))
            actual = array.shape
            if actual != shape:
                for size, dim in zip(actual, shape):
                    if size != dim and (type(dim) is int or sizes.setdefault(str(dim), size) != size):
                        raise SpecError(self._explain(feeds))

    def _explain(self, feeds: Feeds) -> str:
        faults: list[str] = []
        sizes: dict[str, int] = {}
        for spec in self.specs:
            array = feeds.get(spec.name)
            if array is None:
                faults.append(f"input '{spec.name}' is missing")
            elif not isinstance(array, np.ndarray):  # callers do not all type-check
                faults.append(f"input '{spec.name}' is a {type(array).__name__}, not a numpy array")
            else:
                faults.extend(_array_faults(array, spec, sizes))
        faults.extend(f"'{name}' is not an input" for name in feeds if name not in {s.name for s in self.specs})
        return "Feeds do not fit the model: " + "; ".join(faults) + ". It takes " + ", ".join(map(str, self.specs))


def _array_faults(array: Array, spec: TensorSpec, sizes: dict[str, int]) -> list[str]:
    faults = []
    if array.dtype != np.dtype(spec.dtype):
        faults.append(f"input '{spec.name}' has dtype {array.dtype}, not {spec.dtype}")
    if array.ndim != len(spec.shape):
        faults.append(f"input '{spec.name}' has rank {array.ndim} {array.shape}, not {len(spec.shape)}")
        return faults
    for axis, (size, dim) in enumerate(zip(array.shape, spec.shape)):
        wanted = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
        if size != wanted:
            faults.append(f"input '{spec.name}' has size {size} in dimension {axis} {array.shape}, not {wanted}")
    return faults

"""The texts of `--input` -> example arrays to trace a module with."""

from __future__ import annotations

import numpy as np

from trtkit.errors import SpecError
from trtkit.tensors import Array, parse_shape

__all__ = ["example_arrays"]


def example_arrays(texts: list[str]) -> dict[str, Array] | tuple[Array, ...]:
    """Return seeded example arrays, by name where names are given.

    Args:
        texts: What `--input` was given: "1x3x224x224", "name=1x3x224x224" or "name=1x16:int64".

    Raises:
        SpecError: One is not understood, or only some have names.
    """
    parsed = [_example(text, seed) for seed, text in enumerate(texts)]
    named = {name: array for name, array in parsed if name}
    if named and len(named) != len(parsed):
        raise SpecError("Of several --input, name all or none, each once: --input ids=1x16:int64 --input "
                        "mask=1x16:int64")
    return named or tuple(array for _, array in parsed)


def _example(text: str, seed: int) -> tuple[str, Array]:
    name, _, shape_and_dtype = text.rpartition("=")
    shape, _, dtype_name = shape_and_dtype.partition(":")
    sizes = parse_shape(shape)
    try:
        dtype = np.dtype(dtype_name or "float32")
    except TypeError as err:
        raise SpecError(f"--input '{text}': '{dtype_name}' is no dtype. Write one such as float32 or int64") from err
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        return name, rng.standard_normal(sizes).astype(dtype)
    return name, rng.integers(0, 2, sizes).astype(dtype)

"""ModelProto -> file, whole or not at all; weights that protobuf cannot hold go to a file beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from trtkit.errors import SpecError
from trtkit.export.opset import size_bytes
from trtkit.files import atomic_path, atomic_write

__all__ = ["write_model"]


def write_model(model: onnx.ModelProto, path: Path, external_data_bytes: int) -> Path:
    """Write `model` to `path` and return `path`.

    Args:
        model: Unchanged.
        path: The model; its weights go to "PATH.data" when they are more than `external_data_bytes`.
        external_data_bytes: Largest size of weights inside the model file.

    Raises:
        SpecError: It cannot be written; the files that were there are untouched.
    """
    if size_bytes(model) <= external_data_bytes:
        atomic_write(path, model.SerializeToString())
        return path
    weights = path.with_name(f"{path.name}.data")
    with atomic_path(weights) as new_weights, atomic_path(path) as new_model:
        try:
            with tempfile.TemporaryDirectory(prefix=".trtkit-", dir=path.parent) as folder:
                copy = onnx.ModelProto()
                copy.CopyFrom(model)
                onnx.save_model(copy, Path(folder) / path.name, save_as_external_data=True,
                                all_tensors_to_one_file=True, location=weights.name, size_threshold=1024)
                (Path(folder) / weights.name).replace(new_weights)
                (Path(folder) / path.name).replace(new_model)
        except OSError as err:
            raise SpecError(f"'{path}' cannot be written: {err.strerror or err}. "
                            "What was there before is untouched") from err
    return path

"""What a user names as a model -> a session: an ONNX file or its bytes, a bundle, or a session as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trtkit.errors import SpecError
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.select import open as open_bundle_session
from trtkit.runtime.session import Session
from trtkit.tensors import Array, Feeds

__all__ = ["ModelSource", "fed", "is_bundle", "open_model"]

ModelSource = bytes | Path | Session


def open_model(source: ModelSource, *, threads: int | None = None) -> Session:
    """Return a session for a model.

    Args:
        source: ONNX file or bytes (ONNX Runtime runs them), a bundle (the best that this machine runs of it), or a
            session, which is returned.
        threads: For ONNX Runtime; its own choice when None.

    Raises:
        SpecError: There is no such file.
        BundleError: ONNX Runtime cannot load the model, or the bundle is damaged or has nothing that runs here.
    """
    if isinstance(source, bytes):
        return OrtSession(source, threads=threads)
    if not isinstance(source, Path):
        return source
    if not source.exists():
        raise SpecError(f"'{source}' does not exist. Give an ONNX file or a bundle")
    return open_bundle_session(source, threads=threads) if is_bundle(source) else OrtSession(source, threads=threads)


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle: a folder, or a file that ends in .trtkit."""
    return path.is_dir() or path.suffix == ".trtkit"


def fed(session: Session, feeds: Feeds) -> Mapping[str, Array]:
    """Return feeds as a session takes them: under its own name where there is one input, in its own float dtype.

    A lowering may have renamed its only input or take FP16; anything else is left for the session to refuse.
    """
    if len(session.inputs) == len(feeds) == 1:
        feeds = {session.inputs[0].name: next(iter(feeds.values()))}
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in session.inputs}
    return {name: array.astype(dtypes[name]) if _other_float(array, dtypes.get(name)) else array
            for name, array in feeds.items()}


def _other_float(array: Array, dtype: np.dtype[np.generic] | None) -> bool:
    return dtype is not None and array.dtype != dtype and array.dtype.kind == dtype.kind == "f"

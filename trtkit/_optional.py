"""Fetch an optional package inside the function that needs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from trtkit.errors import MissingDependencyError

_DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "onnx_graphsurgeon": "onnx-graphsurgeon"}


def require(module: str, *, extra: str, feature: str | None = None) -> ModuleType:
    """Return the imported module, or say which extra brings it.

    Args:
        module: Import name, such as "onnx" or "PIL.Image".
        extra: The extra of trtkit that installs it, such as "onnx".
        feature: What needs it, for the message; the module's own name when None.

    Raises:
        MissingDependencyError: The package is absent, or is there and its loader failed (the loader's text is kept).
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        top = module.partition(".")[0]
        absent = isinstance(err, ModuleNotFoundError) and err.name is not None and err.name.partition(".")[0] == top
        package = _DISTRIBUTIONS.get(top, top)
        state = "is not installed" if absent else f"is installed but does not load ({err})"
        what = f"{feature} needs {package}, which {state}" if feature else f"{package} {state}"
        raise MissingDependencyError(f"{what}. Run: pip install 'trtkit[{extra}]'") from err

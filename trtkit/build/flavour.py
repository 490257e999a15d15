"""Which TensorRT is here, and what it can do: asked of the module itself, never of a version table."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from trtkit._optional import require
from trtkit.bundle.engine_key import FLAVOURS
from trtkit.errors import BuildError, MissingDependencyError

__all__ = ["Flavour", "load_flavour"]

_EXTRAS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
_HOW = {
    "tensorrt": "TensorRT comes with JetPack (use a virtual environment with --system-site-packages) and with NVIDIA's "
                "TensorRT container.",
    "tensorrt_rtx": "For TensorRT-RTX on a PC run: pip install 'trtkit[rtx]'",
}


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT.

    Attributes:
        trt: The module.
        name: "tensorrt" or "tensorrt_rtx".
        version: Such as "10.3.0".
    """

    trt: ModuleType
    name: str
    version: str

    @property
    def title(self) -> str:
        """Its name and version for messages."""
        return f"{FLAVOURS[self.name]} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX."""
        return self.name == "tensorrt_rtx"

    @property
    def has_weak_typing(self) -> bool:
        """Whether builder flags can choose the precision: TensorRT 8 to 10, TensorRT-RTX up to 1.4."""
        return hasattr(self.trt.BuilderFlag, "FP16")

    @property
    def has_strong_typing(self) -> bool:
        """Whether the graph's types can be the precision: TensorRT 10 and later, every TensorRT-RTX."""
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def load_flavour(wanted: str, version: str = "") -> Flavour:
    """Import TensorRT.

    Args:
        wanted: "tensorrt", "tensorrt_rtx", or "" for the first that is installed, in this order.
        version: What its version must start with, such as "10.3"; "" for any.

    Raises:
        MissingDependencyError: It is not installed, or its libraries do not load (with the loader's text).
        BuildError: It is another version than the target has.
    """
    flavour = _first_that_imports((wanted,) if wanted else tuple(_EXTRAS))
    asked = version.split(".") if version else []
    if flavour.version.split(".")[:len(asked)] != asked:
        raise BuildError(f"The target has TensorRT {version}; here is {flavour.title}, and a plan runs only in the "
                         "version that built it. Build on the board, or in the container that has this version")
    return flavour


def _first_that_imports(names: tuple[str, ...]) -> Flavour:
    faults = []
    for name in names:
        try:
            module = require(name, extra=_EXTRAS[name])
            return Flavour(module, name, str(module.__version__))
        except MissingDependencyError as err:
            if not isinstance(err.__cause__, ModuleNotFoundError):
                raise
            faults.append(name)
        except OSError as err:  # a shared library of it is missing or broken
            raise MissingDependencyError(f"{name} is installed but does not load ({err}). {_HOW[name]}") from err
    raise MissingDependencyError(f"Building a plan needs {' or '.join(faults)}, which is not installed. "
                                 + " ".join(_HOW[name] for name in faults))

"""The sections of a recipe that say where a model and its data come from, and what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.target import Target
from trtkit.tensors import parse_shape

__all__ = ["BuildSection", "Deployment", "EvaluateSection", "ModelSection", "RewriteSection", "Sweep"]


@dataclass(frozen=True)
class ModelSection:
    """Where the model comes from: an ONNX file, or a torch module to be exported.

    Attributes:
        onnx: FP32 ONNX file.
        factory: "pkg.module:name" or "file.py:name", which makes the torch module.
        weights: For the module; random ones when None.
        input: Shape of the module's example input, such as "1x3x224x224".
        input_name: Name of the image input of an exported module.
        batch: Name of the dynamic batch dimension; "" fixes it.
    """

    onnx: Path | None = None
    factory: str = ""
    weights: Path | None = None
    input: str = ""
    input_name: str = "input"
    batch: str = "batch"

    def __post_init__(self) -> None:
        if (self.onnx is None) == (self.factory == ""):
            raise SpecError("[model] needs either onnx = FILE or factory = 'pkg.module:name', and not both")
        if self.factory and not self.input:
            raise SpecError("[model] with a factory needs the shape of an example input: input = '1x3x224x224'")
        if self.input:
            parse_shape(self.input)


@dataclass(frozen=True)
class RewriteSection:
    """Graph passes besides the preset of each target.

    Attributes:
        passes: Names, run before the presets.
        embed_preprocess: "nchw" or "nhwc" puts the preprocessing into the graph, which then takes uint8; "" does not.
    """

    passes: tuple[str, ...] = ()
    embed_preprocess: str = ""

    def __post_init__(self) -> None:
        if self.embed_preprocess not in ("", "nchw", "nhwc"):
            raise SpecError(f"[rewrite] embed_preprocess is '{self.embed_preprocess}'. Choose nchw or nhwc")


@dataclass(frozen=True)
class Sweep:
    """The data of the calibration sweep.

    Attributes:
        data: Folder, file, or "path.py:function"; see trtkit.calib.open_data.
        limit: At most so many samples, evenly spaced.
        batch: Samples a run.
    """

    data: str
    limit: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        _check_counts("[calibrate]", limit=self.limit, batch=self.batch)


@dataclass(frozen=True)
class EvaluateSection:
    """The data that accuracy is measured on.

    Attributes:
        data: Folder, file, or "path.py:function".
        limit: At most so many samples, evenly spaced.
        max_drop: How many points of top-1 or mAP (of agreement with FP32 without labels) a lowering may lose. Of a
            quantized one that loses more, as few layers as possible stay in float; where that does not bring it back,
            the bundle goes out without it.
    """

    data: str
    limit: int | None = None
    max_drop: float = 5.0

    def __post_init__(self) -> None:
        _check_counts("[evaluate]", limit=self.limit)
        if not 0 <= self.max_drop <= 100:
            raise SpecError(f"[evaluate] max_drop is {self.max_drop}; it is in points, from 0 to 100")


@dataclass(frozen=True)
class BuildSection:
    """How plans are built.

    Attributes:
        batch: Smallest, typical and largest batch size of a dynamic model.
        workspace_bytes: Most that tactics may use; TensorRT's own limit when None.
        sparse_weights: Whether plans built here try 2:4 sparse kernels; where some weights are 2:4 sparse when None.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_bytes: int | None = None
    sparse_weights: bool | None = None

    def __post_init__(self) -> None:
        if len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise SpecError(f"[build] batch is {list(self.batch)}. Give the smallest, typical and largest: [1, 1, 8]")
        _check_counts("[build]", workspace_bytes=self.workspace_bytes)


def _check_counts(section: str, **values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < 1:
            raise SpecError(f"{section} {key} is {value}. Give at least 1, or leave it out")


@dataclass(frozen=True)
class Deployment:
    """One target and the precisions wanted on it; a CPU target always gets FP32 too, to be measured against.

    Attributes:
        target, precisions: See there.
        has_choice: Whether the recipe leaves the precisions open: on a CPU, dynamic INT8 is tried as well where the
            model has matrix products.
    """

    target: Target
    precisions: tuple[Precision, ...]
    has_choice: bool = False

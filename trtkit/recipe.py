"""One deployment as data: recipe.toml -> frozen dataclasses, checked as a whole before the first step runs.

    name = "lite0"
    output = "lite0.trtkit"
    [model]      onnx = "model.onnx", or factory, weights and input
    [preprocess] size = [224, 224] ...
    [calibrate]  data = "photos"
    [evaluate]   data = "labelled"
    [[target]]   name = "rtx", precisions = ["int8"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from trtkit.bundle.manifest import Postprocess
from trtkit.errors import SpecError
from trtkit.precision import Estimator, NodeSelector, Precision, QuantSpec
from trtkit.preprocess import Preprocess
from trtkit.target import Target, get_target, read_toml
from trtkit.tensors import parse_shape

__all__ = ["BuildSection", "Deployment", "EvaluateSection", "ModelSection", "Recipe", "RewriteSection", "Sweep"]

_Section = TypeVar("_Section")


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


@dataclass(frozen=True)
class EvaluateSection:
    """The data that accuracy is measured on.

    Attributes:
        data: Folder, file, or "path.py:function".
        limit: At most so many samples, evenly spaced.
        max_drop: How many points of top-1 (or of agreement with FP32 without labels) a lowering may lose and still be
            chosen; more, and the bundle goes out without it.
    """

    data: str
    limit: int | None = None
    max_drop: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise SpecError(f"[evaluate] max_drop is {self.max_drop}; it is in points, from 0 to 100")


@dataclass(frozen=True)
class BuildSection:
    """How plans are built.

    Attributes:
        batch: Smallest, typical and largest batch size of a dynamic model.
        workspace_bytes: Most that tactics may use; TensorRT's own limit when None.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_bytes: int | None = None

    def __post_init__(self) -> None:
        if len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise SpecError(f"[build] batch is {list(self.batch)}. Give the smallest, typical and largest: [1, 1, 8]")


@dataclass(frozen=True)
class Deployment:
    """One target and the precisions wanted on it; a CPU target always gets FP32 too, to be measured against."""

    target: Target
    precisions: tuple[Precision, ...]


@dataclass(frozen=True)
class Recipe:
    """Everything that `trtkit deploy` needs.

    Attributes:
        name: Of the model, for people.
        output: Bundle to write.
        work: Folder of intermediate files; a second run starts from what it finds there.
        model, rewrite, calibrate, evaluate, quantize, build: See their types.
        preprocess, postprocess: See Preprocess and Postprocess.
        labels: Name of each class.
        deployments: What to make.
    """

    name: str
    output: Path
    work: Path
    model: ModelSection
    deployments: tuple[Deployment, ...]
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: tuple[str, ...] = ()
    rewrite: RewriteSection = field(default_factory=RewriteSection)
    calibrate: Sweep | None = None
    evaluate: EvaluateSection | None = None
    quantize: QuantSpec = field(default_factory=QuantSpec)
    build: BuildSection = field(default_factory=BuildSection)

    def __post_init__(self) -> None:
        wants_int8 = any(Precision.INT8 in each.precisions for each in self.deployments)
        if wants_int8 and self.calibrate is None:
            raise SpecError("A target wants int8 and there is no [calibrate] section. Add: [calibrate] data = 'FOLDER'")
        if self.rewrite.embed_preprocess and self.preprocess is None:
            raise SpecError("[rewrite] embed_preprocess needs a [preprocess] section to embed")

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe; its relative paths start from its own folder.

        Raises:
            SpecError: The file cannot be read, a section or key is unknown or missing, or a value is not usable; the
                message starts with the file's name.
        """
        try:
            return _recipe(read_toml(path), path.parent, path.stem)
        except SpecError as err:
            raise err if str(path) in str(err) else SpecError(f"'{path}': {err}") from err


_SECTIONS = ("model", "preprocess", "postprocess", "rewrite", "calibrate", "evaluate", "quantize", "build", "target")
_TOP = ("name", "output", "work", "labels", "targets")


def _recipe(data: Mapping[str, Any], folder: Path, stem: str) -> Recipe:
    _known(data, (*_SECTIONS, *_TOP), "The recipe")
    for key in ("model", "target", "output"):
        if key not in data:
            raise SpecError(f"The recipe has no '{key}'. It takes: {', '.join((*_TOP, *_SECTIONS))}")
    own_targets = folder / data["targets"] if "targets" in data else None
    output = folder / _text(data["output"], "output")
    return Recipe(
        name=_text(data.get("name", stem), "name"),
        output=output,
        work=folder / _text(data["work"], "work") if "work" in data else output.with_name(f"{output.name}.work"),
        model=_model(data["model"], folder),
        deployments=tuple(_deployment(row, own_targets) for row in _rows(data["target"])),
        preprocess=Preprocess.from_json(data["preprocess"]) if "preprocess" in data else None,
        postprocess=Postprocess.from_json(data["postprocess"]) if "postprocess" in data else None,
        labels=_labels(folder / data["labels"]) if "labels" in data else (),
        rewrite=_section(RewriteSection, data.get("rewrite", {}), "rewrite"),
        calibrate=_data_section(Sweep, data, "calibrate", folder),
        evaluate=_data_section(EvaluateSection, data, "evaluate", folder),
        quantize=_quantize(data.get("quantize", {})),
        build=_section(BuildSection, data.get("build", {}), "build"),
    )


def _known(data: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(data, Mapping):
        raise SpecError(f"{where} is not a table. Write one key a line below its [header]")
    unknown = [key for key in data if key not in keys]
    if unknown:
        raise SpecError(f"{where} has an unknown key '{unknown[0]}'. It takes: {', '.join(keys)}")


def _section(kind: type[_Section], data: Any, name: str) -> _Section:
    """Return a section's dataclass; lists become tuples, and keys and types are checked."""
    keys = tuple(f.name for f in fields(kind))  # type: ignore[arg-type]
    _known(data, keys, f"[{name}]")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    try:
        return kind(**values)
    except TypeError as err:
        raise SpecError(f"[{name}] is not usable: {err}. It takes: {', '.join(keys)}") from err


def _model(data: Any, folder: Path) -> ModelSection:
    _known(data, tuple(f.name for f in fields(ModelSection)), "[model]")
    paths = {key: folder / _text(data[key], f"[model] {key}") for key in ("onnx", "weights") if key in data}
    factory = data.get("factory", "")
    place, colon, made = factory.rpartition(":")
    if place.endswith(".py"):
        factory = f"{folder / place}{colon}{made}"
    return _section(ModelSection, {**data, **paths, "factory": factory}, "model")


def _data_section(kind: type[_Section], data: Mapping[str, Any], name: str, folder: Path) -> _Section | None:
    if name not in data:
        return None
    _known(data[name], tuple(f.name for f in fields(kind)), f"[{name}]")  # type: ignore[arg-type]
    if "data" not in data[name]:
        raise SpecError(f"[{name}] has no 'data'. Name a folder of images, a file, or 'path.py:function'")
    return _section(kind, {**data[name], "data": str(folder / _text(data[name]["data"], f"[{name}] data"))}, name)


def _quantize(data: Any) -> QuantSpec:
    keys = ("estimator", "percentile", "bias_correction", "keep_names", "keep_ops")
    _known(data, keys, "[quantize]")
    names = tuple(e.value for e in Estimator)
    if data.get("estimator", names[0]) not in names:
        raise SpecError(f"[quantize] estimator is '{data['estimator']}'. Choose one of: {', '.join(names)}")
    given = {key: data[key] for key in ("percentile", "bias_correction") if key in data}
    if "estimator" in data:
        given["estimator"] = Estimator(data["estimator"])
    return QuantSpec(keep=NodeSelector(tuple(data.get("keep_names", ())), tuple(data.get("keep_ops", ()))), **given)


def _rows(rows: Any) -> list[Mapping[str, Any]]:
    if not isinstance(rows, list) or not rows:
        raise SpecError("The recipe needs at least one [[target]] with name and precisions")
    return rows


def _deployment(row: Any, own_targets: Path | None) -> Deployment:
    _known(row, ("name", "precisions"), "[[target]]")
    if "name" not in row:
        raise SpecError("A [[target]] has no 'name'. See the names with: trtkit doctor")
    target = get_target(_text(row["name"], "[[target]] name"), own_targets)
    precisions = tuple(Precision.parse(text) for text in row.get("precisions", ["int8"]))
    for precision in precisions:
        target.check(precision)
    if target.device == "cpu" and Precision.FP32 not in precisions:
        precisions = (Precision.FP32, *precisions)
    return Deployment(target, precisions)


def _labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as err:
        raise SpecError(f"Labels '{path}' cannot be read: {err}. Give a text file with one label a line") from err


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise SpecError(f"{what} is {value!r}. Write it in quotes")
    return value

"""One deployment as data: recipe.toml -> frozen dataclasses, checked as a whole before the first step runs.

    name = "lite0"
    output = "lite0.trtkit"
    [model]      onnx = "model.onnx", or factory, weights and input
    [preprocess] size = [224, 224] ...
    [calibrate]  data = "photos"
    [evaluate]   data = "labelled"
    [train]      data = "data.py:loader"
    [[compress]] step = "prune", amount = 0.5
    [[target]]   name = "rtx", precisions = ["int8"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from trtkit.bundle.manifest import Postprocess
from trtkit.errors import SpecError
from trtkit.precision import NodeSelector, Precision, QuantSpec
from trtkit.preprocess import Preprocess
from trtkit.recipe.compress import CompressStep, QatStep, ResolutionStep, check_order
from trtkit.recipe.compress_reading import named_in, read_steps
from trtkit.recipe.sections import BuildSection, Deployment, EvaluateSection, ModelSection, RewriteSection, Sweep
from trtkit.records import check_keys, read_record, read_toml, read_value
from trtkit.target import get_target, load_targets

__all__ = ["Recipe"]

_DataSection = TypeVar("_DataSection", "Sweep", "EvaluateSection")


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
        compress: What makes the model smaller before, in order.
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
    compress: tuple[CompressStep, ...] = ()

    def __post_init__(self) -> None:
        names = [each.target.name for each in self.deployments]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpecError(f"Two [[target]] sections have the name '{twice[0]}'. Put all its precisions into one")
        wanted = [p for each in self.deployments for p in each.precisions if p.calibrated]
        if wanted and self.calibrate is None:
            raise SpecError(f"A target wants {wanted[0].value} and there is no [calibrate] section. "
                            "Add: [calibrate] data = 'FOLDER'")
        if self.rewrite.embed_preprocess and self.preprocess is None:
            raise SpecError("[rewrite] embed_preprocess needs a [preprocess] section to embed")
        check_order(self.compress)
        self._check_compress()

    def _check_compress(self) -> None:
        """Raise SpecError when the rest of the recipe lacks what a step of [[compress]] needs."""
        in_torch = [step for step in self.compress if not isinstance(step, QatStep)]
        if in_torch and not self.model.factory:
            raise SpecError(f"[[compress]] {in_torch[0].name} works on a torch module, and [model] is an ONNX file. "
                            "Name what makes the module: [model] factory = 'model.py:net'")
        resized = any(isinstance(step, ResolutionStep) for step in self.compress)
        if resized and self.preprocess is None and (self.calibrate or self.evaluate):
            raise SpecError("[[compress]] resolution changes the input's size, and without [preprocess] the data of "
                            "[calibrate] and [evaluate] comes in one size alone. Add: [preprocess] size = [224, 224]")
        if resized and self.preprocess is not None and self.preprocess.resize == "none":
            raise SpecError("[[compress]] resolution changes the input's size, and [preprocess] resize is 'none', "
                            "which takes pictures of one size alone. Choose stretch, crop or letterbox")
        if self.qat is None:
            return
        wanted = {each.target.name: each.precisions for each in self.deployments}
        if self.qat.precision not in wanted.get(self.qat.target.name, ()):
            raise SpecError(f"[[compress]] qat trains for {self.qat.target.name} {self.qat.precision.value}, which no "
                            "[[target]] wants. Add it there, or name another target or precision")
        if self.calibrate is None:
            raise SpecError("[[compress]] qat starts from a calibration, and there is no [calibrate] section. "
                            "Add: [calibrate] data = 'FOLDER'")
        if self.rewrite.embed_preprocess:
            raise SpecError("[[compress]] qat trains on what the loader gives, and [rewrite] embed_preprocess has the "
                            "graph take raw pixels. Leave one of them out")

    @property
    def qat(self) -> QatStep | None:
        """The step that trains on integer grids, where there is one."""
        last = self.compress[-1] if self.compress else None
        return last if isinstance(last, QatStep) else None

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


_SECTIONS = ("model", "preprocess", "postprocess", "rewrite", "calibrate", "evaluate", "quantize", "build", "train",
             "compress", "target")
_PATHS = ("output", "work", "labels", "targets")
_TOP = ("name", *_PATHS)
_KEEP = ("keep_names", "keep_ops")


def _recipe(data: Mapping[str, Any], folder: Path, stem: str) -> Recipe:
    check_keys(data, (*_TOP, *_SECTIONS), "The recipe")
    for key in ("model", "target", "output"):
        if key not in data:
            raise SpecError(f"The recipe has no '{key}'. It takes: {', '.join((*_TOP, *_SECTIONS))}")
    paths = {key: folder / read_value(Path, data[key], key) for key in _PATHS if key in data}
    output = paths["output"]
    return Recipe(
        name=read_value(str, data.get("name", stem), "name"),
        output=output,
        work=paths.get("work", output.with_name(f"{output.name}.work")),
        model=_model(data["model"], folder),
        deployments=tuple(_deployment(row, paths.get("targets")) for row in _rows(data["target"])),
        preprocess=Preprocess.from_json(data["preprocess"]) if "preprocess" in data else None,
        postprocess=Postprocess.from_json(data["postprocess"]) if "postprocess" in data else None,
        labels=_labels(paths["labels"]) if "labels" in paths else (),
        rewrite=read_record(RewriteSection, data.get("rewrite", {}), "[rewrite]"),
        calibrate=_data_section(Sweep, data, "calibrate", folder),
        evaluate=_data_section(EvaluateSection, data, "evaluate", folder),
        quantize=_quantize(data.get("quantize", {})),
        build=read_record(BuildSection, data.get("build", {}), "[build]"),
        compress=read_steps(data, folder, paths.get("targets")),
    )


def _model(data: Any, folder: Path) -> ModelSection:
    section = read_record(ModelSection, data, "[model]")
    return replace(section, factory=named_in(folder, section.factory), onnx=section.onnx and folder / section.onnx,
                   weights=section.weights and folder / section.weights)


def _data_section(kind: type[_DataSection], data: Mapping[str, Any], name: str, folder: Path) -> _DataSection | None:
    if name not in data:
        return None
    section = read_record(kind, data[name], f"[{name}]")
    return replace(section, data=str(folder / section.data))


def _quantize(data: Any) -> QuantSpec:
    check_keys(data, (*(f.name for f in fields(QuantSpec) if f.name != "keep"), *_KEEP), "[quantize]")
    names, operators = (read_value(tuple[str, ...], data.get(key, ()), f"[quantize] {key}") for key in _KEEP)
    own = {key: value for key, value in data.items() if key not in _KEEP}
    return replace(read_record(QuantSpec, own, "[quantize]"), keep=NodeSelector(names, operators))


def _rows(rows: Any) -> list[Any]:
    if not isinstance(rows, list) or not rows:
        raise SpecError("The recipe needs at least one [[target]] with name and precisions")
    return rows


def _deployment(row: Any, own_targets: Path | None) -> Deployment:
    check_keys(row, ("name", "precisions"), "[[target]]")
    if "name" not in row:
        raise SpecError(f"A [[target]] has no 'name'. There are: {', '.join(load_targets(own_targets))}")
    target = get_target(read_value(str, row["name"], "[[target]] name"), own_targets)
    asked_for = row.get("precisions", [target.usual_precision.value])
    precisions: tuple[Precision, ...] = read_value(tuple[Precision, ...], asked_for, "[[target]] precisions")
    if not precisions:
        raise SpecError(f"[[target]] '{target.name}' has no precisions. "
                        f"It runs: {', '.join(each.value for each in target.precisions)}")
    for precision in precisions:
        target.check(precision)
    if target.device == "cpu" and Precision.FP32 not in precisions:
        precisions = (Precision.FP32, *precisions)
    return Deployment(target, precisions, has_choice="precisions" not in row)


def _labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as err:
        raise SpecError(f"Labels '{path}' cannot be read: {err}. Give a text file with one label a line") from err

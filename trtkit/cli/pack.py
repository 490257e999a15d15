"""`trtkit pack`: artifacts -> one bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtkit.cli.console import console, rich_progress
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.records import read_settings
from trtkit.target import load_targets

if TYPE_CHECKING:
    from trtkit.runtime.packing import Source


def pack(
    output: Annotated[Path, typer.Option("--output", "-o", help="Bundle: NAME.trtkit for one file, else a folder.")],
    artifact: Annotated[list[str], typer.Option(
        help="target:precision=file, such as pi5:int8=m.onnx; once for each. ONNX, plan and calibration cache are told "
             "apart by content.")],
    preprocess: Annotated[Path | None, typer.Option(
        "--preprocess", "-p", help="How a picture becomes the input: a recipe, or TOML or JSON of that alone.",
    )] = None,
    postprocess: Annotated[Path | None, typer.Option(
        help="How outputs become predictions: a recipe, or TOML or JSON of that alone.")] = None,
    labels: Annotated[Path | None, typer.Option(help="One class a line, or a JSON list.")] = None,
    name: Annotated[str, typer.Option(help="Of the model; else the bundle's own.")] = "",
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
    os_arch: Annotated[str, typer.Option(help="Where plans were built, such as linux-aarch64; else here.")] = "",
) -> None:
    """Pack artifacts into one bundle and print what it holds."""
    from trtkit.bundle import Postprocess
    from trtkit.preprocess import Preprocess
    from trtkit.runtime.packing import PackOptions
    from trtkit.runtime.packing import pack as pack_files

    options = PackOptions(
        name=name, os_arch=os_arch, targets=load_targets(targets) if targets else {},
        preprocess=Preprocess.load(preprocess) if preprocess else None,
        postprocess=Postprocess.from_json(read_settings(postprocess, "postprocess")) if postprocess else None,
        labels=_labels(labels) if labels else ())
    with rich_progress() as progress:
        manifest = pack_files(output, [_source(text) for text in artifact], options, progress)
    size = sum(a.size_bytes for a in manifest.files.values())
    console.print(f"{output}: {len(manifest.artifacts)} artifacts, {size / 1e6:.2f} MB. See it with: trtkit inspect "
                  f"{output}", markup=False, highlight=False, soft_wrap=True)


def _source(text: str) -> Source:
    from trtkit.runtime.packing import Source

    what, equals, file = text.partition("=")
    target, colon, precision = what.partition(":")
    if not (equals and colon and target and file):
        raise SpecError(f"--artifact '{text}' cannot be read. Write target:precision=file, such as pi5:int8=m.onnx")
    return Source(target, Precision.parse(precision), Path(file))


def _labels(path: Path) -> tuple[str, ...]:
    if path.suffix == ".json":
        content = _json(path)
        if not isinstance(content, list) or not all(isinstance(label, str) for label in content):
            raise SpecError(f"'{path}' is no JSON list of texts. Write one label a class, in the order of the output")
        return tuple(content)
    return tuple(_read(path).splitlines())


def _json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as err:
        raise SpecError(f"'{path}' is not valid JSON: {err}") from err


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise SpecError(f"'{path}' cannot be read as text: {err}") from err

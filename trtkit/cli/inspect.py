"""`trtkit inspect`: an ONNX model, calibration table, plan or bundle as a table; told apart by content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from trtkit.bundle.store import SUFFIX
from trtkit.cli.compression_table import compression_table
from trtkit.cli.console import console
from trtkit.errors import SpecError
from trtkit.tensors import TensorSpec

_MAGIC_BYTES = 8


def inspect(
    path: Annotated[Path, typer.Argument(help="ONNX model, calibration table, plan, or bundle.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check the hash of every file of a bundle.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Rows of a long table.")] = 40,
) -> None:
    """Print what is in a file."""
    for table in _kind(path)(path, verify, limit):
        console.print(table)


def _kind(path: Path) -> Callable[[Path, bool, int], Iterable[Table]]:
    if path.is_dir() or (path.exists() and path.suffix == SUFFIX):
        return _bundle
    try:
        with open(path, "rb") as stream:
            start = stream.read(_MAGIC_BYTES)
    except OSError as err:
        raise SpecError(f"'{path}' cannot be read: {err.strerror}. Name a file or a bundle's folder") from err
    if start[:4] in (b"ftrt", b"vtrt"):
        return _plan
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _bundle
    if start.startswith(b"TRTKCAL"):
        return _calibration
    if start[:4] == b"TRT-":
        return _cache
    return _onnx


def _facts(title: str, rows: dict[str, object]) -> Table:
    table = Table("what", "value", title=Text(title), title_justify="left", show_header=False, box=box.SIMPLE,
                  pad_edge=False)
    for what, value in rows.items():
        table.add_row(what, Text(str(value)))
    return table


def _specs(specs: Iterable[TensorSpec]) -> str:
    return "\n".join(map(str, specs))


def _bundle(path: Path, verify: bool, limit: int) -> Iterable[Table]:
    from trtkit.bundle import open_bundle

    with open_bundle(path, verify="all" if verify else "read") as bundle:
        manifest = bundle.manifest
        yield _facts(f"Bundle {path}", {
            "model": manifest.name, "inputs": _specs(manifest.inputs), "outputs": _specs(manifest.outputs),
            "preprocess": manifest.preprocess or "none", "postprocess": manifest.postprocess or "softmax, top 5",
            "labels": f"{len(manifest.labels)}: {', '.join(manifest.labels[:5])}" if manifest.labels else "none",
            "size": f"{bundle.size_bytes / 1e6:.2f} MB", "hashes": "all verified" if verify else "checked when read",
            **{f"provenance: {key}": value for key, value in manifest.provenance.items()}})
        table = Table("file", "target", "precision", "kind", "MB", "p50 ms", "sha256", box=box.SIMPLE, pad_edge=False)
        table.columns[0].overflow = "fold"
        for a in manifest.artifacts:
            table.add_row(a.file, a.target, a.precision.value, a.kind, f"{a.size_bytes / 1e6:.2f}",
                          f"{a.p50_ms:.2f}" if a.p50_ms else "" if a.kind == "calibration-cache" else "not measured",
                          a.sha256[:8])
        yield table
        if manifest.compression:
            yield compression_table(manifest.compression)
        engines = {a.file: a.engine for a in manifest.artifacts if a.engine}
        if engines:
            yield _facts("Plans", {file: f"for {key}" for file, key in engines.items()})


def _plan(path: Path, verify: bool, limit: int) -> Iterable[Table]:
    from trtkit.bundle.plan_header import read_plan_header

    data = path.read_bytes()
    header = read_plan_header(data)
    yield _facts(f"Plan {path}", {
        "built by": header.flavour, "version": header.version or "not in the header",
        "SM": ", ".join(header.compute_capabilities) or "not in the header", "size": f"{len(data) / 1e6:.2f} MB"})


def _calibration(path: Path, verify: bool, limit: int) -> Iterable[Table]:
    from trtkit.ranges import CalibrationTable

    found = CalibrationTable.load(path)
    yield _facts(f"Calibration table {path}", {
        "samples": found.samples, "tensors": len(found.tensors), "model": found.model, "data": found.data,
        "preprocess": found.preprocess or "none"})
    table = Table("tensor", "min", "max", "values", "zeros %", "bins")
    for name, histogram in list(found.tensors.items())[:limit]:
        share = 100 * histogram.zeros / histogram.total if histogram.total else 0.0
        table.add_row(name, f"{histogram.min:.4g}", f"{histogram.max:.4g}", str(histogram.total), f"{share:.1f}",
                      str(len(histogram.bins)))
    yield _shortened(table, len(found.tensors), limit)


def _cache(path: Path, verify: bool, limit: int) -> Iterable[Table]:
    from trtkit.ranges.cache import parse_cache

    data = path.read_bytes()
    scales = parse_cache(data)
    header = data.split(b"\n", 1)[0].decode("ascii", "replace").strip()
    yield _facts(f"TensorRT calibration cache {path}", {"written for": header, "tensors": len(scales)})
    table = Table("tensor", "amax")
    for name, scale in list(scales.items())[:limit]:
        table.add_row(name, f"{scale * 127:.6g}")
    yield _shortened(table, len(scales), limit)


def _onnx(path: Path, verify: bool, limit: int) -> Iterable[Table]:
    from trtkit._optional import require

    require("onnx", extra="onnx", feature=f"Looking into '{path}', which is no bundle, plan or table,")
    from trtkit.graph import fingerprint, load_model, model_inputs, model_outputs

    model = load_model(path)
    opsets = ", ".join(f"{entry.domain or 'onnx'} {entry.version}" for entry in model.opset_import)
    yield _facts(f"ONNX model {path}", {
        "inputs": _specs(model_inputs(model)), "outputs": _specs(model_outputs(model)), "opset": opsets,
        "IR version": model.ir_version, "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "nodes": len(model.graph.node), "initializers": len(model.graph.initializer),
        "size": f"{path.stat().st_size / 1e6:.2f} MB", "fingerprint": fingerprint(model)})
    counts = Counter(node.op_type for node in model.graph.node)
    table = Table("operator", "nodes")
    for op_type, count in counts.most_common(limit):
        table.add_row(op_type, str(count))
    yield _shortened(table, len(counts), limit)


def _shortened(table: Table, rows: int, limit: int) -> Table:
    if rows > limit:
        table.caption = f"{rows - limit} more; show them with --limit {rows}"
    return table

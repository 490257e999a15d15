"""Files that were lowered and built -> a bundle: I/O comes from the models, keys from the headers of the plans."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtkit.bundle.compression import CompressionRow
from trtkit.bundle.engine_key import EngineKey
from trtkit.bundle.manifest import Artifact, ArtifactKind, BundleManifest, Postprocess
from trtkit.bundle.plan_header import read_plan_header
from trtkit.bundle.store import write_bundle
from trtkit.errors import BundleError, SpecError
from trtkit.precision import Precision
from trtkit.preprocess import Preprocess
from trtkit.progress import Progress, silent
from trtkit.runtime.ort import OrtSession
from trtkit.target import Target, load_targets
from trtkit.tensors import ShapeProfile, TensorSpec

__all__ = ["PackOptions", "Source", "pack"]

Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


@dataclass(frozen=True)
class Source:
    """A file to pack, and what it was made for. What kind of file it is, its content tells.

    Attributes:
        target, precision: What it was made for.
        path: The file.
        profile, measurements: See Artifact.
    """

    target: str
    precision: Precision
    path: Path
    profile: ShapeProfile | None = None
    measurements: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PackOptions:
    """What a bundle says besides its artifacts.

    Attributes:
        name: Of the model; the bundle's file name without suffix when "".
        preprocess, postprocess, labels, provenance, compression: See BundleManifest.
        targets: Rows that may be named besides the built-in ones; those in use become part of the bundle.
        os_arch: Operating system and architecture that plans were built on; this machine's when "".
    """

    name: str = ""
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: tuple[str, ...] = ()
    targets: Mapping[str, Target] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    os_arch: str = ""
    compression: tuple[CompressionRow, ...] = ()


def pack(path: Path, sources: Sequence[Source], options: PackOptions | None = None,
         progress: Progress = silent) -> BundleManifest:
    """Write a bundle of files; every ONNX model is loaded once, to see that it does and that all take the same.

    Args:
        path: Of the bundle; see `write_bundle`.
        sources: At least one of them an ONNX model, which tells inputs and outputs.
        options: See there.
        progress: Told of every file.

    Raises:
        SpecError: A target is unknown or does not run the precision, there is no ONNX model, or two differ in inputs
            or outputs.
        BundleError: A file cannot be read, or is no model.
    """
    options = options or PackOptions()
    targets = {**load_targets(), **options.targets}
    artifacts: list[Artifact] = []
    names: dict[Path, str] = {}
    signatures: dict[str, Signature] = {}
    for done, source in enumerate(sources, 1):
        if source.target not in targets:
            raise SpecError(f"Target '{source.target}' of '{source.path}' is unknown. There are: {', '.join(targets)}")
        targets[source.target].check(source.precision)
        name = names.setdefault(source.path.resolve(), _free_name(source, names.values()))
        artifact, signature = _artifact(source, name, targets[source.target], options)
        artifacts.append(artifact)
        if signature:
            signatures[name] = signature
        progress("Checking", done, len(sources))
    inputs, outputs = _common(signatures)
    own = [targets[name] for name in dict.fromkeys(a.target for a in artifacts) if name not in load_targets()]
    manifest = BundleManifest(
        name=options.name or path.stem, inputs=inputs, outputs=outputs, artifacts=tuple(artifacts),
        preprocess=options.preprocess, postprocess=options.postprocess, labels=options.labels, targets=tuple(own),
        provenance=options.provenance, compression=options.compression)
    return write_bundle(path, manifest, {name: file for file, name in names.items()}, progress)


def _free_name(source: Source, taken: Iterable[str]) -> str:
    name = source.path.name
    return f"{source.target}-{source.precision.value}/{name}" if name in taken else name


def _artifact(source: Source, name: str, target: Target, options: PackOptions) -> tuple[Artifact, Signature | None]:
    try:
        data = source.path.read_bytes()
    except OSError as err:
        raise BundleError(f"'{source.path}' cannot be read: {err.strerror}. Check the path") from err
    kind = _kind(data)
    key = _engine_key(data, source, target, options.os_arch) if kind == "plan" else None
    artifact = Artifact(name, source.target, source.precision, kind, engine=key, profile=source.profile,
                        measurements=source.measurements)
    if kind != "onnx":
        return artifact, None
    try:
        session = OrtSession(data)
    except BundleError as err:
        raise BundleError(f"'{source.path}' for {source.target}: {err}") from err
    signature = session.inputs, session.outputs
    session.close()
    return artifact, signature


def _kind(data: bytes) -> ArtifactKind:
    if data[:4] in (b"ftrt", b"vtrt"):
        return "plan"
    return "calibration-cache" if data.startswith(b"TRT-") else "onnx"


def _engine_key(data: bytes, source: Source, target: Target, os_arch: str) -> EngineKey:
    header = read_plan_header(data)
    if header.flavour != target.runtime:
        raise SpecError(f"'{source.path}' is a plan of {header.flavour}; target '{target.name}' runs {target.runtime}. "
                        "Name the target that it was built for")
    sm = header.compute_capabilities or ((target.sm,) if target.sm else ())
    here = f"{platform.system().lower()}-{platform.machine()}"
    return EngineKey(header.flavour, header.version or target.tensorrt, sm, os_arch or here, source.precision)


def _common(signatures: Mapping[str, Signature]) -> Signature:
    if not signatures:
        raise SpecError("There is no ONNX model among the artifacts, so inputs and outputs are not known. "
                        "Add the model that the plans were built from; a board can build from it, too")
    (first, chosen), *others = signatures.items()
    for name, signature in others:
        if [_shape_free(specs) for specs in signature] != [_shape_free(specs) for specs in chosen]:
            told = [" -> ".join(", ".join(map(str, specs)) for specs in each) for each in (chosen, signature)]
            raise SpecError(f"'{first}' and '{name}' do not take and return the same: {told[0]} against {told[1]}. "
                            "Pack them as two bundles")
    return chosen


def _shape_free(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, int]]:
    return [(spec.name, spec.dtype, len(spec.shape)) for spec in specs]

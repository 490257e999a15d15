"""What a bundle says about itself: I/O, preprocessing, labels, and one row an artifact; read from and written as JSON.

    BundleManifest <-> bytes of manifest.json (canonical: sorted keys, two spaces, its own SHA-256 under "digest")
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from trtkit.bundle.compression import CompressionRow
from trtkit.bundle.engine_key import EngineKey
from trtkit.errors import BundleError, SpecError
from trtkit.precision import Precision
from trtkit.preprocess import Preprocess
from trtkit.records import read_record
from trtkit.target import Target
from trtkit.tensors import ShapeProfile, TensorSpec, check_unique_names

__all__ = ["FORMAT_VERSION", "MANIFEST_NAME", "Artifact", "ArtifactKind", "BundleManifest", "Postprocess",
           "check_member"]

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

ArtifactKind = Literal["onnx", "plan", "calibration-cache"]

_CHOICES = {"task": ("classification", "multi-label"), "activation": ("softmax", "sigmoid", "none")}


def check_member(name: str) -> str:
    """Return `name` when it is a plain relative path with forward slashes that stays inside a bundle.

    Raises:
        BundleError: It is empty, absolute, has a drive, a backslash, a control character, or a '.' or '..' part.
    """
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and ":" not in name
    if not plain or any(part in ("", ".", "..") for part in parts) or PurePosixPath(name).is_absolute():
        raise BundleError(f"A bundle may not hold a file named {name!r}: it could leave the bundle's folder. "
                          "Do not use this bundle; names are relative, such as onnx/model.onnx")
    return name


@dataclass(frozen=True)
class Artifact:
    """One file of a bundle that some runtime can use, for one target.

    Attributes:
        file: Path inside the bundle, with forward slashes. Several rows may share one file.
        target: Name of the target that it was lowered for (trtkit.target).
        precision: Number format of the lowering.
        kind: "onnx", "plan" (a TensorRT engine's bytes) or "calibration-cache" (for the weakly typed build of the
            "onnx" artifact of the same target and precision).
        sha256: Of the file, in hex; "" until `write_bundle` fills it in.
        size_bytes: Of the file; filled in by `write_bundle`.
        engine: For a plan: what it was built for.
        profile: Shapes of the dynamic inputs that it was, or is to be, built for.
        measurements: JSON-able numbers measured on a machine that is such a target: "p50_ms" decides between
            artifacts; others, such as "p99_ms", "top1", "agreement", are for people.
    """

    file: str
    target: str
    precision: Precision
    kind: ArtifactKind
    sha256: str = ""
    size_bytes: int = 0
    engine: EngineKey | None = None
    profile: ShapeProfile | None = None
    measurements: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if check_member(self.file) == MANIFEST_NAME:
            raise SpecError(f"An artifact may not be named {MANIFEST_NAME}, which is the manifest's. Choose another")
        if self.kind not in get_args(ArtifactKind):
            raise SpecError(f"Artifact '{self.file}': kind is '{self.kind}'. "
                            f"Choose one of: {', '.join(get_args(ArtifactKind))}")
        if (self.kind == "plan") != (self.engine is not None):
            raise SpecError(f"Artifact '{self.file}' is of kind '{self.kind}' and has engine key {self.engine}. "
                            "A plan needs the key that build_plan returned, and nothing else has one")
        if self.size_bytes < 0:
            raise SpecError(f"Artifact '{self.file}': size is {self.size_bytes} bytes. It must not be negative")

    def __str__(self) -> str:
        return f"{self.file} ({self.target}, {self.precision.value}, {self.kind})"

    @property
    def p50_ms(self) -> float | None:
        """Median latency measured on this target, in milliseconds, or None."""
        value = self.measurements.get("p50_ms")
        return float(value) if isinstance(value, (int, float)) else None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads."""
        row: dict[str, Any] = {"file": self.file, "target": self.target, "precision": self.precision.value,
                               "kind": self.kind, "sha256": self.sha256, "size_bytes": self.size_bytes}
        if self.engine is not None:
            row["engine"] = self.engine.to_json()
        if self.profile is not None:
            row["profile"] = self.profile.to_json()
        if self.measurements:
            row["measurements"] = dict(self.measurements)
        return row

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Artifact:
        """Read what `to_json` wrote."""
        return cls(
            file=_text(data["file"]), target=_text(data["target"]), precision=Precision.parse(data["precision"]),
            kind=data["kind"], sha256=_text(data["sha256"]), size_bytes=int(data["size_bytes"]),
            engine=EngineKey.from_json(data["engine"]) if "engine" in data else None,
            profile=ShapeProfile.from_json(data["profile"]) if "profile" in data else None,
            measurements=dict(data.get("measurements", {})),
        )


@dataclass(frozen=True)
class Postprocess:
    """How an output becomes predictions.

    Attributes:
        task: "classification" (one label a picture) or "multi-label" (any number of them).
        output: Name of the output that holds a score per class in its last dimension; the first output when None.
        activation: What turns scores into probabilities: "softmax", "sigmoid", or "none" where the graph does it.
        top: For "classification", how many predictions to return, best first.
        threshold: For "multi-label", the probability from which a label counts.
    """

    task: str = "classification"
    output: str | None = None
    activation: str = "softmax"
    top: int = 5
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise SpecError(f"Postprocess {key} is '{getattr(self, key)}'. Choose one of: {', '.join(choices)}")
        if self.top < 1 or not 0.0 <= self.threshold <= 1.0:
            raise SpecError(f"Postprocess top is {self.top} and threshold {self.threshold}. "
                            "Give top >= 1 and a threshold from 0 to 1")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Postprocess:
        """Read a dict, as `to_json` wrote it or as a recipe gives it.

        Raises:
            SpecError: A key is unknown, or a value is not usable.
        """
        return read_record(cls, data, "Postprocessing")


@dataclass(frozen=True)
class BundleManifest:
    """Everything that a board needs to know about a model, without loading it.

    Attributes:
        name: Of the model, for people.
        inputs, outputs: As the artifacts have them; a dynamic dimension is a name.
        artifacts: One row a target, precision and kind.
        preprocess: How a picture becomes the (only) input, or None where the model takes no pictures.
        postprocess: How an output becomes predictions, or None.
        labels: Name of each class, in the order of the output; may be empty.
        targets: Rows of targets that are not built in, so that a bundle carries what its artifacts refer to.
        provenance: JSON-able: where it came from (source model, data, versions).
        compression: The starting model, then one row a compress step of its recipe; none where there were no steps.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    artifacts: tuple[Artifact, ...]
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    compression: tuple[CompressionRow, ...] = ()

    def __post_init__(self) -> None:
        check_unique_names(self.inputs)
        check_unique_names(self.outputs)
        if not (self.name and self.inputs and self.outputs and self.artifacts):
            raise SpecError(f"Manifest of '{self.name}' has {len(self.inputs)} inputs, {len(self.outputs)} outputs and "
                            f"{len(self.artifacts)} artifacts. It needs a name and at least one of each")
        facts: dict[str, tuple[str, int]] = {}
        for artifact in self.artifacts:
            fact = (artifact.sha256, artifact.size_bytes)
            if facts.setdefault(artifact.file, fact) != fact:
                raise SpecError(f"Two artifacts share the file '{artifact.file}' and disagree about its hash or size: "
                                f"{facts[artifact.file]} and {fact}. Give them two files")

    @property
    def files(self) -> dict[str, Artifact]:
        """One artifact of each file, by the file's name."""
        return {artifact.file: artifact for artifact in self.artifacts}

    def with_hashes(self, facts: Mapping[str, tuple[str, int]]) -> BundleManifest:
        """Return this manifest with (sha256, size in bytes) of each file put into its artifacts."""
        rows = (replace(a, sha256=facts[a.file][0], size_bytes=facts[a.file][1]) for a in self.artifacts)
        return replace(self, artifacts=tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads, without the digest."""
        body: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "preprocess": self.preprocess.to_json() if self.preprocess else None,
            "postprocess": self.postprocess.to_json() if self.postprocess else None,
            "labels": list(self.labels),
            "artifacts": [artifact.to_json() for artifact in self.artifacts],
            "targets": [asdict(target) for target in self.targets],
            "provenance": dict(self.provenance),
        }
        if self.compression:
            body["compression"] = [row.to_json() for row in self.compression]
        return body

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BundleManifest:
        """Read what `to_json` wrote."""
        return cls(
            name=_text(data["name"]),
            inputs=tuple(map(TensorSpec.from_json, data["inputs"])),
            outputs=tuple(map(TensorSpec.from_json, data["outputs"])),
            artifacts=tuple(map(Artifact.from_json, data["artifacts"])),
            preprocess=Preprocess.from_json(data["preprocess"]) if data.get("preprocess") else None,
            postprocess=Postprocess.from_json(data["postprocess"]) if data.get("postprocess") else None,
            labels=tuple(map(_text, data.get("labels", ()))),
            targets=tuple(map(_target, data.get("targets", ()))),
            provenance=dict(data.get("provenance", {})),
            compression=tuple(map(CompressionRow.from_json, data.get("compression", ()))),
        )

    def to_bytes(self) -> bytes:
        """Return the content of manifest.json; the same manifest gives the same bytes.

        Raises:
            SpecError: A measurement or the provenance is not JSON-able (NaN and infinity are not).
        """
        try:
            body = self.to_json()
            return _canonical({**body, "digest": _digest(body)})
        except (TypeError, ValueError) as err:
            raise SpecError(f"Manifest of '{self.name}' cannot be written as JSON: {err}. "
                            "Put only text, finite numbers, lists and dicts into measurements and provenance") from err

    @classmethod
    def from_bytes(cls, data: bytes, where: str = MANIFEST_NAME) -> BundleManifest:
        """Read what `to_bytes` wrote.

        Args:
            data: Content of manifest.json.
            where: What to call it in messages.

        Raises:
            BundleError: It is no JSON, of another format version, changed after it was written, or incomplete.
        """
        try:
            content = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as err:
            raise BundleError(f"'{where}' is damaged: it is not JSON ({err}). Copy the bundle again") from err
        if not isinstance(content, dict):
            raise BundleError(f"'{where}' is damaged: it holds a {type(content).__name__}. Copy the bundle again")
        _check_format(content.get("format_version"), where)
        said = content.pop("digest", None)
        actual = _digest(content)
        if said != actual:
            raise BundleError(f"'{where}' was changed after it was written: its SHA-256 is {actual}, it says {said}. "
                              "Copy the bundle again, or write it anew with: trtkit pack")
        try:
            return cls.from_json(content)
        except BundleError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            fault = f"no {err}" if isinstance(err, KeyError) else str(err)
            raise BundleError(f"'{where}' is not usable: {fault}. Write the bundle anew with: trtkit pack") from err


def _check_format(version: Any, where: str) -> None:
    if version == FORMAT_VERSION and type(version) is int:
        return
    if type(version) is int and version > FORMAT_VERSION:
        raise BundleError(f"'{where}' has bundle format {version}; this trtkit reads format {FORMAT_VERSION}. "
                          "Run: pip install --upgrade trtkit")
    raise BundleError(f"'{where}' has bundle format {version!r}; this trtkit reads format {FORMAT_VERSION}. "
                      "It is no bundle, or damaged: copy it again, or write it anew with: trtkit pack")


def _canonical(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _digest(body: Mapping[str, Any]) -> str:
    dense = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(dense.encode()).hexdigest()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where text belongs")
    return value


def _target(row: Mapping[str, Any]) -> Target:
    lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
    precisions = tuple(map(Precision.parse, row["precisions"]))
    return Target(**{**row, **lists, "precisions": precisions})

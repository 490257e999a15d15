"""A bundle -> a session on the best that this machine can run, with one line that says what was chosen and why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from trtkit.bundle.engine_key import EngineKey
from trtkit.bundle.manifest import Artifact, BundleManifest, Postprocess
from trtkit.bundle.store import Bundle, open_bundle
from trtkit.device import Device
from trtkit.errors import BuildError, BundleError, DeviceError, MissingDependencyError, SpecError
from trtkit.precision import Precision
from trtkit.runtime.candidates import Candidate, Wish, rank
from trtkit.runtime.measured import MeasuredHere
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.plan_cache import PlanCache
from trtkit.runtime.predict import Prediction, predict
from trtkit.runtime.probe import probe_device
from trtkit.runtime.session import Session
from trtkit.runtime.trt import TrtSession
from trtkit.target import Target, load_targets
from trtkit.tensors import Array, Feeds, ShapeProfile, TensorSpec

__all__ = ["BuildRequest", "Builder", "BundleSession", "Choice", "PlanSession", "open"]

logger = logging.getLogger(__name__)

_BATCH = 8

Image = Array | Path | str


@dataclass(frozen=True)
class BuildRequest:
    """A plan that is wanted for this machine.

    Attributes:
        model: ONNX bytes, as lowered for `target`.
        target: What it was lowered for; its version and SM may differ from this machine's.
        precision: Of the lowering.
        profile: Shapes of the dynamic inputs, or None.
        calibration_cache: For a weakly typed INT8 build, or None.
    """

    model: bytes
    target: Target
    precision: Precision
    profile: ShapeProfile | None
    calibration_cache: bytes | None


Builder = Callable[[BuildRequest], tuple[bytes, EngineKey]]
"""What turns a request into a plan's bytes and key; `trtkit.open` brings the one of trtkit.build."""

PlanSession = Callable[[bytes, Sequence[TensorSpec]], Session]
"""What loads a plan; it is told inputs and outputs as the manifest has them, with the names of dynamic dimensions."""


@dataclass(frozen=True)
class Choice:
    """What a session runs, and why.

    Attributes:
        artifact: Of the bundle.
        reason: Why this one.
        rejected: What would have been better and cannot be used, and what else cannot; one sentence each.
    """

    artifact: Artifact
    reason: str
    rejected: tuple[str, ...] = ()

    def __str__(self) -> str:
        why_not = f" Not: {'; '.join(self.rejected)}." if self.rejected else ""
        return f"{self.artifact}: {self.reason}.{why_not}"


class BundleSession:
    """A model out of a bundle: a `Session`, and a function from pictures to predictions.

    Attributes:
        choice: What runs, and why.
        manifest: Of the bundle.
    """

    def __init__(self, session: Session, manifest: BundleManifest, choice: Choice) -> None:
        self._session = session
        self.manifest = manifest
        self.choice = choice
        self._postprocess = manifest.postprocess or Postprocess()

    def __enter__(self) -> BundleSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self._session.outputs

    @property
    def backend(self) -> str:
        """What runs it, with version."""
        return self._session.backend

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return every output by name, as arrays of the caller's own; see `Session.run`."""
        return self._session.run(feeds)

    def run_into(self, feeds: Feeds, outputs: Mapping[str, Array]) -> None:
        """Run into arrays of the caller's; see `Session.run_into`."""
        self._session.run_into(feeds, outputs)

    def close(self) -> None:
        """Release the model; closing twice is fine."""
        self._session.close()

    @overload
    def __call__(  # type: ignore[overload-overlap]  # text is a sequence of text as well; it is taken as one file
        self, images: Image, *, top: int | None = None
    ) -> list[Prediction]: ...

    @overload
    def __call__(self, images: Sequence[Image], *, top: int | None = None) -> list[list[Prediction]]: ...

    def __call__(self, images: Image | Sequence[Image], *, top: int | None = None
                 ) -> list[Prediction] | list[list[Prediction]]:
        """Return what the model sees, best first: for one picture its predictions, for several a list a picture.

        Args:
            images: A file, an RGB array of shape (H, W, 3), uint8, or a sequence of such. Several go through the model
                up to eight at once where its batch size is dynamic.
            top: How many predictions a picture at most; as the bundle says when None.

        Raises:
            SpecError: A picture cannot be read, or the bundle says nothing of how to prepare pictures.
        """
        if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim == 3):
            return self._predict([images], top)[0]
        several: list[Image] = list(images)
        size = self._batch_size()
        batches = (several[start:start + size] for start in range(0, len(several), size))
        return [row for batch in batches for row in self._predict(batch, top)]

    def _predict(self, images: Sequence[Image], top: int | None) -> list[list[Prediction]]:
        prepare = self.manifest.preprocess
        if prepare is None or len(self.inputs) != 1:
            raise SpecError(f"Bundle '{self.manifest.name}' does not say how a picture becomes its input(s) "
                            f"{', '.join(map(str, self.inputs))}. Use session.run, or pack it with --preprocess")
        spec, batch = self.inputs[0], prepare.batch(images)
        if spec.shape and isinstance(spec.shape[0], int) and 0 < len(batch) < spec.shape[0]:  # a fixed batch, not full
            batch = np.concatenate([batch, np.repeat(batch[-1:], spec.shape[0] - len(batch), axis=0)])
        postprocess = self._postprocess if top is None else replace(self._postprocess, top=top)
        rows = predict(self.run({spec.name: batch}), postprocess, self.manifest.labels)[:len(images)]
        return rows if top is None else [row[:top] for row in rows]

    def _batch_size(self) -> int:
        (first, *_), profile = self.inputs, self.choice.artifact.profile
        batch = first.shape[0] if first.shape else 1
        if isinstance(batch, int):
            return max(1, batch)
        return min(_BATCH, profile.max[first.name][0]) if profile and first.name in profile.max else _BATCH


def open(
    path: Path | str,
    *,
    device: str = "auto",
    target: str | None = None,
    precision: Precision | str | None = None,
    cache_dir: Path | None = None,
    threads: int | None = None,
    machine: Device | None = None,
    builder: Builder | None = None,
    plan_session: PlanSession | None = None,
) -> BundleSession:
    """Open a bundle on the best that this machine can run, and say in one line at INFO what that is and why.

    A plan that fits this GPU and TensorRT comes first, then one built here (and kept in `cache_dir`), then ONNX Runtime
    on the CPU. What turns out not to work is left for the next best, and its reason is kept in `choice.rejected`.

    Args:
        path: A `.trtkit` file or a bundle's folder.
        device: "auto", "cpu", or "cuda" (then a CPU is no way out).
        target: Only artifacts of this target; any when None.
        precision: Only artifacts of this precision; any when None.
        cache_dir: Where plans built here and latencies measured here are kept; the user's cache folder when None.
        threads: For ONNX Runtime; its own choice when None.
        machine: What this machine is; found out when None.
        builder: What builds plans here; nothing is built when None. `trtkit.open` brings one.
        plan_session: What loads a plan; trtkit's TensorRT session when None.

    Raises:
        BundleError: The bundle is damaged, or nothing in it runs here (with every reason).
        SpecError: The bundle has nothing of that target or precision.
    """
    wish = Wish(device, target, Precision.parse(precision) if isinstance(precision, str) else precision)
    with open_bundle(path) as bundle:
        here = machine or probe_device()
        measured = MeasuredHere(here, cache_dir).load()
        ranking = rank(bundle.manifest, here, wish, can_build=builder is not None, measured_here=measured)
        opener = _Opener(bundle, here, builder, plan_session or _tensorrt_session, PlanCache(cache_dir), threads)
        session, choice = opener.first_that_works(ranking.candidates, ranking.rejected)
        logger.info("%s", choice)
        return BundleSession(session, bundle.manifest, choice)


@dataclass(frozen=True)
class _Opener:
    bundle: Bundle
    device: Device
    builder: Builder | None
    plan_session: PlanSession
    cache: PlanCache
    threads: int | None

    def first_that_works(self, candidates: Iterable[Candidate], rejected: tuple[str, ...]) -> tuple[Session, Choice]:
        failed: list[str] = []
        for candidate in candidates:
            try:
                session, how = self._open(candidate)
            except (BuildError, DeviceError, MissingDependencyError, BundleError) as err:
                failed.append(f"{candidate.artifact}: {' '.join(str(err).split())}")
                logger.warning("%s; trying the next best", failed[-1])
            else:
                return session, Choice(candidate.artifact, f"{candidate.reason}; {how}", (*failed, *rejected))
        reasons = "; ".join((*failed, *rejected)) or "it has no artifact that a runtime takes"
        raise BundleError(f"Nothing in '{self.bundle.path}' runs here: {reasons}. "
                          "See what is missing with: trtkit doctor")

    def _open(self, candidate: Candidate) -> tuple[Session, str]:
        artifact = candidate.artifact
        if candidate.action == "cpu":
            session: Session = OrtSession(self.bundle.read(artifact.file), threads=self.threads)
        elif candidate.action == "load":
            session = self.plan_session(self.bundle.read(artifact.file), self._io)
        else:
            session = self.plan_session(self._built(artifact), self._io)
        return session, f"runs on {session.backend}"

    @property
    def _io(self) -> tuple[TensorSpec, ...]:
        return (*self.bundle.manifest.inputs, *self.bundle.manifest.outputs)

    def _built(self, artifact: Artifact) -> bytes:
        calibration = self._calibration_cache(artifact)
        path = self.cache.path(artifact, self.device, calibration.sha256 if calibration else "")
        plan = self.cache.load(path, self.device)
        if plan is not None:
            return plan
        if self.builder is None:
            raise BuildError(f"{artifact} needs a plan built here, and there is no builder. Open it with trtkit.open")
        request = BuildRequest(
            self.bundle.read(artifact.file), self._target(artifact.target), artifact.precision, artifact.profile,
            self.bundle.read(calibration.file) if calibration else None)
        logger.info("Building a plan of %s for this machine; this can take minutes", artifact)
        plan, key = self.builder(request)
        self.cache.store(path, plan, key, artifact, self.bundle.manifest)
        return plan

    def _calibration_cache(self, artifact: Artifact) -> Artifact | None:
        return next(iter(self.bundle.artifacts_for(
            target=artifact.target, precision=artifact.precision, kind="calibration-cache")), None)

    def _target(self, name: str) -> Target:
        own = {target.name: target for target in self.bundle.manifest.targets}
        return own.get(name) or load_targets()[name]


def _tensorrt_session(plan: bytes, io: Sequence[TensorSpec]) -> Session:
    return TrtSession(plan, io=io)

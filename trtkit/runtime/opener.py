"""Candidates -> the first that opens: a plan loaded, a plan built here and kept, or ONNX Runtime; and why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trtkit.bundle.engine_key import EngineKey
from trtkit.bundle.manifest import Artifact
from trtkit.bundle.store import Bundle
from trtkit.device import Device
from trtkit.errors import BuildError, BundleError, DeviceError, MissingDependencyError
from trtkit.precision import Precision
from trtkit.runtime.candidates import Candidate
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.plan_cache import PlanCache
from trtkit.runtime.session import Session
from trtkit.runtime.trt import TrtSession
from trtkit.target import Target, load_targets
from trtkit.tensors import ShapeProfile, TensorSpec

__all__ = ["BuildRequest", "Builder", "Choice", "Opener", "PlanSession", "tensorrt_session"]

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Opener:
    """Opens the candidates of one bundle on one machine.

    Attributes:
        bundle, device: See there.
        builder: What builds plans here; none are built when None.
        plan_session: What loads a plan.
        cache: Where plans built here are kept.
        threads: For ONNX Runtime; as measured here, else its own choice, when None.
    """

    bundle: Bundle
    device: Device
    builder: Builder | None
    plan_session: PlanSession
    cache: PlanCache
    threads: int | None

    def first_that_works(self, candidates: Iterable[Candidate], rejected: tuple[str, ...]) -> tuple[Session, Choice]:
        """Return the session of the first candidate that opens, and what was chosen.

        Raises:
            BundleError: None does; every reason is in the message.
        """
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

    def data(self, candidate: Candidate) -> bytes:
        """Return what a candidate runs: the ONNX model's bytes, or a plan's, built here first where it has to be.

        Raises:
            BuildError: It cannot be built here.
        """
        artifact = candidate.artifact
        return self._built(artifact) if candidate.action == "build" else self.bundle.read(artifact.file)

    def _open(self, candidate: Candidate) -> tuple[Session, str]:
        data, best = self.data(candidate), candidate.setting
        if candidate.action != "cpu":
            session = self.plan_session(data, self.io)
        elif self.threads is None and best is not None:
            session = OrtSession(data, threads=best.threads, spinning=best.spinning)
        else:
            session = OrtSession(data, threads=self.threads)
        return session, f"runs on {session.backend}"

    @property
    def io(self) -> tuple[TensorSpec, ...]:
        """Inputs and outputs as the manifest declares them."""
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


def tensorrt_session(plan: bytes, io: Sequence[TensorSpec]) -> Session:
    """Load a plan on TensorRT."""
    return TrtSession(plan, io=io)

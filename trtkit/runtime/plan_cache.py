"""Plans that were built on this machine, kept so that the next start is fast: one small bundle each."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from trtkit.bundle.engine_key import EngineKey, os_arch
from trtkit.bundle.manifest import Artifact, BundleManifest
from trtkit.bundle.store import SUFFIX, open_bundle, write_bundle
from trtkit.device import Device
from trtkit.errors import BundleError, SpecError

__all__ = ["PlanCache", "default_cache_dir"]

logger = logging.getLogger(__name__)

_PLAN = "model.plan"


def default_cache_dir() -> Path:
    """Return the user's cache folder for trtkit: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "trtkit"


class PlanCache:
    """Plans by what they were built from and for.

    Args:
        folder: Made when the first plan is stored; the user's cache folder when None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_cache_dir()

    def path(self, source: Artifact, device: Device, *more: str) -> Path:
        """Return where the plan of an ONNX artifact for this device lies.

        Args:
            source: Its hash, precision and profile count.
            device: GPU, driver and TensorRT count.
            more: Whatever else changes the plan, such as the hash of a calibration cache.
        """
        gpu, tensorrt = device.gpu, device.tensorrt
        facts = [source.sha256, source.target, source.precision.value,
                 source.profile.to_json() if source.profile else None,
                 gpu and [gpu.name, gpu.sm, gpu.driver], tensorrt and [tensorrt.module, tensorrt.version],
                 os_arch(device), *more]
        return self.folder / (hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32] + SUFFIX)

    def load(self, path: Path, device: Device) -> bytes | None:
        """Return the plan at `path`, or None when there is none that is whole and fits."""
        if not path.exists():
            return None
        try:
            with open_bundle(path) as bundle:
                (artifact,) = bundle.artifacts_for(kind="plan")
                fit = artifact.engine.fits(device) if artifact.engine else None
                if fit:
                    return bundle.read(artifact.file)
                logger.info("Cached plan %s does not fit: %s", path, " ".join(fit.reasons) if fit else "it has no key")
        except (BundleError, ValueError) as err:
            logger.warning("Cached plan %s is not usable and will be built again: %s", path, err)
        return None

    def store(self, path: Path, plan: bytes, key: EngineKey, source: Artifact, manifest: BundleManifest) -> None:
        """Keep a plan; a folder that cannot be written costs a warning, not the session."""
        artifact = Artifact(_PLAN, source.target, source.precision, "plan", engine=key, profile=source.profile)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_bundle(path, BundleManifest(manifest.name, manifest.inputs, manifest.outputs, (artifact,)),
                         {_PLAN: plan})
        except (OSError, SpecError, BundleError) as err:
            logger.warning("The plan cannot be kept in '%s' and will be built again at the next start: %s",
                           path.parent, err)

"""`trtkit.open`: the runtime's choice joined with the builder, which stands above the runtime and is handed down."""

from __future__ import annotations

from pathlib import Path

from trtkit.bundle.engine_key import EngineKey
from trtkit.precision import Precision
from trtkit.runtime import select
from trtkit.runtime.select import BuildRequest, BundleSession

__all__ = ["build_here", "open"]


def open(path: Path | str, *, device: str = "auto", target: str | None = None, precision: Precision | str | None = None,
         cache_dir: Path | None = None, threads: int | None = None, tune: bool = False) -> BundleSession:
    """Open a bundle on the best that this machine can run: a plan that fits, one built here, or ONNX Runtime.

    Args:
        path: A `.trtkit` file or a bundle's folder.
        device: "auto", "cpu", or "cuda" (then a CPU is no way out).
        target: Only artifacts of this target; any when None.
        precision: Only artifacts of this precision; any when None.
        cache_dir: Where plans built and latencies measured here are kept; the user's cache folder when None.
        threads: For ONNX Runtime; what was measured best here, else its own choice, when None.
        tune: Measure first what fits this machine, unless that was done before (`trtkit tune`).

    Returns:
        A session whose `choice` tells what runs and why. `session.run({"input": x})` gives outputs by name,
        `session(picture)` predictions.

    Raises:
        BundleError: The bundle is damaged, or nothing in it runs here (with every reason).
        SpecError: The bundle has nothing of that target or precision.
    """
    return select.open(path, device=device, target=target, precision=precision, cache_dir=cache_dir, threads=threads,
                       tune=tune, builder=build_here)


def build_here(request: BuildRequest) -> tuple[bytes, EngineKey]:
    """Build a plan with this machine's TensorRT."""
    from trtkit.build import BuildOptions, build_plan

    profiles = (request.profile,) if request.profile else ()
    # Version and GPU stay open: this machine's are right, the target's may be those of a sister board.
    options = BuildOptions.for_target(request.target, request.precision, version="", sm="", compute_capabilities=(),
                                      profiles=profiles, calibration_cache=request.calibration_cache)
    plan = build_plan(request.model, options)
    return plan.data, plan.key

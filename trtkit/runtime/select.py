"""A bundle -> a session on the best that this machine can run, with one line that says what was chosen and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from trtkit.bundle.manifest import BundleManifest, Postprocess
from trtkit.bundle.store import open_bundle
from trtkit.device import Device
from trtkit.errors import BundleError, SpecError
from trtkit.precision import Precision
from trtkit.progress import Progress, silent
from trtkit.runtime.candidates import Wish, rank
from trtkit.runtime.measured import MeasuredHere
from trtkit.runtime.opener import Builder, BuildRequest, Choice, Opener, PlanSession, tensorrt_session
from trtkit.runtime.plan_cache import PlanCache
from trtkit.runtime.predict import Prediction, predict
from trtkit.runtime.probe import probe_device
from trtkit.runtime.session import Session
from trtkit.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from trtkit.runtime.tuning import Tuned

__all__ = ["BuildRequest", "Builder", "BundleSession", "Choice", "PlanSession", "open", "tune"]

logger = logging.getLogger(__name__)

_BATCH = 8

Image = Array | Path | str


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
    tune: bool = False,
    machine: Device | None = None,
    builder: Builder | None = None,
    plan_session: PlanSession | None = None,
) -> BundleSession:
    """Open a bundle on the best that this machine can run, and say in one line at INFO what that is and why.

    What was measured on this machine decides (`tune`); without that a plan that fits this GPU and TensorRT comes first,
    then one built here (and kept in `cache_dir`), then ONNX Runtime on the CPU. What turns out not to work is left for
    the next best, and its reason is kept in `choice.rejected`.

    Args:
        path: A `.trtkit` file or a bundle's folder.
        device: "auto", "cpu", or "cuda" (then a CPU is no way out).
        target: Only artifacts of this target; any when None.
        precision: Only artifacts of this precision; any when None.
        cache_dir: Where plans built here and latencies measured here are kept; the user's cache folder when None.
        threads: For ONNX Runtime; what was measured best here, else its own choice, when None.
        tune: Measure first what fits this machine, unless that was done before; takes a minute, or what building plans
            takes.
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
        memory = MeasuredHere(here, cache_dir)
        opener = Opener(bundle, here, builder, plan_session or tensorrt_session, PlanCache(cache_dir), threads)
        measured = memory.load()
        ranking = rank(bundle.manifest, here, wish, can_build=builder is not None, measured_here=measured)
        if tune and any(each.fits and each.key not in measured for each in ranking.candidates):
            from trtkit.runtime.tuning import tune_candidates  # few want it, and all wait for an import

            memory.remember(tune_candidates(ranking.candidates, opener).settings())
            ranking = rank(bundle.manifest, here, wish, can_build=builder is not None, measured_here=memory.load())
        session, choice = opener.first_that_works(ranking.candidates, ranking.rejected)
        logger.info("%s", choice)
        return BundleSession(session, bundle.manifest, choice)


def tune(path: Path | str, *, device: str = "auto", cache_dir: Path | None = None, seconds: float | None = None,
         batch: int = 1, machine: Device | None = None, builder: Builder | None = None,
         progress: Progress = silent) -> Tuned:
    """Measure everything of a bundle that fits this machine, and remember the winner for `open`.

    Args:
        path, device, cache_dir, machine, builder: As for `open`.
        seconds: How long to compare the best ones in turns; 10 when None.
        batch: Size of the dynamic dimensions.
        progress: Told of every measurement.

    Raises:
        BundleError: The bundle is damaged, or nothing in it fits this machine, or nothing that fits runs.
    """
    from trtkit.runtime.tuning import tune_candidates

    with open_bundle(path) as bundle:
        here = machine or probe_device()
        opener = Opener(bundle, here, builder, tensorrt_session, PlanCache(cache_dir), None)
        ranking = rank(bundle.manifest, here, Wish(device), can_build=builder is not None)
        if not any(each.fits for each in ranking.candidates):
            raise BundleError(f"Nothing in '{path}' was made for such a machine: {'; '.join(ranking.rejected)}. "
                              "Deploy it for this target; trtkit doctor names it")
        tuned = tune_candidates(ranking.candidates, opener, seconds=seconds, batch=batch, progress=progress)
        MeasuredHere(here, cache_dir).remember(tuned.settings())
    return tuned

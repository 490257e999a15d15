"""Model + data -> calibration table: one pass, every value counted once, memory that does not grow with the data.

Each worker thread runs the model on one batch and counts what it yields while the other does the same; both leave the
interpreter's lock alone for nearly all of the time. Counts add up whatever the order, so the table depends on the
samples only: not on the number of workers, nor on interruptions.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from trtkit.calib.checkpoint import Checkpoint
from trtkit.calib.counting import Counter, Counts
from trtkit.calib.observed import Observed, find_observed
from trtkit.calib.observing_session import ObservingSession, open_observing_session
from trtkit.calib.sample import DataSource, Sample
from trtkit.errors import CalibrationError, GraphError, SpecError
from trtkit.graph import fingerprint, load_model, made_ready, model_inputs
from trtkit.progress import Progress, silent
from trtkit.ranges import CalibrationTable, Histogram
from trtkit.tensors import Array, FeedChecker, TensorSpec

__all__ = ["calibrate"]

logger = logging.getLogger(__name__)

_MOST_WORKERS = 8  # each holds the observed tensors of one batch


def calibrate(model: bytes | Path | onnx.ModelProto, data: DataSource, *, batch: int = 1,
              checkpoint: Path | None = None, checkpoint_every: int = 256, workers: int | None = None,
              progress: Progress = silent) -> CalibrationTable:
    """Run the model over the data once and return the histograms of its float tensors.

    Args:
        model: FP32 ONNX model: bytes, a file, or in memory. What is counted of one that cannot be quantized as it is
            (trtkit.graph.why_not_ready) are the tensors that its rewritten form has; the names are the same.
        data: The samples; at least one.
        batch: Samples a run. More than 1 needs a model with a dynamic batch dimension; one with a fixed batch
            dimension takes its own. Samples that do not fill a last fixed batch are left out.
        checkpoint: File that keeps what was counted. When it exists the sweep goes on from there, with the same
            result, byte by byte, as without the interruption. It stays, complete: remove it once the table is saved.
        checkpoint_every: Samples between two checkpoints; an interrupt writes one, too.
        workers: Threads that run and count; as many as there are processors, at most 8, when None.
        progress: Told of samples done.

    Returns:
        The table, with the fingerprints of model, data and preprocessing.

    Raises:
        CalibrationError: There are no samples, a value in the data or in an activation is infinite or NaN (sample and
            tensor are named), or the checkpoint belongs to another sweep.
        SpecError: A sample does not fit the model's inputs.
        GraphError: The model cannot be loaded or run.
    """
    if batch < 1:
        raise CalibrationError(f"batch is {batch}. Give at least 1")
    proto = _load(model)
    specs = model_inputs(proto)
    batch = _fixed_batch(specs) or batch
    ready = made_ready(proto)
    observed = find_observed(ready)
    cores = _processors()
    count = max(1, min(cores, _MOST_WORKERS) if workers is None else workers)
    session = open_observing_session(ready, observed.tensors, threads=max(1, cores // count), pooled=observed.pooled,
                                     rows=observed.rows, peaks=observed.peaks)
    empty = CalibrationTable(dict.fromkeys((*observed.inputs, *session.tensors), Histogram.empty()), 0,
                             fingerprint(proto), data.fingerprint(),
                             data.preprocess.fingerprint() if data.preprocess else "")
    del proto, ready
    begun = Checkpoint.load(checkpoint) if checkpoint else None
    if begun is not None and checkpoint is not None:
        begun.check(checkpoint, empty, batch)
        data.unreadable.extend(name for name in begun.unreadable if name not in data.unreadable)
        logger.info("Going on from '%s' at sample %d", checkpoint, begun.position)
    start = begun or Checkpoint(empty, 0, batch)
    end = _Sweep(session, observed, specs, data, start, count, progress).run(checkpoint, checkpoint_every)
    if not end.table.samples:
        raise CalibrationError(f"The data gave no batch of {batch} samples, and without data there is nothing to "
                               f"calibrate. Give at least {batch} readable samples")
    if checkpoint is not None:
        end.save(checkpoint)
    tensors = dict(end.table.tensors)
    tensors.update({name: tensors[source] for name, source in observed.copies.items() if source in tensors})
    return replace(end.table, tensors=tensors)


class _Sweep:
    """One pass over the data from a checkpoint on."""

    def __init__(self, session: ObservingSession, observed: Observed, specs: tuple[TensorSpec, ...], data: DataSource,
                 start: Checkpoint, workers: int, progress: Progress) -> None:
        self._session, self._inputs, self._data, self._start = session, observed.inputs, data, start
        self._normalized = frozenset(observed.normalized)
        self._batch, self._fixed = start.batch, _fixed_batch(specs) is not None
        self._check = FeedChecker(specs)
        self._workers, self._progress = workers, progress
        self._local = threading.local()
        self._counters: list[Counter] = []
        self._lock = threading.Lock()
        self._samples, self._position = start.table.samples, start.position  # of what was counted whole
        self._failed = False

    def run(self, path: Path | None, every: int) -> Checkpoint:
        """Return the end of the sweep; leave a checkpoint in `path` every so often, and when interrupted."""
        unsaved = 0
        pending: deque[Future[None]] = deque()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="calibrate") as pool:
            try:
                for samples in self._batches():
                    pending.append(pool.submit(self._work, samples))
                    unsaved += len(samples)
                    saving = path is not None and unsaved >= every
                    while len(pending) > (0 if saving else self._workers):
                        pending.popleft().result()
                    if saving and path is not None:
                        unsaved = 0
                        self._checkpoint().save(path)
                    self._report()
                while pending:
                    pending.popleft().result()
                self._report()
            except KeyboardInterrupt:
                pool.shutdown()  # what was handed out is counted to its end, so the checkpoint is exact
                if path is not None and not self._failed:
                    self._checkpoint().save(path)
                raise
            finally:
                for future in pending:
                    future.cancel()
        return self._checkpoint()

    def _batches(self) -> Iterator[list[Sample]]:
        held: list[Sample] = []
        for sample in self._data.samples(self._start.position):
            if self._fixed and self._batch > 1 and _rows(sample) == self._batch:
                yield [sample]
                continue
            held.append(sample)
            if len(held) == self._batch:
                yield held
                held = []
        if held and not self._fixed:
            yield held
        elif held:
            logger.warning("Left out the last %d samples: the model takes batches of %d", len(held), self._batch)

    def _work(self, samples: list[Sample]) -> None:
        if self._failed:
            return
        try:
            self._observe(samples)
        except BaseException:
            self._failed = True  # half of a batch is counted: nothing after it may be kept
            raise
        with self._lock:
            self._samples += self._batch if self._fixed else len(samples)
            self._position = max(self._position, samples[-1].index + 1)

    def _observe(self, samples: list[Sample]) -> None:
        if not hasattr(self._local, "counter"):
            self._local.counter = Counter()
            self._counters.append(self._local.counter)
        counter: Counter = self._local.counter
        feeds = _stack(samples)
        try:
            self._check(feeds)
        except SpecError as err:
            raise SpecError(f"Sample '{samples[0].name}': {err}") from err
        for name in self._inputs:
            if not counter.add(name, feeds[name]):
                raise _not_finite(samples, name, feeds[name], "the data itself, not the model")
        try:
            values = self._session.session.run(self._session.outputs, feeds)
        except Exception as err:  # ONNX Runtime's own exceptions share no base with a name
            raise GraphError(f"ONNX Runtime failed on sample '{samples[0].name}': {err}. Try batch 1, or run: "
                             "trtkit rewrite") from err
        summaries = values[len(self._session.tensors):]
        for name, means in zip(self._session.means, summaries):
            counter.add_means(name, means)
        for name, peaks in zip(self._session.peaks, summaries[len(self._session.means):]):
            counter.add_range(name, np.stack([np.zeros_like(peaks), peaks]), axis=2)
        for place, name in enumerate(self._session.tensors):
            array, values[place] = values[place], None  # free it as soon as it is counted
            if not counter.add(name, array):
                raise _not_finite(samples, name, array, "computed by the model")
            if name in self._normalized:
                counter.add_range(name, array, axis=-1)

    def _checkpoint(self) -> Checkpoint:
        """Return what was counted; no batch may be under way."""
        table = self._start.table
        tensors = {}
        for name, before in table.tensors.items():
            dense = Counts()
            for counter in self._counters:
                if name in counter.tensors:
                    counter.tensors[name].merge_into(dense)
            tensors[name] = before.add(dense.histogram())
        channels, ranges = dict(table.channels), dict(table.channel_ranges)
        for counter in self._counters:
            for name, sums in counter.channels.items():
                channels[name] = channels[name].add(sums) if name in channels else sums
            for name, seen in counter.ranges.items():
                ranges[name] = ranges[name].add(seen) if name in ranges else seen
        counted = replace(table, tensors=tensors, channels=channels, channel_ranges=ranges, samples=self._samples)
        return Checkpoint(counted, self._position, self._batch, tuple(self._data.unreadable))

    def _report(self) -> None:
        self._progress("Calibrating", self._position, self._data.count)


def _load(model: bytes | Path | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, bytes):
        try:
            return onnx.load_model_from_string(model)
        except Exception as err:  # protobuf's DecodeError moves between its versions
            raise GraphError(f"These {len(model)} bytes are no ONNX model: {err}. Export it again") from err
    return load_model(model)


def _fixed_batch(specs: tuple[TensorSpec, ...]) -> int | None:
    """Return the batch size that the model insists on, or None when its first dimension is dynamic."""
    sizes = {spec.shape[0] for spec in specs if spec.shape}
    fixed = {size for size in sizes if isinstance(size, int)}
    return fixed.pop() if len(sizes) == 1 and fixed else None


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _rows(sample: Sample) -> int:
    return max((array.shape[0] for array in sample.feeds.values() if array.ndim), default=1)


def _stack(samples: list[Sample]) -> dict[str, Array]:
    if len(samples) == 1:
        return samples[0].feeds
    try:
        return {name: np.concatenate([sample.feeds[name] for sample in samples]) for name in samples[0].feeds}
    except (ValueError, KeyError) as err:
        raise CalibrationError(f"Samples '{samples[0].name}' to '{samples[-1].name}' do not make one batch: {err}. "
                               "Give them one shape, or calibrate with batch 1") from err


def _not_finite(samples: list[Sample], tensor: str, array: Array, where: str) -> CalibrationError:
    """Return the error that names the sample, where the tensor's first dimension tells it, and the tensor."""
    guilty = samples
    if array.ndim and array.shape[0] == len(samples):
        bad = [not np.isfinite(row).all() for row in array]
        guilty = [sample for sample, is_bad in zip(samples, bad) if is_bad]
    names = ", ".join(f"'{sample.name}'" for sample in guilty)
    wrong = int(array.size - np.isfinite(array).sum())
    return CalibrationError(f"Tensor '{tensor}' has {wrong} infinite or NaN values of {array.size} on sample {names}, "
                            f"{where}. Remove or repair the sample, or the model")

"""Session + feeds -> how fast, under which conditions; and two sessions -> which is faster, and how sure that is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trtkit.errors import SpecError
from trtkit.runtime.conditions import conditions, peak_memory_bytes
from trtkit.runtime.session import Session
from trtkit.tensors import Array, Feeds, TensorSpec

__all__ = ["BenchResult", "Paired", "bench", "paired", "random_feeds", "shortest", "time_runs"]

_MIN_RUNS = 10
_MAX_RUNS = 1_000_000
_NANOSECONDS_PER_MS = 1e6


@dataclass(frozen=True)
class BenchResult:
    """What a benchmark measured.

    Attributes:
        p50_ms, p90_ms, p99_ms, mean_ms: Latency of one `run`, in milliseconds.
        throughput: Samples a second: batch size / mean latency.
        batch: Size of the first dimension of the first input.
        runs: Timed runs, after the warm-up.
        peak_memory_bytes: Most memory that the process ever had resident, so measure in a fresh process; 0: unknown.
        size_bytes: Of the artifact on disk; 0: not known.
        conditions: Backend, CPU or GPU, threads, versions, governor, load, and whether copies are included.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    throughput: float
    batch: int
    runs: int
    peak_memory_bytes: int
    size_bytes: int
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict, fit for an artifact's measurements."""
        return {**asdict(self), "conditions": dict(self.conditions)}


@dataclass(frozen=True)
class Paired:
    """Two sessions measured in turns, so that what disturbs the machine disturbs both.

    Attributes:
        ratio: Latency of a / latency of b; above 1, b is faster.
        low, high: The ratio lies between them with a confidence of at least 95 %.
        a_ms, b_ms: Median latency of each, in milliseconds.
        rounds: Pairs of measurements.
    """

    ratio: float
    low: float
    high: float
    a_ms: float
    b_ms: float
    rounds: int

    @property
    def b_is_faster(self) -> bool:
        """Whether b is faster beyond the noise."""
        return self.low > 1.0

    @property
    def b_is_slower(self) -> bool:
        """Whether b is slower beyond the noise."""
        return self.high < 1.0


def random_feeds(specs: tuple[TensorSpec, ...], *, batch: int = 1, seed: int = 0) -> dict[str, Array]:
    """Return random feeds, for speed alone: uniform 0 to 1, or 0 to 255 for uint8, 0 and 1 for other integers.

    Args:
        specs: Inputs of a session; every dynamic dimension gets the size `batch`.
        batch: See there.
        seed: Of the random numbers.
    """
    generator = np.random.default_rng(seed)
    feeds = {}
    for spec in specs:
        shape = [dim if isinstance(dim, int) else batch for dim in spec.shape]
        dtype = np.dtype(spec.dtype)
        values = generator.random(shape, np.float32)
        scale = 1 if dtype.kind == "f" else 255 if dtype == np.uint8 else 1.99
        feeds[spec.name] = (values * scale).astype(dtype)
    return feeds


def bench(session: Session, feeds: Feeds, *, seconds: float = 2.0, iterations: int | None = None,
          warmup: float = 0.5, size_bytes: int = 0, extra_conditions: Mapping[str, Any] | None = None) -> BenchResult:
    """Measure `session.run(feeds)`: host arrays in, host arrays out, so copies to and from a device are included.

    Args:
        session: What to measure.
        feeds: Its inputs, the same at every run.
        seconds: How long to measure; at least ten runs all the same.
        iterations: Number of runs instead of a time.
        warmup: Seconds of untimed runs before, at least two runs.
        size_bytes: Of the artifact, to be passed on.
        extra_conditions: To be recorded with the others, such as the number of threads.

    Raises:
        SpecError: seconds, iterations or warmup is not positive, or the feeds do not fit.
    """
    if seconds <= 0 or warmup < 0 or (iterations is not None and iterations < 1):
        raise SpecError(f"seconds is {seconds}, warmup {warmup}, iterations {iterations}. Give positive numbers")
    time_runs(session, feeds, seconds=warmup, at_least=2)
    if iterations is None:
        times = time_runs(session, feeds, seconds=seconds, at_least=_MIN_RUNS)
    else:
        times = time_runs(session, feeds, seconds=0.0, at_least=iterations)
    milliseconds = np.asarray(times) / _NANOSECONDS_PER_MS
    p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, (50, 90, 99)))
    mean, batch = float(milliseconds.mean()), _batch(feeds)
    return BenchResult(
        p50_ms=p50, p90_ms=p90, p99_ms=p99, mean_ms=mean, throughput=batch * 1000 / mean, batch=batch,
        runs=len(times), peak_memory_bytes=peak_memory_bytes(), size_bytes=size_bytes,
        conditions={**conditions(session.backend), "copies_included": True, **(extra_conditions or {})})


def paired(a: Session, b: Session, feeds_a: Feeds, feeds_b: Feeds | None = None, *, rounds: int = 15,
           seconds: float = 3.0) -> Paired:
    """Measure two sessions in turns and return how many times faster b is, with a confidence interval.

    Each round runs one for a while and then the other, in changing order, and gives one ratio of two medians; within a
    round each has its weights in the cache, as it would alone. The interval comes from the order of the rounds' ratios,
    so one disturbed round moves nothing and no distribution is assumed.

    Args:
        a, b: What to compare.
        feeds_a: Inputs of a.
        feeds_b: Inputs of b; those of a when None.
        rounds: At least 6, below which there is no 95 % interval.
        seconds: For all rounds together; each measurement has at least three runs all the same.

    Raises:
        SpecError: rounds or seconds is too small, or feeds do not fit.

    Source: distribution-free confidence interval of a median: the k-th smallest and largest of n values, where
        2 * sum(C(n, i) for i < k) / 2**n <= 0.05.
    """
    if rounds < 6 or seconds <= 0:
        raise SpecError(f"rounds is {rounds} and seconds {seconds}. Give at least 6 rounds and a positive time")
    sides = ((a, feeds_a), (b, feeds_a if feeds_b is None else feeds_b))
    for session, feeds in sides:
        time_runs(session, feeds, seconds=0.05 * seconds, at_least=2)
    share = seconds / (2 * rounds)
    medians = np.empty((rounds, 2))
    for turn in range(rounds):
        for side in ((0, 1), (1, 0))[turn % 2]:
            session, feeds = sides[side]
            session.run(feeds)  # back into the cache
            medians[turn, side] = np.median(time_runs(session, feeds, seconds=share, at_least=3))
    ratios = np.sort(medians[:, 0] / medians[:, 1])
    k = _interval_rank(rounds)
    a_ms, b_ms = (float(value) for value in np.median(medians, axis=0) / _NANOSECONDS_PER_MS)
    return Paired(float(np.median(ratios)), float(ratios[k - 1]), float(ratios[rounds - k]), a_ms, b_ms, rounds)


def shortest(sides: Sequence[tuple[Session, Feeds]], *, seconds: float, rounds: int = 9) -> list[float]:
    """Return the shortest run of each session, in seconds, measured in turns.

    What else a machine does only ever adds to a run, and more surely to a long one than to one that fits between two
    switches of the scheduler: on a busy machine medians make a slow model look slower still, the shortest runs do not.

    Args:
        sides: Sessions, and what each is fed.
        seconds: For all together; each has at least three runs in each round all the same.
        rounds: How often each has its turn.
    """
    share = seconds / (rounds * len(sides))
    best = [math.inf] * len(sides)
    for _ in range(rounds):
        for place, (session, feeds) in enumerate(sides):
            session.run(feeds)  # back into the cache
            best[place] = min(best[place], min(time_runs(session, feeds, seconds=share, at_least=3)) / 1e9)
    return best


def time_runs(session: Session, feeds: Feeds, *, seconds: float, at_least: int,
           clock: Callable[[], int] = time.perf_counter_ns) -> list[int]:
    """Run for `seconds` and at least `at_least` times; return the nanoseconds of each run."""
    run = session.run
    times: list[int] = []
    end = clock() + int(seconds * 1e9)
    while len(times) < at_least or (clock() < end and len(times) < _MAX_RUNS):
        start = clock()
        run(feeds)
        times.append(clock() - start)
    return times


def _interval_rank(n: int) -> int:
    """Return the largest k whose k-th smallest and largest of n values enclose their median with 95 % confidence."""
    combinations, tail, k = 1.0, 0.0, 0
    while True:
        tail += combinations
        if 2 * tail / 2.0 ** n > 0.05:
            return max(k, 1)
        combinations *= (n - k) / (k + 1)
        k += 1


def _batch(feeds: Feeds) -> int:
    first = next(iter(feeds.values()))
    return int(first.shape[0]) if first.ndim else 1

"""Everything of a bundle that fits this machine -> which artifact is the fastest here, and with how many threads.

    1. each artifact with each number of threads alone, shortly
    2. the best of them in turns, so that what disturbs the machine disturbs all; the first also without spinning

Every setting has a process of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.errors import BuildError, BundleError, DeviceError, MissingDependencyError
from trtkit.progress import Progress, silent
from trtkit.runtime.candidates import Candidate
from trtkit.runtime.measured import Setting
from trtkit.runtime.opener import Opener
from trtkit.runtime.probe import physical_cores, usable_cores
from trtkit.runtime.trial import Trial

__all__ = ["Measurement", "Tuned", "thread_counts", "tune_candidates"]

_SECONDS = 10.0
_SHORT = 0.1
"""Share of the time that each setting gets alone."""
_ROUNDS = 8
_FINALISTS = 4
_NEAR = 1.2
"""What took at most so many times as long as the first is measured again in turns."""


@dataclass(frozen=True)
class Measurement:
    """One candidate in one setting.

    Attributes:
        candidate: Of the bundle.
        setting: Threads, and the latency; without latency where it failed.
        error: Why it failed; "" when it did not.
        in_turns: Whether the latency comes from the comparison in turns.
    """

    candidate: Candidate
    setting: Setting
    error: str = ""
    in_turns: bool = False

    @property
    def p50_ms(self) -> float:
        """Median latency in milliseconds; infinite where it failed."""
        return float("inf") if self.setting.p50_ms is None else self.setting.p50_ms

    def taking(self, p50_ms: float, *, in_turns: bool = False) -> Measurement:
        """Return this with another latency."""
        return replace(self, setting=replace(self.setting, p50_ms=p50_ms), in_turns=in_turns)


@dataclass(frozen=True)
class Tuned:
    """What was measured, best first."""

    measurements: tuple[Measurement, ...]

    @property
    def best(self) -> Measurement:
        """The winner."""
        return self.measurements[0]

    def settings(self) -> dict[str, Setting]:
        """Return the best setting of each candidate, as MeasuredHere keeps them."""
        best: dict[str, Setting] = {}
        for each in self.measurements:
            best.setdefault(each.candidate.key, each.setting)
        return best


def thread_counts() -> tuple[int, ...]:
    """Return the numbers of threads that are worth trying: 1, 2, every core, every hardware thread."""
    usable = usable_cores()
    return tuple(sorted({1, min(2, usable), physical_cores(), usable}))


def tune_candidates(candidates: Iterable[Candidate], opener: Opener, *, seconds: float | None = None, batch: int = 1,
                    threads: Sequence[int] | None = None, progress: Progress = silent) -> Tuned:
    """Measure the candidates that fit.

    Args:
        candidates: Of `rank`.
        opener: Reads them out of the bundle, and builds plans.
        seconds: For the comparison in turns, 10 when None; measuring each alone takes a tenth of that for each setting.
        batch: Size of the dynamic dimensions.
        threads: Numbers of threads to try; `thread_counts` when None.
        progress: Told of every measurement.

    Raises:
        BundleError: None of them runs, with every reason.
    """
    fitting: dict[str, Candidate] = {}
    for each in candidates:
        if each.fits:
            fitting.setdefault(each.key, each)
    plans = [(each, setting) for each in fitting.values() for setting in _settings(each, threads or thread_counts())]
    with tempfile.TemporaryDirectory(prefix="trtkit-tune-") as name:
        bench = _Bench(opener, Path(name), batch, seconds or _SECONDS)
        alone = []
        for done, (candidate, setting) in enumerate(plans):
            progress("Measuring", done, len(plans))
            alone.append(bench.alone(candidate, setting))
        progress("Measuring", len(plans), len(plans))
        alone.sort(key=lambda each: each.p50_ms)
        if alone[0].error:
            raise BundleError("Nothing that fits this machine runs: " + "; ".join(dict.fromkeys(
                f"{each.candidate.artifact}: {each.error}" for each in alone)) + ". See what is missing with: "
                "trtkit doctor")
        finalists = _finalists(alone)
        compared = bench.in_turns(finalists, progress)
    # The machine may have become slower or faster in between, which must not put the others before the finalists.
    drift = compared[0].p50_ms / alone[0].p50_ms
    others = [each if each.error else each.taking(drift * each.p50_ms) for each in alone if each not in finalists]
    return Tuned(tuple(sorted((*compared, *others), key=lambda each: each.p50_ms)))


def _settings(candidate: Candidate, threads: Sequence[int]) -> tuple[Setting, ...]:
    if candidate.action != "cpu":
        return (Setting(None),)
    return tuple(Setting(None, count) for count in threads)


def _finalists(alone: Sequence[Measurement]) -> list[Measurement]:
    """Return the fastest, what is near it, and the fastest without spinning."""
    first = alone[0]
    near = [each for each in alone if each.p50_ms <= _NEAR * first.p50_ms][:_FINALISTS]
    if (first.setting.threads or 1) > 1:
        near.append(replace(first, setting=replace(first.setting, spinning=False)))
    return near


@dataclass
class _Bench:
    opener: Opener
    folder: Path
    batch: int
    seconds: float

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._files: dict[str, Path | str] = {}

    def alone(self, candidate: Candidate, setting: Setting) -> Measurement:
        """Measure one setting, or tell why it cannot be."""
        tried = Measurement(candidate, setting)
        if candidate.key not in self._files:
            self._files[candidate.key] = self._file(candidate)
        found = self._files[candidate.key]
        if isinstance(found, str):
            return replace(tried, error=found)
        try:
            with self._trial(tried) as trial:
                return tried.taking(trial.measure(_SHORT * self.seconds))
        except DeviceError as err:
            return replace(tried, error=" ".join(str(err).split()))

    def in_turns(self, finalists: Sequence[Measurement], progress: Progress) -> list[Measurement]:
        """Return the finalists, in their order, with the median of their rounds."""
        if len(finalists) == 1:
            return [replace(finalists[0], in_turns=True)]
        times: list[list[float]] = [[] for _ in finalists]
        with contextlib.ExitStack() as stack:
            trials = [stack.enter_context(self._trial(each)) for each in finalists]
            for turn in range(_ROUNDS):
                progress("Comparing", turn, _ROUNDS)
                for step in range(len(trials)):
                    place = (step + turn) % len(trials)
                    times[place].append(trials[place].measure(self.seconds / (_ROUNDS * len(trials))))
            progress("Comparing", _ROUNDS, _ROUNDS)
        return [each.taking(float(np.median(rounds)), in_turns=True) for each, rounds in zip(finalists, times)]

    def _trial(self, each: Measurement) -> Trial:
        setting = each.setting
        request: dict[str, Any] = {
            "file": str(self._files[each.candidate.key]),
            "kind": "onnx" if each.candidate.action == "cpu" else "plan",
            "threads": setting.threads, "spinning": setting.spinning, "batch": self.batch,
            "warmup": 0.5 * _SHORT * self.seconds, "io": [spec.to_json() for spec in self.opener.io]}
        return Trial(request, self.folder / str(next(self._numbers)))

    def _file(self, candidate: Candidate) -> Path | str:
        """Return a file of what the candidate runs, or why there is none."""
        try:
            data = self.opener.data(candidate)
        except (BuildError, BundleError, MissingDependencyError, DeviceError) as err:
            return " ".join(str(err).split())
        path = self.folder / f"model-{next(self._numbers)}"
        path.write_bytes(data)
        return path

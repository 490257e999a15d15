"""Steps `evaluate` and `measure`: how accurate every candidate is, how fast where this machine can tell, and who stays.

Never slower, never worse: an INT8 or FP16 candidate that was measured on its own target and is not faster than FP32
there, or that loses more accuracy than the recipe allows, does not go into the bundle, and the notes say so. Before a
quantized one is given up for its accuracy, it is tried with some layers in float (trtkit.pipeline.repairing).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from trtkit.errors import AccuracyError, SpecError
from trtkit.evaluate import Accuracy, evaluate, loss_of
from trtkit.graph import model_bytes
from trtkit.pipeline.calibration import source_of
from trtkit.pipeline.repairing import Repairs, task_of
from trtkit.pipeline.state import Candidate, State
from trtkit.precision import Precision
from trtkit.progress import Progress
from trtkit.recipe import EvaluateSection
from trtkit.runtime.bench import BenchResult, Paired, bench, paired, random_feeds
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.probe import probe_device
from trtkit.runtime.tuning import thread_counts

__all__ = ["accuracy_of", "evaluate_step", "measure_step", "speedup_over"]

_SECONDS = 1.0


def evaluate_step(state: State, progress: Progress) -> State:
    """Run the FP32 model and every candidate over the evaluation data in ONNX Runtime; equal models are run once."""
    section = state.recipe.evaluate
    if section is None:
        return state
    judged: dict[bytes, Accuracy] = {}

    def judge(model: bytes, subject: object) -> Accuracy:
        def report(what: str, done: int, total: int | None) -> None:
            progress(f"{what} {subject}", done, total)

        digest = hashlib.sha256(model).digest()
        if digest not in judged:
            judged[digest] = accuracy_of(state, section, model, report)
        return judged[digest]

    reference = judge(model_bytes(state.graph), "fp32")
    repairs = Repairs(state, section, judge, reference)
    candidates, notes = [], list(state.notes)
    for each in state.candidates:
        accuracy = reference if each.precision is Precision.FP32 else judge(each.lowered.simulation, each)
        scored = replace(each, accuracy=accuracy, agreement=accuracy.agreement(reference))
        lost = loss_of(accuracy, reference).points
        if lost > section.max_drop:
            try:
                scored, note = repairs.repair(scored, progress)
            except (AccuracyError, SpecError) as err:
                scored = replace(scored, dropped=f"loses {lost:.1f} points, more than max_drop {section.max_drop}")
                note = f"{each} is left out: it {scored.dropped}. {err}"
            notes.append(note)
        candidates.append(scored)
    return replace(state, reference=reference, candidates=tuple(candidates), notes=tuple(notes))


def measure_step(state: State, progress: Progress) -> State:
    """Measure the candidates of targets that this machine is one of, each in turns with FP32."""
    device = probe_device()
    here = [each for each in state.candidates if each.target.runs_on(device.machine, device.cpu_flags)]
    latencies: dict[Path, BenchResult] = {}  # equal models of several targets share a file, and a latency
    for done, each in enumerate(here):
        progress("Measuring", done, len(here))
        if each.model not in latencies:
            latencies[each.model] = _latency(each)
    progress("Measuring", len(here), len(here))
    with_latency = [replace(each, latency=latencies[each.model]) for each in here]
    measured: dict[int, Candidate] = {}
    notes = list(state.notes)
    for done, (before, each) in enumerate(zip(here, with_latency)):
        progress("Comparing", done, len(here))
        full = next(c for c in with_latency if c.target == each.target and c.precision is Precision.FP32)
        with_times = _against_full(each, full)
        if with_times.dropped and not each.dropped:
            notes.append(f"{each} is left out: it {with_times.dropped}")
        measured[id(before)] = with_times
    progress("Comparing", len(here), len(here))
    return replace(state, candidates=tuple(measured.get(id(each), each) for each in state.candidates),
                   notes=tuple(notes))


def accuracy_of(state: State, section: EvaluateSection, model: bytes, progress: Progress) -> Accuracy:
    """Return what a model scores on the evaluation data in ONNX Runtime."""
    session = OrtSession(model)
    postprocess = state.recipe.postprocess
    try:
        return evaluate(session.run, source_of(state, section.data, section.limit), task=task_of(state),
                        output=postprocess.output if postprocess else None, progress=progress)
    finally:
        session.close()


def _latency(each: Candidate) -> BenchResult:
    """Return the latency with the number of threads that is the fastest; the conditions tell which."""
    found = []
    for threads in thread_counts():
        session = OrtSession(each.model, threads=threads)
        try:
            found.append(bench(session, random_feeds(session.inputs), seconds=_SECONDS, size_bytes=each.size_bytes,
                               extra_conditions={"threads": threads}))
        finally:
            session.close()
    return min(found, key=lambda result: result.p50_ms)


def _against_full(each: Candidate, full: Candidate) -> Candidate:
    """Return the candidate with its speed over FP32, dropped when it is not faster; FP32 itself as it is."""
    if each.precision is Precision.FP32:
        return each
    speedup = speedup_over(full.model, each.model, threads=(full.threads, each.threads))
    what = "is slower than FP32 here" if speedup.b_is_slower else "is not surely faster than FP32 here"
    slow = "" if speedup.b_is_faster else f"{what}: {speedup.ratio:.2f}x ({speedup.low:.2f} to {speedup.high:.2f})"
    return replace(each, speedup=speedup, dropped=each.dropped or slow)


def speedup_over(baseline: bytes | Path, model: bytes | Path, *,
                 threads: tuple[int | None, int | None] = (None, None)) -> Paired:
    """Return how many times faster a model is than another in ONNX Runtime, measured in turns on random inputs.

    Args:
        baseline, model: ONNX files, or their bytes.
        threads: Of each; ONNX Runtime's choice where None.
    """
    full, session = OrtSession(baseline, threads=threads[0]), OrtSession(model, threads=threads[1])
    try:
        feeds = random_feeds(session.inputs)
        speedup = paired(full, session, feeds)
        if not speedup.b_is_faster and not speedup.b_is_slower:  # a disturbed machine, or a close call: look longer
            speedup = paired(full, session, feeds, rounds=41, seconds=10.0)
        return speedup
    finally:
        session.close()
        full.close()

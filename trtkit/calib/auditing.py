"""Table + data -> what looks wrong, before anything is quantized with it.

Each check is a function that yields findings; a new check is a new function in `_TABLE_CHECKS` or `_DATA_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from trtkit.calib.sample import DataSource, Sample, hash_feeds, pick
from trtkit.findings import Finding, Severity
from trtkit.preprocess import Preprocess
from trtkit.ranges import CalibrationTable, Histogram
from trtkit.tensors import Array, TensorSpec

__all__ = ["Finding", "Severity", "audit"]

_FEW_SAMPLES = 100
_PROBED_SAMPLES = 64
_EXPLODED = 1e4  # magnitude; float16 ends at 65504
_OUTLIER = 100.0  # largest magnitude over the one that 99.99 % of the values stay below
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class _Subject:
    table: CalibrationTable
    inputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None

    def input_histograms(self) -> Iterator[tuple[TensorSpec, Histogram]]:
        """Yield the inputs that were counted, with their values."""
        for spec in self.inputs:
            if spec.name in self.table.tensors:
                yield spec, self.table.tensors[spec.name]


def audit(table: CalibrationTable, *, inputs: Sequence[TensorSpec] = (), data: DataSource | None = None,
          preprocess: Preprocess | None = None) -> list[Finding]:
    """Return what looks wrong with a calibration, errors first.

    Args:
        table: The result of the sweep.
        inputs: The model's inputs; without them their ranges are not judged.
        data: What the table was made from; up to 64 samples are read again to find constant, duplicate and transposed
            ones.
        preprocess: What the model was trained with; the data source's own when None. It tells which input values are
            possible.
    """
    prepared = preprocess or (data.preprocess if data is not None else None)
    subject = _Subject(table, tuple(inputs), prepared)
    findings = [finding for check in _TABLE_CHECKS for finding in check(subject)]
    if data is not None:
        samples = list(_probe(data))
        findings += [finding for check in _DATA_CHECKS for finding in check(samples, subject)]
    return sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)


def _few_samples(subject: _Subject) -> Iterator[Finding]:
    if subject.table.samples < _FEW_SAMPLES:
        yield Finding(Severity.WARNING, (), f"only {subject.table.samples} samples were seen; ranges may be too narrow",
                      f"Calibrate with {_FEW_SAMPLES} to 1000 samples that are like those in use")


def _input_range(subject: _Subject) -> Iterator[Finding]:
    """Judge the input values by what the preprocessing can give, else by what images usually are."""
    for spec, seen in subject.input_histograms():
        if not spec.dtype.startswith("float") or len(spec.shape) != 4 or not seen.total:
            continue
        if subject.preprocess is not None:
            yield from _beyond_preprocess(spec, seen, subject.preprocess)
        elif seen.max > 20 and seen.min >= 0:
            yield Finding(Severity.ERROR, (spec.name,), f"input values reach {seen.max:.4g} and are never negative: "
                          "raw pixels, as if the division by 255 was missing",
                          "Prepare the data as in training, or give --preprocess with scale = 0.00392157")
        elif 0 < seen.amax < 0.02:
            yield Finding(Severity.ERROR, (spec.name,), f"input values stay below {seen.amax:.4g}, as if they had been "
                          "divided by 255 twice", "Prepare the data as in training")


def _beyond_preprocess(spec: TensorSpec, seen: Histogram, preprocess: Preprocess) -> Iterator[Finding]:
    low, high = _possible(preprocess)
    slack = 0.05 * (high - low)
    if seen.min < low - slack or seen.max > high + slack:
        yield Finding(Severity.ERROR, (spec.name,), f"input values lie in [{seen.min:.4g}, {seen.max:.4g}], but the "
                      f"model's preprocessing gives [{low:.4g}, {high:.4g}]; is a division by 255 missing?",
                      "Prepare the data with this preprocessing")
    elif seen.max - seen.min < 0.1 * (high - low):
        yield Finding(Severity.ERROR, (spec.name,), f"input values lie in [{seen.min:.4g}, {seen.max:.4g}] only, where "
                      f"the model's preprocessing gives [{low:.4g}, {high:.4g}]; is a scale applied twice?",
                      "Prepare the data with this preprocessing, once")


def _possible(preprocess: Preprocess) -> tuple[float, float]:
    """Return the least and the largest value that the preprocessing can give."""
    ends = [(pixel * preprocess.scale - mean) / std
            for mean, std in zip(preprocess.mean, preprocess.std) for pixel in (0, 255)]
    return min(ends), max(ends)


def _dead(subject: _Subject) -> Iterator[Finding]:
    for name, seen in subject.table.tensors.items():
        if seen.total and seen.zeros == seen.total:
            yield Finding(Severity.WARNING, (name,), f"all {seen.total} values are zero: a dead tensor, or data that "
                          "never excites it", "Check the preprocessing and the weights before it")


def _exploding(subject: _Subject) -> Iterator[Finding]:
    for name, seen in subject.table.tensors.items():
        if seen.amax > _EXPLODED:
            yield Finding(Severity.WARNING, (name,), f"values reach {seen.amax:.4g}; INT8 keeps little of such a "
                          "range, and float16 ends at 65504",
                          "Check the preprocessing; keep the nodes around it in FP32")


def _outliers(subject: _Subject) -> Iterator[Finding]:
    for name, seen in subject.table.tensors.items():
        usual = _usual_magnitude(seen)
        if usual > 0 and seen.amax > _OUTLIER * usual:
            yield Finding(Severity.WARNING, (name,), f"values reach {seen.amax:.4g}, but 99.99 % of them stay below "
                          f"{usual:.4g}: min-max would waste most of the grid",
                          "Use the estimator mse, entropy or percentile")


def _usual_magnitude(seen: Histogram) -> float:
    low, high, counts = seen.intervals()
    magnitude = np.maximum(np.abs(low), np.abs(high))
    order = np.argsort(magnitude)
    share = counts[order].cumsum() / max(counts.sum(), 1.0)
    return float(magnitude[order][np.searchsorted(share, 0.9999)]) if share.size else 0.0


def _constant(samples: Sequence[Sample], _: _Subject) -> Iterator[Finding]:
    flat = [sample.name for sample in samples if all(np.ptp(array) == 0 for array in sample.feeds.values()
                                                     if array.size > 1 and array.dtype.kind in "fiu")]
    if flat and max(array.size for array in samples[0].feeds.values()) > 1:
        yield Finding(Severity.ERROR if len(flat) > len(samples) / 2 else Severity.WARNING, (),
                      f"{len(flat)} of {len(samples)} samples looked at are one constant value, such as '{flat[0]}'",
                      "Remove them; blank frames teach the ranges nothing")


def _duplicate(samples: Sequence[Sample], _: _Subject) -> Iterator[Finding]:
    first: dict[str, str] = {}
    again = [(sample.name, known) for sample in samples
             if (known := first.setdefault(hash_feeds(sample.feeds), sample.name)) != sample.name]
    if again:
        yield Finding(Severity.ERROR if len(again) > len(samples) / 2 else Severity.WARNING, (),
                      f"{len(again)} of {len(samples)} samples looked at repeat another one, such as "
                      f"'{again[0][0]}' = '{again[0][1]}'", "Remove copies; does the loader return one batch over "
                      "and over?")


def _layout(samples: Sequence[Sample], subject: _Subject) -> Iterator[Finding]:
    """Find channels-last pixels behind a channels-first shape, or the reverse, by which axis is smooth.

    In a picture, neighbours along the height and the width are alike. Where pixels were reshaped instead of
    transposed, steps along the last axis jump between colours while steps of the number of channels are smooth.
    """
    for spec in subject.inputs:
        arrays = [sample.feeds[spec.name] for sample in samples if spec.name in sample.feeds]
        if len(spec.shape) != 4 or not arrays:
            continue
        votes = [_interleaved(array) for array in arrays if array.ndim == 4]
        if votes and sum(votes) > len(votes) / 2:
            yield Finding(Severity.ERROR, (spec.name,), f"{sum(votes)} of {len(votes)} samples of shape "
                          f"{arrays[0].shape} look like pixels in the other layout: neighbours in a row are less alike "
                          "than every third value", "Transpose the data (NHWC to NCHW: x.transpose(0, 3, 1, 2)); a "
                          "reshape is not enough")


def _interleaved(array: Array) -> bool:
    image = np.asarray(array[0], np.float64)
    if image.shape[0] not in _CHANNELS or image.shape[-1] in _CHANNELS or image.shape[0] == 1:
        return False
    channels, row = image.shape[0], image.reshape(-1)
    beside = float(np.abs(np.diff(row)).mean())
    colour = float(np.abs(row[channels:] - row[:-channels]).mean())
    return beside > 0 and colour < 0.7 * beside


def _swapped_shape(samples: Sequence[Sample], subject: _Subject) -> Iterator[Finding]:
    """Find a model with free sizes that was fed the other layout: its channel dimension took a picture's height."""
    for spec in subject.inputs:
        shape = samples[0].feeds[spec.name].shape if samples and spec.name in samples[0].feeds else ()
        if len(spec.shape) == len(shape) == 4 and isinstance(spec.shape[1], str) and shape[3] in _CHANNELS:
            yield Finding(Severity.WARNING, (spec.name,), f"samples have shape {shape}, channels last, and the model "
                          f"leaves all sizes of '{spec}' open", "Make sure that the model takes NHWC")


def _probe(data: DataSource) -> Iterator[Sample]:
    """Yield up to 64 samples, evenly spaced where the number is known."""
    if data.count is None:
        yield from islice(data.samples(), _PROBED_SAMPLES)
        return
    wanted = pick(data.count, _PROBED_SAMPLES)
    if data.cheap_start:
        for index in wanted:
            yield from islice(data.samples(index), 1)
    else:
        chosen = set(wanted)
        yield from (sample for sample in data.samples() if sample.index in chosen)


_TABLE_CHECKS: tuple[Callable[[_Subject], Iterator[Finding]], ...] = (
    _input_range, _few_samples, _dead, _exploding, _outliers)
_DATA_CHECKS: tuple[Callable[[Sequence[Sample], _Subject], Iterator[Finding]], ...] = (
    _constant, _duplicate, _layout, _swapped_shape)

"""Model + a few samples -> how much of the output's quantization noise each weighted layer makes.

Noise of different layers is nearly uncorrelated, so its powers add up: measured one layer at a time they foretell what
several layers make together, and small contributions are seen, which drown in the rest when all but one is quantized.

Source: Zhou et al., Adaptive Quantization for Deep Neural Network, AAAI 2018 (additivity of the noise of layers).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trtkit._version import __version__
from trtkit.errors import SpecError
from trtkit.evaluate.accuracy import LabelledSample, Task
from trtkit.evaluate.difference import DifferenceSum
from trtkit.evaluate.loss import Loss, loss_of, sheet_for
from trtkit.evaluate.source import fed
from trtkit.files import atomic_write
from trtkit.graph import fingerprint, model_bytes
from trtkit.precision import NodeSelector, Precision, QuantSpec
from trtkit.progress import Progress, silent
from trtkit.quant.budget.macs import WEIGHTED_OPS, count_macs
from trtkit.quant.index import node_name
from trtkit.quant.lower import Lowered, lower
from trtkit.ranges import CalibrationTable
from trtkit.runtime.ort import OrtSession
from trtkit.target import Target
from trtkit.tensors import Array

__all__ = ["LayerLoss", "Probe", "Sensitivity", "measure_sensitivity", "quantized_layers", "with_kept"]

logger = logging.getLogger(__name__)

_MOST_DB = 200.0
"""Equal outputs count as this many dB, outputs that are not finite as as many below 0."""

_DEFAULT = QuantSpec()
_PASSED_THROUGH = frozenset({"Cast", "Pad", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"})


class Probe(str, Enum):
    """What is run to tell the share of one layer."""

    ALONE = "alone"
    """That layer is quantized and no other."""
    REST = "rest"
    """Every other layer is quantized: sees what layers do to one another, and less of what one does itself."""


@dataclass(frozen=True)
class LayerLoss:
    """What one weighted layer costs in accuracy.

    Attributes:
        name: Of the node, as `[quantize] keep` takes it.
        op_type: Its operator.
        macs: Multiply-accumulates of one sample: what INT8 would speed up.
        sqnr_db: Signal to noise ratio of the worst output of the model that was run; from -200, not finite, to 200,
            equal to FP32.
        noise: Share of the output's power that is this layer's noise, as a ratio of powers; the larger, the worse.
        points: How many points of the task metric that model loses; None where the outputs have no such metric.
    """

    name: str
    op_type: str
    macs: int
    sqnr_db: float
    noise: float
    points: float | None


@dataclass(frozen=True)
class Sensitivity:
    """The layers of a model, the one that costs most accuracy first.

    Attributes:
        target, precision: What the model was lowered for.
        probe: What was run for each layer.
        samples: How many samples every number is from.
        metric: What `points` counts: "top-1", "mAP" or "agreement"; "" where there is no such metric.
        sqnr_db: Of the worst output with every layer quantized.
        points: Lost with every layer quantized.
        layers: In order of their noise.
    """

    target: str
    precision: Precision
    probe: Probe
    samples: int
    metric: str
    sqnr_db: float
    points: float | None
    layers: tuple[LayerLoss, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {**asdict(self), "precision": self.precision.value, "probe": self.probe.value,
                "layers": [asdict(each) for each in self.layers]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Read what `to_json` returned.

        Raises:
            SpecError: It is something else.
        """
        try:
            return cls(**{**data, "precision": Precision(data["precision"]), "probe": Probe(data["probe"]),
                          "layers": tuple(LayerLoss(**each) for each in data["layers"])})
        except (KeyError, TypeError, ValueError) as err:
            raise SpecError(f"This is no sensitivity of layers ({err}). Run: trtkit sensitivity MODEL") from err

    def to_csv(self) -> str:
        """Return one line a layer under a line of headings."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("layer", "operator", "macs", "sqnr_db", "noise", "points"))
        writer.writerows((each.name, each.op_type, each.macs, each.sqnr_db, each.noise, each.points)
                         for each in self.layers)
        return text.getvalue()


def measure_sensitivity(model: onnx.ModelProto, target: Target, precision: Precision = Precision.INT8, *,
                        samples: Iterable[LabelledSample], table: CalibrationTable | None = None,
                        spec: QuantSpec = _DEFAULT, probe: Probe = Probe.ALONE, task: Task = Task.CLASSIFY,
                        output: str | None = None, checkpoint: Path | None = None,
                        progress: Progress = silent) -> Sensitivity:
    """Run the model once a layer and tell what each layer costs.

    Args:
        model: FP32, rewritten for this target.
        target, precision: What it is lowered for.
        samples: A few real ones; with labels `points` are of top-1 or mAP. Kept in memory with their outputs.
        table: Calibration of this very model, where the precision needs one.
        spec: How to quantize; layers that it keeps in float are not measured.
        probe: What to run for each layer.
        task: What labels mean.
        output: Name of the scores; found by shape when None.
        checkpoint: File that keeps what was measured, after each layer; an equal call goes on from there. It stays:
            remove it once the result is saved.
        progress: Told of layers done.

    Raises:
        SpecError: There is no sample, or nothing of the model is quantized.
        CalibrationError: The table is missing or lacks tensors.
    """
    bench = _Bench(model, list(samples), task, output)
    everything = lower(model, target, precision, table=table, spec=spec)
    layers = quantized_layers(model, onnx.ModelProto.FromString(everything.simulation))
    if not layers:
        raise SpecError(f"No layer of the model is quantized in {precision.value} for '{target.name}', so none can be "
                        f"told from another. It has: {', '.join(sorted({n.op_type for n in model.graph.node}))}")
    macs = count_macs(model, {name: array.shape for name, array in bench.samples[0].feeds.items()})
    kept = _Kept(checkpoint, _key(model, table, target, precision, spec, probe, bench.samples))
    names = [node_name(node) for node in layers]
    whole = kept.get("", lambda: bench.measure(everything))
    rows = []
    for done, node in enumerate(layers):
        progress("Measuring layers", done, len(layers))
        name = node_name(node)
        floats = [other for other in names if other != name] if probe is Probe.ALONE else [name]
        found = kept.get(name, lambda floats=floats: bench.measure(  # type: ignore[misc]
            lower(model, target, precision, table=table, spec=with_kept(spec, floats))))
        noise = _noise(found.sqnr_db)
        if probe is Probe.REST:
            noise = max(_noise(whole.sqnr_db) - noise, 0.0)
        rows.append(LayerLoss(name, node.op_type, macs.get(name, 0), found.sqnr_db, noise, found.points))
    progress("Measuring layers", len(layers), len(layers))
    rows.sort(key=lambda each: -each.noise)
    return Sensitivity(target.name, precision, probe, len(bench.samples), whole.metric, whole.sqnr_db, whole.points,
                       tuple(rows))


def quantized_layers(model: onnx.ModelProto, lowered: onnx.ModelProto) -> list[Any]:
    """Return the weighted nodes of a model whose weights, or both operands where it has none, are quantized, in order.

    Args:
        model: FP32.
        lowered: Nodes keep their names; one that is gone, or has another operator now, computes in integers.
    """
    nodes = {node_name(node): node for node in lowered.graph.node}
    producer = {name: node for node in lowered.graph.node for name in node.output}

    def quantized(name: str) -> bool:
        node = producer.get(name)
        while node is not None and node.op_type in _PASSED_THROUGH:
            node = producer.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    constants = {tensor.name for tensor in model.graph.initializer}

    def computes_quantized(node: Any) -> bool:
        now = nodes.get(node_name(node))
        if now is None or now.op_type != node.op_type:
            return True
        weights = [place for place in (0, 1) if node.input[place] in constants]
        return all(quantized(now.input[place]) for place in weights or (0, 1))

    return [node for node in model.graph.node if node.op_type in WEIGHTED_OPS and computes_quantized(node)]


def with_kept(spec: QuantSpec, names: Iterable[str]) -> QuantSpec:
    """Return a spec that keeps these nodes in float as well."""
    return replace(spec, keep=NodeSelector((*spec.keep.names, *names), spec.keep.op_types))


@dataclass(frozen=True)
class _Found:
    sqnr_db: float
    metric: str
    points: float | None


class _Bench:
    """Runs one lowering after the other on the same samples, beside the outputs of FP32."""

    def __init__(self, model: onnx.ModelProto, samples: list[LabelledSample], task: Task, output: str | None) -> None:
        if not samples:
            raise SpecError("Sensitivity of layers was asked for on no samples. Give a few real ones")
        self.samples, self._task, self._output = samples, task, output
        self._expected = self._run(model_bytes(model))
        self._floats = [name for name, array in self._expected[0].items() if array.dtype.kind == "f"]
        if not self._floats:
            raise SpecError(f"The model returns {', '.join(self._expected[0])}: none of float type, so there is no "
                            "noise to be seen. Take ArgMax and the like out of the model")

    def measure(self, lowered: Lowered) -> _Found:
        got = self._run(lowered.simulation, optimize=not lowered.as_written)
        sums = {name: DifferenceSum(name) for name in self._floats}
        for expected, actual in zip(self._expected, got):
            for name, each in sums.items():
                each.add(expected[name], actual[name])
        worst = min(each.result().sqnr_db for each in sums.values())
        loss = self._loss(got)
        return _Found(float(np.clip(worst, -_MOST_DB, _MOST_DB)), loss.metric if loss else "",
                      loss.points if loss else None)

    def _run(self, model: bytes, *, optimize: bool = True) -> list[Mapping[str, Array]]:
        session = OrtSession(model, optimize=optimize)
        try:
            return [session.run(fed(session, sample.feeds)) for sample in self.samples]
        finally:
            session.close()

    def _loss(self, got: list[Mapping[str, Array]]) -> Loss | None:
        mine, full = (sheet_for(self._expected[0], task=self._task, output=self._output) for _ in range(2))
        if mine is None or full is None:
            return None
        for sample, actual, expected in zip(self.samples, got, self._expected):
            mine.add(sample, actual)
            full.add(sample, expected)
        return loss_of(mine.judge(), full.judge())


class _Kept:
    """What was measured already, by layer; in a file where there is one."""

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self._found: dict[str, _Found] = {}
        if path is None or not path.exists():
            return
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["key"] == key:
                self._found = {name: _Found(**each) for name, each in data["found"].items()}
                logger.info("Going on from '%s' with %d layers", path, len(self._found))
            else:
                logger.info("'%s' is of another model, spec or data; measuring anew", path)
        except (OSError, ValueError, KeyError, TypeError) as err:
            logger.info("'%s' cannot be gone on from (%s); measuring anew", path, err)

    def get(self, name: str, measure: Callable[[], _Found]) -> _Found:
        if name not in self._found:
            self._found[name] = measure()
            if self._path is not None:
                content = {"key": self._key, "found": {name: asdict(each) for name, each in self._found.items()}}
                atomic_write(self._path, json.dumps(content).encode())
        return self._found[name]


def _noise(sqnr_db: float) -> float:
    """Return the power of the noise as a share of the signal's."""
    return 0.0 if sqnr_db >= _MOST_DB else float(10 ** (-sqnr_db / 10))


def _key(model: onnx.ModelProto, table: CalibrationTable | None, target: Target, precision: Precision,
         spec: QuantSpec, probe: Probe, samples: list[LabelledSample]) -> str:
    """Return a hash of everything that a measurement depends on."""
    digest = hashlib.sha256(repr((__version__, fingerprint(model), table and (table.model, table.data,
                                  table.preprocess, table.samples), target, precision, spec, probe)).encode())
    for sample in samples:
        digest.update(repr((sample.name, sample.labels)).encode())
        for name in sorted(sample.feeds):
            digest.update(name.encode() + np.ascontiguousarray(sample.feeds[name]).tobytes())
    return digest.hexdigest()

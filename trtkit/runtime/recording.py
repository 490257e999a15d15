"""Latency kit -> latency table: every layer of the kit timed on this machine, one after the other, resumable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from trtkit.errors import DeviceError, SpecError
from trtkit.files import atomic_write
from trtkit.progress import Progress, silent
from trtkit.runtime.bench import random_feeds, shortest
from trtkit.runtime.conditions import conditions
from trtkit.runtime.latency_kit import MODEL, KitLayer, LatencyKit
from trtkit.runtime.latency_table import LatencyTable
from trtkit.runtime.opener import Builder, BuildRequest
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.probe import probe_device
from trtkit.runtime.session import Session
from trtkit.runtime.trt import TrtSession
from trtkit.tensors import Feeds

__all__ = ["record_latencies"]

_WHOLE = 5
"""Times as long as a layer, the whole model is measured."""


def record_latencies(kit: LatencyKit, *, builder: Builder | None = None, threads: int | None = None,
                     seconds: float = 0.2, checkpoint: Path | None = None,
                     progress: Progress = silent) -> LatencyTable:
    """Time every layer of a kit on this machine.

    A model with the layer and one without it run in turns; the layer's latency is what their shortest runs differ by.

    Args:
        kit: Made for such a machine.
        builder: What builds plans, for TensorRT targets: trtkit.opening.build_here.
        threads: Of ONNX Runtime; its own choice when None.
        seconds: How long to measure each layer; the whole model five times as long.
        checkpoint: File that keeps what was measured. When it exists the recording goes on from there; it stays,
            complete: remove it once the table is saved.
        progress: Told of every layer.

    Raises:
        SpecError: The kit is for another machine, or the checkpoint is of another kit or machine.
        BuildError, BundleError: A model cannot be built or loaded.
    """
    _check_machine(kit)
    bench = _Bench(kit, builder, threads, seconds)
    whole = bench.open(MODEL)
    facts = conditions(whole[0].backend)
    begun = _Checkpoint(checkpoint, {"kit": kit.fingerprint(), "cpu": facts["cpu"], "backend": facts["backend"]})
    missing = [layer for layer in kit.layers if layer.model not in begun.seconds]
    done = len(kit.layers) - len(missing)
    for base, layers in groupby(missing, key=lambda layer: layer.base):
        without = bench.open(base)
        for layer in layers:
            progress("Measuring layers", done, len(kit.layers))
            begun.add(layer, bench.difference(layer.model, without))
            done += 1
        without[0].close()
    progress("Measuring layers", done, len(kit.layers))
    rows = {layer.point: begun.seconds[layer.model] for layer in kit.layers}
    multiple = kit.target.channel_multiple(kit.precision)
    bare = LatencyTable(kit.target.name, kit.precision, multiple, rows, 1.0, {**facts, "threads": threads or "default"})
    layers_alone = bare.predict(kit.whole)
    (model_seconds,) = shortest((whole,), seconds=_WHOLE * seconds)
    whole[0].close()
    if not layers_alone > 0.0:
        raise DeviceError(f"The {len(kit.layers)} layers of '{kit.path}' took no measurable time on this machine. "
                          "Measure longer: --seconds 1")
    return LatencyTable(bare.target, bare.precision, multiple, rows, model_seconds / layers_alone,
                        {**bare.conditions, "model_seconds": model_seconds, "layers_seconds": layers_alone})


def _check_machine(kit: LatencyKit) -> None:
    device = probe_device()
    if not kit.target.is_tensorrt and not kit.target.runs_on(device.machine, device.cpu_flags):
        raise SpecError(f"'{kit.path}' is for target '{kit.target.name}' ({kit.target.description}); this machine is "
                        f"{device.machine}, {device.cpu}. Record it there, or make a kit for this machine: trtkit "
                        "doctor names its target")


_Opened = tuple[Session, Feeds]


class _Bench:
    """Opens the models of a kit and times them."""

    def __init__(self, kit: LatencyKit, builder: Builder | None, threads: int | None, seconds: float) -> None:
        self.kit, self.builder, self.threads, self.seconds = kit, builder, threads, seconds

    def open(self, name: str) -> _Opened:
        """Return a session of a model, and what to feed it."""
        model, cache = self.kit.read(name)
        session = self._built(model, cache) if self.kit.target.is_tensorrt else OrtSession(model, threads=self.threads)
        return session, random_feeds(session.inputs)

    def _built(self, model: bytes, cache: bytes | None) -> Session:
        if self.builder is None:
            raise SpecError(f"'{self.kit.path}' is for TensorRT, whose plans are built here first, and there is no "
                            "builder. Give trtkit.opening.build_here, or run: trtkit latency record")
        plan, _ = self.builder(BuildRequest(model, self.kit.target, self.kit.precision, None, cache))
        return TrtSession(plan)

    def difference(self, name: str, without: _Opened) -> float:
        """Return how much longer a model takes than the one without its layer, in seconds."""
        opened = self.open(name)
        try:
            with_layer, base = shortest((opened, without), seconds=self.seconds)
        finally:
            opened[0].close()
        return max(with_layer - base, 0.0)


class _Checkpoint:
    """What was measured so far, in a file that is written after every layer."""

    def __init__(self, path: Path | None, origin: Mapping[str, str]) -> None:
        self.path, self.origin = path, dict(origin)
        self.seconds: dict[str, float] = {}
        if path is not None and path.exists():
            self.seconds = self._read(path)

    def add(self, layer: KitLayer, seconds: float) -> None:
        """Keep one latency."""
        self.seconds[layer.model] = seconds
        if self.path is not None:
            atomic_write(self.path, json.dumps({"origin": self.origin, "seconds": self.seconds}).encode())

    def _read(self, path: Path) -> dict[str, float]:
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            origin, seconds = content["origin"], content["seconds"]
        except (OSError, ValueError, TypeError, KeyError) as err:
            raise SpecError(f"'{path}' cannot be read as a recording that was interrupted: {err}. "
                            "Remove it to begin anew") from err
        if origin != self.origin:
            raise SpecError(f"'{path}' keeps a recording of another kit, machine or runtime: {origin}, here it is "
                            f"{self.origin}. Remove it to begin anew")
        return {str(name): float(value) for name, value in seconds.items()}

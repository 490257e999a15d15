"""Samples -> an IInt8EntropyCalibrator2 that feeds them to TensorRT, for calibrating on the board itself.

trtkit's own calibration needs no GPU and gives better ranges; this is for comparing with TensorRT's, and for models
that the board alone can run. Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.build.flavour import Flavour
from trtkit.build.profiles import network_inputs
from trtkit.errors import BuildError, TrtkitError
from trtkit.runtime.cuda import Cuda, DeviceMemory
from trtkit.runtime.trt_tensors import DTYPES
from trtkit.tensors import Array, Feeds, ShapeProfile, TensorSpec

__all__ = ["calibration_inputs", "finish_calibration", "make_live_calibrator", "read_samples", "write_samples"]


def write_samples(samples: Iterable[Feeds], folder: Path) -> None:
    """Write each sample to a file of its own in a new `folder`, for the process that builds."""
    folder.mkdir()
    for number, sample in enumerate(samples):
        arrays: dict[str, Any] = {f"{place}": array for place, array in enumerate(sample.values())}
        np.savez(folder / f"{number:06}.npz", names=np.array(list(sample)), **arrays)  # input names may be any text


def read_samples(folder: Path) -> Iterator[Feeds]:
    """Yield what `write_samples` wrote, in the same order."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            yield {str(name): stored[f"{place}"] for place, name in enumerate(stored["names"])}


def calibration_inputs(network: Any, profiles: Sequence[ShapeProfile]) -> tuple[TensorSpec, ...]:
    """Return the inputs of a network with the shapes of one batch: opt of the first profile where they are dynamic."""
    opt = profiles[0].opt if profiles else {}
    return tuple(TensorSpec(name, DTYPES[network_input.dtype.name], tuple(opt.get(name, tuple(network_input.shape))))
                 for name, network_input in network_inputs(network).items())


def make_live_calibrator(flavour: Flavour, samples: Iterable[Feeds], inputs: tuple[TensorSpec, ...],
                         cuda: Cuda) -> Any:
    """Return a calibrator that feeds samples in batches; a last batch that is not full is left out.

    After the build its attribute `cache` holds what TensorRT measured, `batches` how many it was fed, and `fault` what
    went wrong in reading or copying, since TensorRT itself only sees that there are no more. `close` gives the device
    memory back.

    Args:
        flavour: The imported TensorRT, one that has calibrators.
        samples: Arrays of one or more rows by input name.
        inputs: As `calibration_inputs` gives them.
        cuda: The GPU.
    """
    batches = _batches(samples, inputs)

    class LiveCalibrator(flavour.trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            flavour.trt.IInt8EntropyCalibrator2.__init__(self)
            self.cache: bytes | None = None
            self.fault: TrtkitError | None = None
            self.batches = 0
            self.memory: dict[str, DeviceMemory] = {}

        def get_batch_size(self) -> int:
            return int(inputs[0].shape[0])

        def get_batch(self, names: list[str]) -> list[int] | None:
            try:
                batch = next(batches, None)
                if batch is None:
                    return None
                with cuda.active():
                    addresses = [self.copied(name, batch[name]) for name in names]
            except TrtkitError as err:
                self.fault = err
                return None
            self.batches += 1
            return addresses

        def copied(self, name: str, array: Array) -> int:
            if name not in self.memory:
                self.memory[name] = cuda.device_memory(array.nbytes)
            cuda.copy_in(self.memory[name], array)
            cuda.synchronize()
            return self.memory[name].address

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, data: Any) -> None:
            self.cache = bytes(data)

        def close(self) -> None:
            with cuda.active():
                for memory in self.memory.values():
                    memory.free()
            self.memory.clear()
            cuda.close()

    return LiveCalibrator()


def finish_calibration(calibrator: Any) -> bytes | None:
    """Give the memory back and return the cache, or None when TensorRT wrote none.

    Raises:
        TrtkitError: A sample could not be read or copied, or there was not even one batch.
    """
    calibrator.close()
    if calibrator.fault is not None:
        raise calibrator.fault
    if not calibrator.batches:
        raise BuildError("There are fewer samples than one calibration batch, which has "
                         f"{calibrator.get_batch_size()}. Give more, or a smaller typical batch")
    cache: bytes | None = calibrator.cache
    return cache


def _batches(samples: Iterable[Feeds], inputs: tuple[TensorSpec, ...]) -> Iterator[dict[str, Array]]:
    """Join and cut the samples to batches, all inputs alike."""
    waiting: dict[str, Array] = {}
    for number, sample in enumerate(samples):
        rows = {spec.name: _rows(number, sample, spec) for spec in inputs}
        waiting = {name: np.concatenate([waiting[name], array]) for name, array in rows.items()} if waiting else rows
        while all(len(waiting[spec.name]) >= int(spec.shape[0]) for spec in inputs):
            yield {spec.name: np.ascontiguousarray(waiting[spec.name][:int(spec.shape[0])]) for spec in inputs}
            waiting = {spec.name: waiting[spec.name][int(spec.shape[0]):] for spec in inputs}


def _rows(number: int, sample: Feeds, spec: TensorSpec) -> Array:
    if spec.name not in sample:
        raise BuildError(f"Sample {number} has no input '{spec.name}', only {', '.join(sample)}. Give an array for "
                         "each input of the model")
    array = np.asarray(sample[spec.name])
    if array.shape[1:] != tuple(spec.shape[1:]):
        raise BuildError(f"Sample {number} gives {spec.name} the shape {array.shape}; TensorRT calibrates with {spec}. "
                         "Prepare the data as for inference, one or more rows a sample")
    return array.astype(spec.dtype, copy=False)

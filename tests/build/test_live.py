"""Samples on their way into TensorRT's calibrator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from trtkit.build import BuildOptions, build_plan
from trtkit.build.flavour import Flavour
from trtkit.build.live import finish_calibration, make_live_calibrator, read_samples, write_samples
from trtkit.errors import BuildError, DeviceError, SpecError
from trtkit.precision import Precision
from trtkit.tensors import TensorSpec

INPUTS = (TensorSpec("image", "float32", (2, 3)), TensorSpec("size", "int32", (2, 1)))


class FakeMemory:
    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.content, self.is_free = address, b"\0" * nbytes, False

    def free(self) -> None:
        self.is_free = True


class FakeCuda:
    """Memory that holds what is copied into it, as long as the context is active."""

    def __init__(self, room: int = 4) -> None:
        self.room, self.is_active, self.is_closed = room, False, False
        self.memory: list[FakeMemory] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        self.is_active = True
        yield
        self.is_active = False

    def device_memory(self, nbytes: int) -> FakeMemory:
        assert self.is_active
        if len(self.memory) == self.room:
            raise DeviceError("no memory is left")
        self.memory.append(FakeMemory(1000 + len(self.memory), nbytes))
        return self.memory[-1]

    def copy_in(self, target: FakeMemory, source: np.ndarray) -> None:
        assert self.is_active
        assert len(target.content) == source.nbytes
        target.content = source.tobytes()

    def synchronize(self) -> None:
        assert self.is_active

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def flavour() -> Flavour:
    module = ModuleType("tensorrt")
    module.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})  # type: ignore[attr-defined]
    return Flavour(module, "tensorrt", "10.3.0")


def sample(first: int, rows: int = 1, **changes: Any) -> dict[str, np.ndarray]:
    values = np.arange(first, first + rows)
    return {"image": np.repeat(values[:, None], 3, axis=1).astype(np.float64), "size": values[:, None].astype(np.int64),
            **changes}


def test_samples_are_joined_and_cut_to_batches_of_the_network_types(flavour: Flavour) -> None:
    cuda = FakeCuda()
    calibrator = make_live_calibrator(flavour, [sample(0), sample(1, 4), sample(5), sample(6)], INPUTS, cuda)
    seen = []
    while (addresses := calibrator.get_batch(["size", "image"])) is not None:
        held = {memory.address: memory.content for memory in cuda.memory}
        sizes, images = (held[address] for address in addresses)
        seen.append(np.frombuffer(sizes, np.int32).tolist())
        assert np.frombuffer(images, np.float32).tolist() == [value for value in seen[-1] for _ in range(3)]
    assert seen == [[0, 1], [2, 3], [4, 5]]
    calibrator.write_calibration_cache(memoryview(b"TRT-"))
    assert finish_calibration(calibrator) == b"TRT-"
    assert cuda.is_closed
    assert all(memory.is_free for memory in cuda.memory)


@pytest.mark.parametrize(("samples", "room", "error", "says"), [
    pytest.param([sample(0)], 4, BuildError, "fewer samples than one calibration batch, which has 2", id="too-few"),
    pytest.param([{"image": np.zeros((2, 3))}], 4, BuildError, "Sample 0 has no input 'size', only image",
                 id="input-missing"),
    pytest.param([sample(0), sample(1, image=np.zeros((1, 4)))], 4, BuildError,
                 r"Sample 1 gives image the shape \(1, 4\)", id="wrong-shape"),
    pytest.param([sample(0, 2)], 1, DeviceError, "no memory is left", id="no-memory"),
])
def test_fault_in_a_batch_is_raised_after_the_build_and_the_memory_given_back(
        flavour: Flavour, samples: list[dict[str, np.ndarray]], room: int, error: type[Exception], says: str) -> None:
    cuda = FakeCuda(room)
    calibrator = make_live_calibrator(flavour, samples, INPUTS, cuda)
    assert calibrator.get_batch(["image", "size"]) is None
    with pytest.raises(error, match=says):
        finish_calibration(calibrator)
    assert all(memory.is_free for memory in cuda.memory)


def test_samples_survive_the_way_to_the_process_that_builds(tmp_path: Path) -> None:
    odd = {"file": np.arange(3), "a/b:0": np.zeros((1, 2), np.float32)}
    write_samples([odd, sample(1)], tmp_path / "samples")
    first, second = read_samples(tmp_path / "samples")
    assert {name: array.tolist() for name, array in first.items()} == {"file": [0, 1, 2], "a/b:0": [[0.0, 0.0]]}
    assert list(second) == ["image", "size"]


def test_samples_are_refused_where_nothing_is_calibrated() -> None:
    weak = {"typing": "weak", "precision": Precision.INT8}
    for options in (BuildOptions(precision=Precision.INT8), BuildOptions(**weak, calibration_cache=b"x")):
        with pytest.raises(SpecError, match="Calibration samples go with typing 'weak'"):
            build_plan(b"model", options, samples=[])

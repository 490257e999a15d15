"""TrtSession on a TensorRT and a CUDA that behave: device memory is memory, and enqueued work runs when waited for.

The fake engine doubles each input into the output of the same place. Real engines are run under the gpu marker.
"""

from __future__ import annotations

import ctypes
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from trtkit.errors import BundleError, DeviceError, EngineMismatchError, SpecError
from trtkit.runtime.session import Session
from trtkit.runtime.trt import TrtSession
from trtkit.tensors import TensorSpec


class FakeCuda:
    """Memory is numpy's; copies and inference wait in a queue until `synchronize`."""

    stream = 4711

    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []
        self.live: list[FakeMemory] = []
        self.allocations = 0
        self.depth = self.closed = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def device_memory(self, nbytes: int) -> FakeMemory:
        return FakeMemory(self, nbytes)

    pinned_memory = device_memory

    def copy_in(self, target: FakeMemory, source: np.ndarray) -> None:
        self.queue.append(lambda: np.copyto(target.array[:source.nbytes], source.reshape(-1).view(np.uint8)))

    def copy_out(self, target: np.ndarray, source: FakeMemory) -> None:
        self.queue.append(lambda: np.copyto(target.reshape(-1).view(np.uint8), source.array[:target.nbytes]))

    def synchronize(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def close(self) -> None:
        self.closed += 1


class FakeMemory:
    def __init__(self, cuda: FakeCuda, nbytes: int) -> None:
        assert cuda.depth, "allocated without an active context"
        self.cuda, self.nbytes = cuda, nbytes
        self.array = np.full(nbytes, 0xAB, np.uint8)
        self.address = int(self.array.ctypes.data)
        cuda.live.append(self)
        cuda.allocations += 1

    def free(self) -> None:
        assert self.cuda.depth, "freed without an active context"
        self.cuda.live.remove(self)


def memory_at(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * nbytes).from_address(address), dtype).reshape(shape)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.shapes, self.addresses, self.profile = engine, {}, {}, 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile, self.shapes = index, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = tuple(shape)
        return all(a <= size <= b for a, size, b in zip(low, shape, high))

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.engine.plan.get("data_dependent"):
            return (-1,)
        return self.shapes[self.engine.inputs[self.engine.outputs.index(name)]]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == FakeCuda.stream
        if self.engine.plan.get("broken"):
            self.engine.logger.log(FakeSeverity.ERROR, "illegal memory access")
            return False
        for source, target in zip(self.engine.inputs, self.engine.outputs):
            pair = [memory_at(self.addresses[n], self.shapes[source], self.engine.dtype(n)) for n in (source, target)]
            self.engine.cuda.queue.append(lambda pair=pair: np.multiply(pair[0], 2, out=pair[1], casting="unsafe"))
        return True


class FakeEngine:
    def __init__(self, plan: dict[str, Any], logger: Any, cuda: FakeCuda) -> None:
        self.plan, self.logger, self.cuda = plan, logger, cuda
        self.inputs = [name for name, tensor in plan["tensors"].items() if tensor["mode"] == "INPUT"]
        self.outputs = [name for name in plan["tensors"] if name not in self.inputs]
        self.num_io_tensors = len(plan["tensors"])
        self.num_optimization_profiles = len(plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return list(self.plan["tensors"])[index]

    def get_tensor_mode(self, name: str) -> Enum:
        return FakeMode[self.plan["tensors"][name]["mode"]]

    def get_tensor_dtype(self, name: str) -> Enum:
        return FakeType[self.plan["tensors"][name]["type"]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.plan["tensors"][name]["shape"])

    def get_tensor_location(self, name: str) -> Enum:
        return FakeLocation[self.plan["tensors"][name].get("location", "DEVICE")]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.plan["profiles"][profile][name]]

    def create_execution_context(self) -> FakeContext | None:
        return None if self.plan.get("no_memory") else FakeContext(self)

    def dtype(self, name: str) -> str:
        return {"FLOAT": "float32", "INT32": "int32"}[self.plan["tensors"][name]["type"]]


FakeMode = Enum("FakeMode", "INPUT OUTPUT")
FakeLocation = Enum("FakeLocation", "DEVICE HOST")
FakeType = Enum("FakeType", "FLOAT INT32 FP4")
FakeSeverity = Enum("FakeSeverity", "ERROR WARNING")


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def trt(cuda: FakeCuda) -> ModuleType:
    """A module that behaves like tensorrt where TrtSession uses it."""
    module = ModuleType("tensorrt")

    class ILogger:
        pass

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
            content = json.loads(plan[64:])
            if "refuse" in content:
                self.logger.log(FakeSeverity.ERROR, content["refuse"])
                return None
            return FakeEngine(content, self.logger, cuda)

    vars(module).update(__version__="10.3.0", ILogger=ILogger, Runtime=Runtime, TensorIOMode=FakeMode,
                        TensorLocation=FakeLocation, init_libnvinfer_plugins=lambda logger, namespace: True)
    return module


def plan_of(profiles: tuple[tuple[int, int], ...] = ((1, 4),), kind: str = "FLOAT", **more: Any) -> bytes:
    """Return a plan with one input (N, 3) and one output, one profile a pair of smallest and largest N."""
    tensors = {name: {"mode": mode, "type": kind, "shape": [-1, 3]} for name, mode in (("x", "INPUT"), ("y", "OUTPUT"))}
    shapes = [{"x": [(low, 3), (low, 3), (high, 3)]} for low, high in profiles]
    header = (b"ftrt" + bytes(20) + bytes((10, 3, 0, 26))).ljust(64, b"\0")
    return header + json.dumps({"tensors": tensors, "profiles": shapes, **more}).encode()


@pytest.fixture
def open_session(trt: ModuleType, cuda: FakeCuda) -> Iterator[Callable[..., TrtSession]]:
    """Return a function that opens a session on a plan; what it opened is closed after the test, and nothing leaks."""
    opened: list[TrtSession] = []

    def open_plan(plan: bytes = plan_of(), **more: Any) -> TrtSession:
        opened.append(TrtSession(plan, module=trt, cuda=cuda, **more))
        return opened[-1]

    yield open_plan
    for session in opened:
        session.close()
    assert cuda.live == []
    assert cuda.depth == 0


def feed(batch: int = 2, start: float = 0, dtype: str = "float32") -> dict[str, np.ndarray]:
    return {"x": (np.arange(batch * 3).reshape(batch, 3) + start).astype(dtype)}


def test_session_keeps_the_contract(open_session: Callable[..., TrtSession]) -> None:
    session = open_session()
    assert isinstance(session, Session)
    assert session.inputs == (TensorSpec("x", "float32", ("x_0", 3)),)
    assert session.outputs == (TensorSpec("y", "float32", ("y_0", 3)),)
    assert session.backend == "tensorrt 10.3.0"


@pytest.mark.parametrize("batches", [pytest.param((2,), id="one"), pytest.param((1, 4, 2), id="growing-and-shrinking")])
def test_run_computes_and_slices_to_the_true_shape(open_session: Callable[..., TrtSession],
                                                   batches: tuple[int, ...]) -> None:
    session = open_session()
    for batch in batches:
        np.testing.assert_array_equal(session.run(feed(batch))["y"], feed(batch)["x"] * 2)


def test_run_returns_arrays_that_later_runs_do_not_touch(open_session: Callable[..., TrtSession]) -> None:
    session = open_session()
    first = session.run(feed())["y"]
    kept = first.copy()
    session.run(feed(start=100))
    np.testing.assert_array_equal(first, kept)


def test_run_uses_its_buffers_again(open_session: Callable[..., TrtSession], cuda: FakeCuda) -> None:
    session = open_session()
    session.run(feed(4))
    before = cuda.allocations
    for batch in (1, 4, 3):
        session.run(feed(batch))
    assert cuda.allocations == before


def test_run_takes_arrays_that_are_not_contiguous(open_session: Callable[..., TrtSession]) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[:, ::-1]
    np.testing.assert_array_equal(open_session().run({"x": array})["y"], array * 2)


def test_run_switches_to_the_profile_that_holds_the_shape(open_session: Callable[..., TrtSession]) -> None:
    session = open_session(plan_of(((1, 2), (8, 16))))
    for batch in (2, 9, 1, 16):
        np.testing.assert_array_equal(session.run(feed(batch))["y"], feed(batch)["x"] * 2)


def test_run_refuses_a_shape_that_no_profile_holds(open_session: Callable[..., TrtSession]) -> None:
    session = open_session(plan_of(((1, 2), (8, 16))))
    with pytest.raises(SpecError, match=r"x \(5, 3\)\. It was built for: x \(1, 3\) to \(2, 3\); x \(8, 3\) to \(16, "
                                        r"3\)"):
        session.run(feed(5))
    session.run(feed(8))


def test_run_into_fills_the_callers_array(open_session: Callable[..., TrtSession]) -> None:
    session, result = open_session(), np.empty((2, 3), np.float32)
    session.run_into(feed(), {"y": result})
    np.testing.assert_array_equal(result, feed()["x"] * 2)


@pytest.mark.parametrize(("outputs", "says"), [
    pytest.param({}, r"Output arrays are \[\]", id="missing"),
    pytest.param({"y": np.empty((2, 3), np.float32), "z": np.empty(1)}, "Give one for each of: y", id="unknown"),
    pytest.param({"y": np.empty((3, 3), np.float32)}, r"of shape \(2, 3\)", id="shape"),
    pytest.param({"y": np.empty((2, 3), np.float64)}, "float32 array", id="dtype"),
    pytest.param({"y": np.empty((3, 2), np.float32).T}, "C-contiguous", id="order"),
])
def test_run_into_refuses_arrays_that_do_not_fit(open_session: Callable[..., TrtSession],
                                                 outputs: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        open_session().run_into(feed(), outputs)


def test_run_refuses_feeds_that_do_not_fit(open_session: Callable[..., TrtSession]) -> None:
    with pytest.raises(SpecError, match="input 'x' has dtype float64, not float32"):
        open_session().run(feed(dtype="float64"))


def test_run_casts_where_tensorrt_8_narrowed_int64(open_session: Callable[..., TrtSession]) -> None:
    io = (TensorSpec("x", "int64", ("batch", 3)), TensorSpec("y", "int64", ("batch", 3)))
    session = open_session(plan_of(kind="INT32"), io=io)
    assert session.inputs == io[:1]
    result = session.run(feed(dtype="int64"))["y"]
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, feed(dtype="int64")["x"] * 2)
    with pytest.raises(SpecError, match="takes it as INT32"):
        session.run({"x": np.full((1, 3), 1 << 40)})


def test_session_feeds_shape_tensors_from_host_memory(open_session: Callable[..., TrtSession], cuda: FakeCuda) -> None:
    plan = plan_of(kind="INT32")
    content = json.loads(plan[64:])
    for tensor in content["tensors"].values():
        tensor["location"] = "HOST"
    session = open_session(plan[:64] + json.dumps(content).encode())
    np.testing.assert_array_equal(session.run(feed(dtype="int32"))["y"], feed(dtype="int32")["x"] * 2)
    assert cuda.allocations == 2  # pinned memory for each tensor, none on the GPU


@pytest.mark.parametrize(("plan", "error", "says"), [
    pytest.param(b"no plan", BundleError, "not a TensorRT plan", id="no-plan"),
    pytest.param(plan_of(refuse="built for another GPU"), EngineMismatchError,
                 r"refused a plan of version 10\.3\.0\.26 .*built for another GPU.*trtkit build", id="refused"),
    pytest.param(plan_of(no_memory=True), DeviceError, "No execution context", id="no-context"),
    pytest.param(plan_of(kind="FP4"), BundleError, "has type FP4", id="type"),
])
def test_session_does_not_open(open_session: Callable[..., TrtSession], plan: bytes, error: type[Exception],
                               says: str) -> None:
    with pytest.raises(error, match=says):
        open_session(plan)


def test_session_refuses_a_plan_of_another_model(open_session: Callable[..., TrtSession]) -> None:
    with pytest.raises(BundleError, match="is float32 in the engine and uint8 in the model"):
        open_session(io=(TensorSpec("x", "uint8", ("batch", 3)),))


def test_run_tells_what_tensorrt_said_when_it_fails(open_session: Callable[..., TrtSession]) -> None:
    with pytest.raises(DeviceError, match="illegal memory access"):
        open_session(plan_of(broken=True)).run(feed())


def test_run_refuses_outputs_whose_size_depends_on_the_data(open_session: Callable[..., TrtSession]) -> None:
    with pytest.raises(DeviceError, match=r"output 'y' \(-1,\) depends on the data"):
        open_session(plan_of(data_dependent=True)).run(feed())


def test_closed_session_refuses_and_closing_twice_is_fine(open_session: Callable[..., TrtSession],
                                                          cuda: FakeCuda) -> None:
    with open_session() as session:
        session.run(feed())
    session.close()
    assert cuda.live == []
    assert cuda.closed == 0  # it was given, so that it is not the session's to close
    with pytest.raises(SpecError, match="session is closed"):
        session.run(feed())


def test_threads_take_turns(open_session: Callable[..., TrtSession]) -> None:
    session, wrong = open_session(), []

    def work(start: int) -> None:
        for _ in range(50):
            if not np.array_equal(session.run(feed(start=start))["y"], feed(start=start)["x"] * 2):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.gpu
def test_real_engine_computes_as_numpy_does() -> None:
    onnx = pytest.importorskip("onnx")
    from trtkit.build import BuildOptions, build_plan

    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N,3] y) { y = Add(x, x) }""").SerializeToString()
    with TrtSession(build_plan(model, BuildOptions(batch=(1, 2, 4))).data) as session:
        for batch in (1, 4, 2):
            np.testing.assert_array_equal(session.run(feed(batch))["y"], feed(batch)["x"] * 2)

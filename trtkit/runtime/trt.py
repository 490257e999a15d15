"""A plan's bytes -> a Session on TensorRT or TensorRT-RTX: synchronous, one stream, the tensor API of 8.5 and later.

    check feeds -> pinned memory -> GPU -> enqueue -> GPU -> pinned memory -> the caller's arrays

Buffers grow to the largest shape seen and are used again. Not run on a GPU yet: the calls are held against the real
bindings of 8.6 to 11.4 and RTX (tests/contracts), their order against a TensorRT of the tests' own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from trtkit._optional import require
from trtkit.bundle.plan_header import read_plan_header
from trtkit.errors import DeviceError, EngineMismatchError, SpecError
from trtkit.runtime.cuda import Cuda, DeviceMemory, PinnedMemory, PyCuda
from trtkit.runtime.trt_log import capture_log
from trtkit.runtime.trt_tensors import IoTensor, cast_to, read_io
from trtkit.tensors import Array, FeedChecker, Feeds, TensorSpec

__all__ = ["TrtSession"]

_EXTRAS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


class TrtSession:
    """A TensorRT engine with one execution context.

    Threads: any thread may call `run`; calls wait for each other, since an execution context runs one inference at a
    time. For runs side by side open one session a thread. `close` belongs to whoever opened it; garbage collection may
    come on any thread and at any time, so that it frees nothing.

    Args:
        plan: The plan's bytes.
        module: tensorrt or tensorrt_rtx; None imports the one that the plan's header names.
        cuda: The GPU; None opens the first one by pycuda, and closes it with the session.
        io: Inputs and outputs as the ONNX model declares them: they give dynamic sizes their names, and INT64 tensors
            that TensorRT 8 narrowed to INT32 their type.
        allow_host_code: Load VERSION_COMPATIBLE plans, which carry code that runs on the CPU: for trusted plans only.

    Raises:
        BundleError: `plan` is no plan or is cut off.
        EngineMismatchError: TensorRT refuses the plan, with its own words: another version or GPU.
        DeviceError: No usable GPU, or its memory is full.
        MissingDependencyError: TensorRT or pycuda is absent.
    """

    def __init__(self, plan: bytes, *, module: ModuleType | None = None, cuda: Cuda | None = None,
                 io: Sequence[TensorSpec] = (), allow_host_code: bool = False) -> None:
        header = read_plan_header(plan)
        self._trt: Any = module or require(header.flavour, extra=_EXTRAS[header.flavour], feature="Running a plan")
        self._log, logger = capture_log(self._trt)
        self._lock = threading.Lock()
        self._buffers: dict[str, _Buffer] = {}
        self._profile = 0
        self._closed = False
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._owns_cuda = cuda is None
        self._cuda: Cuda = cuda or PyCuda()
        try:
            with self._cuda.active():
                self._load(plan, logger, allow_host_code, header.version)
            self._inputs, self._outputs = read_io(self._trt, self._engine, io)
        except BaseException:
            self.close()
            raise
        self._profiles = self._read_profiles()
        self.inputs = tuple(tensor.spec for tensor in self._inputs)
        self.outputs = tuple(tensor.spec for tensor in self._outputs)
        self.backend = f"{self._trt.__name__} {self._trt.__version__}"
        self._check = FeedChecker(self.inputs)

    def __enter__(self) -> TrtSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return every output by name, as arrays of the caller's own.

        Raises:
            SpecError: The feeds do not fit, no optimization profile holds their shapes, or the session is closed.
            DeviceError: The GPU failed.
        """
        with self._lock:
            return self._run(feeds, {})

    def run_into(self, feeds: Feeds, outputs: Mapping[str, Array]) -> None:
        """Run, and write every output into an array that the caller gives.

        Raises:
            SpecError: Feeds or outputs do not fit, no profile holds the shapes, or the session is closed.
            DeviceError: The GPU failed.
        """
        with self._lock:
            if outputs.keys() != {tensor.name for tensor in self._outputs}:
                raise SpecError(f"Output arrays are {sorted(outputs)}. Give one for each of: "
                                f"{', '.join(map(str, self.outputs))}")
            self._run(feeds, outputs)

    def close(self) -> None:
        """Release buffers, context and engine; closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with self._cuda.active():
                for buffer in self._buffers.values():
                    buffer.free()
                self._buffers.clear()
                self._context = self._engine = self._runtime = None  # in this order: each lives on the next
            if self._owns_cuda:
                self._cuda.close()

    def _load(self, plan: bytes, logger: Any, allow_host_code: bool, version: str) -> None:
        mark = self._log.count
        self._runtime = self._trt.Runtime(logger)
        if allow_host_code and hasattr(self._runtime, "engine_host_code_allowed"):
            self._runtime.engine_host_code_allowed = True
        self._trt.init_libnvinfer_plugins(logger, "")
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineMismatchError(f"{self._trt.__name__} {self._trt.__version__} refused a plan of version "
                                      f"{version or 'unknown'} ({len(plan)} bytes): {self._log.tail(mark)}. Build it "
                                      "on this machine: trtkit build MODEL.onnx -o MODEL.plan")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DeviceError(f"No execution context: {self._log.tail(mark)}. Free GPU memory, or build with a smaller "
                              "workspace or largest shape")

    def _run(self, feeds: Feeds, given: Mapping[str, Array]) -> dict[str, Array]:
        if self._closed:
            raise SpecError("The session is closed. Open the model again")
        self._check(feeds)
        mark = self._log.count
        arrays = {tensor.name: cast_to(feeds[tensor.name], tensor.dtype, tensor.name) for tensor in self._inputs}
        with self._cuda.active():
            self._select_profile(arrays)
            for tensor in self._inputs:
                self._feed(tensor, arrays[tensor.name], mark)
            shapes = self._output_shapes(mark)
            self._check_given(given, shapes)
            for tensor in self._outputs:
                self._place(tensor, shapes[tensor.name], mark)
            if not self._context.execute_async_v3(self._cuda.stream):
                raise DeviceError(f"Inference failed: {self._log.tail(mark)}. Open the session again; if it lasts, "
                                  "build the plan again")
            return self._fetch(shapes, given)

    def _read_profiles(self) -> list[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
        return [self._limits(index) for index in range(self._engine.num_optimization_profiles)]

    def _limits(self, profile: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return the smallest and largest shape of each input; those whose values count are no part of it."""
        shapes = {tensor.name: self._engine.get_tensor_profile_shape(tensor.name, profile)
                  for tensor in self._inputs if not tensor.on_host}
        return {name: (tuple(low), tuple(high)) for name, (low, _, high) in shapes.items()}

    def _select_profile(self, arrays: Mapping[str, Array]) -> None:
        order = sorted(range(len(self._profiles)), key=lambda index: index != self._profile)  # the current one first
        chosen = next((index for index in order if self._holds(index, arrays)), None)
        if chosen is None:
            fed = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise SpecError(f"No optimization profile of the plan holds {fed}. It was built for: {self._ranges()}. "
                            "Feed such sizes, or build for yours: trtkit build --min --opt --max")
        if chosen != self._profile:
            if not self._context.set_optimization_profile_async(chosen, self._cuda.stream):
                raise DeviceError(f"Optimization profile {chosen} was refused: {self._log.tail()}. Open the session "
                                  "again")
            self._cuda.synchronize()
            self._profile = chosen

    def _holds(self, profile: int, arrays: Mapping[str, Array]) -> bool:
        return all(a <= size <= b for name, (low, high) in self._profiles[profile].items()
                   for a, size, b in zip(low, arrays[name].shape, high))

    def _ranges(self) -> str:
        return "; ".join(f"{name} {low} to {high}" for limits in self._profiles for name, (low, high) in limits.items())

    def _feed(self, tensor: IoTensor, array: Array, mark: int) -> None:
        if not self._context.set_input_shape(tensor.name, array.shape):
            raise SpecError(f"TensorRT refuses shape {array.shape} for input '{tensor.name}': {self._log.tail(mark)}. "
                            f"It was built for: {self._ranges()}")
        buffer = self._buffer(tensor, array.nbytes)
        np.copyto(buffer.view(array.shape, array.dtype), array)
        if buffer.device is not None:
            self._cuda.copy_in(buffer.device, buffer.view(array.shape, array.dtype))
        self._bind(tensor, buffer, mark)

    def _output_shapes(self, mark: int) -> dict[str, tuple[int, ...]]:
        unknown = self._context.infer_shapes()
        if unknown:
            raise SpecError(f"TensorRT cannot tell the output shapes for lack of {', '.join(unknown)}: "
                            f"{self._log.tail(mark)}. Feed every input")
        shapes = {tensor.name: tuple(self._context.get_tensor_shape(tensor.name)) for tensor in self._outputs}
        for name, shape in shapes.items():
            if any(size < 0 for size in shape):
                raise DeviceError(f"The size of output '{name}' {shape} depends on the data, which this session does "
                                  "not do. Give the model outputs of a fixed number, such as the best K (trtkit "
                                  "rewrite)")
        return shapes

    def _check_given(self, given: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
        for tensor in self._outputs if given else ():
            array, shape = given[tensor.name], shapes[tensor.name]
            fits = isinstance(array, np.ndarray) and array.shape == shape and array.dtype == tensor.spec.dtype
            if not (fits and array.flags.c_contiguous and array.flags.writeable):
                raise SpecError(f"Output array '{tensor.name}' must be a writeable, C-contiguous {tensor.spec.dtype} "
                                f"array of shape {shape}. Make it with numpy.empty(shape, dtype)")

    def _place(self, tensor: IoTensor, shape: tuple[int, ...], mark: int) -> None:
        self._bind(tensor, self._buffer(tensor, math.prod(shape) * tensor.dtype.itemsize), mark)

    def _bind(self, tensor: IoTensor, buffer: _Buffer, mark: int) -> None:
        if not self._context.set_tensor_address(tensor.name, buffer.address):
            raise DeviceError(f"TensorRT refuses the memory of tensor '{tensor.name}': {self._log.tail(mark)}. Open "
                              "the session again")

    def _buffer(self, tensor: IoTensor, nbytes: int) -> _Buffer:
        buffer = self._buffers.get(tensor.name)
        if buffer is None or buffer.nbytes < nbytes:
            if buffer is not None:
                self._cuda.synchronize()
                del self._buffers[tensor.name]
                buffer.free()
            buffer = self._buffers[tensor.name] = _Buffer(self._cuda, max(nbytes, 1), tensor.on_host)
        return buffer

    def _fetch(self, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Array]) -> dict[str, Array]:
        views = {tensor.name: self._buffers[tensor.name].view(shapes[tensor.name], tensor.dtype)
                 for tensor in self._outputs}
        for name, view in views.items():
            device = self._buffers[name].device
            if device is not None:
                self._cuda.copy_out(view, device)
        self._cuda.synchronize()
        for name, array in given.items():
            np.copyto(array, views[name])
        return {} if given else {tensor.name: views[tensor.name].astype(tensor.spec.dtype) for tensor in self._outputs}


class _Buffer:
    """Pinned memory of one tensor and, unless TensorRT wants it on the host, its twin on the GPU."""

    def __init__(self, cuda: Cuda, nbytes: int, on_host: bool) -> None:
        self.nbytes = nbytes
        self._pinned: PinnedMemory = cuda.pinned_memory(nbytes)
        try:
            self.device: DeviceMemory | None = None if on_host else cuda.device_memory(nbytes)
        except BaseException:
            self._pinned.free()
            raise

    @property
    def address(self) -> int:
        return self.device.address if self.device is not None else int(self._pinned.array.ctypes.data)

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return self._pinned.array[:math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def free(self) -> None:
        self._pinned.free()
        if self.device is not None:
            self.device.free()

"""ONNX bytes -> a Session on ONNX Runtime's CPU kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from trtkit._optional import require
from trtkit.errors import BundleError, SpecError
from trtkit.tensors import Array, FeedChecker, Feeds, TensorSpec

__all__ = ["AS_WRITTEN", "OrtSession"]

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}
_ERRORS_ONLY = 3
AS_WRITTEN = "trtkit.as_written"
"""Key in a model's metadata: lowered for another runtime, so ONNX Runtime must compute the graph as it is written."""


class OrtSession:
    """A model on ONNX Runtime, CPU. `run` may be called from several threads at once.

    Args:
        model: ONNX file, or its bytes (then without external data).
        threads: Threads inside one operator; ONNX Runtime's choice (one a physical core) when None.
        spinning: Whether idle threads wait busily: lower latency, but a core at full load between frames. False saves
            power on a board that runs a few frames a second.
        optimize: Whether ONNX Runtime may fuse and replace operators; False computes the graph as it is written. The
            model's metadata decide when None: what was lowered for TensorRT is computed as written.

    Raises:
        BundleError: ONNX Runtime cannot load the model (its own words are in the message).
        SpecError: threads is below 1, or an input or output is no plain tensor.
        MissingDependencyError: onnxruntime is absent.
    """

    def __init__(self, model: bytes | Path, *, threads: int | None = None, spinning: bool = True,
                 optimize: bool | None = None) -> None:
        if threads is not None and threads < 1:
            raise SpecError(f"threads is {threads}. Give 1 or more, or None for ONNX Runtime's own choice")
        ort = require("onnxruntime", extra="cpu", feature="Running a model on the CPU")
        self._ort = ort
        self._failures = _failures(ort)
        self._session: Any = self._load(model, threads, spinning, optimize is not False)
        if optimize is None and AS_WRITTEN in self._session.get_modelmeta().custom_metadata_map:
            self._session = self._load(model, threads, spinning, False)
        self.inputs = tuple(_spec(node, "input") for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, "output") for node in self._session.get_outputs())
        self.backend = f"onnxruntime {ort.__version__} CPU, {threads or 'default'} threads"
        self._names = [spec.name for spec in self.outputs]
        self._check = FeedChecker(self.inputs)
        self._check_outputs = FeedChecker(self.outputs)
        self._run: Any = self._session.run

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return every output by name, as arrays of the caller's own.

        Raises:
            SpecError: The feeds do not fit, an operator refuses them, or the session is closed.
        """
        self._check(feeds)
        try:
            return dict(zip(self._names, self._run(self._names, feeds)))
        except self._failures as err:
            raise self._refusal(feeds, err) from err

    def run_into(self, feeds: Feeds, outputs: Mapping[str, Array]) -> None:
        """Run, and write every output into an array that the caller gives.

        Raises:
            SpecError: Feeds or outputs do not fit, an operator refuses them, or the session is closed.
        """
        self._check(feeds)
        self._check_destination(outputs)
        if self._session is None:
            raise _closed()
        try:
            binding = self._session.io_binding()
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array if array.flags.c_contiguous else array.copy())
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)
        except self._failures as err:
            raise self._refusal(feeds, err) from err

    def close(self) -> None:
        """Release the model; closing twice is fine."""
        self._session = None
        self._run = _refuse

    def _load(self, model: bytes | Path, threads: int | None, spinning: bool, optimize: bool) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.inter_op_num_threads = 1
        if threads is not None:
            options.intra_op_num_threads = threads
        if not optimize:
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        what = f"Model '{model}'" if isinstance(model, Path) else f"Model of {len(model)} bytes"
        if isinstance(model, Path) and not model.is_file():
            raise BundleError(f"{what} is no file. Check the path")
        try:
            source = str(model) if isinstance(model, Path) else model
            return self._ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except self._failures as err:
            raise BundleError(f"{what} does not load in onnxruntime {self._ort.__version__}: "
                              f"{str(err).rstrip('.')}. {_remedy(model, err)}") from err

    def _check_destination(self, outputs: Mapping[str, Array]) -> None:
        try:
            self._check_outputs(outputs)
        except SpecError as err:
            raise SpecError(str(err).replace("Feeds", "Output arrays", 1).replace("input", "output")
                            .replace("It takes", "It returns")) from err
        for name, array in outputs.items():
            if not (array.flags.c_contiguous and array.flags.writeable):
                raise SpecError(f"Output array '{name}' must be C-contiguous and writeable. "
                                "Make it with numpy.empty(shape, dtype)")

    def _refusal(self, feeds: Feeds, err: BaseException) -> SpecError:
        fed = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in feeds.items())
        return SpecError(f"onnxruntime refused to run the model on {fed}: {err}. "
                         "Feed the sizes that the model was exported for")


def _failures(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return every exception type of ONNX Runtime's own; they have no common base below Exception."""
    state = ort.capi.onnxruntime_pybind11_state
    own = {t for t in vars(state).values() if isinstance(t, type) and issubclass(t, Exception)}
    return (*own, RuntimeError)


def _remedy(model: bytes | Path, err: BaseException) -> str:
    if "xternal data" not in str(err):
        return "If the file is whole, try a newer onnxruntime, or export it for an older opset"
    if isinstance(model, Path):
        return "Its weights lie in another file: copy that from where the model was exported"
    return ("Its weights lie in another file, which bytes alone cannot bring. "
            "Put all into one file: trtkit rewrite MODEL -o ONE.onnx --pass fold-constants")


def _spec(node: Any, role: str) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise SpecError(f"Model {role} '{node.name}' is a {node.type}, not a tensor of numbers. "
                        "Export the model without it, or cast it inside the graph")
    dims = (dim if (isinstance(dim, int) and dim >= 0) or (isinstance(dim, str) and dim not in ("", "?"))
            else f"{node.name}_{axis}" for axis, dim in enumerate(node.shape))
    return TensorSpec(node.name, dtype, tuple(dims))


def _closed() -> SpecError:
    return SpecError("The session is closed. Open the model again")


def _refuse(*_: object) -> list[Array]:
    raise _closed()

"""Run a model on this CPU with ONNX Runtime, any tensor of it as an output; random feeds for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from trtkit.errors import GraphError
from trtkit.graph.model import model_bytes, model_inputs, save_model
from trtkit.graph.shapes import weight_bytes
from trtkit.tensors import Array, Feeds, TensorSpec

__all__ = ["random_feeds", "run_model"]

_IN_MEMORY_BYTES = 1 << 30
_SPATIAL, _OTHER = 64, 8
"""Sizes for dynamic dimensions that are no batch: of images and volumes (rank 4 and 5), of anything else."""


def run_model(model: onnx.ModelProto | bytes, feeds: Feeds, outputs: Iterable[str] | None = None, *,
              optimize: bool = True, threads: int | None = None) -> dict[str, Array]:
    """Return outputs of a model, run once by ONNX Runtime on the CPU.

    Args:
        model: The model, or its bytes.
        feeds: Every input by name.
        outputs: Tensors to return, inner ones too; the graph's outputs when None.
        optimize: Let ONNX Runtime rewrite the graph; False runs the nodes as they are.
        threads: Threads for one operator; ONNX Runtime's choice when None.

    Raises:
        GraphError: There is no such tensor, or ONNX Runtime cannot load or run the model (its own words are kept).
    """
    wanted = None if outputs is None else list(outputs)
    if wanted is not None:
        proto = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
        model = _with_outputs(proto, wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = _session(model, options)
        names = wanted if wanted is not None else [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds))))
    except GraphError:
        raise
    except Exception as err:  # ONNX Runtime's exceptions share no base but Exception
        raise GraphError(f"ONNX Runtime cannot run the model: {err}. Check its inputs, and its operators' "
                         "support in ONNX Runtime") from err


def _session(model: onnx.ModelProto | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    providers = ["CPUExecutionProvider"]
    if isinstance(model, bytes):
        return onnxruntime.InferenceSession(model, options, providers=providers)
    if weight_bytes(model) < _IN_MEMORY_BYTES:
        return onnxruntime.InferenceSession(model_bytes(model), options, providers=providers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path, external_above=_IN_MEMORY_BYTES - 1)
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    made = {name for node in model.graph.node for name in node.output}
    made |= {tensor.name for tensor in [*model.graph.initializer, *model.graph.input]}
    there = {output.name for output in model.graph.output}
    for name in names:
        if name not in made:
            raise GraphError(f"Model has no tensor '{name}'. Its outputs are: {', '.join(sorted(there))}; "
                             "inner tensors are named by the nodes that make them")
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in there)
    return extended


def random_feeds(model: onnx.ModelProto, seed: int = 0, batch: int = 1,
                 sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Return random values for each input: for tests of equality, never for calibration.

    Floats are normal (0, 1), uint8 and int8 use their whole range, booleans both values. Other integers are 0 or 1,
    unless they index a constant table (Gather): then they lie inside it.

    Args:
        model: The model.
        seed: The same seed gives the same values.
        batch: Size of a dynamic first dimension.
        sizes: Size of other dynamic dimensions by name; 64 in images and volumes, 8 elsewhere, where it has no entry.

    Raises:
        GraphError: An input is no tensor of numbers.
    """
    generator = np.random.default_rng(seed)
    specs = model_inputs(model)
    known = dict(sizes or {})
    for spec in specs:
        if spec.shape and isinstance(spec.shape[0], str):
            known.setdefault(spec.shape[0], batch)
    return {spec.name: _values(spec, known, generator, _table_size(model, spec.name)) for spec in specs}


def _values(spec: TensorSpec, known: Mapping[str, int], generator: np.random.Generator, table: int | None) -> Array:
    fallback = _SPATIAL if len(spec.shape) in (4, 5) else _OTHER
    shape = tuple(dim if isinstance(dim, int) else known.get(dim, fallback) for dim in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if dtype in (np.uint8, np.int8):
        return generator.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    if dtype.kind in "iu":
        return generator.integers(0, table or 2, shape).astype(dtype)
    if dtype.kind == "O":
        raise GraphError(f"Input '{spec.name}' holds strings; random feeds exist for numbers only. Give feeds yourself")
    return np.asarray(generator.standard_normal(shape, np.float32)).astype(dtype)


def _table_size(model: onnx.ModelProto, name: str) -> int | None:
    tables = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    names, sizes = {name}, []
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in names:
            names.add(node.output[0])
        if node.op_type == "Gather" and node.input[1] in names and node.input[0] in tables:
            axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 0)
            sizes.append(int(tables[node.input[0]][axis]))
    return min(sizes, default=None)

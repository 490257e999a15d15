"""FP32 model -> an ONNX Runtime session that also returns the observed tensors, nearly as fast as the bare model.

ONNX Runtime computes convolutions in a blocked channel layout and would reorder every tensor that it hands out. A
histogram does not care about the order of values, so the optimized graph is taken from ONNX Runtime, the reorderings in
front of outputs are cut off, and the blocked tensors are handed out as they are (ResNet-50: 1.1 instead of 1.3 times
the bare forward pass). Blocks of channels that are not full would add padding, so such tensors keep their reordering.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from trtkit.errors import GraphError
from trtkit.graph import save_model

__all__ = ["ObservingSession", "open_observing_session"]

logger = logging.getLogger(__name__)

_IN_MEMORY_BYTES = 1 << 30  # larger models go through files, and are not optimized twice
_LARGEST_BLOCK = 16  # channels; 8 on AVX2, 16 on AVX-512
_MEANS = "//channel-means"
_PEAKS = "//channel-peaks"
_FLOAT_TYPES = ("tensor(float)", "tensor(float16)")


@dataclass(frozen=True)
class ObservingSession:
    """A session and what its outputs are.

    Attributes:
        session: The onnxruntime.InferenceSession.
        outputs: Names to ask the session for.
        tensors: The tensor of the original graph that each output holds, in some order of its values.
        means: The tensor of which each of the next outputs holds the channel means, shape (N, C, 1, ...).
        peaks: The tensor of which each of the last outputs holds the largest value of each channel, likewise.
    """

    session: Any
    outputs: tuple[str, ...]
    tensors: tuple[str, ...]
    means: tuple[str, ...]
    peaks: tuple[str, ...] = ()


def open_observing_session(model: onnx.ModelProto, tensors: Sequence[str], *, threads: int,
                           pooled: Sequence[str] = (), rows: Sequence[str] = (),
                           peaks: Sequence[str] = ()) -> ObservingSession:
    """Return a session that yields `tensors`; those that turn out not to be float are left out.

    Args:
        model: The FP32 model; it is not changed.
        tensors: Names of inner tensors and outputs.
        threads: Of one run; several threads may run the session at once.
        pooled: Tensors (N, C, ...) whose means over all positions are wanted as well; the blocked layout of one
            position is the plain one.
        rows: Tensors (N, C) that are wanted as means.
        peaks: Tensors (N, C, ...) whose largest value over all positions is wanted as well.

    Raises:
        GraphError: ONNX Runtime cannot load the model.
    """
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.output[:]
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    for operator, names, suffix in (("GlobalAveragePool", pooled, _MEANS), ("Identity", rows, _MEANS),
                                    ("GlobalMaxPool", peaks, _PEAKS)):
        for name in names:
            extended.graph.node.append(onnx.helper.make_node(operator, [name], [name + suffix]))
            extended.graph.output.append(onnx.ValueInfoProto(name=name + suffix))
    with tempfile.TemporaryDirectory(prefix="trtkit-") as folder:
        if extended.ByteSize() > _IN_MEMORY_BYTES:
            path = Path(folder) / "model.onnx"
            save_model(extended, path)
            return _describe(_open(str(path), threads))
        optimized = Path(folder) / "optimized.onnx"
        plain = _describe(_open(extended.SerializeToString(), threads, optimized))
        blocked = _without_reordering(optimized)
        if blocked is None:
            return plain
        cut, renamed = blocked
        onnx.save(cut, optimized)  # beside its weights, which are not read again here
        tensors, means, peaks = plain.tensors, plain.means, plain.peaks
        outputs = tuple(renamed.get(name, name) for name in plain.outputs)
        del plain, extended  # two sessions at once would double the weights in memory
        return ObservingSession(_open(str(optimized), threads, optimize=False), outputs, tensors, means, peaks)


def _open(model: bytes | str, threads: int, save_to: Path | None = None, *, optimize: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as err:  # ONNX Runtime's own exceptions share no base with a name
        raise GraphError(f"ONNX Runtime {onnxruntime.__version__} cannot load the model for calibration: {err}. "
                         "Run: trtkit rewrite, or update onnxruntime") from err


def _describe(session: Any) -> ObservingSession:
    names = [info.name for info in session.get_outputs() if info.type in _FLOAT_TYPES]
    tensors = tuple(name for name in names if not name.endswith((_MEANS, _PEAKS)))
    means, peaks = (tuple(name for name in names if name.endswith(suffix)) for suffix in (_MEANS, _PEAKS))
    return ObservingSession(session, (*tensors, *means, *peaks), tensors, tuple(n[:-len(_MEANS)] for n in means),
                            tuple(n[:-len(_PEAKS)] for n in peaks))


def _without_reordering(optimized: Path) -> tuple[onnx.ModelProto, dict[str, str]] | None:
    """Return the optimized model with blocked outputs and their new names; None when there is nothing to gain."""
    if not optimized.is_file():
        return None
    model = onnx.load(str(optimized), load_external_data=False)
    graph = model.graph
    outputs = {info.name for info in graph.output}
    renamed = {node.output[0]: node.input[0] for node in graph.node
               if node.op_type == "ReorderOutput" and node.output[0] in outputs and _fills_blocks(node)}
    if not renamed:
        return None
    read = {name for node in graph.node for name in node.input}
    _replace(graph.node, [node for node in graph.node if node.output[0] not in renamed or node.output[0] in read])
    names = dict.fromkeys(renamed.get(info.name, info.name) for info in graph.output)
    _replace(graph.output, [onnx.ValueInfoProto(name=name) for name in names])
    logger.debug("Handing out %d of %d tensors in the blocked layout", len(renamed), len(outputs))
    return model, renamed


def _fills_blocks(node: onnx.NodeProto) -> bool:
    channels = next((a.i for a in node.attribute if a.name == "channels"), 0)
    return channels > 0 and channels % _LARGEST_BLOCK == 0


def _replace(field: Any, items: Iterable[Any]) -> None:
    copies = list(items)
    del field[:]
    field.extend(copies)

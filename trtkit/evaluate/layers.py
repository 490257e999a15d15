"""Two ONNX models -> how far each inner tensor that both have is from the other's, in the order of the graph.

Lowering keeps the names of the tensors that it keeps, so equal names mean equal places. A tensor that is quantized is
compared as its readers see it, after QuantizeLinear and DequantizeLinear: where saturation stands in for a Relu or
Clip, what comes before is another value altogether. Polygraphy's comparator
(`Comparator.run` with all tensors marked as outputs) answers a like question, but holds every tensor of every sample of
both models in memory and knows neither SQNR nor sums over samples; here each sample is added up and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from trtkit.errors import GraphError
from trtkit.evaluate.accuracy import LabelledSample, total_of
from trtkit.evaluate.difference import Difference, DifferenceSum
from trtkit.evaluate.source import fed
from trtkit.graph import load_model
from trtkit.progress import Progress, silent
from trtkit.runtime.ort import OrtSession

__all__ = ["compare_layers", "shared_tensors"]


def compare_layers(reference: bytes | Path, candidate: bytes | Path, samples: Iterable[LabelledSample], *,
                   threads: int | None = None, progress: Progress = silent) -> tuple[Difference, ...]:
    """Return how far each shared inner tensor is, in the reference's order.

    Args:
        reference, candidate: ONNX files or bytes.
        samples: With batch dimension 1; all of them are run.
        threads: For ONNX Runtime; its own choice when None.
        progress: Told how many samples are done.

    Raises:
        GraphError: A model cannot be read, or the models share no inner tensor.
        SpecError: The samples do not fit a model.
    """
    first, second = _loaded(reference), _loaded(candidate)
    names = shared_tensors(first, second)
    if not names:
        raise GraphError("The models share no inner tensor by name, so layers cannot be compared. "
                         "Compare a model with its own lowering")
    seen = [_as_read(model, names) for model in (first, second)]
    a, b = (OrtSession(_with_outputs(model, each.values()), threads=threads)
            for model, each in zip((first, second), seen))
    sums: dict[str, DifferenceSum] = {}
    total = total_of(samples)
    for done, sample in enumerate(samples, start=1):
        left, right = a.run(fed(a, sample.feeds)), b.run(fed(b, sample.feeds))
        for name in names:
            x, y = left[seen[0][name]], right[seen[1][name]]
            if x.shape == y.shape and x.dtype.kind == y.dtype.kind == "f":
                sums.setdefault(name, DifferenceSum(name)).add(x, y)
        progress("Comparing layers", done, total)
    return tuple(sums[name].result() for name in names if name in sums)


def shared_tensors(first: onnx.ModelProto, second: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the inner tensors that nodes of both models make, in the order of the first."""
    outputs = {value.name for value in first.graph.output}
    made = {name for node in second.graph.node for name in node.output}
    return tuple(name for node in first.graph.node if node.op_type != "Constant" for name in node.output
                 if name and name in made and name not in outputs)


def _as_read(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, str]:
    """Return for each tensor the one that its readers read: after Q and DQ where nothing else reads it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return {name: _dequantized(name, readers) or name for name in names}


def _dequantized(name: str, readers: Mapping[str, list[onnx.NodeProto]]) -> str | None:
    quantizers = readers.get(name, [])
    if not quantizers or any(node.op_type != "QuantizeLinear" or node.input[0] != name for node in quantizers):
        return None
    after = (node for quantizer in quantizers for node in readers.get(quantizer.output[0], []))
    return next((node.output[0] for node in after if node.op_type == "DequantizeLinear"), None)


def _loaded(model: bytes | Path) -> onnx.ModelProto:
    return onnx.load_from_string(model) if isinstance(model, bytes) else load_model(model)


def _with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    present = {value.name for value in extended.graph.output}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    data: bytes = extended.SerializeToString()
    return data



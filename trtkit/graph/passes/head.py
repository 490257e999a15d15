"""Work on the outputs -> part of the graph: sigmoid, softmax, or the K best scores and their places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from trtkit.errors import PassError, SpecError
from trtkit.graph.editor import Editor, rank
from trtkit.graph.rule import CHECK_BATCH, Comparison, Pass, PassResult
from trtkit.graph.run import random_feeds, run_model
from trtkit.tensors import Array

__all__ = ["embed_sigmoid", "embed_softmax", "embed_topk"]


def embed_sigmoid(argument: str = "") -> Pass:
    """Return the pass that ends an output with Sigmoid; the output keeps its name.

    Args:
        argument: Name of the output; the only one when empty.
    """
    return _embed_activation("embed-sigmoid", "Sigmoid", argument, lambda size: {}, _sigmoid)


def embed_softmax(argument: str = "") -> Pass:
    """Return the pass that ends an output with Softmax, over axis 1 of maps (N, C, H, W), else over the last axis.

    Args:
        argument: Name of the output; the only one when empty.
    """
    return _embed_activation("embed-softmax", "Softmax", argument, lambda size: {"axis": _class_axis(size)}, _softmax)


def _embed_activation(name: str, operator: str, argument: str, attrs: Callable[[int], dict[str, int]],
                      numpy_form: Callable[[Array], Array]) -> Pass:
    def apply(graph: gs.Graph) -> PassResult:
        editor = Editor(graph)
        output = _output(graph, name, argument)
        size = rank(output)
        if size is None:
            raise PassError(f"Pass '{name}' needs the rank of output '{output.name}'. Run fold-constants first")
        inner = _inner_copy(editor, graph, output)
        graph.nodes.append(gs.Node(operator, f"head/{operator}", attrs(size), [inner], [output]))
        return PassResult(1)

    def reference(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> Comparison:
        feeds = random_feeds(before, seed, CHECK_BATCH)
        outputs = run_model(before, feeds, optimize=False)
        chosen = argument or next(iter(outputs))
        return Comparison(feeds, {**outputs, chosen: numpy_form(outputs[chosen])})

    spelled = f"{name}:{argument}" if argument else name
    return Pass(spelled, f"End an output with {operator}", apply, _softmax_by_axis, reference=reference)


def embed_topk(argument: str) -> Pass:
    """Return the pass that replaces an output by its K largest values and their places along the last axis.

    The new outputs are NAME_values, of the output's type, and NAME_indices, int64; both of shape (..., K), sorted.

    Args:
        argument: "K", or "K,NAME" where there are several outputs.

    Raises:
        SpecError: K is no positive number.
    """
    count, _, chosen = argument.partition(",")
    if not count.isdecimal() or int(count) < 1:
        raise SpecError(f"embed-topk takes a number of 1 or more, got '{argument}'. Write embed-topk:5")
    size = int(count)

    def apply(graph: gs.Graph) -> PassResult:
        editor = Editor(graph)
        output = _output(graph, "embed-topk", chosen)
        classes = output.shape[-1] if output.shape else None
        if isinstance(classes, int) and classes < size:
            raise PassError(f"embed-topk:{size} asks for more than the {classes} values of output '{output.name}' "
                            f"{output.shape}. Ask for {classes} at most")
        shape = None if output.shape is None else [*output.shape[:-1], size]
        values = gs.Variable(editor.fresh(f"{output.name}_values"), output.dtype, shape)
        indices = gs.Variable(editor.fresh(f"{output.name}_indices"), np.dtype(np.int64), shape)
        number = editor.constant(f"{output.name}_k", np.array([size], np.int64))
        graph.nodes.append(gs.Node("TopK", "head/TopK", {"axis": -1}, [output, number], [values, indices]))
        graph.outputs = [new for old in graph.outputs for new in ([values, indices] if old is output else [old])]
        return PassResult(1)

    def reference(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> Comparison:
        feeds = random_feeds(before, seed, CHECK_BATCH)
        expected = run_model(before, feeds, optimize=False)
        name = chosen or next(iter(expected))
        scores = expected.pop(name)
        order = np.argsort(-scores, axis=-1, kind="stable")[..., :size]
        return Comparison(feeds, {**expected, f"{name}_values": np.take_along_axis(scores, order, -1),
                                  f"{name}_indices": order.astype(np.int64)})

    return Pass(f"embed-topk:{argument}", f"Return the {size} best values and their indices", apply,
                reference=reference)


def _output(graph: gs.Graph, name: str, wanted: str) -> gs.Tensor:
    found = [t for t in graph.outputs if t.name == wanted] if wanted else list(graph.outputs)
    names = ", ".join(t.name for t in graph.outputs)
    if len(found) != 1:
        fault = f"there is no output '{wanted}'" if wanted else f"there are {len(found)} outputs"
        raise PassError(f"Pass '{name}' needs one output and {fault}. Name one of: {names}")
    if found[0].dtype not in (np.float32, np.float16):
        raise PassError(f"Pass '{name}' needs floating-point scores; output '{found[0].name}' is {found[0].dtype}")
    return found[0]


def _inner_copy(editor: Editor, graph: gs.Graph, output: gs.Tensor) -> gs.Tensor:
    """Let what made the output make an inner tensor instead, and all its readers read that."""
    inner = editor.variable(f"{output.name}_raw", output)
    for node in list(output.inputs):
        for index, tensor in enumerate(node.outputs):
            if tensor is output:
                node.outputs[index] = inner
    editor.redirect(output, inner)
    return inner


def _softmax_by_axis(graph: gs.Graph) -> str | None:
    return None if graph.opset >= 13 else f"it needs opset 13, the model has {graph.opset}"


def _class_axis(size: int) -> int:
    return 1 if size >= 4 else -1


def _sigmoid(values: Array) -> Array:
    return (1 / (1 + np.exp(-values.astype(np.float64)))).astype(values.dtype)


def _softmax(values: Array) -> Array:
    axis = _class_axis(values.ndim)
    powers = np.exp(values.astype(np.float64) - values.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True)).astype(values.dtype)

"""Preprocessing on the host -> part of the graph.

    uint8 image, as read (RGB) -> Cast -> [Transpose] -> [Gather: RGB to BGR] -> [Mul gain] -> [Sub offset] -> model

with gain = scale / std and offset = mean / std, as trtkit.preprocess computes them on the host. TensorRT takes UINT8
only as a network input that goes straight into a Cast; so the Cast comes first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from trtkit.errors import PassError, SpecError
from trtkit.graph.editor import Editor, rank
from trtkit.graph.rule import CHECK_BATCH, Comparison, Pass, PassResult
from trtkit.graph.run import random_feeds, run_model
from trtkit.preprocess import Preprocess
from trtkit.tensors import Array

__all__ = ["embed_preprocess", "parse_embed_preprocess"]

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]

_Step = tuple[str, dict[str, Any], Array | None]
"""Operator, attributes, and its second operand."""


def parse_embed_preprocess(argument: str) -> Pass:
    """Return the pass for "FILE.toml" or "FILE.toml,nhwc": a file that Preprocess.load reads, and the new layout.

    Raises:
        SpecError: The file or the layout is not usable.
    """
    path, _, layout = argument.partition(",")
    return embed_preprocess(Preprocess.load(Path(path)), layout=layout or None)


def embed_preprocess(preprocess: Preprocess, *, layout: str | None = None, input: str | None = None) -> Pass:
    """Return the pass that puts scale, mean, std, colour order and layout into the graph.

    The model then takes uint8 images of shape (N, 3, H, W) or (N, H, W, 3), RGB, under the same input name; the host
    keeps `dataclasses.replace(preprocess.raw(), layout=layout)`.

    Args:
        preprocess: What the model expects of its input now.
        layout: "nchw" or "nhwc", of the new input; that of `preprocess` when None.
        input: Name of the image input; the only input of rank 4 when None.

    Raises:
        SpecError: The layout is unknown, or `preprocess` already feeds uint8.
    """
    fed = layout or preprocess.layout
    if fed not in ("nchw", "nhwc"):
        raise SpecError(f"Layout '{fed}' is unknown. Choose nchw or nhwc")
    if preprocess.dtype == "uint8":
        raise SpecError("Preprocessing feeds uint8 already, so there is nothing to embed. Leave embed-preprocess out")

    def apply(graph: gs.Graph) -> PassResult:
        image = _image(graph, input, preprocess)
        _prepend(graph, image, _steps(preprocess, fed, image.dtype))
        height, width = preprocess.size
        image.dtype = np.dtype(np.uint8)
        image.shape = [image.shape[0], *((3, height, width) if fed == "nchw" else (height, width, 3))]
        return PassResult(1)

    def reference(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> Comparison:
        feeds = random_feeds(after, seed, CHECK_BATCH)
        floats = random_feeds(before, seed, CHECK_BATCH)
        name = next(name for name in feeds if feeds[name].dtype != floats[name].dtype)
        original = {**feeds, name: _prepared(feeds[name], preprocess, fed, floats[name].dtype)}
        return Comparison(feeds, run_model(before, original, optimize=False))

    return Pass("embed-preprocess", "Take uint8 images: scale, mean, std, colour order and layout go into the graph",
                apply, reference=reference)


def _image(graph: gs.Graph, name: str | None, preprocess: Preprocess) -> gs.Tensor:
    candidates = [t for t in graph.inputs if (t.name == name if name else rank(t) == 4)]
    listed = ", ".join(f"{t.name} {t.dtype} {t.shape}" for t in graph.inputs)
    if len(candidates) != 1:
        wanted = f"named '{name}'" if name else "of rank 4"
        raise PassError(f"embed-preprocess finds {len(candidates)} inputs {wanted} among: {listed}. "
                        "Name the one that takes images")
    image = candidates[0]
    fits = rank(image) == 4 and all(not isinstance(dim, int) or dim == size
                                    for dim, size in zip(image.shape[1:], preprocess.shape))
    if not fits or image.dtype not in (np.float32, np.float16):
        raise PassError(f"Input '{image.name}' is {image.dtype} {image.shape}; preprocessing makes {preprocess.dtype} "
                        f"{preprocess.shape} for each image. Set size and layout of the preprocessing to the model's")
    return image


def _steps(preprocess: Preprocess, fed: str, dtype: np.dtype[Any]) -> list[_Step]:
    channel = 1 if preprocess.layout == "nchw" else 3
    across = [1, 1, 1, 1]
    across[channel] = 3
    gain, offset = _arithmetic(preprocess)
    steps: list[_Step] = [("Cast", {"to": int(onnx.TensorProto.FLOAT)}, None)]
    if fed != preprocess.layout:
        steps.append(("Transpose", {"perm": _TO_NCHW if fed == "nhwc" else _TO_NHWC}, None))
    if preprocess.color == "bgr":
        steps.append(("Gather", {"axis": channel}, np.array([2, 1, 0], np.int64)))
    if (gain != 1).any():
        steps.append(("Mul", {}, gain.reshape(across)))
    if (offset != 0).any():
        steps.append(("Sub", {}, offset.reshape(across)))
    if dtype == np.float16:
        steps.append(("Cast", {"to": int(onnx.TensorProto.FLOAT16)}, None))
    return steps


def _arithmetic(preprocess: Preprocess) -> tuple[Array, Array]:
    std = np.asarray(preprocess.std, np.float32)
    return np.float32(preprocess.scale) / std, np.asarray(preprocess.mean, np.float32) / std


def _prepend(graph: gs.Graph, image: gs.Tensor, steps: list[_Step]) -> None:
    editor = Editor(graph)
    prepared = editor.variable(f"{image.name}_prepared", image)
    editor.redirect(image, prepared)
    current = image
    nodes = []
    for index, (operator, attrs, operand) in enumerate(steps):
        label = f"{image.name}_{operator.lower()}"
        made = prepared if index == len(steps) - 1 else gs.Variable(editor.fresh(label))
        inputs = [current] if operand is None else [current, editor.constant(f"{label}_by", operand)]
        nodes.append(gs.Node(operator, f"preprocess/{index}_{operator}", dict(attrs), inputs, [made]))
        current = made
    graph.nodes[:0] = nodes


def _prepared(pixels: Array, preprocess: Preprocess, fed: str, dtype: np.dtype[Any]) -> Array:
    """Return what the host fed until now for these pixels: the arithmetic of Preprocess on (N, H, W, 3)."""
    images = pixels.transpose(0, 2, 3, 1) if fed == "nchw" else pixels
    if preprocess.color == "bgr":
        images = images[..., ::-1]
    gain, offset = _arithmetic(preprocess)
    values = (images * gain - offset).astype(dtype)
    return np.ascontiguousarray(values.transpose(*_TO_NCHW) if preprocess.layout == "nchw" else values)

"""Decomposed activations -> one canonical form each.

    GELU        x * 0.5 * (1 + erf(x / sqrt 2)), x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
                -> Gelu (opset 20); before, the erf form becomes Mul(Mul(x, Add(Erf(Div(x, sqrt 2)), 1)), 0.5), which
                ONNX Runtime and TensorRT fuse; of the orders that exporters write, ONNX Runtime 1.32 knows two
    HardSwish   x * HardSigmoid(x, 1/6, 1/2), x * Clip(x + 3, 0, 6) / 6 -> HardSwish (opset 14)
    SiLU        x / (1 + exp(-x)), x * (1 / (1 + exp(-x))) -> Mul(x, Sigmoid(x)); ONNX has no operator for it below
                opset 24, and TensorRT and ONNX Runtime both know this pair

Products are matched as sets of factors, so the order in which an exporter multiplies does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, factors, gain, given, producer, scalar
from trtkit.graph.rule import Outcome, Pass, for_each

__all__ = ["FUSE_GELU", "FUSE_HARDSWISH", "FUSE_SILU"]

_GELU_OPSET = 20
_READ_BY_OTHERS = "a value inside it is read by others as well"


def _close(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=1e-5)


def _plus(tensor: gs.Tensor, wanted: float) -> tuple[gs.Tensor, gs.Node] | None:
    """Match Add(y, wanted) in either order; return (y, the Add)."""
    add = producer(tensor, "Add")
    if add is None:
        return None
    for position in (0, 1):
        if _close(scalar(add.inputs[1 - position]), wanted):
            return add.inputs[position], add
    return None




def _replace(editor: Editor, owner: gs.Graph, root: gs.Node, inner: list[gs.Node], new: list[gs.Node]) -> Outcome:
    inner = list({id(node): node for node in inner if node is not root}.values())
    reason = None
    if not all(_readers_within(editor, node, [root, *inner]) for node in inner):
        reason = _READ_BY_OTHERS
    elif not all(any(node is own for own in owner.nodes) for node in inner):
        reason = "part of it lies in the graph around this one"
    if reason is not None:
        editor.erase(owner, new)
        return reason
    editor.substitute(owner, [root, *inner], new, root.outputs[0])
    return True


def _readers_within(editor: Editor, node: gs.Node, matched: list[gs.Node]) -> bool:
    output = node.outputs[0]
    return not editor.is_pinned(output) and all(any(reader is m for m in matched) for reader in output.outputs)


def _gelu(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    total, terms, nodes = factors(editor, node)
    if len(terms) != 2 or not _close(total, 0.5):
        return False
    for position, term in enumerate(terms):
        source = terms[1 - position]
        one = _plus(term, 1.0)
        curve = None if one is None else producer(one[0], "Erf", "Tanh")
        if one is None or curve is None:
            continue
        inner = _erf_argument(curve, source) if curve.op == "Erf" else _tanh_argument(editor, curve, source)
        if inner is None:
            continue
        matched = [*nodes, one[1], curve, *inner]
        if owner.opset >= _GELU_OPSET:
            attrs = {"approximate": "none" if curve.op == "Erf" else "tanh"}
            return _replace(editor, owner, node, matched, [gs.Node("Gelu", inputs=[source], attrs=attrs)])
        if curve.op == "Tanh":
            return f"Gelu needs opset {_GELU_OPSET}, the model has {owner.opset}"
        if _is_canonical(node, term, inner):
            return False
        return _replace(editor, owner, node, matched, _canonical_gelu(editor, source, node.outputs[0].name))
    return False


def _is_canonical(root: gs.Node, shifted: gs.Tensor, inner: list[gs.Node]) -> bool:
    """Whether an erf form halves last, what was multiplied by x as it is."""
    halved = gain(root)
    product = None if halved is None else producer(halved[1], "Mul")
    return inner[0].op == "Div" and product is not None and any(tensor is shifted for tensor in product.inputs)


def _canonical_gelu(editor: Editor, source: gs.Tensor, name: str) -> list[gs.Node]:
    scaled, curve, shifted, product = (editor.variable(f"{name}_{part}", source)
                                       for part in ("scaled", "erf", "shifted", "product"))
    root, one, half = (editor.constant(f"{name}_{part}", np.array(value, source.dtype))
                       for part, value in (("root", math.sqrt(2)), ("one", 1.0), ("half", 0.5)))
    return [gs.Node("Div", inputs=[source, root], outputs=[scaled]), gs.Node("Erf", inputs=[scaled], outputs=[curve]),
            gs.Node("Add", inputs=[curve, one], outputs=[shifted]),
            gs.Node("Mul", inputs=[source, shifted], outputs=[product]), gs.Node("Mul", inputs=[product, half])]


def _erf_argument(curve: gs.Node, source: gs.Tensor) -> list[gs.Node] | None:
    scale = producer(curve.inputs[0], "Mul", "Div")
    scaled = None if scale is None else gain(scale)
    if scale is None or scaled is None or scaled[1] is not source or not _close(scaled[0], math.sqrt(0.5)):
        return None
    return [scale]


def _tanh_argument(editor: Editor, curve: gs.Node, source: gs.Tensor) -> list[gs.Node] | None:
    """Match sqrt(2 / pi) * (x + 0.044715 x^3)."""
    scale = producer(curve.inputs[0], "Mul", "Div")
    scaled = None if scale is None else gain(scale)
    add = None if scaled is None else producer(scaled[1], "Add")
    if scale is None or scaled is None or add is None or not _close(scaled[0], math.sqrt(2 / math.pi)):
        return None
    cubic = next((t for t in add.inputs if t is not source), None)
    product = None if cubic is None or all(t is not source for t in add.inputs) else producer(cubic, "Mul")
    if product is None:
        return None
    total, terms, nodes = factors(editor, product)
    powers = _as_powers(terms, source)
    if powers is None or powers[0] != 3 or not _close(total, 0.044715):
        return None
    return [scale, add, *nodes, *powers[1]]


def _as_powers(terms: list[gs.Tensor], source: gs.Tensor) -> tuple[int, list[gs.Node]] | None:
    """Return (n, Pow nodes) when the product of the terms is source to the power of n."""
    total, nodes = 0, []
    for term in terms:
        if term is source:
            total += 1
            continue
        power = producer(term, "Pow")
        exponent = None if power is None or power.inputs[0] is not source else scalar(power.inputs[1])
        if exponent is None or exponent != int(exponent):
            return None
        total += int(exponent)
        nodes.append(power)
    return total, nodes


def _hard_swish(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    total, terms, nodes = factors(editor, node)
    if len(terms) != 2:
        return False
    for position, term in enumerate(terms):
        source = terms[1 - position]
        inner = _hard_sigmoid(term, source) if _close(total, 1.0) else _clipped(term, source, total)
        if inner is not None:
            return _replace(editor, owner, node, [*nodes, *inner], [gs.Node("HardSwish", inputs=[source])])
    return False


def _hard_sigmoid(term: gs.Tensor, source: gs.Tensor) -> list[gs.Node] | None:
    node = producer(term, "HardSigmoid")
    if node is None or node.inputs[0] is not source:
        return None
    fits = _close(node.attrs.get("alpha", 0.2), 1 / 6) and _close(node.attrs.get("beta", 0.5), 0.5)
    return [node] if fits else None


def _clipped(term: gs.Tensor, source: gs.Tensor, total: float) -> list[gs.Node] | None:
    clip = producer(term, "Clip")
    if clip is None or not _close(total, 1 / 6):
        return None
    three = _plus(clip.inputs[0], 3.0)
    fits = three is not None and three[0] is source and scalar(given(clip, 1)) == 0 and scalar(given(clip, 2)) == 6
    return [clip, three[1]] if fits and three is not None else None


def _silu(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    """Match Div(x, 1 + exp(-x)) and Mul(x, Div(1, 1 + exp(-x)) or Reciprocal(1 + exp(-x)))."""
    if node.op == "Div":
        source, chain = node.inputs[0], _one_plus_exp(node.inputs[1])
        if chain is None or chain[0] is not source:
            return False
        return _as_silu(editor, owner, node, source, chain[1])
    for position in (0, 1):
        source = node.inputs[position]
        inverse = producer(node.inputs[1 - position], "Div", "Reciprocal")
        if inverse is None or (inverse.op == "Div" and scalar(inverse.inputs[0]) != 1):
            continue
        chain = _one_plus_exp(inverse.inputs[-1])
        if chain is not None and chain[0] is source:
            return _as_silu(editor, owner, node, source, [inverse, *chain[1]])
    return False


def _one_plus_exp(tensor: gs.Tensor) -> tuple[gs.Tensor, list[gs.Node]] | None:
    """Match 1 + exp(-x); return (x, nodes)."""
    one = _plus(tensor, 1.0)
    power = None if one is None else producer(one[0], "Exp")
    negative = None if power is None else producer(power.inputs[0], "Neg", "Mul")
    if one is None or power is None or negative is None:
        return None
    if negative.op == "Mul":
        scaled = gain(negative)
        return (scaled[1], [one[1], power, negative]) if scaled is not None and scaled[0] == -1 else None
    return negative.inputs[0], [one[1], power, negative]


def _as_silu(editor: Editor, owner: gs.Graph, root: gs.Node, source: gs.Tensor, inner: list[gs.Node]) -> Outcome:
    gate = editor.variable(f"{root.outputs[0].name}_sigmoid", source)
    new = [gs.Node("Sigmoid", inputs=[source], outputs=[gate]), gs.Node("Mul", inputs=[source, gate])]
    return _replace(editor, owner, root, inner, new)


def _opset(minimum: int, operator: str) -> Callable[[gs.Graph], str | None]:
    def requires(graph: gs.Graph) -> str | None:
        return None if graph.opset >= minimum else f"{operator} needs opset {minimum}, the model has {graph.opset}"

    return requires


FUSE_GELU = Pass("fuse-gelu", "Fuse a decomposed GELU into Gelu (opset 20), or write its erf form as runtimes know it",
                 for_each(("Mul", "Div"), _gelu))
FUSE_HARDSWISH = Pass("fuse-hardswish",
                      "Fuse x * HardSigmoid(x), or x * Clip(x + 3, 0, 6) / 6, into HardSwish (opset 14)",
                      for_each(("Mul", "Div"), _hard_swish), _opset(14, "HardSwish"))
FUSE_SILU = Pass("fuse-silu", "Write a decomposed SiLU as Mul(x, Sigmoid(x))", for_each(("Mul", "Div"), _silu))

"""Reading and editing a graphsurgeon graph: constants, producers, sole consumers; bypass, erase, substitute.

Works around what graphsurgeon (0.6) gets wrong or leaves to its caller: tensors compare equal by name, so identity is
asked for everywhere; a subgraph's output that is a tensor of the outer graph is not linked to it, so its name counts
as pinned; its own topological sort can report a false cycle (NVIDIA/TensorRT PR 4087), so that and the removal of dead
nodes are left to trtkit.graph.order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.tensors import Array

__all__ = [
    "Editor",
    "constant",
    "each_graph",
    "factors",
    "gain",
    "given",
    "producer",
    "rank",
    "scalar",
    "static_shape",
]


def each_graph(graph: gs.Graph) -> Iterator[gs.Graph]:
    """Yield a graph and every graph inside it."""
    yield graph
    for node in list(graph.nodes):
        for value in node.attrs.values():
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, gs.Graph):
                    yield from each_graph(inner)


def constant(tensor: gs.Tensor | None) -> Array | None:
    """Return the value of a constant tensor, or None when it is computed."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def scalar(tensor: gs.Tensor | None) -> float | None:
    """Return the value of a constant of one element, or None."""
    value = constant(tensor)
    return float(value.reshape(())) if value is not None and value.size == 1 and value.dtype.kind in "fiu" else None


def producer(tensor: gs.Tensor, *operators: str) -> gs.Node | None:
    """Return the node that makes a tensor, if it is one of `operators` (any when none are given)."""
    if isinstance(tensor, gs.Constant) or not tensor.inputs:
        return None
    node = tensor.inputs[0]
    return node if not operators or (node.op in operators and not node.domain) else None


def given(node: gs.Node, index: int) -> gs.Tensor | None:
    """Return an optional input of a node, or None when it is left out."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """Return the shape of a tensor when every size is known, else None."""
    shape = tensor.shape
    if shape is None or not all(isinstance(dim, int | np.integer) and dim >= 0 for dim in shape):
        return None
    return tuple(int(dim) for dim in shape)


def rank(tensor: gs.Tensor) -> int | None:
    """Return the number of dimensions of a tensor, or None when it is not known."""
    return None if tensor.shape is None else len(tensor.shape)


class Editor:
    """Edits one graph and its subgraphs, keeping interface names and outer-scope references whole.

    Args:
        root: The main graph.
    """

    def __init__(self, root: gs.Graph) -> None:
        graphs = list(each_graph(root))
        self._pinned = {tensor.name for graph in graphs for tensor in graph.outputs}
        self._names = {t.name for g in graphs for n in g.nodes for t in [*n.inputs, *n.outputs]} | self._pinned
        self._names |= {tensor.name for graph in graphs for tensor in graph.inputs}

    def is_pinned(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is an output of a graph, so that its name must stay."""
        return tensor.name in self._pinned

    def is_inner(self, tensor: gs.Tensor) -> bool:
        """Whether one node alone reads a tensor, and it is no graph's output."""
        return len(tensor.outputs) == 1 and not self.is_pinned(tensor)

    def fresh(self, hint: str) -> str:
        """Return a tensor name that is not in use."""
        name, count = hint, 0
        while name in self._names:
            count += 1
            name = f"{hint}_{count}"
        self._names.add(name)
        return name

    def constant(self, hint: str, values: Array) -> gs.Constant:
        """Return a new constant with a name of its own."""
        return gs.Constant(self.fresh(hint), np.ascontiguousarray(values).reshape(values.shape))

    def variable(self, hint: str, like: gs.Tensor) -> gs.Variable:
        """Return a new computed tensor with a name of its own and another tensor's type and shape."""
        return gs.Variable(self.fresh(hint), like.dtype, like.shape)

    def erase(self, owner: gs.Graph, nodes: Sequence[gs.Node]) -> None:
        """Remove nodes; what they made is no longer made."""
        gone = {id(node) for node in nodes}
        for node in nodes:
            node.inputs.clear()
            node.outputs.clear()
        owner.nodes[:] = [node for node in owner.nodes if id(node) not in gone]

    def substitute(self, owner: gs.Graph, matched: Sequence[gs.Node], replacement: Sequence[gs.Node],
                   output: gs.Tensor) -> None:
        """Replace matched nodes; the last node of `replacement` makes `output`, which keeps its name and readers.

        Args:
            owner: The graph that holds the matched nodes.
            matched: Nodes to remove; of what they make only `output` is read by other nodes.
            replacement: New nodes, not in a graph yet; all but the last have their outputs already.
            output: What the matched nodes made.
        """
        gone = {id(node) for node in matched}
        place = max(index for index, node in enumerate(owner.nodes) if id(node) in gone)
        name = owner.nodes[place].name
        for index, node in enumerate(replacement):
            node.name = node.name or (f"{name}/{node.op}_{index}" if name else "")
        for node in matched:
            node.inputs.clear()
            node.outputs.clear()
        replacement[-1].outputs = [output]
        owner.nodes[place:place + 1] = list(replacement)
        owner.nodes[:] = [node for node in owner.nodes if id(node) not in gone]

    def redirect(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let every reader of `old`, in any graph, read `new`."""
        for reader in list(old.outputs):
            for index, tensor in enumerate(reader.inputs):
                if tensor is old:
                    reader.inputs[index] = new

    def bypass(self, owner: gs.Graph, node: gs.Node, source: gs.Tensor) -> bool | str:
        """Remove a node whose first output equals `source`; return True, or why it has to stay.

        Where the output's name is part of the interface, the producer of `source` takes that name over.
        """
        output = node.outputs[0]
        if not self.is_pinned(output):
            self.redirect(output, source)
            self.erase(owner, [node])
            return True
        maker = producer(source)
        if maker is None or self.is_pinned(source) or not any(other is maker for other in owner.nodes):
            return "it joins an input, a constant or another output to a graph output, whose name has to stay"
        self.erase(owner, [node])
        self.redirect(source, output)
        index = next(index for index, tensor in enumerate(maker.outputs) if tensor is source)
        maker.outputs[index] = output
        return True


def gain(node: gs.Node) -> tuple[float, gs.Tensor] | None:
    """Return (factor, x) when a node scales x by one constant number and keeps its shape, else None."""
    if node.op not in ("Mul", "Div") or node.domain:
        return None
    for position in (1, 0) if node.op == "Mul" else (1,):
        number, other = scalar(node.inputs[position]), node.inputs[1 - position]
        if number is None or isinstance(other, gs.Constant) or (node.op == "Div" and number == 0):
            continue
        size = rank(other)
        fits = node.inputs[position].values.ndim <= (1 if size is None else size)
        return (number if node.op == "Mul" else 1 / number, other) if fits else None
    return None


def factors(editor: Editor, node: gs.Node) -> tuple[float, list[gs.Tensor], list[gs.Node]]:
    """Return a product as (constant factor, other factors, the Mul and Div nodes that form it).

    Follows Mul nodes, and divisions by a constant, upward from `node` as long as nobody else reads what is between.
    """
    total, terms, nodes = 1.0, [], []
    pending: list[gs.Node] = [node]
    while pending:
        current = pending.pop(0)
        nodes.append(current)
        scaled = gain(current)
        if scaled is not None:
            total *= scaled[0]
            operands = [scaled[1]]
        else:
            operands = list(current.inputs)
        for tensor in operands:
            maker = producer(tensor, "Mul", "Div")
            joins = maker is not None and editor.is_inner(tensor) and (maker.op == "Mul" or gain(maker) is not None)
            if joins:
                pending.append(maker)
            else:
                terms.append(tensor)
    return total, terms, nodes

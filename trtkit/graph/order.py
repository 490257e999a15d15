"""Node order and dead wood of an ONNX graph: any order -> topological, stable; unused nodes and tensors -> gone.

Works on the protobuf messages and knows that a subgraph (If, Loop, Scan) reads tensors of the graphs around it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import onnx

from trtkit.errors import GraphError

__all__ = ["each_graph", "name_uniquely", "reads", "sort_nodes", "subgraphs", "tidy"]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds directly."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def each_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and every graph inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from each_graph(inner)


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node needs: its inputs and what its subgraphs take from outside."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= _captured(graph)
    return names


def _captured(graph: onnx.GraphProto) -> set[str]:
    made = _given(graph)
    needed = {output.name for output in graph.output}
    for node in graph.node:
        needed |= reads(node)
        made |= set(node.output)
    return needed - made


def _given(graph: onnx.GraphProto) -> set[str]:
    return ({tensor.name for tensor in graph.input} | {tensor.name for tensor in graph.initializer}
            | {tensor.values.name for tensor in graph.sparse_initializer})


def sort_nodes(graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> int:
    """Put the nodes of a graph and of its subgraphs into topological order, in place.

    Nodes that are in order already keep their places.

    Args:
        graph: The graph.
        outer: Tensors of the graphs around it.

    Returns:
        Number of nodes that moved.

    Raises:
        GraphError: A tensor is read that nothing makes, or the nodes form a cycle.
    """
    known = _given(graph) | outer
    order = _topological(graph, known)
    moved = sum(place != index for place, index in enumerate(order))
    if moved:
        nodes = [graph.node[index] for index in order]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    visible = frozenset(known.union(*(node.output for node in graph.node)))
    return moved + sum(sort_nodes(inner, visible) for node in graph.node for inner in subgraphs(node))


def _topological(graph: onnx.GraphProto, known: set[str]) -> list[int]:
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    waiting: list[int] = []
    followers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.node):
        needed = reads(node) - known
        for name in needed - makers.keys():
            raise GraphError(f"Node '{node.name}' ({node.op_type}) reads tensor '{name}', which nothing makes. "
                             "The model is damaged; export it again")
        sources = {makers[name] for name in needed}
        waiting.append(len(sources))
        for source in sources:
            followers.setdefault(source, []).append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for follower in followers.get(index, ()):
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(ready, follower)
    if len(order) < len(graph.node):
        stuck = next(graph.node[index] for index, count in enumerate(waiting) if count)
        raise GraphError(f"Nodes form a cycle through '{stuck.name}' ({stuck.op_type}), which makes "
                         f"{list(stuck.output)}. The model is damaged; export it again")
    return order


def tidy(graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> None:
    """Remove, in place, nodes, initializers and value infos that no output needs; subgraphs included.

    Args:
        graph: The graph, its nodes in any order.
        outer: Tensors of the graphs around it; a subgraph's own copy of one of them is removed as well.
    """
    _drop_if(graph.initializer, lambda tensor: tensor.name in outer)
    needed, alive = _upstream(graph)
    _drop_if(graph.node, lambda node: not alive.intersection(node.output))
    _drop_if(graph.initializer, lambda tensor: tensor.name not in needed)
    made = _given(graph).union(*(node.output for node in graph.node))
    _drop_if(graph.value_info, lambda info: info.name not in made)
    visible = outer | made
    for node in graph.node:
        for inner in subgraphs(node):
            tidy(inner, visible)


def _upstream(graph: onnx.GraphProto) -> tuple[set[str], set[str]]:
    """Return the tensors that outputs depend on, and those of them that nodes of this graph make."""
    makers = {name: node for node in graph.node for name in node.output if name}
    needed: set[str] = set()
    pending = [output.name for output in graph.output]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            if name in makers:
                pending += reads(makers[name])
    return needed, needed & makers.keys()


def name_uniquely(graph: onnx.GraphProto) -> None:
    """Give nodes that share a name, subgraphs included, names of their own, in place: ONNX Runtime refuses them."""
    taken: set[str] = set()
    for inner in each_graph(graph):
        for node in inner.node:
            name, count = node.name, 0
            while node.name and node.name in taken:
                count += 1
                node.name = f"{name}_{count}"
            taken.add(node.name)


def _drop_if(messages: Any, unwanted: Callable[[Any], bool]) -> None:
    for index in reversed([i for i, message in enumerate(messages) if unwanted(message)]):
        del messages[index]

"""What a pass is: a name, what it requires, what it does, what it ensures, and how its effect is checked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, each_graph
from trtkit.graph.run import random_feeds, run_model
from trtkit.tensors import Array

__all__ = ["Comparison", "Outcome", "Pass", "PassResult", "Reference", "Rule", "for_each", "same_outputs"]

logger = logging.getLogger(__name__)

CHECK_BATCH = 2
"""Size of a dynamic batch in numeric checks: 1 would hide a broken broadcast."""


@dataclass(frozen=True)
class PassResult:
    """What one run of a pass did.

    Attributes:
        changes: Number of places it changed.
        refusals: Places that look like its business and were left alone, each with the reason.
    """

    changes: int
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One numeric check: the rewritten model, fed with `feeds`, must return `expected`.

    Attributes:
        feeds: Every input of the rewritten model.
        expected: Every output of the rewritten model, worked out with the original model.
    """

    feeds: dict[str, Array]
    expected: dict[str, Array]


Reference = Callable[[onnx.ModelProto, onnx.ModelProto, int], Comparison]
"""(model before, model after, seed) -> Comparison."""


def same_outputs(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> Comparison:
    """Expect of the rewritten model, on random inputs, what the original returns."""
    feeds = random_feeds(before, seed, CHECK_BATCH)
    return Comparison(feeds, run_model(before, feeds, optimize=False))


def _nothing(graph: gs.Graph) -> str | None:
    return None


@dataclass(frozen=True)
class Pass:
    """One named rewrite.

    Attributes:
        name: As recipes and the command line spell it, its argument included: "fix-batch:4".
        description: One line for people.
        apply: Changes the graph in place and says what it did. Node order and dead nodes are looked after elsewhere.
        requires: Why the pass does not apply to a graph at all, or None when it does.
        ensures: What is wrong with a graph that the pass has changed, or None.
        reference: How inputs and outputs of the rewritten model relate to those of the original.
    """

    name: str
    description: str
    apply: Callable[[gs.Graph], PassResult]
    requires: Callable[[gs.Graph], str | None] = _nothing
    ensures: Callable[[gs.Graph], str | None] = _nothing
    reference: Reference = same_outputs


Outcome = bool | str
"""True: changed. False: not this rule's business. A string: why it was left alone."""

Rule = Callable[[Editor, gs.Graph, gs.Node], Outcome]


def for_each(operators: tuple[str, ...], *rules: Rule) -> Callable[[gs.Graph], PassResult]:
    """Return an `apply` that tries rules on every node of these operators, in the graph and in its subgraphs.

    The first rule that changes a node or refuses to decides; a rule may remove any node.
    """

    def apply(graph: gs.Graph) -> PassResult:
        editor = Editor(graph)
        changes = 0
        refusals: list[str] = []
        for owner in each_graph(graph):
            for node in list(owner.nodes):
                if node.op not in operators or node.domain not in (None, "", "ai.onnx") or not node.outputs:
                    continue
                outcome = _first(rules, editor, owner, node)
                changes += outcome is True
                if isinstance(outcome, str):
                    refusals.append(f"{node.op} '{node.name or _made(node)}': {outcome}")
        return PassResult(changes, tuple(refusals))

    return apply


def _first(rules: tuple[Rule, ...], editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    for rule in rules:
        outcome = rule(editor, owner, node)
        if outcome is not False:
            return outcome
    return False


def _made(node: Any) -> str:
    return str(node.outputs[0].name)

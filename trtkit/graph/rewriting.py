"""A model and a list of passes -> the rewritten model, every pass checked numerically where it changed something."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from trtkit.errors import PassError, TrtkitError
from trtkit.graph.opset import constants_to_initializers
from trtkit.graph.order import name_uniquely, sort_nodes, tidy
from trtkit.graph.registry import parse_pass
from trtkit.graph.rule import Pass, PassResult
from trtkit.graph.shapes import infer_shapes, name_dynamic_dims
from trtkit.graph.verify import check
from trtkit.progress import Progress, silent

__all__ = ["Rewritten", "rewrite"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rewritten:
    """What came of a rewrite.

    Attributes:
        model: The new model.
        results: What each pass did, by its name, in the order of running.
    """

    model: onnx.ModelProto
    results: tuple[tuple[str, PassResult], ...]

    @property
    def changes(self) -> int:
        """Number of places that all passes together changed."""
        return sum(result.changes for _, result in self.results)


def rewrite(model: onnx.ModelProto, passes: Sequence[str | Pass], *, verify: bool = True, seed: int = 0,
            progress: Progress = silent) -> Rewritten:
    """Return the model after the passes, run one after another.

    Before the first one Constant nodes become initializers, and dynamic dimensions without a name get one; after each
    one unused nodes and initializers are gone and the nodes are in topological order.

    Args:
        model: The model; it stays as it is.
        passes: Names, such as "fold-constants" or "fix-batch:4", or Pass objects.
        verify: Run the model in ONNX Runtime before and after each pass that changed something, on random inputs, and
            compare (rtol 1e-4, atol 1e-5 in FP32; see trtkit.graph.verify).
        seed: Of the random inputs.
        progress: Told which pass runs.

    Raises:
        SpecError: A pass is unknown, or its argument is not usable.
        PassError: A pass failed, or changed the numbers; the message names it, the worst tensor and the error.
        GraphError: ONNX Runtime cannot run the model, so that no pass can be checked (verify=False skips the check).
    """
    steps = [parse_pass(step) if isinstance(step, str) else step for step in passes]
    current = onnx.ModelProto()
    current.CopyFrom(model)
    sort_nodes(current.graph)
    name_uniquely(current.graph)
    name_dynamic_dims(current)
    constants_to_initializers(current)
    current = infer_shapes(current)
    results: list[tuple[str, PassResult]] = []
    for done, step in enumerate(steps):
        progress("Rewriting", done, len(steps))
        after, result = _apply(step, current)
        for refusal in result.refusals:
            logger.debug("%s refused: %s", step.name, refusal)
        if result.changes:
            logger.info("%s changed %d places", step.name, result.changes)
            if verify:
                check(step, current, after, seed)
        current = after
        results.append((step.name, result))
    progress("Rewriting", len(steps), len(steps))
    return Rewritten(current, tuple(results))


def _apply(step: Pass, model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassResult]:
    try:
        with G_LOGGER.suppress():
            graph = gs.import_onnx(_detached(model))
            reason = step.requires(graph)
            if reason is not None:
                return model, PassResult(0, (reason,))
            result = step.apply(graph)
            if not result.changes:
                return model, result
            fault = step.ensures(graph)
            if fault is not None:
                raise PassError(f"Pass '{step.name}' did not do what it ensures: {fault}. Leave it out, and report it")
            return _exported(graph, model), result
    except TrtkitError:
        raise
    except Exception as err:  # a pass's own bug or graphsurgeon's, named for the user
        raise PassError(f"Pass '{step.name}' failed: {type(err).__name__}: {err}. Leave it out, and report it") from err


def _detached(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy: graphsurgeon writes new names into the messages that it imported."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _exported(graph: gs.Graph, original: onnx.ModelProto) -> onnx.ModelProto:
    exported = gs.export_onnx(graph, do_type_check=False)
    exported.metadata_props.extend(original.metadata_props)
    exported.domain, exported.model_version = original.domain, original.model_version
    exported.doc_string = original.doc_string
    tidy(exported.graph)
    sort_nodes(exported.graph)
    name_uniquely(exported.graph)
    return infer_shapes(exported)


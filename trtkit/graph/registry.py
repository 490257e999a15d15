"""Every pass by name, and "name:argument" -> a pass: the one place that knows how passes are spelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trtkit.errors import SpecError
from trtkit.graph.passes.activations import FUSE_GELU, FUSE_HARDSWISH, FUSE_SILU
from trtkit.graph.passes.affine import FOLD_AFFINE
from trtkit.graph.passes.attention import MERGE_ATTENTION_SCALE
from trtkit.graph.passes.batch import fix_batch
from trtkit.graph.passes.batchnorm import FOLD_BATCHNORM
from trtkit.graph.passes.embed import parse_embed_preprocess
from trtkit.graph.passes.fold import FOLD_CONSTANTS
from trtkit.graph.passes.head import embed_sigmoid, embed_softmax, embed_topk
from trtkit.graph.passes.integers import INT64_TO_INT32
from trtkit.graph.passes.layernorm import FUSE_LAYERNORM
from trtkit.graph.passes.masks import REMOVE_EMPTY_MASKS
from trtkit.graph.passes.merge import MERGE_INITIALIZERS
from trtkit.graph.passes.noop import REMOVE_DROPOUT, REMOVE_IDENTITIES, REMOVE_NOOPS
from trtkit.graph.passes.opset import raise_opset
from trtkit.graph.passes.pad import FOLD_PAD
from trtkit.graph.passes.pool import FUSE_GLOBAL_POOL
from trtkit.graph.passes.split import SPLIT_LAYERNORM
from trtkit.graph.passes.subgraph import drop_outputs, extract
from trtkit.graph.passes.transpose import UNFLATTEN_TRANSPOSES
from trtkit.graph.rule import Pass

__all__ = ["PASSES", "PassEntry", "parse_pass"]


@dataclass(frozen=True)
class PassEntry:
    """One row of the table of passes.

    Attributes:
        name: Without argument.
        description: One line for people.
        make: Argument -> pass; "" stands for none.
        argument: What the argument is, such as "N"; "" where there is none, "[NAME]" where it may be left out.
    """

    name: str
    description: str
    make: Callable[[str], Pass]
    argument: str = ""

    @property
    def spelling(self) -> str:
        """How recipes and the command line write it."""
        return f"{self.name}:{self.argument}" if self.argument else self.name


def _plain(step: Pass) -> PassEntry:
    return PassEntry(step.name, step.description, lambda argument: step)


_ENTRIES = (
    PassEntry("raise-opset", "Convert a model of an older opset to N", raise_opset, "N"),
    *map(_plain, (FOLD_CONSTANTS, REMOVE_IDENTITIES, REMOVE_DROPOUT, REMOVE_EMPTY_MASKS, UNFLATTEN_TRANSPOSES,
                  REMOVE_NOOPS, FOLD_BATCHNORM, FOLD_PAD, FUSE_LAYERNORM, SPLIT_LAYERNORM, FUSE_GELU, FUSE_HARDSWISH,
                  FUSE_SILU, FUSE_GLOBAL_POOL, FOLD_AFFINE, MERGE_ATTENTION_SCALE, MERGE_INITIALIZERS,
                  INT64_TO_INT32)),
    PassEntry("fix-batch", "Set the dynamic batch to a size", fix_batch, "N"),
    PassEntry("embed-preprocess", "Take uint8 images: scale, mean, std, colour order and layout go into the graph",
              parse_embed_preprocess, "FILE.toml[,nhwc]"),
    PassEntry("embed-sigmoid", "End an output with Sigmoid", embed_sigmoid, "[OUTPUT]"),
    PassEntry("embed-softmax", "End an output with Softmax", embed_softmax, "[OUTPUT]"),
    PassEntry("embed-topk", "Replace an output by its K best values and their indices", embed_topk, "K[,OUTPUT]"),
    PassEntry("extract", "Keep what lies between the named tensors", extract, "IN,...->OUT,..."),
    PassEntry("drop-outputs", "Remove outputs and what only they need", drop_outputs, "OUTPUT,..."),
)

PASSES: Mapping[str, PassEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every pass by its name without argument, in the order in which presets would run them."""


def parse_pass(text: str) -> Pass:
    """Return the pass that "name" or "name:argument" stands for.

    Raises:
        SpecError: There is no such pass, or its argument is missing, unwanted or not usable.
    """
    name, _, argument = text.partition(":")
    entry = PASSES.get(name)
    if entry is None:
        raise SpecError(f"Pass '{name}' is unknown. There are: {', '.join(PASSES)}")
    if argument and not entry.argument:
        raise SpecError(f"Pass '{name}' takes no argument, got '{argument}'. Write {entry.spelling}")
    if not argument and entry.argument and not entry.argument.startswith("["):
        raise SpecError(f"Pass '{name}' needs an argument. Write {entry.spelling}")
    return entry.make(argument)

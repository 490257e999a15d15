"""A module -> its weights: the parameters that multiply, each with the module that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from trtkit.errors import SpecError
from trtkit.precision import NodeSelector

__all__ = ["COMPUTED", "CONVOLUTIONS", "Weight", "computed_weights", "spared_modules", "weights_of"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

COMPUTED = "its weight is computed from other parameters. Take that out first (remove_parametrizations, or " \
           "remove_weight_norm)"


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter that multiplies.

    Attributes:
        name: Of the parameter, such as "layer1.0.conv1.weight".
        layer: Name of the module that reads it.
        module: That module: a convolution, nn.Linear or nn.MultiheadAttention (whose projections lie in one parameter).
        tensor: The parameter itself.
        tied: What else reads it and is no weighted layer, such as "Embedding"; "" when nothing does.
    """

    name: str
    layer: str
    module: nn.Module
    tensor: nn.Parameter
    tied: str = ""


def weights_of(module: nn.Module, spare: NodeSelector | None = None) -> list[Weight]:
    """Return the weights of a module in its own order; a shared one once.

    Args:
        module: Any module.
        spare: Modules to leave out, by name or class name; what lies inside a chosen module is left out, too.

    Raises:
        SpecError: A pattern of `spare` matches no module, or the module has no weights.
    """
    spared = spared_modules(module, spare)
    readers: dict[int, set[str]] = {}
    for each in module.modules():
        if not isinstance(each, (nn.Linear, *CONVOLUTIONS, nn.MultiheadAttention)):
            for parameter in each.parameters(recurse=False):
                readers.setdefault(id(parameter), set()).add(type(each).__name__)
    found: dict[int, Weight] = {}
    for layer, each in module.named_modules():
        for name, parameter in _own_weights(each):
            if id(parameter) not in found and parameter.is_floating_point():
                tied = ", ".join(sorted(readers.get(id(parameter), ())))
                found[id(parameter)] = Weight(f"{layer}.{name}" if layer else name, layer, each, parameter, tied)
    if not found:
        raise SpecError(f"The module, a {type(module).__name__}, has no convolution, Linear or MultiheadAttention "
                        "with weights of its own. Give the torch module before quantization or scripting")
    return [weight for weight in found.values() if weight.layer not in spared]


def computed_weights(module: nn.Module) -> list[str]:
    """Return the layers whose weight is no parameter but made of others, such as by weight_norm."""
    return [name for name, each in module.named_modules() if isinstance(each, (nn.Linear, *CONVOLUTIONS))
            and not isinstance(each.weight, nn.Parameter)]


def _own_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        names: tuple[str, ...] = ("weight",)
    elif isinstance(module, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    else:
        return
    for name in names:
        parameter = getattr(module, name, None)
        if isinstance(parameter, nn.Parameter):
            yield name, parameter


def spared_modules(module: nn.Module, spare: NodeSelector | None) -> set[str]:
    """Return the names of the modules that a selector chooses, with all inside them.

    Raises:
        SpecError: A pattern matches no module.
    """
    if spare is None:
        return set()
    named = [(name, type(each).__name__) for name, each in module.named_modules() if name]
    chosen = spare.select(named)
    return {name for name, _ in named if any(name == one or name.startswith(f"{one}.") for one in chosen)}

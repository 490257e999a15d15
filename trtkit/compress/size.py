"""A module and an example -> how much it computes and how much it weighs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trtkit.export.adapter import Adapter, evaluating
from trtkit.export.inputs import Example, named_inputs
from trtkit.export.options import ExportOptions

__all__ = ["ModuleSize", "count", "parameters_of"]


@dataclass(frozen=True)
class ModuleSize:
    """What a module costs, whatever runs it.

    Attributes:
        macs: Multiply-accumulates of one forward of the example: convolutions, matrix products and attention.
        parameters: Values in its parameters; shared ones count once.
        bytes: Of its parameters and saved buffers, as they are in memory: about the size of the file of weights.
    """

    macs: int
    parameters: int
    bytes: int


def count(module: torch.nn.Module, example: Example) -> ModuleSize:
    """Return what `module` costs for one forward of `example`.

    Args:
        module: Run once in evaluation mode, and left as it was.
        example: As export_onnx takes it. Give a batch of 1: MACs grow with the batch.

    Raises:
        SpecError: The example does not fit the module's inputs.

    Source: torch.utils.flop_counter, which counts two operations for each multiply-accumulate.
    """
    inputs = named_inputs(module, example, ExportOptions(batch=None))
    adapter = Adapter(module, inputs.names if inputs.by_keyword else None)
    counter = FlopCounterMode(display=False)
    with evaluating(adapter), _attention_as_products(), counter:
        adapter.call(*(tensor.to(adapter.device) for tensor in inputs.tensors))
    stored = {tensor.data_ptr(): tensor for tensor in module.state_dict().values()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    return ModuleSize(int(counter.get_total_flops()) // 2, parameters_of(module), size)


def parameters_of(module: torch.nn.Module) -> int:
    """Return how many values the parameters of `module` hold; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _attention_as_products() -> Iterator[None]:
    """Have attention computed by matrix products, which are counted; its fused kernels on the CPU are not."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)

"""A parsed network + the options -> whether to try 2:4 sparse kernels; numpy is enough, so boards decide it as well.

TensorRT times the sparse kernels beside the dense ones when it builds, and says which it took (`Plan.sparsity`).
TensorRT-RTX 1.7 takes the flag, says nothing, and writes the same plan with it as without: it chooses kernels on the
GPU, when the plan is loaded. No speed was measured here on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trtkit.build.flavour import Flavour
from trtkit.build.options import BuildOptions
from trtkit.tensors import Array

__all__ = ["wants_sparse_kernels"]

_FIRST_SM = (8, 0)
"""Ampere: the first with sparse tensor cores, Orin's DLA included."""


def wants_sparse_kernels(flavour: Flavour, network: Any, options: BuildOptions) -> bool:
    """Return what `options.sparse_weights` says; where it leaves that open, whether it can pay.

    It can where some weights are 2:4 sparse (TensorRT developer guide, "Sparsity") and the GPU is not known to be older
    than Ampere. TensorRT then tries the sparse kernels of these layers beside the dense ones, and takes the faster.
    """
    if options.sparse_weights is not None:
        return options.sparse_weights
    known = options.compute_capabilities or filter(None, (options.sm,))
    capabilities = [tuple(map(int, sm.split("."))) for sm in known]
    if capabilities and max(capabilities) < _FIRST_SM:
        return False
    return any(_is_two_four(channels_last) for weights in _weights(flavour, network) for channels_last in weights)


def _weights(flavour: Flavour, network: Any) -> Iterator[list[Array]]:
    """Yield each layer's weights, what may be the input channels as the last axis."""
    kinds = flavour.trt.LayerType
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type == kinds.CONVOLUTION:
            yield _kernel(flavour, layer)
        elif layer.type == kinds.CONSTANT:
            yield _factor(flavour, layer)


def _kernel(flavour: Flavour, convolution: Any) -> list[Array]:
    convolution.__class__ = flavour.trt.IConvolutionLayer
    kernel = convolution.kernel
    if convolution.num_groups > 1 or not isinstance(kernel, np.ndarray) or not kernel.size:
        return []
    places = int(np.prod(tuple(convolution.kernel_size_nd)))
    return [np.moveaxis(kernel.reshape(convolution.num_output_maps, -1, places), 1, -1)]


def _factor(flavour: Flavour, constant: Any) -> list[Array]:
    """Return the factor of a matrix product, or the kernel of a convolution behind a DequantizeLinear."""
    constant.__class__ = flavour.trt.IConstantLayer
    weights, shape = constant.weights, tuple(constant.shape)
    if len(shape) < 2 or not isinstance(weights, np.ndarray):  # numpy knows no BF16, FP8 or INT4
        return []
    return [np.moveaxis(weights.reshape(shape), axis, -1) for axis in ((1,) if len(shape) > 3 else (-1, -2))]


def _is_two_four(channels_last: Array) -> bool:
    if channels_last.shape[-1] % 4 or not channels_last.any():
        return False
    return int(np.count_nonzero(channels_last.reshape(-1, 4), axis=1).max()) <= 2

"""Rules for zeros in weights: which of them a target can use, and which it multiplies by like anything else."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from trtkit.findings import Finding
from trtkit.quant.audit.subject import Subject

__all__ = ["SPARSITY"]

_FIRST_SM = (8, 0)
_MANY_ZEROS = 0.45
"""Share of zeros that no rounding to INT8 or INT4 makes, but pruning by half does."""
_NEARLY = 0.05
"""Share of dense fours up to which a layer was meant to be 2:4 sparse."""
_CHANNELS = "For speed take channels out instead: trtkit prune"


def unused_sparsity(subject: Subject) -> Iterator[Finding]:
    """Sparse tensor cores came with Ampere; CPUs have no sparse kernels."""
    target = subject.target
    if target.is_tensorrt and not (target.sm and tuple(map(int, target.sm.split("."))) < _FIRST_SM):
        return
    why = f"came with SM 8.0, and '{target.name}' is SM {target.sm}" if target.is_tensorrt else "are not for CPUs"
    yield from subject.warn("2:4 unused", [layer.name for layer in subject.sparsity if layer.is_two_four],
                            f"Layers are 2:4 sparse; sparse kernels {why}: the zeros give no speed", _CHANNELS)


def narrow_sparsity(subject: Subject) -> Iterator[Finding]:
    """Below 256 channels sparse kernels are seldom the faster ones (NVIDIA/TensorRT#3849, #4065, #2310)."""
    if subject.target.is_tensorrt:
        names = [layer.name for layer in subject.sparsity if layer.is_two_four and not layer.is_wide]
        yield from subject.warn("2:4 narrow", names, "2:4 sparse layers have fewer than 256 input or output channels: "
                                "TensorRT seldom finds a sparse kernel faster there", "Leave them dense, which is more "
                                "accurate: spare them in trtkit prune")


def broken_sparsity(subject: Subject) -> Iterator[Finding]:
    """One dense four in a layer is enough to lose its sparse kernel."""
    if subject.target.is_tensorrt:
        names = [layer.name for layer in subject.sparsity
                 if layer.is_eligible and layer.zeros >= _MANY_ZEROS and 0 < layer.dense_fours <= _NEARLY]
        yield from subject.warn("2:4 broken", names, "Layers are nearly 2:4 sparse: a few fours of input channels have "
                                "more than two weights that are not 0, and TensorRT takes them for dense",
                                "Apply the masks after the last optimizer step and export again")


def sparse_floats(subject: Subject) -> Iterator[Finding]:
    """TensorRT's sparse kernels are FP16 and INT8 ones (developer guide, "Sparsity")."""
    if not subject.target.is_tensorrt or subject.target.typing == "weak":
        return
    sparse = {layer.name for layer in subject.sparsity if layer.is_two_four}
    names = []
    for layer in subject.layers:
        weight = subject.floats.initializers.get(layer.node.input[1])
        if (layer.name in sparse and not layer.in_integers and weight is not None
                and weight.data_type == onnx.TensorProto.FLOAT):
            names.append(layer.name)
    yield from subject.warn("2:4 in FP32", names, "2:4 sparse layers run in FP32; TensorRT's sparse kernels are FP16 "
                            "and INT8", "Lower the model: trtkit quantize --precision fp16 or int8")


def scattered_zeros(subject: Subject) -> Iterator[Finding]:
    """Dense kernels multiply by zeros."""
    names = [layer.name for layer in subject.sparsity if layer.zeros >= _MANY_ZEROS
             and not (layer.is_two_four or (layer.is_eligible and layer.dense_fours <= _NEARLY))]
    yield from subject.warn("scattered zeros", names, "About half of the weights or more are 0, in no pattern that a "
                            "kernel uses: they give no speed", _CHANNELS + ", or make it 2:4 sparse")


SPARSITY = (unused_sparsity, narrow_sparsity, broken_sparsity, sparse_floats, scattered_zeros)

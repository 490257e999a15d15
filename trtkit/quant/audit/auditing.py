"""A quantized model + a target -> why it is not faster there, or wrong; no GPU is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import onnx

from trtkit.errors import BuildError, SpecError
from trtkit.findings import Finding, Severity
from trtkit.graph.model import model_bytes, model_inputs
from trtkit.graph.run import random_feeds
from trtkit.precision import Precision
from trtkit.quant.audit.onnxruntime import ONNXRUNTIME
from trtkit.quant.audit.refused import PACKED, TENSORRT_REFUSES
from trtkit.quant.audit.sparsity import SPARSITY
from trtkit.quant.audit.subject import Subject, examine
from trtkit.quant.audit.unfused import TENSORRT_SLOWS
from trtkit.target import Target
from trtkit.tensors import ShapeProfile

__all__ = ["AuditReport", "audit_quantization", "confirm_build"]

_NODE = re.compile(r"node \d+ '([^']+)'")
"""How trtkit.build names the node of a parser error."""


@dataclass(frozen=True)
class AuditReport:
    """What was found.

    Attributes:
        target: Name of the target.
        findings: Errors first, then by the share of the multiply-accumulates that they concern.
        layers: Weighted layers (Conv, ConvTranspose, Gemm, MatMul) of the main graph.
        integer_layers: Those that run in 8 bits: on ONNX Runtime read back from the optimized graph, on TensorRT those
            whose input and weights are quantized.
        integer_share: Their share of the multiply-accumulates, 0 to 1.
        number_format: "INT8", or "FP8".
        eligible_layers: Layers that TensorRT has 2:4 sparse kernels for; 0 where the target is none of TensorRT's.
        wide_layers: Those of them with at least 256 input and output channels, from where it tends to pay.
        sparse_layers: Those of them that are 2:4 sparse.
    """

    target: str
    findings: tuple[Finding, ...]
    layers: int
    integer_layers: int
    integer_share: float
    number_format: str = "INT8"
    eligible_layers: int = 0
    wide_layers: int = 0
    sparse_layers: int = 0

    @property
    def fits(self) -> bool:
        """Whether the target takes the model and computes its numbers."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    @property
    def summary(self) -> str:
        """The layers in 8 bits, in one line."""
        verb = "run" if self.fits else "would run"
        return (f"{self.integer_layers} of {self.layers} layers {verb} in {self.number_format} "
                f"({self.integer_share:.0%} of the multiply-accumulates)"
                + ("" if self.fits else f", but '{self.target}' refuses the model or computes other numbers"))

    @property
    def sparsity(self) -> str:
        """The layers that are 2:4 sparse or could be, in one line; "" where there are none."""
        if not self.eligible_layers:
            return ""
        advice = "" if self.wide_layers else ": sparse kernels would hardly pay"
        return (f"{self.sparse_layers} of {self.eligible_layers} layers that can be 2:4 sparse are; "
                f"{self.wide_layers} have at least 256 input and output channels{advice}")


def audit_quantization(model: onnx.ModelProto, target: Target) -> AuditReport:
    """Return why a model is not faster on a target than in FP32, or wrong there.

    Args:
        model: Any ONNX model, whoever quantized it, from load_quantized; nodes in topological order.
        target: Where it is to run. For ONNX Runtime the model is loaded, and what it became is read back.

    Raises:
        GraphError: It holds a form of quantization that is not known.
    """
    subject = examine(model, target)
    rules = (*((*TENSORRT_REFUSES, *TENSORRT_SLOWS) if target.is_tensorrt else ONNXRUNTIME), *SPARSITY)
    findings = [finding for rule in rules for finding in rule(subject)]
    packed = any(node.op_type in PACKED for node in subject.index.nodes)
    if not (subject.quantizers or subject.lifted.integer_ops or packed):
        findings.append(Finding(Severity.WARNING, (), "The model is not quantized",
                                "Calibrate and quantize it: trtkit calibrate, then trtkit quantize", 1.0, "float"))
    return _report(subject, findings)


def _profiles(model: onnx.ModelProto) -> tuple[ShapeProfile, ...]:
    """Return one profile of the sizes of random feeds when sizes are dynamic, else none."""
    if all(isinstance(size, int) for spec in model_inputs(model) for size in spec.shape):
        return ()
    shapes = {name: array.shape for name, array in random_feeds(model).items()}
    return (ShapeProfile(shapes, shapes, shapes),)


def _report(subject: Subject, findings: list[Finding]) -> AuditReport:
    integer = [layer.name for layer in subject.layers if layer.in_integers]
    floats = any(step.dtype.startswith("float8") for _, step in subject.quantizers)
    eligible = [layer for layer in subject.sparsity if layer.is_eligible and subject.target.is_tensorrt]
    return AuditReport(subject.target.name, _ordered(findings), len(subject.layers), len(integer),
                       subject.share(integer), "FP8" if floats else "INT8", len(eligible),
                       sum(layer.is_wide for layer in eligible), sum(layer.is_two_four for layer in eligible))


def _ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda each: (each.severity is not Severity.ERROR, -each.share)))


def confirm_build(report: AuditReport, model: onnx.ModelProto, target: Target) -> AuditReport:
    """Return the report with what the TensorRT of this machine says to the model, which it parses and builds.

    Args:
        report: Of this model and target.
        model: The model.
        target: A TensorRT target.

    Raises:
        SpecError: The target runs no TensorRT.
        MissingDependencyError: TensorRT is not installed.
    """
    from trtkit.build import BuildOptions, build_plan

    if not target.is_tensorrt:
        raise SpecError(f"Target '{target.name}' runs {target.runtime}: there is nothing to build. "
                        "Choose a TensorRT target, such as rtx")
    options = BuildOptions(flavour="tensorrt_rtx", precision=Precision.INT8, profiles=_profiles(model))
    try:
        build_plan(model_bytes(model), options)
    except BuildError as err:
        refusal = Finding(Severity.ERROR, tuple(dict.fromkeys(_NODE.findall(str(err)))), str(err),
                          "See the findings on its nodes; --fix repairs most", 1.0, "build")
        return replace(report, findings=_ordered([*report.findings, refusal]))
    return report

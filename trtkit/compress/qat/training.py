"""FP32 ONNX + calibration + target -> the same model trained on that target's integer grids, and a table of them.

    trained = train_quantized(model, table, target, loader, step)
    lower(trained.model, target, precision, table=trained.table)      has the trained scales to the bit

What is trained is what is built: the graph is the one that the lowering quantizes (after the target's preset), the
places and the grids come from the lowering's own plan, and the scales go back into the calibration table, where the
lowering finds them. Tools that quantize a torch module (torch.ao, ModelOpt) place their fake quantizers by module, and
what they export has to be taken as it is: no zero points for TensorRT, none of the integer biases and fused
activations of ONNX Runtime, and a model whose quantized form differs between the targets is trained for none of them.

What still differs between training and the target: integer kernels of ONNX Runtime sum exactly and requantize in one
multiplication, torch sums in float32 and divides, so that a value near the middle between two steps may fall on the
other side; and between the quantized layers INT8 with FP16 computes in float16, training in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from trtkit.compress.pruning.masks import Masks
from trtkit.compress.qat.blocks import quantize_blocks_in
from trtkit.compress.qat.places import fake_quantize, with_corrected_biases
from trtkit.compress.qat.spec import Scales
from trtkit.compress.qat.torch_graph import TorchGraph
from trtkit.compress.training.loop import Fit, fit
from trtkit.compress.training.spec import Evaluate, Loader, LossStep, TrainSpec
from trtkit.errors import CalibrationError, SpecError
from trtkit.graph import fingerprint
from trtkit.graph.shapes import without_initializers
from trtkit.precision import Precision, QuantSpec
from trtkit.progress import Progress, silent
from trtkit.quant.index import as_tensor
from trtkit.quant.placement import get_placement
from trtkit.quant.ready import ready_for, rescale, static_subject
from trtkit.quant.static.plan import QuantizationPlan, plan_quantization
from trtkit.ranges import CalibrationTable
from trtkit.ranges.learned import LearnedScales, WeightKey
from trtkit.target import Target
from trtkit.tensors import Array

__all__ = ["QuantizationTrained", "train_quantized"]

_DEFAULT, _TRAIN = QuantSpec(), TrainSpec(learning_rate=1e-4)


@dataclass(frozen=True)
class QuantizationTrained:
    """A model trained on integer grids.

    Attributes:
        model: FP32, with the trained weights and biases; those of INT4 layers lie on their grids.
        table: The calibration with the trained scales; it belongs to `model`. None where none was given for INT4.
        fit: How the training went; its scores are those of the fake-quantized model.
    """

    model: onnx.ModelProto
    table: CalibrationTable | None
    fit: Fit


def train_quantized(model: onnx.ModelProto, table: CalibrationTable | None, target: Target, loader: Loader,
                    step: LossStep, *, precision: Precision | None = None, spec: QuantSpec = _DEFAULT,
                    train: TrainSpec = _TRAIN, scales: Scales = Scales.LEARNED, keep_zeros: bool = False,
                    folder: Path | None = None, evaluate: Evaluate | None = None,
                    progress: Progress = silent) -> QuantizationTrained:
    """Train a model with fake quantization where a target's lowering puts Q/DQ, starting from the scales of PTQ.

    BatchNormalization that can be folded is, before; equalization and smoothing are worked in before, too, and a
    lowering does not repeat them. Layers that `spec` keeps stay in float in training as well. Quantize the result with
    the same spec, target and precision; for another target its table gives the learned ranges on that target's grids.

    Args:
        model: FP32, as for `lower`; it stays as it is.
        table: Its calibration, or the table of an earlier training of it, which goes on; INT4 needs none.
        target: Where it will run.
        loader: Batches of one epoch each time it is iterated.
        step: (module, batch) -> loss. The module takes the graph's inputs in their order.
        precision: INT8, INT8_FP16 or INT4 (weights alone, on the grids that just span their blocks); None: what the
            target usually has.
        spec: How it is quantized.
        train: How it is trained; a tenth of the learning rate of the first training, or less, is usual.
        scales: Learned or fixed; those of INT4 follow the weights.
        keep_zeros: Weights that are 0 stay 0, so that a model that was made sparse stays so.
        folder: For checkpoints and the log; a run that was stopped goes on from there.
        evaluate: Scores the fake-quantized module after each epoch.
        progress: Told of the batches.

    Raises:
        SpecError: The precision has no integer grids that could be trained, or the target does not have it; nothing
            in the model is quantized.
        CalibrationError: There is no table, or it is of another model, or lacks tensors.
        GraphError: An operator has no form in torch.
        TrainingError: The loader, the loss or the folder does not fit.
    """
    precision = precision or target.usual_precision
    target.check(precision)
    if precision not in (Precision.INT8, Precision.INT8_FP16, Precision.INT4):
        raise SpecError(f"Quantization-aware training for {precision.value} is not there; it needs integer grids that "
                        "are fixed before the model runs. Give precision int8, int8+fp16 or int4")
    if table is not None:
        table.check(model=fingerprint(model))
    ready = ready_for(model, target)
    how = _How(target, precision, spec)
    identity = (f"{fingerprint(ready)} {target.placement} {precision.value} {spec} {scales.value}"
                f"{' zeros kept' if keep_zeros else ''}")
    fitted = partial(fit, loader=loader, step=step, spec=train, folder=folder, evaluate=evaluate, progress=progress,
                     identity=identity)

    def run(module: nn.Module) -> Fit:
        return fitted(module, after_step=_zeros(module).apply if keep_zeros else None)

    if precision is Precision.INT4:
        return _train_blocks(ready, table, how, run)
    if table is None:
        raise CalibrationError(f"Training for {precision.value} starts from a calibration, and there is no table. "
                               "Run: trtkit calibrate MODEL --data DIR -o TABLE")
    return _train_static(*rescale(ready, table, spec)[:2], how, scales, run)


def _train_static(ready: onnx.ModelProto, table: CalibrationTable, how: _How, scales: Scales,
                  run: Callable[[nn.Module], Fit]) -> QuantizationTrained:
    """Train activations and weights on INT8 grids."""
    ready = with_corrected_biases(ready, how.plan(ready, table)[1])
    subject, plan = how.plan(ready, table)
    quantized = fake_quantize(plan, subject, scales=scales, half=how.precision is Precision.INT8_FP16,
                              follow=how.target.typing == "weak")
    if not quantized.weights:
        raise SpecError(f"Nothing in this model is quantized for target '{how.target.name}' in {how.precision.value}, "
                        "so there are no grids to train on. Keep fewer nodes, or take another precision")
    done = run(quantized.module)
    trained = _with_weights(ready, quantized.module, {})
    learned = replace(table, model=fingerprint(trained), learned=quantized.learned())
    return QuantizationTrained(trained, _as_planned(learned, how.plan(trained, learned)[1]), done)


def _train_blocks(ready: onnx.ModelProto, table: CalibrationTable | None, how: _How,
                  run: Callable[[nn.Module], Fit]) -> QuantizationTrained:
    """Train weights on INT4 grids of blocks."""
    quantized = quantize_blocks_in(ready, how.target, how.spec)
    done = run(quantized.module)
    trained = _with_weights(ready, quantized.module, quantized.weights())
    return QuantizationTrained(trained, table and replace(table, model=fingerprint(trained)), done)


def _zeros(module: nn.Module) -> Masks:
    """Return what keeps the zeros in the weights of a graph."""
    weights = {name: weight.detach() for name, weight in module.named_parameters() if weight.ndim > 1}
    return Masks({name: weight != 0 for name, weight in weights.items() if not bool(weight.all())})


@dataclass(frozen=True)
class _How:
    """What a model is lowered to, as `lower` takes it."""

    target: Target
    precision: Precision
    spec: QuantSpec

    def plan(self, ready: onnx.ModelProto, table: CalibrationTable) -> tuple[onnx.ModelProto, QuantizationPlan]:
        """Return the very graph that is quantized, and how."""
        subject, spec = static_subject(ready, self.target, self.precision, self.spec)
        return subject, plan_quantization(subject, table, get_placement(self.target.placement), spec)


def _as_planned(table: CalibrationTable, plan: QuantizationPlan) -> CalibrationTable:
    """Return the table with the weight scales that a plan makes of it: an INT32 bias may need coarser ones."""
    weights: dict[WeightKey, LearnedScales] = {}
    for weight in plan.points.weights:
        key = (weight.node.input[weight.position], weight.axis)
        scale = plan.quantized(weight).scale
        scale = np.maximum(scale, weights[key].scale) if key in weights else scale
        weights[key] = LearnedScales(scale, plan.placement.weight_max)
    return replace(table, learned=replace(table.learned, weights=weights))


def _with_weights(model: onnx.ModelProto, module: TorchGraph, others: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a copy of a model with the weights of its trained form, and these instead where they are given."""
    trained = {tensor.name: tensor for tensor in module.to_onnx().graph.initializer}
    trained.update((name, as_tensor(name, value)) for name, value in others.items())
    made = without_initializers(model)
    made.graph.initializer.extend(trained.get(tensor.name, tensor) for tensor in model.graph.initializer)
    return made

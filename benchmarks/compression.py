"""Pruned, sparse, distilled, trained for INT8: what each makes of one tagger, and what all of them make together.

    python benchmarks/compression.py --sprites emoji.npz [--parts students halving pruning sparsity qat combination]
                                     [--cache FOLDER] [--json out.json]

The task is the multi-label tagging of emoji scenes (benchmarks/emoji.py): 114 tags, mAP on 4000 new scenes of the
vendors that are trained on, and on 2000 of a vendor that no model has seen (style). It is the kind of model that this
SDK is for, a tagger, its pictures come without limit, and a teacher takes minutes. All is trained here, from fixed
seeds; CACHE keeps finished trainings, so that parts can be run one by one. The teacher is a ResNet of 1.26 million
parameters, trained for 24 epochs of 16,000 scenes; what is pruned gets 3 epochs in all (22 where it says so, 8 for the
combination, which has 2 of QAT besides), taught by the teacher; the control row gets 3. Latencies are of ONNX Runtime
at batch 1 with 1 thread, in turns with the teacher in FP32.

Claims: half of the MACs pruned: at most 1.0 point lost, at least 1.5 times as fast; distilled: 1.5 points above the
same student without a teacher; QAT: at most half of what PTQ loses wherever that is more than 0.5 point; the
combination: a sixth of the size, 3 times as fast, within 1.5 points.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import emoji
import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from trtkit.build import build_plan
from trtkit.calib import calibrate, open_data
from trtkit.compress import (
    DistillSpec,
    Goal,
    Hint,
    Method,
    PruneSpec,
    Schedule,
    TrainSpec,
    count,
    distill,
    fit,
    prune,
    step_for,
    train_quantized,
)
from trtkit.errors import TrtkitError
from trtkit.export import export_onnx
from trtkit.graph import model_bytes, model_inputs, preset, rewrite
from trtkit.metrics import mean_average_precision
from trtkit.precision import NodeSelector, Precision, QuantSpec
from trtkit.quant import lower
from trtkit.ranges import CalibrationTable
from trtkit.runtime import OrtSession, paired, probe_device
from trtkit.target import Target, get_target, load_targets

EPOCH, BATCH, CALIBRATION = 16_000, 64, 512
POOL, TEST, STYLE = 64_000, 4_000, 2_000
TEACHER_WIDTH, STUDENT_WIDTH = 32, 16
TAUGHT = DistillSpec(logits=0, tags=1, hints=tuple(Hint(stage, stage, 8.0) for stage in "2345"))
THREADS = 1
FINE_EPOCHS, LONG_EPOCHS, FINE_RATE = 3, 22, 3e-3
COMBINATION = "38% of the parameters pruned, distilled, QAT"
EXAMPLE = torch.zeros(1, 3, emoji.SIDE, emoji.SIDE)


@dataclass
class Row:
    """One model: mAP and style are shares of 1, bytes are of its ONNX, speed-ups are over the teacher in FP32."""

    name: str
    part: str
    mAP: float
    style: float
    parameters: int
    macs: int
    bytes_fp32: int
    bytes_int8: int
    mAP_int8: float
    speedup_fp32: float
    speedup_int8: float
    ms_fp32: float
    ms_int8: float
    builds: bool
    seconds: float = 0.0


class Scenes:
    """A loader: 16,000 scenes an epoch out of a fixed pool, others each epoch, every second batch mirrored."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.inputs, self.labels, self.epoch = inputs, labels, 0

    def __len__(self) -> int:
        return EPOCH // BATCH

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng([5, self.epoch])
        for number, rows in enumerate(rng.permutation(len(self.inputs))[:EPOCH].reshape(-1, BATCH)):
            inputs = unpacked(self.inputs[rows])
            yield inputs.flip(3) if number % 2 else inputs, self.labels[rows].float()


def unpacked(scenes: torch.Tensor) -> torch.Tensor:
    """Return uint8 scenes as the network takes them: float32 from -1 to 1."""
    return (scenes.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _made(job: tuple[Path, str, int, int]) -> tuple[np.ndarray, np.ndarray]:
    archive, split, number, size = job
    inputs, labels = emoji.scenes(archive, split, size, epoch=number)
    return np.round((inputs + 1) * 127.5).astype(np.uint8), labels.astype(bool)


def scenes(archive: Path, cache: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return uint8 scenes and labels by split, made on first use."""
    file = cache / "scenes.npz"
    if not file.exists():
        size = 2_000
        jobs = [(archive, split, 100 + number, min(size, wanted))
                for split, wanted in (("train", POOL), ("test", TEST), ("style", STYLE), ("calibration", CALIBRATION))
                for number in range(-(-wanted // size))]
        with ProcessPoolExecutor(2) as pool:
            parts = list(pool.map(_made, jobs))
        arrays = {f"{split}_{kind}": np.concatenate([part[place] for job, part in zip(jobs, parts) if job[1] == split])
                  for split in emoji.SEEDS for place, kind in enumerate(("inputs", "labels"))}
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file.with_suffix(".part.npz"), **arrays)
        file.with_suffix(".part.npz").replace(file)
    with np.load(file, allow_pickle=False) as data:
        return {split: (torch.from_numpy(data[f"{split}_inputs"]), torch.from_numpy(data[f"{split}_labels"]))
                for split in emoji.SEEDS}


class Bench:
    """The data, the teacher, and a row for each model."""

    def __init__(self, archive: Path, cache: Path) -> None:
        self.cache, self.console = cache, Console(width=150)
        self.data = scenes(archive, cache)
        self.loader = Scenes(*self.data["train"])
        device = probe_device()
        self.target = next(each for each in load_targets().values()
                           if each.runs_on(device.machine, device.cpu_flags))
        self.rows: list[Row] = []
        self.qat_rows: list[dict[str, Any]] = []
        self.started = time.perf_counter()

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher, trained on first use."""
        return self.trained("teacher", network(TEACHER_WIDTH), TrainSpec(24, 4e-3, schedule=Schedule.ONECYCLE))

    @cached_property
    def reference(self) -> tuple[Row, OrtSession]:
        """The teacher's own row and session."""
        model = self.exported(self.teacher)
        session = OrtSession(model_bytes(model), threads=THREADS)
        return self.judged("teacher", "teacher", self.teacher, session), session

    def trained(self, name: str, module: nn.Module, spec: TrainSpec,
                after_step: Callable[[nn.Module], None] | None = None) -> nn.Module:
        """Return a module trained on true tags."""
        fit(module, self.loader, step_for("bce"), spec, folder=self.cache / name, after_step=after_step)
        return module.eval()

    def exported(self, module: nn.Module) -> onnx.ModelProto:
        """Return the ONNX for this machine, rewritten."""
        plain = copy.deepcopy(module).to(memory_format=torch.contiguous_format).eval()
        model = onnx.load_from_string(export_onnx(plain, {"input": EXAMPLE}).read())
        return rewrite(model, preset(self.target)).model

    def calibrated(self, model: onnx.ModelProto) -> CalibrationTable:
        """Return the table of the calibration scenes."""
        inputs = list(unpacked(self.data["calibration"][0]).contiguous().numpy()[:, None])
        return calibrate(model, open_data(inputs, input=model_inputs(model)[0]))

    def score(self, session: OrtSession, split: str = "test") -> float:
        """Return the mAP on a split."""
        inputs, labels = self.data[split]
        name = session.outputs[0].name
        logits = [session.run({"input": unpacked(part).contiguous().numpy()})[name] for part in inputs.split(250)]
        return mean_average_precision(np.concatenate(logits), labels.numpy())

    def add(self, name: str, part: str, module: nn.Module, *,
            quantized: tuple[onnx.ModelProto, CalibrationTable] | None = None) -> Row:
        """Judge a module, beside the teacher, and keep its row."""
        teacher, session = self.reference
        if teacher not in self.rows:
            self.rows.append(teacher)
        row = self.judged(name, part, module, session, quantized)
        self.rows.append(row)
        return row

    def judged(self, name: str, part: str, module: nn.Module, reference: OrtSession,
               quantized: tuple[onnx.ModelProto, CalibrationTable] | None = None) -> Row:
        """Return the row of a module; `quantized` replaces its own ONNX and table where QAT made them."""
        model = quantized[0] if quantized else self.exported(module)
        table = quantized[1] if quantized else self.calibrated(model)
        integers = lower(model, self.target, Precision.INT8, table=table).model
        fp32, int8 = OrtSession(model_bytes(model), threads=THREADS), OrtSession(integers, threads=THREADS)
        feeds = {"input": EXAMPLE.numpy()}
        slow, fast = (paired(reference, each, feeds, seconds=4.0) for each in (fp32, int8))
        size = count(module, EXAMPLE)
        row = Row(name, part, self.score(fp32), self.score(fp32, "style"), size.parameters, size.macs,
                  len(model_bytes(model)), len(integers), self.score(int8), slow.ratio, fast.ratio, slow.b_ms,
                  fast.b_ms, self.builds(model, table), time.perf_counter() - self.started)
        self.console.print(f"{row.seconds:5.0f} s  {name}: mAP {row.mAP:.4f}, INT8 {row.mAP_int8:.4f}, "
                           f"{slow.ratio:.2f}x, INT8 {fast.ratio:.2f}x", highlight=False)
        return row

    def builds(self, model: onnx.ModelProto, table: CalibrationTable) -> bool:
        """Whether TensorRT-RTX makes an engine of the INT8 form (it needs no GPU for that)."""
        try:
            build_plan(lower(model, get_target("rtx"), Precision.INT8_FP16, table=table).model)
            return True
        except TrtkitError as err:
            self.console.print(f"No engine: {err}")
            return False


def network(width: int) -> nn.Module:
    """Return a fresh network, the same each time."""
    torch.manual_seed(0)
    return emoji.network(114, width).to(memory_format=torch.channels_last)


def students(bench: Bench) -> None:
    """The same small network, taught by true tags alone and by the teacher, on the same scenes."""
    spec = TrainSpec(12, 4e-3, schedule=Schedule.ONECYCLE)
    alone = bench.trained("student", network(STUDENT_WIDTH), spec)
    bench.add("student from scratch", "students", alone)
    taught = distill(bench.teacher, network(STUDENT_WIDTH), bench.loader, TAUGHT, train=spec,
                     folder=bench.cache / "student-distilled").student
    bench.add("student distilled", "students", taught)


def pruned(bench: Bench, amount: float, steps: int, epochs: int, *, goal: Goal = Goal.MACS,
           spare: tuple[str, ...] = ()) -> nn.Module:
    """Return the teacher pruned in so many steps, taught by the teacher between them, so many epochs in all."""
    name = f"pruned-{amount}-{goal.value}-{steps}-{epochs}{'-spared' * bool(spare)}"

    def finetune(module: nn.Module, number: int) -> None:
        distill(bench.teacher, module, bench.loader, TAUGHT, train=TrainSpec(epochs // steps, FINE_RATE),
                folder=bench.cache / f"{name}-training-{number}")

    multiple = bench.target.channel_multiple(Precision.FP32)
    spec = PruneSpec(amount, goal=goal, steps=steps, round_to=multiple, spare=NodeSelector(spare), tolerance=0.1)
    return prune(bench.teacher, EXAMPLE, spec, finetune=finetune, folder=bench.cache / name).module.eval()


def pruning(bench: Bench) -> None:
    """Channels: 30, 50 and 70 % of the MACs, at once and in three steps, 3 epochs each, and a control."""
    control = copy.deepcopy(bench.teacher)
    distill(bench.teacher, control, bench.loader, TAUGHT, train=TrainSpec(FINE_EPOCHS, FINE_RATE),
            folder=bench.cache / "control")
    bench.add("teacher, trained on as long", "pruning", control.eval())
    for amount in (0.3, 0.5, 0.7):
        for steps, how in ((1, "one-shot"), (3, "gradual")):
            bench.add(f"pruned {amount:.0%}, {how}", "pruning", pruned(bench, amount, steps, FINE_EPOCHS))


def halving(bench: Bench) -> None:
    """Half of the MACs, with a fine-tuning nearly as long as the teacher's own training."""
    bench.add(f"pruned 50%, {LONG_EPOCHS} epochs", "halving", pruned(bench, 0.5, 1, LONG_EPOCHS))


def sparsity(bench: Bench) -> None:
    """2:4 by magnitude and by error, and 80 % of all weights without order; 3 epochs with the masks kept."""
    for name, spec, loader in (("2:4 by magnitude", PruneSpec(method=Method.TWO_FOUR), None),
                               ("2:4 by error", PruneSpec(method=Method.TWO_FOUR), bench.loader),
                               ("unstructured 80%", PruneSpec(0.8, method=Method.UNSTRUCTURED), None)):
        made = prune(bench.teacher, EXAMPLE, spec, loader=loader)
        assert made.masks is not None
        distill(bench.teacher, made.module, bench.loader, TAUGHT, train=TrainSpec(FINE_EPOCHS, 1e-3),
                folder=bench.cache / name.replace(" ", "-"), after_step=made.masks.apply)
        bench.add(name, "sparsity", made.module.eval())


def separable() -> nn.Module:
    """Return a network of depthwise and 1x1 convolutions, as MobileNetV1 has them, about 0.25 million parameters."""
    torch.manual_seed(0)

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
                nn.BatchNorm2d(outputs), nn.ReLU6()]

    layers = convolution(3, 32, 3, 2)
    shapes = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 256, 1))
    for inputs, outputs, stride in shapes:
        layers += convolution(inputs, inputs, 3, stride, inputs) + convolution(inputs, outputs, 1)
    head = nn.Linear(256, 114)
    nn.init.constant_(head.bias, -4.0)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def qat(bench: Bench) -> None:
    """PTQ, and QAT where PTQ loses more than 0.5 point, with a scale a channel and with one scale a tensor.

    Depthwise layers, whose channels differ widely, are the likeliest to lose.
    """
    plain = bench.trained("separable", separable(), TrainSpec(6, 4e-3, schedule=Schedule.ONECYCLE))
    for network_name, module in (("teacher", bench.teacher), ("depthwise", plain)):
        model = bench.exported(module)
        table = bench.calibrated(model)
        full = bench.score(OrtSession(model_bytes(model), threads=THREADS))
        for target in map(get_target, ("trt10", "x86-vnni")):
            for per_channel in (True, False):
                bench.qat_rows.append(_ptq_and_qat(bench, network_name, model, table, full, target, per_channel))
                bench.console.print(f"{time.perf_counter() - bench.started:5.0f} s  {bench.qat_rows[-1]}",
                                    highlight=False)


def _ptq_and_qat(bench: Bench, name: str, model: onnx.ModelProto, table: CalibrationTable, full: float,
                 target: Target, per_channel: bool) -> dict[str, Any]:
    spec = QuantSpec(per_channel=per_channel)
    scales = "channel" if per_channel else "tensor"

    def scored(model: onnx.ModelProto, table: CalibrationTable) -> float:
        lowered = lower(model, target, Precision.INT8, table=table, spec=spec)
        return bench.score(OrtSession(lowered.simulation, threads=THREADS, optimize=not lowered.as_written))

    row = {"network": name, "target": target.name, "scales": scales, "fp32": full, "ptq": scored(model, table),
           "qat": None}
    if 100 * (full - row["ptq"]) > 0.5:
        made = train_quantized(model, table, target, bench.loader, step_for("bce"), precision=Precision.INT8, spec=spec,
                               train=TrainSpec(2, 4e-4), folder=bench.cache / f"qat-{name}-{target.name}-{scales}")
        assert made.table is not None
        row["qat"] = scored(made.model, made.table)
    return row


def combination(bench: Bench) -> None:
    """38 % of the parameters pruned, all of the last stage, taught by the teacher, then trained on integer grids.

    INT8 gives the speed here, and size is wanted besides, so the last stage, which has most weights, gives.
    """
    module = pruned(bench, 0.38, 1, 8, goal=Goal.PARAMS, spare=("0*", "2*", "3*", "4*"))
    model = bench.exported(module)
    made = train_quantized(model, bench.calibrated(model), bench.target, bench.loader, step_for("bce"),
                           precision=Precision.INT8, train=TrainSpec(2, 4e-4), folder=bench.cache / "combination-qat")
    assert made.table is not None
    bench.add(COMBINATION, "combination", module, quantized=(made.model, made.table))


PARTS = {part.__name__: part for part in (students, halving, pruning, sparsity, qat, combination)}
"""Every part by name, in the order of the rows."""


def show(rows: list[Row], qat_rows: list[dict[str, Any]], console: Console) -> None:
    """Print the tables."""
    table = Table("model", "mAP", "style", "parameters", "MMACs", "MB", "FP32 ms", "over teacher", "INT8 mAP",
                  "INT8 MB", "INT8 ms", "over teacher", "RTX engine")
    for row in rows:
        table.add_row(row.name, f"{row.mAP:.4f}", f"{row.style:.4f}", f"{row.parameters:,}", f"{row.macs / 1e6:.1f}",
                      f"{row.bytes_fp32 / 1e6:.2f}", f"{row.ms_fp32:.2f}", f"{row.speedup_fp32:.2f}x",
                      f"{row.mAP_int8:.4f}", f"{row.bytes_int8 / 1e6:.2f}", f"{row.ms_int8:.2f}",
                      f"{row.speedup_int8:.2f}x", "yes" if row.builds else "no")
    console.print(table)
    if qat_rows:
        table = Table("network", "target", "one scale a", "FP32 mAP", "PTQ", "QAT", "lost by PTQ", "lost by QAT")
        for each in qat_rows:
            scores = [each[key] for key in ("fp32", "ptq", "qat")]
            table.add_row(each["network"], each["target"], each["scales"],
                          *("" if score is None else f"{score:.4f}" for score in scores),
                          *("" if score is None else f"{100 * (scores[0] - score):+.2f}" for score in scores[1:]))
        console.print(table)


def claims(rows: list[Row], qat_rows: list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Yield each claim that the rows speak of, in words with its numbers, and whether it is met."""
    by_name = {row.name: row for row in rows}
    teacher = by_name.get("teacher")
    halved = [row for row in rows if row.part in ("halving", "pruning") and "50%" in row.name]
    best = max(halved, key=lambda row: row.mAP, default=None)
    if teacher and best:
        lost = 100 * (teacher.mAP - best.mAP)
        yield (f"{best.name}: {1 - best.macs / teacher.macs:.0%} of the MACs gone, {lost:+.2f} points lost, "
               f"{best.speedup_fp32:.2f}x", lost <= 1.0 and best.speedup_fp32 >= 1.5)
    if "student distilled" in by_name:
        gain = 100 * (by_name["student distilled"].mAP - by_name["student from scratch"].mAP)
        yield f"distilled: {gain:+.2f} points above the student from scratch", gain >= 1.5
    for each in qat_rows:
        if each["qat"] is not None:
            lost, left = (100 * (each["fp32"] - each[key]) for key in ("ptq", "qat"))
            yield (f"QAT, {each['network']}, {each['target']}, one scale a {each['scales']}: {lost:.2f} points lost by "
                   f"PTQ, {left:.2f} by QAT", left <= lost / 2)
    if qat_rows and not any(each["qat"] for each in qat_rows):
        most = max(100 * (each["fp32"] - each["ptq"]) for each in qat_rows)
        yield f"QAT: not shown, since PTQ loses {most:.2f} points at most", False
    last = by_name.get(COMBINATION)
    if teacher and last:
        smaller, lost = teacher.bytes_fp32 / last.bytes_int8, 100 * (teacher.mAP - last.mAP_int8)
        yield (f"combination in INT8: {smaller:.1f} times smaller, {last.speedup_int8:.2f}x as fast, {lost:+.2f} "
               "points lost", smaller >= 6 and last.speedup_int8 >= 3 and lost <= 1.5)


def main() -> int:
    """Run the parts, print and write the rows; 1 when a claim is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sprites", type=Path, required=True, help="archive of the sprites")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--cache", type=Path, default=Path(".cache/compression"), help="finished trainings")
    parser.add_argument("--json", type=Path, help="also write the rows here; rows of other parts stay")
    options = parser.parse_args()
    torch.set_num_threads(2)
    bench = Bench(options.sprites, options.cache)
    kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else {"rows": [], "qat": []}
    for part in options.parts:
        PARTS[part](bench)
    redone = {*options.parts, *(row.part for row in bench.rows)}
    rows = bench.rows + [Row(**row) for row in kept["rows"] if row["part"] not in redone]
    rows.sort(key=lambda row: ("teacher", *PARTS).index(row.part))
    qat_rows = bench.qat_rows or kept["qat"]
    show(rows, qat_rows, bench.console)
    met = list(claims(rows, qat_rows))
    for text, is_met in met:
        bench.console.print(f"{'met    ' if is_met else 'NOT MET'} {text}", highlight=False)
    bench.console.print(f"{time.perf_counter() - bench.started:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps({"target": bench.target.name, "rows": [asdict(row) for row in rows],
                                            "qat": qat_rows}, indent=1) + "\n")
    return int(not all(is_met for _, is_met in met))


if __name__ == "__main__":
    sys.exit(main())

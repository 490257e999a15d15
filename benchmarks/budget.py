"""Accuracy budgets on real models: which layers stay in float, what that buys, and how many evaluations it takes.

    python benchmarks/budget.py --labels stamps.json --sprites emoji.npz [--json out.json] [NAME:TARGET:MAX_DROP ...]

Each model of the zoo is quantized for a TensorRT and an x86 target with every layer in INT8, and then searched for the
lowering that loses at most MAX_DROP points of its own metric (exact lines, F1 of boxes, top-1, mAP; agreement with FP32
where MAX_DROP ends in "a"). The metric is computed on the test data of the zoo, which nothing was calibrated on; layers
are ranked on 8 samples of the calibration data. "noise" compares the sum of the layers' noise, each quantized alone,
with the noise of all together: near 1, the ranking is worth what it costs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import zoo

from trtkit.calib import calibrate, open_data
from trtkit.errors import AccuracyError
from trtkit.evaluate import Loss
from trtkit.graph import load_model, model_bytes, model_inputs, preset, rewrite
from trtkit.pipeline.measuring import speedup_over
from trtkit.precision import Precision
from trtkit.quant import Lowered
from trtkit.quant.budget.search import lower_within
from trtkit.runtime.probe import probe_device
from trtkit.target import get_target

DEFAULT = ("ocr_v4_rec:rtx:0.5", "ocr_v4_rec:x86-vnni:0.5", "lite0:rtx:3a", "lite0:x86-vnni:3a")
SAMPLES = 8


def measure(model: zoo.Model, target_name: str, max_drop: str) -> dict[str, Any]:
    """Return what the search found for one model and target."""
    target = get_target(target_name)
    proto = rewrite(load_model(model.file), preset(target)).model
    table = calibrate(proto, model.calibration)
    reference = model.answers(model_bytes(proto))
    of_agreement = max_drop.endswith("a")
    best = 1.0 if of_agreement else model.score(reference, reference)[0]

    def judge(lowered: Lowered) -> Loss:
        metric, agreement = model.score(model.answers(lowered.simulation), reference)
        name, value = ("agreement", agreement) if of_agreement else (model.metric_name, metric)
        return Loss(name, 100 * value, 100 * best)

    mixed = Precision.INT8_FP16 if Precision.INT8_FP16 in target.precisions else Precision.INT8
    row: dict[str, Any] = {"model": model.name, "target": target_name, "precision": mixed.value, "max_drop": max_drop}
    samples = list(model.calibration)
    few = open_data([samples[place * len(samples) // SAMPLES].feeds for place in range(SAMPLES)],
                    input=model_inputs(proto)[0])
    start = time.perf_counter()
    try:
        found = lower_within(proto, target, mixed, judge, float(max_drop.rstrip("a")), samples=few, table=table)
    except AccuracyError as err:
        return {**row, "seconds": time.perf_counter() - start, "failed": str(err)}
    row |= {"seconds": time.perf_counter() - start, **found.to_json()}
    if found.sensitivity is not None:
        alone = sum(each.noise for each in found.sensitivity.layers)
        row["noise_sum_over_all"] = alone / 10 ** (-found.sensitivity.sqnr_db / 10)
    device = probe_device()
    if target.runs_on(device.machine, device.cpu_flags):
        speedup = speedup_over(model_bytes(proto), found.lowered.model)
        row |= {"speedup_over_fp32": speedup.ratio, "speedup_interval": [speedup.low, speedup.high]}
    return row


def report(row: dict[str, Any]) -> None:
    """Print one search."""
    print(f"{row['model']} for {row['target']} ({row['precision']}), at most {row['max_drop']} points: ", end="")
    if "failed" in row:
        print(f"{row['seconds']:.0f} s, {row['failed']}")
        return
    first = row["trials"][0]
    print(f"{row['metric']} {row['reference']:.2f} in FP32, {first['value']:.2f} with every layer quantized, "
          f"{row['value']:.2f} with {len(row['kept'])} in float ({100 * row['quantized_macs']:.1f} % of MACs quantized)"
          f"; {len(row['trials'])} evaluations, {row['seconds']:.0f} s")
    if row["sensitivity"] is not None:
        print(f"  {len(row['sensitivity']['layers'])} layers; noise {row['noise_sum_over_all']:.2f}; trials: "
              + ", ".join(f"{each['kept']} kept {each['value']:.2f}" for each in row["trials"]))
    for layer in row["kept"]:
        print(f"  {layer['name']}: {layer['sqnr_db']:.1f} dB alone, {layer['macs'] / 1e6:.1f} M MACs")
    if "speedup_over_fp32" in row:
        low, high = row["speedup_interval"]
        print(f"  {row['speedup_over_fp32']:.2f}x FP32 here ({low:.2f} to {high:.2f})", flush=True)


def main() -> None:
    """Read the arguments, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("searches", nargs="*", default=DEFAULT, metavar="NAME:TARGET:MAX_DROP",
                        help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    zoo.add_arguments(parser)
    options = parser.parse_args()
    rows = []
    for search in options.searches:
        name, target, max_drop = search.split(":")
        rows.append(measure(zoo.get_model(name, zoo.places_of(options)), target, max_drop))
        report(rows[-1])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

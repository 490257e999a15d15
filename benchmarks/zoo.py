"""The real models of the benchmarks: their FP32 ONNX, calibration and test data, and how they are scored.

    python benchmarks/zoo.py --labels stamps.json --sprites emoji.npz -o FOLDER [NAME ...]

Writes FOLDER/NAME.onnx (rewritten for TensorRT), FOLDER/NAME.calib and the FP32 score of each model:

  lite0        EfficientNet-Lite0, 576 labelled photographs, top-1             (photographs.py)
  ocr_v4_rec   PP-OCR v4 text recognizer, 300 rendered lines, exact lines      (textlines.py; pip: rapidocr-onnxruntime)
  ocr_v6_rec   PP-OCR v6 text recognizer, likewise                             (pip: rapidocr)
  ocr_v6_det   PP-OCR v6 text detector, 32 rendered pages, F1 of the boxes against those of its own FP32
  emoji        a ResNet of 0.7 million parameters, 1000 emoji scenes, mAP      (emoji.py; trained once)
  resnet50, mobilenetv2, vit_tiny   transformers configurations, random weights: for speed, nothing to score

A model of one's own needs a row in MODELS.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import emoji
import numpy as np
import onnx
import textlines

from trtkit import metrics
from trtkit.calib import DataSource, calibrate, open_data
from trtkit.graph import load_model, model_inputs, preset, rewrite, save_model
from trtkit.preprocess import Preprocess
from trtkit.runtime.ort import OrtSession
from trtkit.target import get_target

PREPROCESS = Preprocess(size=(224, 224), scale=1 / 128, mean=(127 / 128,) * 3)

Answers = Any
"""What a model says on the test data; its form is the model's own business."""


@dataclass(frozen=True)
class Places:
    """Where things are.

    Attributes:
        cache: Folder of what is fetched, trained and made once.
        labels: JSON of the photographs' labels (lite0).
        sprites: Archive of the emojis.
        stamps: Folder of the photographs' cut-outs; below `cache` when None.
    """

    cache: Path = Path(".cache/zoo")
    labels: Path | None = None
    sprites: Path | None = None
    stamps: Path | None = None


@dataclass(frozen=True)
class Model:
    """A model, its data and its score.

    Attributes:
        name: Key in MODELS.
        file: FP32 ONNX as it comes.
        calibration: Samples to calibrate on.
        test: Samples to judge on, never calibrated on.
        metric_name: What `metric` is, for people.
        answer: All outputs of a test set, in its order -> answers.
        metric: (answers, FP32's answers) -> 0 to 1, 1 is best.
        agreement: (answers, FP32's answers) -> share of equal answers.
    """

    name: str
    file: Path
    calibration: DataSource
    test: DataSource
    metric_name: str = ""
    answer: Callable[[list[np.ndarray]], Answers] = lambda outputs: outputs
    metric: Callable[[Answers, Answers], float] | None = None
    agreement: Callable[[Answers, Answers], float] | None = None

    def rewritten(self, target: str = "rtx") -> onnx.ModelProto:
        """Return the FP32 model as the target's preset makes it."""
        return rewrite(load_model(self.file), preset(get_target(target))).model

    def answers(self, model: Path | bytes, *, optimize: bool | None = None, threads: int | None = None) -> Answers:
        """Return what a model, FP32 or lowered, says on the test data; see OrtSession for `optimize`."""
        session = OrtSession(model, optimize=optimize, threads=threads)
        try:
            name = session.outputs[0].name
            return self.answer([session.run(sample.feeds)[name] for sample in self.test])
        finally:
            session.close()

    def score(self, answers: Answers, reference: Answers) -> tuple[float, float]:
        """Return (metric, agreement with FP32) of answers; both 0 where one is not finite."""
        if self.metric is None or self.agreement is None:
            raise SystemExit(f"'{self.name}' has random weights: there is nothing to score")
        return self.metric(answers, reference), self.agreement(answers, reference)


def lite0(places: Places) -> Model:
    """EfficientNet-Lite0 on photographs."""
    import photographs

    if places.labels is None:
        raise SystemExit("lite0 needs the photographs' labels. Give --labels stamps.json")
    file, pictures = places.cache / "lite0.onnx", places.cache / "photographs"
    if not file.exists():
        _export_lite0(file)
    if not (pictures / "calibration/labels.json").exists():
        photographs.write_photographs(places.labels, places.stamps or places.cache / "stamps", pictures)
    spec = model_inputs(load_model(file))[0]
    test, calibration = (open_data(pictures / split, input=spec, preprocess=PREPROCESS)
                         for split in ("test", "calibration"))
    accepted = [sample.labels or () for sample in test]

    def top1(scores: np.ndarray, _: np.ndarray) -> float:
        return float(metrics.top_k_accuracy(scores, accepted, 1))

    return Model("lite0", file, calibration, test, "top-1", np.concatenate, top1, metrics.agreement)


def _export_lite0(path: Path) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
    from model import efficientnet_lite0

    from trtkit.export import export_onnx

    export_onnx(efficientnet_lite0(), {"input": np.zeros((1, 3, 224, 224), np.float32)}, path=path)


def _recognizer(name: str, package: str, file: str) -> Callable[[Places], Model]:
    def make(_: Places) -> Model:
        path = _package_file(package, f"models/{file}")
        proto = load_model(path)
        (characters,) = (entry.value for entry in proto.metadata_props if entry.key == "character")
        charset = ["", *characters.split("\n"), " "]
        spec = model_inputs(proto)[0]
        lines, texts = textlines.lines("test", 300)

        def read(outputs: list[np.ndarray]) -> list[str]:
            return [textlines.read_line(scores[0], charset) for scores in outputs]

        def exact(answers: list[str], _: list[str]) -> float:
            return _equal(answers, texts)

        calibration = open_data(textlines.lines("calibration", 48)[0], input=spec)
        return Model(name, path, calibration, open_data(lines, input=spec), "exact lines", read, exact, _equal)

    return make


def _equal(answers: list[str], reference: list[str]) -> float:
    return sum(a == b for a, b in zip(answers, reference)) / len(reference)


def detector(_: Places) -> Model:
    """PP-OCR v6's text detector on pages."""
    path = _package_file("rapidocr", "models/PP-OCRv6_det_small.onnx")
    spec = model_inputs(load_model(path))[0]

    def find(outputs: list[np.ndarray]) -> list[tuple[list[Any], np.ndarray]]:
        return [(textlines.boxes(each[0, 0]), each[0, 0] > 0.3) for each in outputs]

    def f1(answers: list[Any], reference: list[Any]) -> float:
        return textlines.box_f1([boxes for boxes, _ in answers], [boxes for boxes, _ in reference])

    def shared(answers: list[Any], reference: list[Any]) -> float:
        both = sum(int((a & b).sum()) for (_, a), (_, b) in zip(answers, reference))
        return both / max(sum(int((a | b).sum()) for (_, a), (_, b) in zip(answers, reference)), 1)

    calibration, test = (open_data(textlines.pages(split, count), input=spec)
                         for split, count in (("calibration", 24), ("test", 32)))
    return Model("ocr_v6_det", path, calibration, test, "F1 of boxes", find, f1, shared)


def tagger(places: Places) -> Model:
    """The emoji tagger on scenes; trained on first use."""
    if places.sprites is None:
        raise SystemExit("emoji needs the sprites. Give --sprites emoji.npz")
    file = places.cache / "emoji.onnx"
    if not file.exists():
        emoji.train(places.sprites, file)
    spec = model_inputs(load_model(file))[0]
    inputs, labels = emoji.scenes(places.sprites, "test", 1000)

    def precision(scores: np.ndarray, _: np.ndarray) -> float:
        return float(metrics.mean_average_precision(scores, labels > 0))

    def same_tags(scores: np.ndarray, reference: np.ndarray) -> float:
        return float(((scores > 0) == (reference > 0)).all(axis=1).mean())

    calibration = emoji.scenes(places.sprites, "calibration", 128)[0]
    return Model("emoji", file, open_data(list(calibration[:, None]), input=spec),
                 open_data(list(inputs[:, None]), input=spec), "mAP", np.concatenate, precision, same_tags)


def _for_speed(name: str, kind: str, config: Mapping[str, Any]) -> Callable[[Places], Model]:
    def make(places: Places) -> Model:
        file = places.cache / f"{name}.onnx"
        if not file.exists():
            _export_transformer(kind, config, file)
        spec = model_inputs(load_model(file))[0]
        rng = np.random.default_rng(0)
        noise = [rng.standard_normal((1, 3, 224, 224)).astype(np.float32) for _ in range(24)]
        return Model(name, file, open_data(noise[:16], input=spec), open_data(noise[16:], input=spec))

    return make


def _export_transformer(kind: str, config: Mapping[str, Any], path: Path) -> None:
    """Write a network of transformers with random weights and randomised BatchNorm statistics, batch dynamic."""
    import torch
    import transformers

    torch.manual_seed(0)
    settings = getattr(transformers, f"{kind}Config")(num_labels=1000, **config)
    network = getattr(transformers, f"{kind}ForImageClassification")(settings)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.network(pictures).logits  # type: ignore[no-any-return]

    made = Logits().eval()
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(made, (torch.zeros(1, 3, 224, 224),), str(path), input_names=["input"],
                          output_names=["logits"], opset_version=17, dynamo=False,
                          dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})


def _package_file(package: str, file: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"'{package}' is not installed. Run: pip install {package.replace('_', '-')}")
    return Path(found.origin).parent / file


MODELS: Mapping[str, Callable[[Places], Model]] = {
    "lite0": lite0,
    "ocr_v4_rec": _recognizer("ocr_v4_rec", "rapidocr_onnxruntime", "ch_PP-OCRv4_rec_infer.onnx"),
    "ocr_v6_rec": _recognizer("ocr_v6_rec", "rapidocr", "PP-OCRv6_rec_small.onnx"),
    "ocr_v6_det": detector,
    "emoji": tagger,
    "resnet50": _for_speed("resnet50", "ResNet", {}),
    "mobilenetv2": _for_speed("mobilenetv2", "MobileNetV2", {}),
    "vit_tiny": _for_speed("vit_tiny", "ViT", {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3,
                                               "intermediate_size": 768}),
}


def get_model(name: str, places: Places) -> Model:
    """Return a model of the zoo, made, fetched or trained on first use."""
    if name not in MODELS:
        raise SystemExit(f"There is no model '{name}'. There are: {', '.join(MODELS)}")
    places.cache.mkdir(parents=True, exist_ok=True)
    return MODELS[name](places)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `places` reads."""
    parser.add_argument("--labels", type=Path, help="JSON: {'stamps': {picture: [accepted ImageNet ids]}}, for lite0")
    parser.add_argument("--sprites", type=Path, help="archive of emojis, for emoji")
    parser.add_argument("--stamps", type=Path, help="folder of the cut-outs for lite0; below the cache when not given")
    parser.add_argument("--cache", type=Path, default=Places.cache, help="what is fetched, trained and made once")


def places_of(options: argparse.Namespace) -> Places:
    """Return the places that the command line names."""
    return Places(options.cache, options.labels, options.sprites, options.stamps)


def main() -> None:
    """Write the rewritten models and their calibration tables, and print the FP32 scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models; all when none is given")
    parser.add_argument("-o", "--output", type=Path, required=True)
    add_arguments(parser)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.names or MODELS:
        model = get_model(name, places_of(options))
        file = options.output / f"{name}.onnx"
        proto = model.rewritten()
        save_model(proto, file)
        calibrate(proto, model.calibration).save(options.output / f"{name}.calib")
        if model.metric is None:
            print(f"{name}: written", flush=True)
            continue
        answers = model.answers(file)
        print(f"{name}: {model.metric_name} {model.score(answers, answers)[0]:.4f}", flush=True)


if __name__ == "__main__":
    main()

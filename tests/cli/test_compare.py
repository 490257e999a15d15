"""trtkit compare from files to tables."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from trtkit.cli.compare import read_preprocess
from trtkit.errors import SpecError

MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 3, 8, 8] image) => (float[n, 3] scores) {
    pooled = GlobalAveragePool(image)
    flat = Flatten(pooled)
    scores = MatMul(flat, w)
}"""
RECIPE = {"size": [8, 8]}


@pytest.fixture
def models(tmp_path):
    for name, scale in (("a", 1.0), ("b", 0.9)):
        model = onnx.parser.parse_model(MODEL)
        weight = np.eye(3, dtype=np.float32) * np.float32(scale)
        model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        onnx.save(model, tmp_path / f"{name}.onnx")
    return tmp_path / "a.onnx", tmp_path / "b.onnx"


@pytest.fixture
def pictures(tmp_path):
    for label, color in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        folder = tmp_path / "data" / str(label)
        folder.mkdir(parents=True)
        for each in range(2):
            Image.new("RGB", (8, 8), tuple(max(0, c - 9 * each) for c in color)).save(folder / f"{each}.png")
    return tmp_path / "data"


def test_compare_prints_outputs_layers_and_metrics(trtkit, models, pictures):
    printed = trtkit("compare", *models, "--data", pictures, "--layers", "--preprocess", json.dumps(RECIPE))
    rows = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
            for line in printed.splitlines() if "│" in line}
    assert rows["scores"] == ["0.1", "0.03275", "1.000000", "20.0", "1.0000"]
    assert rows["top-1"] == ["1.0000", "1.0000", "+0.0000"]
    assert rows["flat"][0] == "0"
    assert "Layers, the worst 2 of 2" in printed
    assert "6 samples" in printed


def test_compare_reads_bundles_with_their_preprocessing(trtkit, models, pictures, tmp_path):
    from trtkit.bundle import Artifact, BundleManifest, write_bundle
    from trtkit.precision import Precision
    from trtkit.preprocess import Preprocess
    from trtkit.runtime.ort import OrtSession

    session = OrtSession(models[1])
    artifacts = tuple(Artifact(file="b.onnx", target=target, precision=Precision.FP32, kind="onnx")
                      for target in ("x86-vnni", "x86-avx2", "pi4"))
    manifest = BundleManifest("b", session.inputs, session.outputs, artifacts, Preprocess.from_json(RECIPE))
    write_bundle(tmp_path / "b.trtkit", manifest, {"b.onnx": models[1]})
    printed = trtkit("compare", tmp_path / "b.trtkit", tmp_path / "b.trtkit", "--data", pictures)
    assert "inf" in printed
    with pytest.raises(SpecError, match="ONNX models only"):
        trtkit("compare", models[0], tmp_path / "b.trtkit", "--data", pictures, "--layers", "--preprocess",
               json.dumps(RECIPE))


def test_read_preprocess_takes_recipe_file_and_text(tmp_path):
    (tmp_path / "r.toml").write_text("[preprocess]\nsize = [8, 8]\n")
    (tmp_path / "p.json").write_text(json.dumps(RECIPE))
    wanted = read_preprocess(json.dumps(RECIPE))
    assert wanted.size == (8, 8)
    assert read_preprocess(str(tmp_path / "r.toml")) == read_preprocess(str(tmp_path / "p.json")) == wanted


@pytest.mark.parametrize(("text", "fault"), [
    ("{", "not valid JSON"), ("absent.json", "cannot be read"), ("absent.toml", "cannot be read"),
    ('{"sise": [8, 8]}', "unknown key 'sise'"),
], ids=["json", "file", "recipe", "key"])
def test_read_preprocess_refuses(text, fault):
    with pytest.raises(SpecError, match=fault):
        read_preprocess(text)


def test_read_preprocess_refuses_a_recipe_without_it(tmp_path):
    (tmp_path / "r.toml").write_text("size = 3\n")
    with pytest.raises(SpecError, match=r"r.toml': Preprocessing size is 3"):
        read_preprocess(str(tmp_path / "r.toml"))

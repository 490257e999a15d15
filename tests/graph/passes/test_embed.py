from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtkit.errors import PassError, SpecError
from trtkit.graph import embed_preprocess, model_inputs, parse_pass, rewrite, run_model
from trtkit.preprocess import Preprocess

IMAGENET = Preprocess(size=(6, 8), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CASES = {
    "imagenet": IMAGENET,
    "bgr": replace(IMAGENET, color="bgr"),
    "nhwc": replace(IMAGENET, layout="nhwc"),
    "nhwc-bgr-half": replace(IMAGENET, layout="nhwc", color="bgr", dtype="float16"),
    "plain": Preprocess(size=(6, 8), scale=1.0),
}


def _model(parse, preprocess: Preprocess) -> onnx.ModelProto:
    shape = ", ".join(map(str, preprocess.shape))
    kind = preprocess.dtype.replace("float32", "float")
    return parse(f"g ({kind}[batch, {shape}] image) => ({kind}[batch, {shape}] y) {{ y = Identity(image) }}")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("preprocess", CASES.values(), ids=CASES)
def test_graph_computes_what_the_host_did(parse, preprocess: Preprocess, layout: str) -> None:
    model = _model(parse, preprocess)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    done = rewrite(model, [embed_preprocess(preprocess, layout=layout)])
    onnx.checker.check_model(done.model, full_check=True)
    spec = model_inputs(done.model)[0]
    raw = replace(preprocess.raw(), layout=layout)
    assert (spec.name, spec.dtype, spec.shape) == ("image", "uint8", ("batch", *raw.shape))
    found = run_model(done.model, {"image": raw.batch(pictures)})["y"]
    np.testing.assert_allclose(found, preprocess.batch(pictures), rtol=1e-4, atol=1e-5)


def test_layout_stays_when_none_is_named(parse) -> None:
    done = rewrite(_model(parse, IMAGENET), [embed_preprocess(IMAGENET)])
    assert model_inputs(done.model)[0].shape == ("batch", *IMAGENET.raw().shape)


def test_first_node_is_the_cast_that_tensorrt_asks_for(parse) -> None:
    done = rewrite(_model(parse, IMAGENET), [embed_preprocess(IMAGENET, layout="nhwc")])
    assert [node.op_type for node in done.model.graph.node][:4] == ["Cast", "Transpose", "Mul", "Sub"]


def test_nothing_is_left_to_do_when_preprocessing_feeds_uint8() -> None:
    with pytest.raises(SpecError, match="already"):
        embed_preprocess(IMAGENET.raw())


def test_size_must_be_the_models(parse) -> None:
    with pytest.raises(PassError, match=r"preprocessing makes float32 \(3, 8, 8\)"):
        rewrite(_model(parse, IMAGENET), [embed_preprocess(replace(IMAGENET, size=(8, 8)))])


def test_image_input_must_be_clear(parse) -> None:
    model = parse("g (float[N, 3, 6, 8] a, float[N, 3, 6, 8] b) => (float[N, 3, 6, 8] y) { y = Add(a, b) }")
    with pytest.raises(PassError, match="finds 2 inputs of rank 4"):
        rewrite(model, [embed_preprocess(IMAGENET)])
    assert model_inputs(rewrite(model, [embed_preprocess(IMAGENET, input="b")]).model)[1].dtype == "uint8"


def test_recipe_spelling_reads_a_file(parse, tmp_path: Path) -> None:
    file = tmp_path / "preprocess.toml"
    file.write_text("size = [6, 8]\nscale = 1.0\nmean = [1.0, 2.0, 3.0]\n")
    done = rewrite(_model(parse, IMAGENET), [parse_pass(f"embed-preprocess:{file},nhwc")])
    assert model_inputs(done.model)[0].shape == ("batch", 6, 8, 3)

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from trtkit.bundle import Artifact, Postprocess
from trtkit.bundle.engine_key import EngineKey
from trtkit.device import Device
from trtkit.errors import BuildError, BundleError, EngineMismatchError, SpecError
from trtkit.precision import Precision
from trtkit.runtime import OrtSession, Session
from trtkit.runtime import open as open_session
from trtkit.runtime.select import BuildRequest
from trtkit.tensors import ShapeProfile, TensorSpec

Make = Callable[..., Path]
Row = tuple[Artifact, bytes]
KEY = EngineKey("tensorrt", "10.3.0", ("8.7",), "linux-aarch64", Precision.FP16)
RED = np.zeros((8, 8, 3), np.uint8) + np.array([255, 10, 0], np.uint8)
BLUE = np.ascontiguousarray(RED[:, :, ::-1])


def load_plan(plan: bytes, io: Sequence[TensorSpec]) -> Session:
    """Stand-in for TensorRT: a "plan" here is "PLAN" and the ONNX model behind it; anything else it refuses."""
    assert [spec.name for spec in io] == ["image", "scores"]
    if not plan.startswith(b"PLAN"):
        raise EngineMismatchError("Plan does not deserialize")
    return OrtSession(plan[4:], threads=1)


@dataclass
class Builds:
    """A builder that makes such plans and remembers what it was asked."""

    requests: list[BuildRequest] = field(default_factory=list)

    def __call__(self, request: BuildRequest) -> tuple[bytes, EngineKey]:
        self.requests.append(request)
        if request.precision is Precision.INT8:
            raise BuildError("no tactic for /conv1")
        return b"PLAN" + request.model, KEY


@pytest.fixture
def jetson_rows(colors: Callable[..., bytes]) -> list[Row]:
    """A plan for another GPU, INT8 and FP16 to build from, and a model for the CPU."""
    thor = replace(KEY, sm=("11.0",), version="10.13.0")
    return [
        (Artifact("thor.plan", "jetson-thor", Precision.FP16, "plan", engine=thor), b"PLAN"),
        (Artifact("int8.onnx", "jetson-orin-jp6", Precision.INT8, "onnx"), colors(gain=19.0)),
        (Artifact("fp16.onnx", "jetson-orin-jp6", Precision.FP16, "onnx"), colors(gain=18.0)),
        (Artifact("pi5.onnx", "pi5", Precision.FP32, "onnx"), colors(gain=17.0)),
    ]


def test_open_runs_pictures_with_the_preprocessing_and_labels_of_the_bundle(make_bundle: Make, fp32: Row, pc: Device,
                                                                            tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(BLUE).save(tmp_path / "blue.png")
    with open_session(make_bundle([fp32]), machine=pc) as session:
        (best, *_) = session(RED)
        assert best.label == "red"
        assert session(tmp_path / "blue.png")[0].label == session(str(tmp_path / "blue.png"))[0].label == "blue"
        rows = session([RED, tmp_path / "blue.png", RED])
        assert [row[0].label for row in rows] == ["red", "blue", "red"]
        assert session(np.stack([RED, BLUE]))[1][0].label == "blue"
        assert session([]) == []
        scores = session.run({"image": np.ones((1, 3, 8, 8), np.float32)})["scores"]
        np.testing.assert_allclose(scores, [[20, 20, 20]], rtol=1e-6)


def test_open_says_in_one_line_what_it_chose_and_why(make_bundle: Make, fp32: Row, pc: Device,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="trtkit"):
        session = open_session(make_bundle([fp32]), machine=pc)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "trtkit.runtime.select"]
    assert line == str(session.choice)
    assert "fp32.onnx (x86-vnni, fp32, onnx): FP32 for x86-vnni" in line
    assert "runs on onnxruntime" in line
    assert "\n" not in line


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize("batch", ["batch", "1", "4"])
def test_pictures_of_any_number_fit_any_batch_size(make_bundle: Make, colors: Callable[..., bytes], pc: Device,
                                                   batch: str, count: int) -> None:
    path = make_bundle([(Artifact("m.onnx", "x86-vnni", Precision.FP32, "onnx"), colors(batch=batch))])
    session = open_session(path, machine=pc)
    rows = session([[RED, BLUE][i % 2] for i in range(count)])
    assert [row[0].label for row in rows] == [["red", "blue"][i % 2] for i in range(count)]


def test_batches_stay_inside_the_profile(make_bundle: Make, colors: Callable[..., bytes], pc: Device,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(1, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 8)]
    profile = ShapeProfile(*({"image": shape} for shape in shapes))
    path = make_bundle([(Artifact("m.onnx", "x86-vnni", Precision.FP32, "onnx", profile=profile), colors())])
    session = open_session(path, machine=pc)
    seen: list[int] = []
    inner = session.run
    monkeypatch.setattr(session, "run", lambda feeds: (seen.append(len(feeds["image"])), inner(feeds))[1])
    assert len(session([RED] * 5)) == 5
    assert seen == [2, 2, 1]


def test_open_builds_here_keeps_the_plan_and_uses_it_again(make_bundle: Make, jetson_rows: list[Row], orin: Device,
                                                           tmp_path: Path) -> None:
    path, builds = make_bundle(jetson_rows), Builds()
    for _ in range(2):
        session = open_session(path, machine=orin, builder=builds, plan_session=load_plan, cache_dir=tmp_path / "cache")
        assert session.choice.artifact.file == "fp16.onnx"
        assert "tensorrt 10.3.0 builds one here" in session.choice.reason
        assert [r for r in session.choice.rejected if "int8.onnx" in r and "no tactic for /conv1" in r]
        assert [r for r in session.choice.rejected if "thor.plan" in r and "SM 11.0" in r]
        assert session.run({"image": np.ones((1, 3, 8, 8), np.float32)})["scores"][0, 0] == pytest.approx(18)
    assert [request.precision.value for request in builds.requests] == ["int8", "fp16", "int8"]


def test_open_builds_again_when_the_kept_plan_is_damaged(make_bundle: Make, jetson_rows: list[Row], orin: Device,
                                                         tmp_path: Path) -> None:
    path, builds = make_bundle([jetson_rows[2]]), Builds()
    options = {"machine": orin, "builder": builds, "plan_session": load_plan, "cache_dir": tmp_path / "cache"}
    open_session(path, **options)
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    open_session(path, **options)
    assert len(builds.requests) == 2
    open_session(path, **options)
    assert len(builds.requests) == 2


def test_open_builds_again_for_another_tensorrt_or_driver(make_bundle: Make, jetson_rows: list[Row], orin: Device,
                                                          tmp_path: Path) -> None:
    path, builds = make_bundle([jetson_rows[2]]), Builds()
    assert orin.gpu is not None
    for driver in ("12.6", "12.6", "13.0"):
        here = replace(orin, gpu=replace(orin.gpu, driver=driver))
        open_session(path, machine=here, builder=builds, plan_session=load_plan, cache_dir=tmp_path / "cache")
    assert len(builds.requests) == 2


def test_open_works_when_the_cache_cannot_be_written(make_bundle: Make, jetson_rows: list[Row], orin: Device,
                                                     tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file stands here")
    session = open_session(make_bundle([jetson_rows[2]]), machine=orin, builder=Builds(), plan_session=load_plan,
                           cache_dir=tmp_path / "cache")
    assert session.choice.artifact.file == "fp16.onnx"
    assert "cannot be kept" in caplog.text


def test_open_hands_the_calibration_cache_to_the_builder(make_bundle: Make, colors: Callable[..., bytes], orin: Device,
                                                         tmp_path: Path) -> None:
    xavier = "jetson-xavier-jp5"
    path = make_bundle([(Artifact("m.onnx", xavier, Precision.INT8, "onnx"), colors()),
                        (Artifact("m.cache", xavier, Precision.INT8, "calibration-cache"), b"TRT-8502")])
    builds = Builds()
    session = open_session(path, machine=orin, builder=builds, plan_session=load_plan, cache_dir=tmp_path / "cache")
    assert builds.requests[0].calibration_cache == b"TRT-8502"
    assert session.choice.artifact.file == "m.onnx"
    assert "onnxruntime" in session.backend


def test_open_falls_back_when_a_plan_that_fits_does_not_load(make_bundle: Make, jetson_rows: list[Row], orin: Device,
                                                             caplog: pytest.LogCaptureFixture) -> None:
    bad = (Artifact("bad.plan", "jetson-orin-jp6", Precision.FP16, "plan", engine=KEY), b"garbage")
    path = make_bundle([bad, jetson_rows[3]])
    session = open_session(path, machine=orin, plan_session=load_plan)
    assert session.choice.artifact.file == "pi5.onnx"
    assert "Plan does not deserialize" in session.choice.rejected[0]
    assert "trying the next best" in caplog.text
    with pytest.raises(BundleError, match=r"Nothing in .* runs here: .*Plan does not deserialize"):
        open_session(path, machine=orin, plan_session=load_plan, device="cuda")


def test_open_falls_back_when_a_file_of_the_bundle_is_damaged(make_bundle: Make, fp32: Row, pc: Device,
                                                              colors: Callable[..., bytes]) -> None:
    int8 = Artifact("int8.onnx", "x86-vnni", Precision.INT8, "onnx", measurements={"p50_ms": 1.0})
    path = make_bundle([fp32, (int8, colors(gain=0.125))])
    data = bytearray(path.read_bytes())
    data[data.find(np.float32(0.125).tobytes())] ^= 1
    path.write_bytes(data)
    session = open_session(path, machine=pc)
    assert session.choice.artifact.file == "fp32.onnx"
    assert "'int8.onnx' is damaged" in session.choice.rejected[0]


def test_open_takes_precision_and_target_by_name(make_bundle: Make, fp32: Row, colors: Callable[..., bytes],
                                                 pc: Device) -> None:
    path = make_bundle([fp32, (Artifact("int8.onnx", "pi5", Precision.INT8, "onnx"), colors())])
    assert open_session(path, machine=pc, precision="int8").choice.artifact.file == "int8.onnx"
    assert open_session(path, machine=pc, target="pi5").choice.artifact.file == "int8.onnx"
    with pytest.raises(SpecError, match="has nothing for rtx"):
        open_session(path, machine=pc, target="rtx")
    with pytest.raises(SpecError, match="Precision 'int3' is unknown"):
        open_session(path, machine=pc, precision="int3")


def test_pictures_are_refused_when_the_bundle_has_no_preprocessing(make_bundle: Make, fp32: Row, pc: Device) -> None:
    session = open_session(make_bundle([fp32], preprocess=None), machine=pc)
    with pytest.raises(SpecError, match="does not say how a picture becomes"):
        session(RED)


def test_postprocessing_of_the_bundle_is_used(make_bundle: Make, fp32: Row, pc: Device) -> None:
    post = Postprocess("multi-label", "scores", "sigmoid", threshold=0.6)
    session = open_session(make_bundle([fp32], postprocess=post), machine=pc)
    assert [p.label for p in session(RED)] == ["red", "green"]


def test_trtkit_open_runs_on_this_machine(make_bundle: Make, fp32: Row) -> None:
    import trtkit

    with trtkit.open(make_bundle([fp32]), device="cpu", threads=1) as session:
        assert session(RED)[0].label == "red"

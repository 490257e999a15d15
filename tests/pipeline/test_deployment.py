"""A recipe of six targets -> one bundle, opened again; and deployments that fail or are interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import trtkit
from trtkit.bundle import Artifact, open_bundle
from trtkit.device import Device, Gpu, TensorRt
from trtkit.errors import BuildError, CalibrationError, SpecError
from trtkit.pipeline import STEPS, Deployed, deploy
from trtkit.precision import Precision
from trtkit.ranges.cache import parse_cache
from trtkit.recipe import Recipe
from trtkit.runtime.probe import probe_device

TARGETS = {"rtx": ["fp16", "int8"], "jetson-orin-jp6": ["fp16", "int8"], "jetson-xavier-jp5": ["int8"],
           "x86-vnni": ["int8"], "x86-avx2": ["int8"], "pi5": ["int8"]}

WriteRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def deployed(shared_project: Path, shared_recipe: WriteRecipe) -> Deployed:
    """Six targets, each with a real engine where there is a builder; the measuring alone is short."""
    pytest.importorskip("tensorrt_rtx")
    return deploy(shared_recipe(shared_project, TARGETS))


def _artifacts(deployed: Deployed, target: str) -> list[Artifact]:
    return [artifact for artifact in deployed.manifest.artifacts if artifact.target == target]


def test_bundle_has_what_each_target_runs(deployed: Deployed) -> None:
    found = {target: [(a.precision.value, a.kind) for a in _artifacts(deployed, target)] for target in TARGETS}
    assert found == {
        "rtx": [("fp16", "onnx"), ("fp16", "plan"), ("int8", "onnx"), ("int8", "plan")],
        "jetson-orin-jp6": [("fp16", "onnx"), ("int8", "onnx")],
        "jetson-xavier-jp5": [("int8", "onnx"), ("int8", "calibration-cache")],
        "x86-vnni": [("fp32", "onnx"), ("int8", "onnx")],
        "x86-avx2": [("fp32", "onnx"), ("int8", "onnx")],
        "pi5": [("fp32", "onnx"), ("int8", "onnx")]}


def test_bundle_opens_and_predicts_here(deployed: Deployed, shared_project: Path) -> None:
    pictures = sorted((shared_project / "labelled").glob("*.png"))
    with trtkit.open(deployed.recipe.output, device="cpu") as session:
        assert session.choice.artifact.target in ("x86-vnni", "x86-avx2", "pi5")
        answers = session(pictures, top=1)
        assert session.run({"image": np.zeros((2, 3, 8, 8), np.float32)})["scores"].shape == (2, 5)
    assert {answer.label for (answer,) in answers} <= {"red", "green", "blue", "grey", "none"}


def test_plan_s_key_fits_a_gpu_with_that_tensorrt(deployed: Deployed) -> None:
    here = probe_device()
    assert here.tensorrt is not None
    plans = [a for a in _artifacts(deployed, "rtx") if a.kind == "plan"]
    for sm, fits in (("8.6", True), ("12.0", True), ("7.5", False)):
        device = Device(here.machine, here.system, "", frozenset(), 8, 1 << 34, gpu=Gpu("a GPU", sm, 1 << 34, "13.0"),
                        tensorrt=TensorRt("tensorrt_rtx", here.tensorrt.version))
        assert [bool(plan.engine and plan.engine.fits(device)) for plan in plans] == [fits] * 2
    assert [plan.engine.precision for plan in plans if plan.engine] == [Precision.FP16, Precision.INT8]


def test_weak_target_gets_the_plain_model_and_a_scale_for_each_tensor(deployed: Deployed) -> None:
    model, cache = _artifacts(deployed, "jetson-xavier-jp5")
    with open_bundle(deployed.recipe.output, verify="all") as bundle:
        scales = parse_cache(bundle.read(cache.file))
        assert bundle.read(cache.file).startswith(b"TRT-85")
        assert b"QuantizeLinear" not in bundle.read(model.file)
        assert {"image", "lively", "added"} <= scales.keys()
        assert min(scales.values()) > 0
    assert model.file == "fp32.onnx"
    assert model.file in {a.file for a in _artifacts(deployed, "pi5")}  # the same bytes are there once


def test_artifacts_carry_profile_and_measurements(deployed: Deployed) -> None:
    here = probe_device()
    for candidate in deployed.candidates:
        target = candidate.target
        for artifact in _artifacts(deployed, target.name):
            if artifact.kind == "calibration-cache":
                continue
            numbers = artifact.measurements
            assert numbers["samples"] == 12
            assert numbers["top1"] >= 0.5
            assert numbers["accuracy_from"] == ("onnxruntime simulation" if target.is_tensorrt else "onnxruntime")
            assert ("p50_ms" in numbers) == target.runs_on(here.machine, here.cpu_flags)
            assert (artifact.profile is not None) == target.is_tensorrt
            if artifact.profile is not None:
                assert [artifact.profile.min["image"][0], artifact.profile.max["image"][0]] == [1, 8]


def test_manifest_says_where_the_bundle_comes_from(deployed: Deployed) -> None:
    manifest = deployed.manifest
    assert (manifest.name, manifest.labels) == ("tiny", ("red", "green", "blue", "grey", "none"))
    assert manifest.preprocess == deployed.recipe.preprocess
    assert manifest.provenance["trtkit"] == trtkit.__version__
    assert manifest.provenance["calibration"]["samples"] == 12
    assert manifest.provenance["left_out"] == {}
    assert len(manifest.provenance["model"]) == 32
    assert (deployed.reference_top1, deployed.reference_top5) == (1.0, 1.0)


def test_notes_tell_what_was_built_and_what_is_built_elsewhere(deployed: Deployed) -> None:
    text = "\n".join(deployed.notes)
    assert "rtx int8: engine of" in text
    assert "Built on the board at first opening: jetson-orin-jp6, jetson-xavier-jp5" in text
    assert "Warning: only 12 samples" in text


def test_progress_counts_the_steps(recipe_of: WriteRecipe) -> None:
    seen: list[tuple[int, int | None]] = []

    def watch(what: str, done: int, total: int | None) -> None:
        if what == "Deploying":
            seen.append((done, total))

    deploy(recipe_of({"pi5": ["int8"]}), watch)
    assert seen == [(done, len(STEPS)) for done in range(len(STEPS) + 1)]


def test_a_recipe_of_a_model_alone_is_enough(recipe_of: WriteRecipe) -> None:
    bare = dict.fromkeys(("preprocess", "calibrate", "evaluate", "labels"))
    deployed = deploy(recipe_of({"pi5": ["fp32"], "jetson-orin-jp6": ["fp16"]}, **bare))
    assert [str(each) for each in deployed.candidates] == ["pi5 fp32", "jetson-orin-jp6 fp16"]
    assert deployed.candidates[1].accuracy is None


def test_a_failed_deployment_leaves_the_bundle_and_no_litter(recipe_of: WriteRecipe, project: Path) -> None:
    recipe = recipe_of({"pi5": ["int8"]})
    deploy(recipe)
    before = recipe.output.read_bytes()
    names = sorted(path.name for path in project.iterdir())
    with pytest.raises(SpecError, match="no such node"):
        deploy(recipe_of({"pi5": ["int8"]}, quantize={"keep_names": ["no such node"]}))
    assert recipe.output.read_bytes() == before
    assert sorted(path.name for path in project.iterdir()) == names
    assert not list(recipe.work.glob(".*"))


def test_a_failed_build_leaves_the_bundle(recipe_of: WriteRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    recipe = recipe_of({"rtx": ["int8"]}, build={"workspace_bytes": 1})
    recipe.output.write_bytes(b"an older bundle")

    def fail(*_args: object, **_more: object) -> None:
        raise BuildError("the GPU is on fire")

    monkeypatch.setattr("trtkit.pipeline.building.build_plan", fail)
    with pytest.raises(BuildError, match="on fire"):
        deploy(recipe)
    assert recipe.output.read_bytes() == b"an older bundle"


def test_sparse_kernels_are_tried_when_the_recipe_says_so(recipe_of: WriteRecipe) -> None:
    pytest.importorskip("tensorrt_rtx")
    deployed = deploy(recipe_of({"rtx": ["fp16"]}, build={"sparse_weights": True}))
    assert any(note.endswith("with 2:4 sparse kernels tried") for note in deployed.notes)


def test_a_work_folder_that_cannot_be_made_is_named(recipe_of: WriteRecipe, project: Path) -> None:
    (project / "taken").write_text("")
    with pytest.raises(SpecError, match=r"Work folder '.*taken/work' cannot be made: Not a directory. Name another"):
        deploy(recipe_of({"pi5": ["fp32"]}, work="taken/work"))


@pytest.mark.parametrize("section", ["calibrate", "evaluate"])
def test_missing_data_is_told_before_the_first_step(recipe_of: WriteRecipe, section: str) -> None:
    recipe = recipe_of({"pi5": ["int8"]}, **{section: {"data": "nowhere"}})
    with pytest.raises(CalibrationError, match=rf"Data '.*nowhere' of \[{section}\] does not exist. Name a folder"):
        deploy(recipe)
    assert not recipe.work.exists() or not list(recipe.work.iterdir())


def test_each_step_is_logged(recipe_of: WriteRecipe, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "trtkit.pipeline"):
        deploy(recipe_of({"pi5": ["fp32"]}))
    steps = [record.message for record in caplog.records if record.message.startswith("Step ")]
    assert steps == [f"Step {name}" for name in STEPS]

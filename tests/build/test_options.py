from __future__ import annotations

import json
from pathlib import Path

import pytest

from trtkit.build import BuildOptions
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.target import get_target, load_targets
from trtkit.tensors import ShapeProfile

PROFILE = ShapeProfile({"x": (1, 3)}, {"x": (2, 3)}, {"x": (4, 3)})


@pytest.mark.parametrize("options", [
    pytest.param(BuildOptions(), id="defaults"),
    pytest.param(BuildOptions(flavour="tensorrt", version="8.5", sm="7.2", typing="weak", precision=Precision.INT8,
                              profiles=(PROFILE, PROFILE), calibration_cache=bytes(range(256)),
                              ranges_by="tensors", dla_core=1,
                              gpu_fallback=False, workspace_bytes=1 << 31, optimization_level=3, tf32=False,
                              sparse_weights=True, flags=("STRICT_NANS",), timing_cache=Path("/a/b.cache"),
                              plugins=(Path("/a/p.so"),)), id="everything"),
    pytest.param(BuildOptions(batch=(1, 2, 3), compute_capabilities=("8.6", "12.0")), id="rtx"),
])
def test_options_survive_json(options: BuildOptions) -> None:
    assert BuildOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


@pytest.mark.parametrize(("wrong", "says"), [
    pytest.param({"flavour": "onnx"}, "flavour is 'onnx'", id="flavour"),
    pytest.param({"typing": "loose"}, "Choose one of: strong, weak", id="typing"),
    pytest.param({"ranges_by": "layers"}, "Choose one of: calibrator, tensors", id="ranges-by"),
    pytest.param({"workspace_bytes": 0}, "workspace_bytes is 0", id="workspace"),
    pytest.param({"optimization_level": 6}, "Choose 0 to 5", id="level"),
    pytest.param({"dla_core": -1}, "count from 0", id="dla"),
    pytest.param({"flags": ("INT8",)}, "Flag INT8 sets a precision", id="precision-flag"),
    pytest.param({"calibration_cache": b"x"}, "goes with typing 'weak' and precision 'int8'", id="cache-strong"),
    pytest.param({"calibration_cache": b"x", "typing": "weak", "precision": Precision.FP16}, "'weak' and 'fp16'",
                 id="cache-fp16"),
    pytest.param({"dla_core": 0, "flavour": "tensorrt_rtx"}, "knows no DLA", id="dla-rtx"),
    pytest.param({"batch": (4, 1, 8)}, "rising from 1", id="batch-order"),
    pytest.param({"batch": (0, 1, 8)}, "rising from 1", id="batch-zero"),
    pytest.param({"batch": (1, 1, 8), "profiles": (PROFILE,)}, "the one or the other", id="batch-and-profiles"),
])
def test_options_refuse_what_cannot_be(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        BuildOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name, target in load_targets().items() if target.is_tensorrt])
def test_options_follow_every_tensorrt_target(name: str) -> None:
    target = get_target(name)
    options = BuildOptions.for_target(target, Precision.FP16, tf32=False)
    assert (options.flavour, options.typing, options.version) == (target.runtime, target.typing, target.tensorrt)
    assert options.sm == target.sm
    assert (options.dla_core == 0) == (target.device == "dla")
    assert not options.tf32


def test_options_refuse_a_target_without_tensorrt() -> None:
    with pytest.raises(SpecError, match="no plan to build"):
        BuildOptions.for_target(get_target("pi5"), Precision.INT8)


def test_options_refuse_a_precision_that_the_target_lacks() -> None:
    with pytest.raises(SpecError, match="does not run fp32"):
        BuildOptions.for_target(get_target("orin-dla"), Precision.FP32)

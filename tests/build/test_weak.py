"""The weak path of TensorRT 8.5 to 10, the DLA and the timing cache, on a TensorRT 10.3 that behaves.

tests/contracts holds the same code against the real bindings; a board runs it for real.
"""

from __future__ import annotations

from contextlib import nullcontext
from enum import Enum, IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trtkit.build.compile import Compiled, compile_model
from trtkit.build.flavour import Flavour
from trtkit.build.live import write_samples
from trtkit.build.options import BuildOptions
from trtkit.errors import BuildError
from trtkit.precision import Precision
from trtkit.runtime.trt_log import capture_log
from trtkit.tensors import ShapeProfile

CACHE = b"TRT-100300-EntropyCalibration2\nx: 3c010a14\n"
TIMING_MAGIC = b"of this GPU:"

BuilderFlag = IntEnum("BuilderFlag", "FP16 INT8 TF32 GPU_FALLBACK SPARSE_WEIGHTS STRICT_NANS", start=0)
CreationFlag = IntEnum("CreationFlag", "EXPLICIT_BATCH STRONGLY_TYPED", start=0)
LayerType = Enum("LayerType", "CONVOLUTION QUANTIZE CONSTANT")
DataType = Enum("DataType", "FLOAT INT32")
DeviceType = Enum("DeviceType", "GPU DLA")
Severity = Enum("Severity", "ERROR WARNING")


class FakeConvolution(SimpleNamespace):
    """A layer that can be looked at as a convolution: four output channels, one place in the kernel."""

    num_groups, num_output_maps, kernel_size_nd = 1, 4, (1, 1)


class FakeConfig:
    """Holds what is set; FP16 and INT8 are refused with a log line when the network is strongly typed."""

    def __init__(self, builder: FakeBuilder) -> None:
        self.builder, self.flags, self.profiles = builder, {BuilderFlag.TF32}, []
        self.int8_calibrator: Any = None
        self.calibration_profile = self.timing = None
        self.default_device_type, self.DLA_core = DeviceType.GPU, -1
        self.progress_monitor: Any = None

    def set_flag(self, flag: BuilderFlag) -> None:
        if self.builder.strong and flag in (BuilderFlag.FP16, BuilderFlag.INT8):
            self.builder.logger.log(Severity.ERROR, "precision flags and strong typing exclude each other")
            return
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self.flags

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_calibration_profile(self, profile: Any) -> bool:
        self.calibration_profile = profile
        return True

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.name in self.builder.dla_layers

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.data and not cache.data.startswith(TIMING_MAGIC):
            self.builder.logger.log(Severity.ERROR, "timing cache is of another GPU")
            return False
        self.timing = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: TIMING_MAGIC + self.timing.data.removeprefix(TIMING_MAGIC) + b"+1")


class FakeTensor:
    """A tensor that takes symmetric ranges, as TensorRT does."""

    def __init__(self, name: str) -> None:
        self.name, self.shape, self.is_shape_tensor = name, (-1, 3), False
        self.dtype, self.range = DataType.FLOAT, None

    def set_dynamic_range(self, low: float, high: float) -> bool:
        self.range = (low, high)
        return low == -high


def calibrated(calibrator: Any) -> bytes:
    """Do with a calibrator what TensorRT does: take its cache, or its batches, and hand it the cache at the end."""
    assert calibrator.get_batch_size() > 0
    cache = calibrator.read_calibration_cache()
    while cache is None and calibrator.get_batch(["x"]) is not None:
        continue
    made: bytes = cache or CACHE
    calibrator.write_calibration_cache(made)
    return made


class FakeBuilder:
    """Builds a plan that tells what it was built with."""

    num_DLA_cores = 0
    dla_layers: tuple[str, ...] = ("conv",)
    latest: FakeBuilder

    def __init__(self, logger: Any) -> None:
        self.logger, self.strong = logger, False
        FakeBuilder.latest = self

    def create_network(self, flags: int) -> Any:
        self.strong = bool(flags >> CreationFlag.STRONGLY_TYPED & 1)
        x, y = (FakeTensor(name) for name in "xy")
        layer = FakeConvolution(type=FakeParser.layer_type, name="conv", num_outputs=1, get_output=lambda index: y,
                                kernel=FakeParser.kernel)
        self.tensors = {"x": x, "y": y}
        return SimpleNamespace(num_inputs=1, num_outputs=1, num_layers=1, get_input=lambda index: x,
                               get_layer=lambda index: layer)

    def create_builder_config(self) -> FakeConfig:
        self.config = FakeConfig(self)
        return self.config

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *three: shapes.update({name: three}))

    def build_serialized_network(self, network: Any, config: FakeConfig) -> bytes | None:
        self.logger.log(Severity.ERROR, "a tactic was tried in vain")
        cache = calibrated(config.int8_calibrator) if config.int8_calibrator else b""
        return b"plan " + " ".join(sorted(flag.name for flag in config.flags)).encode() + b" " + cache


class FakeParser:
    layer_type = LayerType.CONVOLUTION
    kernel = np.ones(16, np.float32)

    def __init__(self, network: Any, logger: Any) -> None:
        pass

    def parse(self, model: bytes, path: str) -> bool:
        return True


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(FakeBuilder, "num_DLA_cores", 0)
    monkeypatch.setattr(FakeParser, "layer_type", LayerType.CONVOLUTION)
    module = ModuleType("tensorrt")
    empty = {name: type(name, (), {}) for name in ("ILogger", "IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator",
                                                   "IProgressMonitor")}
    vars(module).update(empty, BuilderFlag=BuilderFlag, NetworkDefinitionCreationFlag=CreationFlag, LayerType=LayerType,
                        DataType=DataType, IConvolutionLayer=FakeConvolution,
                        DeviceType=DeviceType, Builder=FakeBuilder, OnnxParser=FakeParser,
                        init_libnvinfer_plugins=lambda logger, namespace: True,
                        get_plugin_registry=lambda: SimpleNamespace(load_library=lambda path: None))
    return module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"a model")
    return path


def build(trt: ModuleType, model: Path, **options: Any) -> Compiled:
    return compile_model(Flavour(trt, "tensorrt", "10.3.0"), model, BuildOptions(**options), lambda done, total: None)


@pytest.mark.parametrize(("precision", "flags"), [
    pytest.param(Precision.FP32, b"TF32", id="fp32"),
    pytest.param(Precision.FP16, b"FP16 TF32", id="fp16"),
])
def test_weak_precision_sets_its_flags(trt: ModuleType, model: Path, precision: Precision, flags: bytes) -> None:
    assert build(trt, model, typing="weak", precision=precision).data == b"plan " + flags + b" "
    assert not FakeBuilder.latest.strong


def test_sparse_kernels_are_tried_when_the_weights_are_two_four(trt: ModuleType, model: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeParser, "kernel", np.tile(np.array([0, 1, 0, 2], np.float32), 4))
    made = build(trt, model, typing="weak")
    assert made.data == b"plan SPARSE_WEIGHTS TF32 "
    assert made.sparse
    assert build(trt, model, typing="weak", sparse_weights=False).data == b"plan TF32 "


def test_weak_int8_builds_from_the_cache_and_calibrates_with_the_first_profile(trt: ModuleType, model: Path) -> None:
    profile = ShapeProfile({"x": (1, 3)}, {"x": (2, 3)}, {"x": (4, 3)})
    made = build(trt, model, typing="weak", precision=Precision.INT8, calibration_cache=CACHE, profiles=(profile,))
    assert made.data == b"plan INT8 TF32 " + CACHE
    assert FakeBuilder.latest.config.calibration_profile.shapes == {"x": ((1, 3), (2, 3), (4, 3))}


def test_weak_int8_is_refused_without_ranges(trt: ModuleType, model: Path) -> None:
    with pytest.raises(BuildError, match="no Q/DQ nodes and there is no calibration cache"):
        build(trt, model, typing="weak", precision=Precision.INT8)


def test_weak_int8_takes_ranges_from_qdq_nodes(trt: ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeParser, "layer_type", LayerType.QUANTIZE)
    assert build(trt, model, typing="weak", precision=Precision.INT8_FP16).data == b"plan FP16 INT8 TF32 "


def test_weak_precision_refuses_what_only_a_graph_can_say(trt: ModuleType, model: Path) -> None:
    with pytest.raises(BuildError, match="Weak typing runs fp32, fp16, int8, int8\\+fp16, not fp8"):
        build(trt, model, typing="weak", precision=Precision.FP8)


@pytest.mark.parametrize(("cache", "says"), [
    pytest.param(b"", "no TensorRT calibration cache: it begins with ''", id="empty"),
    pytest.param(b"TRT-8502-EntropyCalibration\nx: 3c010a14\n", "written by a EntropyCalibration calibrator",
                 id="other-calibrator"),
    pytest.param(b"\x00\xff", "no TensorRT calibration cache", id="binary"),
    pytest.param(b"TRT-100300-EntropyCalibration2\nother: 3c010a14\n", "None of the cache's 1 tensors is in",
                 id="other-model"),
    pytest.param(b"TRT-100300-EntropyCalibration2\nx 3c010a14\n", "Line 2", id="damaged"),
])
def test_weak_int8_refuses_a_cache_of_another_kind(trt: ModuleType, model: Path, cache: bytes, says: str) -> None:
    with pytest.raises(BuildError, match=says):
        build(trt, model, typing="weak", precision=Precision.INT8, calibration_cache=cache)


def test_weak_int8_calibrates_with_live_samples_and_keeps_the_cache(trt: ModuleType, model: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(address=1, free=lambda: None)
    monkeypatch.setattr("trtkit.build.compile.PyCuda", lambda: SimpleNamespace(
        active=nullcontext, device_memory=lambda size: memory, copy_in=lambda target, source: None,
        synchronize=lambda: None, close=lambda: None))
    write_samples([{"x": np.zeros((1, 3))}] * 4, tmp_path / "samples")
    options = BuildOptions(typing="weak", precision=Precision.INT8, batch=(1, 2, 4))
    made = compile_model(Flavour(trt, "tensorrt", "10.3.0"), model, options, lambda done, total: None,
                         tmp_path / "samples")
    assert (made.data, made.cache) == (b"plan INT8 TF32 " + CACHE, CACHE)
    assert FakeBuilder.latest.config.int8_calibrator.batches == 2


def test_weak_int8_gives_a_minmax_cache_to_its_own_calibrator(trt: ModuleType, model: Path) -> None:
    cache = b"TRT-8502-MinMaxCalibration\nx: 3c010a14\n"
    build(trt, model, typing="weak", precision=Precision.INT8, calibration_cache=cache)
    assert isinstance(FakeBuilder.latest.config.int8_calibrator, trt.IInt8MinMaxCalibrator)


def test_weak_int8_warns_of_tensors_without_a_scale(trt: ModuleType, model: Path) -> None:
    build(trt, model, typing="weak", precision=Precision.INT8, calibration_cache=CACHE)
    log, _ = capture_log(trt)
    assert any("1 of 2 tensors have no scale" in line.text and line.text.endswith("INT8: y") for line in log.lines)


def test_weak_int8_sets_ranges_on_the_tensors_when_asked(trt: ModuleType, model: Path) -> None:
    made = build(trt, model, typing="weak", precision=Precision.INT8, ranges_by="tensors",
                 calibration_cache=b"TRT-100300-EntropyCalibration2\nx: 3f800000\n")
    assert made.data == b"plan INT8 TF32 "
    assert FakeBuilder.latest.config.int8_calibrator is None
    assert {name: each.range for name, each in FakeBuilder.latest.tensors.items()} == {"x": (-127.0, 127.0), "y": None}


def test_strong_typing_sets_no_precision_flag(trt: ModuleType, model: Path) -> None:
    assert build(trt, model, precision=Precision.INT8).data == b"plan TF32 "
    assert FakeBuilder.latest.strong


def test_dla_becomes_the_default_device_with_gpu_fallback(trt: ModuleType, model: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeBuilder, "num_DLA_cores", 2)
    made = build(trt, model, typing="weak", precision=Precision.FP16, dla_core=1, batch=(2, 2, 2))
    config = FakeBuilder.latest.config
    assert (config.default_device_type, config.DLA_core) == (DeviceType.DLA, 1)
    assert b"GPU_FALLBACK" in made.data


@pytest.mark.parametrize(("cores", "asked", "says"), [
    pytest.param(0, {}, "sees 0 DLA cores here, core 0 was asked for.*up to 10.7", id="none"),
    pytest.param(2, {"dla_core": 2}, "Choose 0 to 1", id="too-high"),
    pytest.param(2, {"precision": Precision.FP32}, "not FP32", id="fp32"),
    pytest.param(2, {"batch": (1, 2, 4)}, "the DLA runs one", id="range-of-shapes"),
])
def test_dla_is_refused_with_the_reason(trt: ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch, cores: int,
                                        asked: dict[str, Any], says: str) -> None:
    monkeypatch.setattr(FakeBuilder, "num_DLA_cores", cores)
    with pytest.raises(BuildError, match=says):
        build(trt, model, **{"typing": "weak", "precision": Precision.FP16, "dla_core": 0, **asked})


def test_dla_refuses_a_minmax_cache(trt: ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeBuilder, "num_DLA_cores", 2)
    with pytest.raises(BuildError, match="A DLA takes caches of EntropyCalibration2 alone"):
        build(trt, model, typing="weak", precision=Precision.INT8, dla_core=0,
              calibration_cache=b"TRT-8502-MinMaxCalibration\nx: 3c010a14\n")


def test_layers_that_the_dla_does_not_take_are_told_or_refused(trt: ModuleType, model: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeBuilder, "num_DLA_cores", 2)
    monkeypatch.setattr(FakeBuilder, "dla_layers", ())
    build(trt, model, typing="weak", precision=Precision.FP16, dla_core=0)
    log, _ = capture_log(trt)
    assert any("1 of 1 layers do not run on the DLA: conv; the GPU runs them" in line.text for line in log.lines)
    with pytest.raises(BuildError, match=r"do not run on the DLA: conv\. Allow gpu_fallback"):
        build(trt, model, typing="weak", precision=Precision.FP16, dla_core=0, gpu_fallback=False)


def test_timing_cache_grows_from_build_to_build(trt: ModuleType, model: Path, tmp_path: Path) -> None:
    for _ in range(2):
        build(trt, model, timing_cache=tmp_path / "timing")
    assert (tmp_path / "timing").read_bytes() == TIMING_MAGIC + b"+1+1"


def test_timing_cache_of_another_gpu_is_replaced(trt: ModuleType, model: Path, tmp_path: Path) -> None:
    (tmp_path / "timing").write_bytes(b"of that GPU:")
    build(trt, model, timing_cache=tmp_path / "timing")
    assert (tmp_path / "timing").read_bytes() == TIMING_MAGIC + b"+1"


def test_plugin_library_that_is_refused_is_an_error(trt: ModuleType, model: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"plugin library '.*p\.so' cannot be loaded"):
        build(trt, model, plugins=(tmp_path / "p.so",))


@pytest.mark.parametrize(("asked", "says"), [
    pytest.param({"optimization_level": 3}, "no optimization level, which came with 8.6", id="level"),
    pytest.param({"compute_capabilities": ("8.6",)}, "builds for the GPU that is here", id="compute-capabilities"),
])
def test_setting_that_this_version_lacks_is_refused(trt: ModuleType, model: Path, asked: dict[str, Any],
                                                    says: str) -> None:
    with pytest.raises(BuildError, match=says):
        build(trt, model, **asked)

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from trtkit.bundle.engine_key import EngineKey, Fit
from trtkit.device import Device, Gpu, TensorRt
from trtkit.errors import BundleError, EngineMismatchError
from trtkit.precision import Precision
from trtkit.tensors import ShapeProfile

ORIN = Device("aarch64", "Linux", "Cortex-A78AE", frozenset(), 8, 32 << 30, gpu=Gpu("Orin", "8.7", 32 << 30, "12.6"),
              tensorrt=TensorRt("tensorrt", "10.3.0"))
PC = Device("x86_64", "Linux", "a CPU", frozenset(), 8, 32 << 30, gpu=Gpu("RTX 4090", "8.9", 24 << 30, "13.0"),
            tensorrt=TensorRt("tensorrt_rtx", "1.7.1.116"))
ORIN_KEY = EngineKey("tensorrt", "10.3.0", ("8.7",), "linux-aarch64", Precision.INT8)
RTX_KEY = EngineKey("tensorrt_rtx", "1.7.1.116", ("8.0+",), "linux-x86_64", Precision.FP16)


def with_sm(device: Device, sm: str) -> Device:
    assert device.gpu is not None
    return replace(device, gpu=replace(device.gpu, sm=sm))


def with_version(device: Device, version: str) -> Device:
    assert device.tensorrt is not None
    return replace(device, tensorrt=replace(device.tensorrt, version=version))


@pytest.mark.parametrize(("key", "device"), [
    pytest.param(ORIN_KEY, ORIN, id="same-board"),
    pytest.param(ORIN_KEY, with_version(ORIN, "10.3.0.30"), id="build-number-does-not-count"),
    pytest.param(replace(ORIN_KEY, sm=("10.1",)), with_sm(ORIN, "11.0"), id="thor-has-two-numbers"),
    pytest.param(RTX_KEY, PC, id="portable-on-ada"),
    pytest.param(RTX_KEY, with_sm(PC, "12.0"), id="portable-on-blackwell"),
    pytest.param(RTX_KEY, with_sm(PC, "9.0"), id="portable-on-hopper-as-documented"),
    pytest.param(replace(RTX_KEY, sm=("8.6", "8.9")), PC, id="one-of-several"),
    pytest.param(replace(ORIN_KEY, flags=("VERSION_COMPATIBLE",)), with_version(ORIN, "10.16.1"), id="newer-minor"),
    pytest.param(replace(ORIN_KEY, sm=()), ORIN, id="sm-unknown"),
])
def test_plan_fits(key: EngineKey, device: Device) -> None:
    assert key.fits(device) == Fit(True)
    key.check(device)


@pytest.mark.parametrize(("key", "device", "reason"), [
    pytest.param(ORIN_KEY, with_sm(ORIN, "8.9"),
                 "Engine was built for SM 8.7, TensorRT 10.3.0; this device is SM 8.9.", id="sm"),
    pytest.param(ORIN_KEY, with_version(ORIN, "10.3.1"),
                 "Engine was built by TensorRT 10.3.0; this device has TensorRT 10.3.1.", id="patch"),
    pytest.param(ORIN_KEY, replace(ORIN, gpu=None), "Engine needs an NVIDIA GPU; this device has none.", id="no-gpu"),
    pytest.param(ORIN_KEY, replace(ORIN, tensorrt=None),
                 "Engine needs TensorRT 10.3.0; no TensorRT can be imported here.", id="no-tensorrt"),
    pytest.param(replace(RTX_KEY, os_arch="linux-aarch64"), PC,
                 "Engine was built for linux-aarch64; this device is linux-x86_64.", id="arch"),
    pytest.param(RTX_KEY, replace(PC, tensorrt=TensorRt("tensorrt", "10.16.1")),
                 "Engine was built by TensorRT-RTX 1.7.1.116; this device has TensorRT 10.16.1.", id="flavour"),
    pytest.param(RTX_KEY, with_sm(PC, "7.5"),
                 "Engine was built for SM 8.0+, TensorRT-RTX 1.7.1.116; this device is SM 7.5.", id="turing"),
    pytest.param(replace(RTX_KEY, sm=("8.0",)), with_sm(PC, "8.6"),
                 "Engine was built for SM 8.0, TensorRT-RTX 1.7.1.116; this device is SM 8.6.", id="named-sm-is-exact"),
    pytest.param(replace(ORIN_KEY, flags=("VERSION_COMPATIBLE",)), with_version(ORIN, "10.2.0"),
                 "Engine was built by TensorRT 10.3.0; this device has TensorRT 10.2.0.", id="compatible-older"),
    pytest.param(replace(ORIN_KEY, flags=("VERSION_COMPATIBLE",)), with_version(ORIN, "11.0.0"),
                 "Engine was built by TensorRT 10.3.0; this device has TensorRT 11.0.0.", id="compatible-other-major"),
])
def test_plan_does_not_fit_and_says_why(key: EngineKey, device: Device, reason: str) -> None:
    assert key.fits(device).reasons == (reason,)
    assert not key.fits(device)
    with pytest.raises(EngineMismatchError, match="trtkit build") as caught:
        key.check(device)
    assert str(caught.value).startswith(reason)


def test_plan_tells_every_reason_at_once() -> None:
    assert len(ORIN_KEY.fits(PC).reasons) == 3


def test_key_survives_json() -> None:
    profile = ShapeProfile({"x": (1, 3)}, {"x": (2, 3)}, {"x": (4, 3)})
    key = replace(ORIN_KEY, profiles=(profile,), plugins=("libroi.so",), flags=("STRICT_NANS",))
    assert EngineKey.from_json(json.loads(json.dumps(key.to_json()))) == key


@pytest.mark.parametrize("broken", [
    pytest.param({}, id="empty"),
    pytest.param({**ORIN_KEY.to_json(), "precision": "fp3"}, id="precision"),
    pytest.param({**ORIN_KEY.to_json(), "sm": None}, id="sm"),
    pytest.param({**ORIN_KEY.to_json(), "profiles": [{}]}, id="profile"),
])
def test_key_is_refused_when_json_is_broken(broken: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        EngineKey.from_json(broken)


def test_key_reads_well() -> None:
    key = replace(ORIN_KEY, plugins=("libroi.so",), flags=("STRICT_NANS",))
    assert str(key) == "TensorRT 10.3.0, SM 8.7, linux-aarch64, int8, STRICT_NANS, plugin libroi.so"

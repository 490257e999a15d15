"""What a plan was built for, compared with the machine that wants to run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trtkit.bundle.plan_header import PORTABLE
from trtkit.device import Device
from trtkit.errors import BundleError, EngineMismatchError
from trtkit.precision import Precision
from trtkit.tensors import ShapeProfile

__all__ = ["EngineKey", "Fit", "os_arch"]

FLAVOURS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_SAME_SM = {"10.1": "11.0"}
"""Jetson Thor: CUDA 12 calls it 10.1, CUDA 13 calls it 11.0."""


@dataclass(frozen=True)
class Fit:
    """Whether a plan runs on a device; each reason against it is a sentence."""

    ok: bool
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ok


def os_arch(device: Device) -> str:
    """Return operating system and architecture, such as "linux-aarch64"."""
    return f"{device.system.lower()}-{device.machine}"


@dataclass(frozen=True)
class EngineKey:
    """What a plan was built for and with.

    Attributes:
        flavour: "tensorrt" or "tensorrt_rtx".
        version: Of the TensorRT that built it, such as "10.3.0".
        sm: Compute capabilities that it runs on, such as ("8.7",); "8.0+" means 8.0 and later; () when not known.
        os_arch: Such as "linux-aarch64".
        precision: Lowest precision in it.
        profiles: Its optimization profiles.
        plugins: Names of the plugin libraries that it needs.
        flags: Builder flags by name; their integers move between TensorRT versions.
    """

    flavour: str
    version: str
    sm: tuple[str, ...]
    os_arch: str
    precision: Precision
    profiles: tuple[ShapeProfile, ...] = ()
    plugins: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{FLAVOURS.get(self.flavour, self.flavour)} {self.version}", f"SM {', '.join(self.sm) or '?'}",
                 self.os_arch, self.precision.value]
        return ", ".join([*parts, *self.flags, *(f"plugin {name}" for name in self.plugins)])

    def fits(self, device: Device) -> Fit:
        """Return whether the plan runs on `device`, and every reason why not.

        A plan needs the TensorRT that built it to the patch version; one built VERSION_COMPATIBLE runs on that or a
        later version of the same major one.
        """
        reasons = tuple(self._reasons(device))
        return Fit(not reasons, reasons)

    def check(self, device: Device) -> None:
        """Return when the plan runs on `device`.

        Raises:
            EngineMismatchError: It does not; with every reason.
        """
        fit = self.fits(device)
        if not fit:
            raise EngineMismatchError(" ".join(fit.reasons) + " Build it on the machine that runs it: trtkit build "
                                      "MODEL.onnx -o MODEL.plan")

    def _reasons(self, device: Device) -> Iterator[str]:
        built = f"{FLAVOURS.get(self.flavour, self.flavour)} {self.version}"
        if device.gpu is None:
            yield "Engine needs an NVIDIA GPU; this device has none."
        elif self.sm and not any(_runs_on(built_for, device.gpu.sm) for built_for in self.sm):
            yield f"Engine was built for SM {', '.join(self.sm)}, {built}; this device is SM {device.gpu.sm}."
        if device.tensorrt is None:
            yield f"Engine needs {built}; no TensorRT can be imported here."
        elif device.tensorrt.module != self.flavour or not self._version_runs(device.tensorrt.version):
            here = f"{FLAVOURS.get(device.tensorrt.module, device.tensorrt.module)} {device.tensorrt.version}"
            yield f"Engine was built by {built}; this device has {here}."
        if self.os_arch != os_arch(device):
            yield f"Engine was built for {self.os_arch}; this device is {os_arch(device)}."

    def _version_runs(self, version: str) -> bool:
        built, here = _release(self.version), _release(version)
        if "VERSION_COMPATIBLE" in self.flags:
            return bool(built) and built[:1] == here[:1] and here >= built
        return built == here

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads."""
        return {"flavour": self.flavour, "version": self.version, "sm": list(self.sm), "os_arch": self.os_arch,
                "precision": self.precision.value, "profiles": [p.to_json() for p in self.profiles],
                "plugins": list(self.plugins), "flags": list(self.flags)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineKey:
        """Read what `to_json` wrote.

        Raises:
            BundleError: A key is missing or of the wrong form.
        """
        try:
            return cls(str(data["flavour"]), str(data["version"]), tuple(map(str, data["sm"])), str(data["os_arch"]),
                       Precision(data["precision"]), tuple(map(ShapeProfile.from_json, data.get("profiles", ()))),
                       tuple(map(str, data.get("plugins", ()))), tuple(map(str, data.get("flags", ()))))
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise BundleError(f"Engine key {dict(data)!r:.200} cannot be read ({type(err).__name__}: {err}). "
                              "Pack the bundle again") from err


def _runs_on(built_for: str, sm: str) -> bool:
    if built_for == PORTABLE:
        return _release(sm) >= (8, 0)
    return _SAME_SM.get(built_for, built_for) == _SAME_SM.get(sm, sm)


def _release(version: str) -> tuple[int, ...]:
    """Return major, minor and patch of "10.13.3.9" as numbers: (10, 13, 3)."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())

"""What a machine has, as plain data: compared with what a plan or a target needs. Found out in trtkit.runtime.probe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Device", "Gpu", "TensorRt"]


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: As the driver calls it.
        sm: Compute capability, such as "8.7".
        memory_bytes: Device memory; on an integrated GPU the memory shared with the CPU.
        driver: CUDA version that the driver supports, such as "13.0".
    """

    name: str
    sm: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class TensorRt:
    """A TensorRT that can be imported.

    Attributes:
        module: "tensorrt" or "tensorrt_rtx".
        version: Such as "10.3.0".
    """

    module: str
    version: str


@dataclass(frozen=True)
class Device:
    """One machine.

    Attributes:
        machine: Architecture as platform.machine() prints it, such as "x86_64" or "aarch64".
        system: Operating system as platform.system() prints it.
        cpu: Model name of the CPU.
        cpu_flags: Its features as the kernel names them.
        cores: CPU cores that this process may use.
        memory_bytes: Main memory.
        board: Name of the board from its device tree; "" on a PC or server.
        l4t: Jetson Linux release, such as "36.4.0"; "" elsewhere.
        jetpack: JetPack release that goes with it, such as "6.1"; "" elsewhere.
        gpu: The first NVIDIA GPU, or None.
        tensorrt: The TensorRT that imports, or None.
        onnxruntime: Its version, or "".
    """

    machine: str
    system: str
    cpu: str
    cpu_flags: frozenset[str]
    cores: int
    memory_bytes: int
    board: str = ""
    l4t: str = ""
    jetpack: str = ""
    gpu: Gpu | None = None
    tensorrt: TensorRt | None = None
    onnxruntime: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict, CPU flags sorted."""
        return {**asdict(self), "cpu_flags": sorted(self.cpu_flags)}

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from trtkit.runtime.jetpack import JETPACKS, find_jetpack, parse_l4t
from trtkit.runtime.probe import probe, probe_device, read_cpu, usable_cores
from trtkit.target import load_targets

PI5 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41

Revision\t: d04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
PC = "model name\t: Some CPU @ 3 GHz\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\nflags\t\t: other\n"
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC"


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    """The files of a Jetson that the probe reads."""
    for name, text in {"proc/cpuinfo": PI5.partition("\nRevision")[0], "proc/meminfo": "MemTotal:        7801824 kB\n",
                       "etc/nv_tegra_release": RELEASE,
                       "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_probe_reads_a_jetson(jetson: Path) -> None:
    device = probe_device(jetson)
    assert (device.board, device.l4t, device.jetpack) == ("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6.2")
    assert device.memory_bytes == 7801824 * 1024
    assert "asimddp" in device.cpu_flags


def test_probe_finds_this_machine() -> None:
    device = probe_device()
    assert device.cores == usable_cores() >= 1
    assert device.memory_bytes > 1 << 28
    assert device.onnxruntime.count(".") == 2
    assert device.jetpack == device.l4t == ""


def test_probe_is_empty_handed_but_works_when_there_are_no_files(tmp_path: Path) -> None:
    device = probe_device(tmp_path)
    assert (device.cpu_flags, device.memory_bytes, device.board) == (frozenset(), 0, "")


@pytest.mark.parametrize(("text", "name", "flag"), [(PC, "Some CPU @ 3 GHz", "avx512_vnni"),
                                                    (PI5, "Raspberry Pi 5 Model B Rev 1.0", "asimddp")])
def test_read_cpu_knows_x86_and_arm(tmp_path: Path, text: str, name: str, flag: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    found, flags = read_cpu(tmp_path)
    assert found == name
    assert flag in flags
    assert "other" not in flags


def test_pi5_features_fit_the_pi5_target(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(PI5)
    _, flags = read_cpu(tmp_path)
    fitting = [t.name for t in load_targets().values() if t.runs_on("aarch64", flags)]
    assert fitting == ["pi5", "pi4"]


@pytest.fixture
def broken_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensorrt package that is installed but whose library is not there."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt/__init__.py").write_text("raise ImportError('libnvdla_compiler.so: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


@pytest.mark.usefixtures("broken_tensorrt")
def test_probe_tells_broken_from_absent(caplog: pytest.LogCaptureFixture) -> None:
    found = probe()
    assert "libnvdla_compiler.so" in found.problems["tensorrt"]
    assert "tensorrt" not in found.absent
    with caplog.at_level(logging.WARNING):
        probe_device()
    assert "libnvdla_compiler.so" in caplog.text


@pytest.mark.parametrize(("l4t", "jetpack", "tensorrt"), [
    ("35.4.1", "5.1", "8.5.2"), ("36.3.0", "6.0", "8.6.2"), ("36.4", "6.1", "10.3.0"), ("36.4.0", "6.1", "10.3.0"),
    ("36.4.7", "6.2", "10.3.0"), ("36.5.0", "6.2", "10.3.0"), ("38.4.0", "7.1", "10.13.3"), ("39.2", "7.2", "10.16.2"),
])
def test_find_jetpack_knows_patch_releases(l4t: str, jetpack: str, tensorrt: str) -> None:
    found = find_jetpack(l4t)
    assert found is not None
    assert (found.name, found.tensorrt) == (jetpack, tensorrt)


@pytest.mark.parametrize("l4t", ["21.1", "99.0", ""])
def test_find_jetpack_does_not_guess(l4t: str) -> None:
    assert find_jetpack(l4t) is None


@pytest.mark.parametrize(("text", "l4t"), [(RELEASE, "36.4.3"), ("", ""), ("Ubuntu 22.04", "")])
def test_parse_l4t(text: str, l4t: str) -> None:
    assert parse_l4t(text) == l4t


def test_jetpack_rows_are_in_order() -> None:
    versions = [tuple(map(int, row.l4t.split("."))) for row in JETPACKS]
    assert versions == sorted(versions)

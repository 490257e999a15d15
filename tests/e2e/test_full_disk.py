"""A disk that is full, or a limit on file sizes: outputs are whole or as they were, and nothing temporary remains."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Untouched = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 KiB, less than a model or table."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(("output", "command"), [
    ("b.trtkit", ("pack", "--artifact", "pi5:fp32=m.onnx")),
    ("bundle", ("pack", "--artifact", "pi5:fp32=m.onnx")),
    ("m.calib", ("calibrate", "m.onnx", "--data", "photos", "-p", "pre.toml")),
], ids=["bundle-file", "bundle-folder", "table"])
def test_a_full_disk_leaves_what_was_there(home: Path, small_disk: Path, cli: Cli, untouched: Untouched, output: str,
                                           command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    (small_disk / "b.trtkit").write_bytes(b"an older bundle")
    (small_disk / "m.calib").write_bytes(b"an older table")
    with untouched(small_disk):
        done = cli(*command, "-o", small_disk / output)
    assert sorted(path.name for path in small_disk.iterdir()) == ["b.trtkit", "m.calib"]
    assert done.code == 1
    assert f"'{small_disk / output}" in done.err
    assert "cannot be written: No space left on device" in done.err
    assert "What was there before is untouched" in done.err


@pytest.mark.parametrize("command", [
    ("pack", "--artifact", "pi5:fp32=m.onnx", "-o", "m.trtkit"),
    ("quantize", "m.onnx", "--target", "pi5", "--precision", "fp32", "-o", "out.onnx"),
    ("rewrite", "m.onnx", "--pass", "fold-constants", "-o", "out.onnx"),
], ids=lambda command: command[0])
def test_a_write_that_is_cut_short_leaves_what_was_there(home: Path, process: Cli, untouched: Untouched,
                                                         command: tuple[str, ...]) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    with untouched(home):
        done = process(*command, cwd=home, preexec_fn=limit, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert "cannot be written: File too large. What was there before is untouched" in done.err

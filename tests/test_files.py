from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtkit.errors import SpecError, TrtkitError
from trtkit.files import atomic_path, atomic_write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.trtkit"


def test_write_replaces_what_was_there_and_leaves_nothing_else(path: Path) -> None:
    path.write_bytes(b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids=oct)
def test_written_file_has_the_permissions_that_the_umask_grants(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        atomic_write(path, b"x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), TrtkitError("ours")], ids=repr)
def test_failure_in_the_block_leaves_the_old_file_and_passes_through(path: Path, failure: BaseException) -> None:
    path.write_bytes(b"old")

    def half_written() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise failure

    with pytest.raises(type(failure)) as caught:
        half_written()
    assert caught.value is failure
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_operating_system_errors_say_that_nothing_was_lost(path: Path) -> None:
    path.write_bytes(b"old")
    with pytest.raises(SpecError) as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == (f"'{path}' cannot be written: No space left on device. "
                                 "What was there before is untouched")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("place", ["missing/model.trtkit", "a-file/model.trtkit"])
def test_folder_is_named_when_it_cannot_hold_a_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_bytes(b"")
    with pytest.raises(SpecError, match=f"{place}' cannot be written: .*Name a folder that exists and is writable"):
        atomic_write(tmp_path / place, b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_is_named_when_it_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(SpecError, match="cannot be written: Permission denied"):
        atomic_write(tmp_path / "model.trtkit", b"x")


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(SpecError, match="taken' cannot be written: Is a directory"):
        atomic_write(tmp_path / "taken", b"x")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not (mount and umount):
        pytest.skip("there is no mount program")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed: {done.stderr.strip()}")
    yield folder
    subprocess.run([umount, folder], check=True)


def test_old_file_stays_when_the_disk_is_full(small_disk: Path) -> None:
    path = small_disk / "model.trtkit"
    atomic_write(path, b"old")
    with pytest.raises(SpecError, match=r"No space left on device\. What was there before is untouched"):
        atomic_write(path, bytes(1 << 20))
    assert path.read_bytes() == b"old"
    assert list(small_disk.iterdir()) == [path]

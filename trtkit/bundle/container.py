"""The two forms of a bundle behind one interface: names with sizes, and the bytes of one file, in pieces.

A zip is read here by its directory and offsets, not through ZipFile.open: a stored member is a plain range of the file,
and a damaged one must reach the hash check, which can tell what is wrong, rather than fail at a CRC.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from trtkit.bundle.manifest import check_member
from trtkit.errors import BundleError

__all__ = ["Container", "Folder", "Zip", "open_container"]

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1


class Container(Protocol):
    """Named byte strings of known size.

    Attributes:
        sizes: Size of each file in bytes, by name.
        is_strict: Whether a file that the manifest does not know is a fault (a zip), or none of ours (a folder).
    """

    sizes: Mapping[str, int]
    is_strict: bool

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the content of `name` in pieces of at most `size` bytes."""

    def close(self) -> None:
        """Let go of what is open."""


def open_container(path: Path) -> Container:
    """Return the folder or zip at `path`, its names checked.

    Raises:
        BundleError: There is nothing, it cannot be read, or it is neither.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise BundleError(f"'{path}' does not exist. Name a .trtkit file or a bundle's folder")
    return Zip(path)


class Folder:
    """A bundle as a folder.

    Raises:
        BundleError: A link leads out of it, or it cannot be read.
    """

    is_strict = False

    def __init__(self, path: Path) -> None:
        self._root = path.resolve()
        self._path = path
        self._closed = False
        self.sizes: Mapping[str, int] = {name: size for name, size in self._walk()}

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the content of `name` in pieces of at most `size` bytes."""
        if self._closed:
            raise BundleError(f"'{self._path}' is closed. Open the bundle again")
        left = self.sizes[name]
        try:
            with open(self._inside(self._root / name), "rb", buffering=0) as stream:
                while left and (chunk := stream.read(min(size, left))):
                    left -= len(chunk)
                    yield chunk
        except OSError as err:
            raise BundleError(f"'{self._path}/{name}' cannot be read: {err.strerror}. Copy the bundle again") from err

    def close(self) -> None:
        """Refuse further reading."""
        self._closed = True

    def _walk(self) -> Iterator[tuple[str, int]]:
        try:
            for path in sorted(self._root.rglob("*")):
                if self._inside(path).is_file():
                    yield path.relative_to(self._root).as_posix(), path.stat().st_size
        except (OSError, RuntimeError) as err:  # RuntimeError: links that lead in a circle, before Python 3.13
            raise BundleError(f"'{self._path}' cannot be read: {err}. Check its permissions and links") from err

    def _inside(self, path: Path) -> Path:
        real = path.resolve()
        if not real.is_relative_to(self._root):
            raise BundleError(f"'{self._path}': '{path.relative_to(self._root)}' is a link that leads out of the "
                              f"bundle, to '{real}'. Do not use this bundle, or put the file itself there")
        return real


class Zip:
    """A bundle as one zip file whose members are stored.

    Raises:
        BundleError: It is no zip, truncated, or has a member that is compressed, encrypted, a link, there twice,
            or named so that it would leave a folder.
    """

    is_strict = True

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            self._stream = open(path, "rb")  # noqa: SIM115  # closed by close()
        except (zipfile.BadZipFile, EOFError, struct.error, ValueError, NotImplementedError) as err:
            raise BundleError(f"'{path}' is no bundle, or truncated ({path.stat().st_size} bytes): {err}. "
                              "Copy it again from its source") from err
        except OSError as err:
            raise BundleError(f"'{path}' cannot be read: {err.strerror}. Check the file and its permissions") from err
        try:
            self._ranges = self._checked(members)
        except BaseException:
            self._stream.close()
            raise
        self.sizes: Mapping[str, int] = {name: size for name, (_, size) in self._ranges.items()}

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the content of `name` in pieces of at most `size` bytes."""
        start, left = self._ranges[name]
        if self._stream.closed:
            raise BundleError(f"'{self._path}' is closed. Open the bundle again")
        handle = self._stream.fileno()
        try:
            while left and (chunk := os.pread(handle, min(size, left), start)):  # has no position, so threads may share
                start, left = start + len(chunk), left - len(chunk)
                yield chunk
        except OSError as err:
            raise BundleError(f"'{self._path}': '{name}' cannot be read: {err.strerror}. "
                              "Copy the bundle again") from err

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _checked(self, members: list[zipfile.ZipInfo]) -> dict[str, tuple[int, int]]:
        ranges: dict[str, tuple[int, int]] = {}
        for member in members:
            name = check_member(member.filename)
            if name in ranges:
                raise BundleError(f"'{self._path}' holds '{name}' twice. Do not use this bundle")
            ranges[name] = (self._data_start(member), member.file_size)
        ends = 0
        for name, (start, size) in sorted(ranges.items(), key=lambda item: item[1]):
            if start < ends:
                raise BundleError(f"'{self._path}': '{name}' overlaps another file. Do not use this bundle")
            ends = start + size
        if ends > self._path.stat().st_size:
            raise BundleError(f"'{self._path}' ends before its last file does. Copy it again from its source")
        return ranges

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        """Return where the member's bytes begin, after a look at what is said about them."""
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        is_plain = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        if is_link or not is_plain or member.flag_bits & _ENCRYPTED:
            what = "a link" if is_link else "compressed or encrypted"
            raise BundleError(f"'{self._path}': '{member.filename}' is {what}; a bundle holds plain stored files. "
                              "Write it with: trtkit pack")
        at = member.header_offset
        header = os.pread(self._stream.fileno(), _LOCAL_HEADER.size, at) if at >= 0 else b""
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise BundleError(f"'{self._path}': '{member.filename}' has no header at byte {at}. "
                              "The file is damaged; copy it again from its source")
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        return int(at + _LOCAL_HEADER.size + name_length + extra_length)

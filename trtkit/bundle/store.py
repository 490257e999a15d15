"""Bundles on disk: a folder, or one `.trtkit` file (a zip whose members are stored, not compressed).

    manifest + files -> write_bundle -> bytes that depend on the content alone, put in place whole or not at all
    path -> open_bundle -> Bundle: names, sizes and the manifest checked at once, each file's hash when it is read
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from trtkit.bundle.container import Container, open_container
from trtkit.bundle.manifest import MANIFEST_NAME, Artifact, ArtifactKind, BundleManifest
from trtkit.errors import BundleError, SpecError
from trtkit.files import atomic_path
from trtkit.precision import Precision
from trtkit.progress import Progress, silent

__all__ = ["SUFFIX", "Bundle", "open_bundle", "write_bundle"]

SUFFIX = ".trtkit"
_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MANIFEST_LIMIT = 64 << 20

Source = bytes | Path
_Put = Callable[[str, Source], tuple[str, int]]


class Bundle:
    """An open bundle: its manifest, and its files, each verified when it is read.

    Use it as a context manager, or `close` it. It may be read from several threads at once.

    Attributes:
        path: Where it lies.
        manifest: What it says about itself.
    """

    def __init__(self, path: Path, container: Container, manifest: BundleManifest) -> None:
        self.path = path
        self.manifest = manifest
        self._container = container
        self._files = manifest.files

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; reading afterwards is an error."""
        self._container.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together, each file counted once, without the manifest."""
        return sum(artifact.size_bytes for artifact in self._files.values())

    def artifacts_for(self, *, target: str | None = None, precision: Precision | None = None,
                      kind: ArtifactKind | None = None) -> tuple[Artifact, ...]:
        """Return the artifacts with the given target, precision and kind; None means any."""
        return tuple(a for a in self.manifest.artifacts
                     if target in (None, a.target) and precision in (None, a.precision) and kind in (None, a.kind))

    def read(self, name: str) -> bytes:
        """Return one file, verified.

        Raises:
            BundleError: There is no such file, or its content is not what the manifest says.
        """
        parts = list(self._verified(name, max(_CHUNK, self._known(name).size_bytes)))  # one piece: never there twice
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extract(self, name: str, folder: Path) -> Path:
        """Copy one file, verified while it is copied, to `folder`/`name`; return where it is.

        Raises:
            BundleError: There is no such file, or it is damaged; nothing is left behind then.
            SpecError: It cannot be written.
        """
        self._known(name)
        destination = folder / name
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise SpecError(f"'{destination.parent}' cannot be made: {err.strerror}. Name a writable folder") from err
        with atomic_path(destination) as temporary, open(temporary, "wb") as out:
            for chunk in self._verified(name):
                out.write(chunk)
        return destination

    def verify(self, progress: Progress = silent) -> None:
        """Read every file and compare its hash with the manifest; memory stays flat.

        Raises:
            BundleError: A file is damaged.
        """
        done = 0
        for name in self._files:
            for chunk in self._verified(name):
                done += len(chunk)
                progress("Verifying", done, self.size_bytes)

    def _known(self, name: str) -> Artifact:
        if name not in self._files:
            raise BundleError(f"'{self.path}' holds no '{name}'. It holds: {', '.join(self._files)}")
        return self._files[name]

    def _verified(self, name: str, piece: int = _CHUNK) -> Iterator[bytes]:
        """Yield the content in pieces; the last piece comes only after the hash was right."""
        artifact = self._known(name)
        hashed, size, held = hashlib.sha256(), 0, b""
        for chunk in self._container.chunks(name, piece):
            hashed.update(chunk)
            size += len(chunk)
            if held:
                yield held
            held = chunk
        if hashed.hexdigest() != artifact.sha256 or size != artifact.size_bytes:
            raise BundleError(
                f"'{self.path}': '{name}' is damaged: its SHA-256 is {hashed.hexdigest()} ({size} bytes), the manifest "
                f"says {artifact.sha256} ({artifact.size_bytes} bytes). Copy the bundle again from its source")
        yield held


def open_bundle(path: Path | str, *, verify: Literal["read", "all"] = "read") -> Bundle:
    """Open a bundle: a folder, or one `.trtkit` file, told apart by what is there.

    Args:
        path: Of the folder or file.
        verify: "read": names, sizes and the manifest now, each file's hash when it is read. "all": every hash now.

    Raises:
        BundleError: It is missing, truncated or changed, of an unknown format, or has a name that leaves it.
    """
    path = Path(path)
    container = open_container(path)
    try:
        if MANIFEST_NAME not in container.sizes:
            raise BundleError(f"'{path}' is no bundle: it has no {MANIFEST_NAME}. Write one with: trtkit pack")
        if container.sizes[MANIFEST_NAME] > _MANIFEST_LIMIT:
            raise BundleError(f"'{path}': {MANIFEST_NAME} has {container.sizes[MANIFEST_NAME]} bytes, more than any "
                              "manifest. Do not use this bundle")
        manifest = BundleManifest.from_bytes(b"".join(container.chunks(MANIFEST_NAME, _CHUNK)),
                                             f"{path}/{MANIFEST_NAME}")
        _check_sizes(path, container, manifest)
        bundle = Bundle(path, container, manifest)
        if verify == "all":
            bundle.verify()
        return bundle
    except BaseException:
        container.close()
        raise


def write_bundle(path: Path | str, manifest: BundleManifest, files: Mapping[str, Source],
                 progress: Progress = silent) -> BundleManifest:
    """Write a bundle, whole or not at all; equal input gives equal bytes.

    Args:
        path: A name that ends in `.trtkit` makes one file, any other a folder. What was there is replaced, but a folder
            only when it is a bundle or empty.
        manifest: Hashes and sizes in its artifacts are filled in here.
        files: Content of each artifact's file, by its name in the bundle: bytes, or a file to copy.
        progress: Told of every file.

    Returns:
        The manifest as written, with hashes and sizes.

    Raises:
        SpecError: `files` and the artifacts do not go together, or the place cannot be written (disk full, read-only);
            what was there before is untouched.
        BundleError: A source file cannot be read, or `path` is a folder of something else.
    """
    path = Path(path)
    _check_files(manifest, files)
    writer = _zip_writer if path.suffix == SUFFIX else _folder_writer
    with writer(path) as put:
        facts = {}
        for done, name in enumerate(sorted(files), 1):
            facts[name] = put(name, files[name])
            progress("Packing", done, len(files))
        complete = manifest.with_hashes(facts)
        put(MANIFEST_NAME, complete.to_bytes())
    return complete


def _check_files(manifest: BundleManifest, files: Mapping[str, Source]) -> None:
    missing, spare = sorted(set(manifest.files) - set(files)), sorted(set(files) - set(manifest.files))
    if missing or spare:
        raise SpecError(f"Bundle '{manifest.name}': artifacts without a file: {', '.join(missing) or 'none'}; files "
                        f"without an artifact: {', '.join(spare) or 'none'}. Give each artifact's file once")
    for name, source in files.items():
        if isinstance(source, Path) and not source.is_file():
            raise BundleError(f"'{source}', wanted as '{name}' in the bundle, is no file. Check the path")


def _check_sizes(path: Path, container: Container, manifest: BundleManifest) -> None:
    for name, artifact in manifest.files.items():
        actual = container.sizes.get(name)
        if actual != artifact.size_bytes:
            found = "is missing" if actual is None else f"has {actual} bytes"
            raise BundleError(f"'{path}': '{name}' {found}, the manifest says {artifact.size_bytes} bytes. "
                              "The bundle is truncated or changed; copy it again from its source")
    spare = sorted(set(container.sizes) - set(manifest.files) - {MANIFEST_NAME}) if container.is_strict else []
    if spare:
        raise BundleError(f"'{path}' holds '{spare[0]}', which the manifest does not know. "
                          "Something was added after it was written; do not use it, or write it anew with: trtkit pack")


def _copy(source: Source, out: BinaryIO) -> tuple[str, int]:
    """Copy `source` to `out` in pieces; return its SHA-256 and size."""
    hashed, size = hashlib.sha256(), 0
    for chunk in _source_chunks(source):
        hashed.update(chunk)
        size += len(chunk)
        out.write(chunk)
    return hashed.hexdigest(), size


def _source_chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        with open(source, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as err:
        raise BundleError(f"'{source}' cannot be read: {err.strerror}. Nothing was written") from err


@contextmanager
def _zip_writer(path: Path) -> Iterator[_Put]:
    if path.is_dir():
        raise BundleError(f"'{path}' is a folder. Give a file name that is free, or remove the folder")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def put(name: str, source: Source) -> tuple[str, int]:
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            info.file_size = len(source) if isinstance(source, bytes) else source.stat().st_size
            with archive.open(info, "w") as member:
                return _copy(source, member)  # type: ignore[arg-type]  # ZipFile.open gives IO[bytes]

        yield put


@contextmanager
def _folder_writer(path: Path) -> Iterator[_Put]:
    if path.is_file():
        raise BundleError(f"'{path}' is a file. Give a folder that is free, or a name that ends in {SUFFIX}")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST_NAME).is_file():
        raise BundleError(f"'{path}' is a folder that holds something else. Name a new folder, or an older bundle")
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as err:
        raise SpecError(f"'{path}' cannot be written: {err.strerror}. "
                        "Name a folder whose parent exists and is writable") from err

    def put(name: str, source: Source) -> tuple[str, int]:
        destination = temporary / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        with open(destination, "wb") as out:
            facts = _copy(source, out)
            out.flush()
            os.fsync(out.fileno())
            return facts

    try:
        temporary.chmod(0o755)
        yield put
        _replace_folder(temporary, path)
    except OSError as err:
        raise SpecError(f"'{path}' cannot be written: {err.strerror or err}. "
                        "What was there before is untouched") from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    """Put `new` where `path` is; a system call that swaps two folders does not exist everywhere, so it takes two."""
    if not path.exists():
        new.rename(path)
        return
    old = new.with_suffix(".old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)

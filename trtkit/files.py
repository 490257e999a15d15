"""Write outputs to a temporary name and move them into place, so that nothing is ever half written or lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trtkit.errors import SpecError

__all__ = ["atomic_path", "atomic_write", "require_folder"]


def require_folder(path: Path) -> None:
    """Return when the folder that `path` would lie in exists: told before long work, not after it.

    Raises:
        SpecError: It does not exist.
    """
    if not Path(path).absolute().parent.is_dir():
        raise SpecError(f"'{path}' cannot be written: folder '{Path(path).parent}' does not exist. "
                        "Create it, or name another")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it replaces `path`, else it is removed.

    Raises:
        SpecError: The folder is missing or not writable, or the disk is full; `path` is as it was.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as err:
        raise SpecError(f"'{path}' cannot be written: {err.strerror}. "
                        "Name a folder that exists and is writable") from err
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as err:
        raise SpecError(f"'{path}' cannot be written: {err.strerror or err}. "
                        "What was there before is untouched") from err
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        SpecError: It cannot be written; what was there before is untouched.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

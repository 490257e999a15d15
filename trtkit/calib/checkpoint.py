"""Where a calibration sweep is, on disk: the table so far, and the place in the data at which to go on.

Format: magic, JSON line, table (`CalibrationTable.to_bytes`), SHA-256 of all before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from trtkit.errors import CalibrationError
from trtkit.files import atomic_write
from trtkit.ranges import CalibrationTable

__all__ = ["Checkpoint"]

_MAGIC = b"TRTKPART\n"
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Checkpoint:
    """A table of the first samples.

    Attributes:
        table: Of what was counted.
        position: Index of the first sample that is not in it.
        batch: Samples a run.
        unreadable: Names of samples that could not be read.
    """

    table: CalibrationTable
    position: int
    batch: int
    unreadable: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            SpecError: It cannot be written.
        """
        line = json.dumps({"position": self.position, "batch": self.batch, "unreadable": self.unreadable})
        content = _MAGIC + line.encode() + b"\n" + self.table.to_bytes()
        atomic_write(path, content + hashlib.sha256(content).digest())

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """Return the checkpoint in `path`, or None when there is no such file.

        Raises:
            CalibrationError: The file is no checkpoint, or damaged.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise CalibrationError(f"Checkpoint '{path}' cannot be read: {err.strerror}. Name another one") from err
        content = data[:-_DIGEST_BYTES]
        if not data.startswith(_MAGIC) or hashlib.sha256(content).digest() != data[-_DIGEST_BYTES:]:
            raise CalibrationError(f"'{path}' ({len(data)} bytes) is no calibration checkpoint, or a damaged one. "
                                   "Remove it to start anew")
        line, _, table = content[len(_MAGIC):].partition(b"\n")
        header = json.loads(line)
        return cls(CalibrationTable.from_bytes(table, name=str(path)), header["position"], header["batch"],
                   tuple(header["unreadable"]))

    def check(self, path: Path, table: CalibrationTable, batch: int) -> None:
        """Return when this is the beginning of the sweep that would give `table`, counted in the same batches.

        Raises:
            CalibrationError: It is the beginning of another one.
        """
        mine = {"model": self.table.model, "data": self.table.data, "preprocess": self.table.preprocess,
                "batch size": str(self.batch), "tensors": str(sorted(self.table.tensors))}
        now = {"model": table.model, "data": table.data, "preprocess": table.preprocess,
               "batch size": str(batch), "tensors": str(sorted(table.tensors))}
        changed = [what for what in mine if mine[what] != now[what]]
        if changed:
            raise CalibrationError(f"Checkpoint '{path}' ({self.position} samples) was made with another "
                                   f"{' and another '.join(changed)}. Remove it to start anew, or go back to what it "
                                   "was made with")

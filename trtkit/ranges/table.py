"""The result of one calibration sweep: a histogram for each tensor, and what it was made from.

File format, version 1: magic, header length, JSON header, bins and counts of the tensors, channel sums and channel
ranges (none in tables of trtkit 0.1) in the order of the header, SHA-256 of all before. Little-endian, counts in the
fewest bytes that hold them. Same content, same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.errors import CalibrationError
from trtkit.files import atomic_write
from trtkit.ranges.channels import ChannelRange, ChannelSums
from trtkit.ranges.histogram import Histogram
from trtkit.tensors import Array

__all__ = ["CalibrationTable"]

_MAGIC = b"TRTKCAL\n"
_VERSION = 1
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class CalibrationTable:
    """Histograms by tensor name, with the fingerprints that tell whether they still apply.

    Attributes:
        tensors: Histogram of each observed tensor.
        samples: How many samples were seen.
        model: Fingerprint of the model.
        data: Fingerprint of the data; merged tables carry those of their parts, joined by "+".
        preprocess: Fingerprint of the preprocessing; "" when the data came prepared.
        channels: Channel sums of each tensor that a layer with a bias reads.
        channel_ranges: Channel ranges of each tensor whose channels a lowering may scale.
    """

    tensors: Mapping[str, Histogram]
    samples: int
    model: str
    data: str
    preprocess: str
    channels: Mapping[str, ChannelSums] = field(default_factory=dict)
    channel_ranges: Mapping[str, ChannelRange] = field(default_factory=dict)

    def channel_means(self, tensor: str) -> Array | None:
        """Return the mean of each channel of a tensor, shape (C,), float64, or None when they were not observed."""
        sums = self.channels.get(tensor)
        return sums.means if sums is not None and sums.rows else None

    def with_scaled(self, tensor: str, factors: Array) -> CalibrationTable:
        """Return the table of the model in which each channel of a tensor is multiplied by a factor.

        The ranges of the channels follow exactly. A histogram does not tell channels apart, so the tensor is left with
        the bare range of all of them.

        Args:
            tensor: One with a channel range.
            factors: Shape (C,), > 0.
        """
        channels = self.channel_ranges[tensor].scaled(factors)
        low, high = min(float(channels.low.min()), 0.0), max(float(channels.high.max()), 0.0)
        tensors = {**self.tensors, tensor: Histogram.of_range(low, high if low < high else 1.0)}
        sums = dict(self.channels)
        if tensor in sums:
            sums[tensor] = sums[tensor].scaled(factors)
        return replace(self, tensors=tensors, channels=sums, channel_ranges={**self.channel_ranges, tensor: channels})

    def merge(self, other: CalibrationTable) -> CalibrationTable:
        """Return the table of the data of both, whatever their order.

        Raises:
            CalibrationError: They come from another model or preprocessing, or observe different tensors.
        """
        for what in ("model", "preprocess"):
            _same(what, getattr(self, what), getattr(other, what), "these tables cannot be merged")
        odd = sorted((self.tensors.keys() ^ other.tensors.keys()) | (self.channels.keys() ^ other.channels.keys())
                     | (self.channel_ranges.keys() ^ other.channel_ranges.keys()))
        if odd:
            raise CalibrationError(f"{len(odd)} tensors are in one table only, such as '{odd[0]}', so these tables "
                                   "cannot be merged. Calibrate both with the same version of trtkit")
        tensors = {name: histogram.add(other.tensors[name]) for name, histogram in self.tensors.items()}
        channels = {name: sums.add(other.channels[name]) for name, sums in self.channels.items()}
        ranges = {name: each.add(other.channel_ranges[name]) for name, each in self.channel_ranges.items()}
        data = "+".join(sorted(self.data.split("+") + other.data.split("+")))
        return CalibrationTable(tensors, self.samples + other.samples, self.model, data, self.preprocess, channels,
                                ranges)

    def check(self, *, model: str | None = None, preprocess: str | None = None, data: str | None = None) -> None:
        """Return when the table was made from these; None is not compared.

        Raises:
            CalibrationError: The table is stale.
        """
        for what, wanted in (("model", model), ("preprocess", preprocess), ("data", data)):
            if wanted is not None:
                _same(what, getattr(self, what), wanted, "the calibration table is stale")

    def save(self, path: Path) -> None:
        """Write the table to `path`, whole or not at all.

        Raises:
            SpecError: It cannot be written.
        """
        atomic_write(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Read what `save` wrote.

        Raises:
            CalibrationError: The file is missing, truncated, changed, or no table of this version.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as err:
            raise CalibrationError(f"Calibration table '{path}' cannot be read: {err.strerror}. "
                                   "Run: trtkit calibrate") from err
        return cls.from_bytes(data, name=str(path))

    def to_bytes(self) -> bytes:
        """Return the file format of this module."""
        names = sorted(self.tensors)
        body: list[bytes] = []
        rows: list[dict[str, Any]] = []
        for name in names:
            histogram = self.tensors[name]
            kind = np.min_scalar_type(histogram.counts.max(initial=0)).newbyteorder("<")
            body += [histogram.bins.astype("<u2").tobytes(), histogram.counts.astype(kind).tobytes()]
            rows.append({"name": name, "bins": histogram.bins.size, "count_bytes": kind.itemsize,
                         "min": float(histogram.min).hex(), "max": float(histogram.max).hex()})
        sums = []
        for name in sorted(self.channels):
            channel = self.channels[name]
            body.append(channel.sums.astype("<i8").tobytes())
            sums.append({"name": name, "rows": channel.rows, "channels": channel.sums.size})
        ranges = []
        for name in sorted(self.channel_ranges):
            each = self.channel_ranges[name]
            body += [each.low.astype("<f4").tobytes(), each.high.astype("<f4").tobytes()]
            ranges.append({"name": name, "channels": each.low.size})
        header = json.dumps({"version": _VERSION, "samples": self.samples, "model": self.model, "data": self.data,
                             "preprocess": self.preprocess, "tensors": rows, "channels": sums,
                             "ranges": ranges}, sort_keys=True).encode()
        content = b"".join([_MAGIC, len(header).to_bytes(8, "little"), header, *body])
        return content + hashlib.sha256(content).digest()

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "the table") -> CalibrationTable:
        """Read what `to_bytes` returned.

        Args:
            data: The bytes.
            name: What to call them in an error.

        Raises:
            CalibrationError: They are truncated, changed, or no table of this version.
        """
        content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if not data.startswith(_MAGIC):
            raise CalibrationError(f"'{name}' ({len(data)} bytes) is no calibration table. Run: trtkit calibrate")
        if hashlib.sha256(content).digest() != digest:
            raise CalibrationError(f"Calibration table '{name}' ({len(data)} bytes) is truncated or was changed. "
                                   "Run: trtkit calibrate")
        start = len(_MAGIC) + 8
        body = start + int.from_bytes(content[len(_MAGIC):start], "little")
        header = json.loads(content[start:body])
        if header["version"] != _VERSION:
            raise CalibrationError(f"Calibration table '{name}' has format version {header['version']}; this trtkit "
                                   f"reads version {_VERSION}. Update trtkit or calibrate again")
        tensors, body = _read_tensors(header["tensors"], content, body)
        channels, body = _read_channels(header["channels"], content, body)
        return cls(tensors, header["samples"], header["model"], header["data"], header["preprocess"], channels,
                   _read_ranges(header.get("ranges", []), content, body))


def _read_tensors(rows: list[dict[str, Any]], content: bytes, offset: int) -> tuple[dict[str, Histogram], int]:
    tensors = {}
    for row in rows:
        size, width = row["bins"], row["count_bytes"]
        bins = np.frombuffer(content, "<u2", size, offset).astype(np.uint16)
        counts = np.frombuffer(content, f"<u{width}", size, offset + 2 * size).astype(np.uint64)
        offset += (2 + width) * size
        tensors[row["name"]] = Histogram(bins, counts, float.fromhex(row["min"]), float.fromhex(row["max"]))
    return tensors, offset


def _read_channels(rows: list[dict[str, Any]], content: bytes, offset: int) -> tuple[dict[str, ChannelSums], int]:
    channels = {}
    for row in rows:
        sums = np.frombuffer(content, "<i8", row["channels"], offset).astype(np.int64)
        offset += 8 * row["channels"]
        channels[row["name"]] = ChannelSums(sums, row["rows"])
    return channels, offset


def _read_ranges(rows: list[dict[str, Any]], content: bytes, offset: int) -> dict[str, ChannelRange]:
    ranges = {}
    for row in rows:
        low, high = np.frombuffer(content, "<f4", 2 * row["channels"], offset).reshape(2, -1).astype(np.float32)
        offset += 8 * row["channels"]
        ranges[row["name"]] = ChannelRange(low, high)
    return ranges


def _same(what: str, mine: str, wanted: str, consequence: str) -> None:
    if mine != wanted:
        raise CalibrationError(f"Made for {what} {mine or '(none)'}, but here it is {wanted or '(none)'}: "
                               f"{consequence}. Run trtkit calibrate again on this {what}")

"""The result of one calibration sweep: a histogram for each tensor, and what it was made from.

File format, version 1: magic, header length, JSON header, bins and counts of the tensors, channel sums and channel
ranges (none in tables of trtkit 0.1) in the order of the header, SHA-256 of all before. Little-endian, counts in the
fewest bytes that hold them. Same content, same bytes. Version 2, written for a model trained on its integer grids: the
header has the learned grids as well, and learned weight scales follow the channel ranges.
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
from trtkit.ranges.learned import Learned, LearnedGrid, LearnedScales, WeightKey
from trtkit.tensors import Array

__all__ = ["CalibrationTable"]

_MAGIC = b"TRTKCAL\n"
_VERSION, _LEARNED_VERSION = 1, 2
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
        learned: Grids and weight scales that the model was trained with; they come before every estimator. The
            histograms are then those of the model before training.
    """

    tensors: Mapping[str, Histogram]
    samples: int
    model: str
    data: str
    preprocess: str
    channels: Mapping[str, ChannelSums] = field(default_factory=dict)
    channel_ranges: Mapping[str, ChannelRange] = field(default_factory=dict)
    learned: Learned = field(default_factory=Learned)

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
        if self.learned or other.learned:
            raise CalibrationError("A table with learned scales belongs to one training run, so these tables cannot be "
                                   "merged. Merge the calibrations, then train")
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
        learned, scales = _learned_rows(self.learned)
        header = json.dumps({"version": _VERSION, "samples": self.samples, "model": self.model, "data": self.data,
                             "preprocess": self.preprocess, "tensors": rows, "channels": sums,
                             "ranges": ranges, **learned}, sort_keys=True).encode()
        body += scales
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
        if header["version"] not in (_VERSION, _LEARNED_VERSION):
            raise CalibrationError(f"Calibration table '{name}' has format version {header['version']}; this trtkit "
                                   f"reads versions {_VERSION} and {_LEARNED_VERSION}. Update trtkit or calibrate "
                                   "again")
        tensors, body = _read_tensors(header["tensors"], content, body)
        channels, body = _read_channels(header["channels"], content, body)
        ranges, body = _read_ranges(header.get("ranges", []), content, body)
        return cls(tensors, header["samples"], header["model"], header["data"], header["preprocess"], channels, ranges,
                   _read_learned(header, content, body))


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


def _read_ranges(rows: list[dict[str, Any]], content: bytes, offset: int) -> tuple[dict[str, ChannelRange], int]:
    ranges = {}
    for row in rows:
        low, high = np.frombuffer(content, "<f4", 2 * row["channels"], offset).reshape(2, -1).astype(np.float32)
        offset += 8 * row["channels"]
        ranges[row["name"]] = ChannelRange(low, high)
    return ranges, offset


def _learned_rows(learned: Learned) -> tuple[dict[str, Any], list[bytes]]:
    """Return what a header says of learned scales, and the bytes of those of the weights; nothing without any."""
    if not learned:
        return {}, []
    grids = [{"name": name, "scale": float(grid.scale).hex(), "zero_point": grid.zero_point,
              "bounds": list(grid.bounds)} for name, grid in sorted(learned.grids.items())]
    keys = sorted(learned.weights, key=lambda key: (key[0], -1 if key[1] is None else key[1]))
    weights = [{"name": name, "axis": axis, "shape": list(learned.weights[name, axis].scale.shape),
                "largest": learned.weights[name, axis].largest} for name, axis in keys]
    return ({"version": _LEARNED_VERSION, "grids": grids, "weights": weights},
            [learned.weights[key].scale.astype("<f4").tobytes() for key in keys])


def _read_learned(header: dict[str, Any], content: bytes, offset: int) -> Learned:
    if header["version"] != _LEARNED_VERSION:
        return Learned()
    grids = {row["name"]: LearnedGrid(float.fromhex(row["scale"]), row["zero_point"], tuple(row["bounds"]))
             for row in header["grids"]}
    weights: dict[WeightKey, LearnedScales] = {}
    for row in header["weights"]:
        size = int(np.prod(row["shape"]))
        scale = np.frombuffer(content, "<f4", size, offset).astype(np.float32).reshape(row["shape"])
        weights[row["name"], row["axis"]] = LearnedScales(scale, row["largest"])
        offset += 4 * size
    return Learned(grids, weights)


def _same(what: str, mine: str, wanted: str, consequence: str) -> None:
    if mine != wanted:
        raise CalibrationError(f"Made for {what} {mine or '(none)'}, but here it is {wanted or '(none)'}: "
                               f"{consequence}. Run trtkit calibrate again on this {what}")

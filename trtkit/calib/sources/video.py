"""A video file -> frames, evenly spaced when there is a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trtkit._optional import require
from trtkit.calib.sample import DataSource, Sample, pick
from trtkit.errors import CalibrationError
from trtkit.preprocess import Preprocess
from trtkit.tensors import TensorSpec

__all__ = ["Video"]

_PROBE_BYTES = 1 << 20


class Video(DataSource):
    """Frames of a video file, decoded by OpenCV.

    Args:
        path: The file.
        input: The input that the frames feed.
        preprocess: How a frame becomes that input.
        limit: At most so many frames, evenly spaced.
    """

    def __init__(self, path: Path, input: TensorSpec, preprocess: Preprocess | None, limit: int | None) -> None:
        super().__init__()
        if preprocess is None:
            raise CalibrationError(f"Frames of '{path}' need a preprocessing to become input '{input}'. "
                                   "Give --preprocess p.toml, the same that the model was trained with")
        self.path, self.input, self.preprocess = path, input, preprocess
        total = self._frames()
        if total < 1:
            raise CalibrationError(f"'{path}' holds no frames that OpenCV can decode. Convert it to H.264 in .mp4")
        self.frames = pick(total, limit)

    @property
    def count(self) -> int:
        """How many frames are asked for; containers may promise a few more than they hold."""
        return len(self.frames)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the frames."""
        assert self.preprocess is not None
        wanted = {frame: index for index, frame in enumerate(self.frames) if index >= start}
        capture = self._open()
        try:
            for frame in range(self.frames[-1] + 1):
                if not capture.grab():
                    self._check_end(frame, start)
                    return
                if frame in wanted:
                    _, pixels = capture.retrieve()
                    rgb = np.ascontiguousarray(pixels[:, :, ::-1])
                    yield Sample(f"{self.path.name}#{frame}", {self.input.name: self.preprocess(rgb)}, None,
                                 wanted[frame])
        finally:
            capture.release()

    def fingerprint(self) -> str:
        """Return a hash of size, first and last MiB of the file, and of the frames asked for."""
        size = self.path.stat().st_size
        digest = hashlib.sha256(f"{size}:{self.frames};".encode())
        with open(self.path, "rb") as stream:
            digest.update(stream.read(_PROBE_BYTES))
            stream.seek(max(0, size - _PROBE_BYTES))
            digest.update(stream.read(_PROBE_BYTES))
        return digest.hexdigest()[:16]

    def _open(self) -> Any:
        cv2 = require("cv2", extra="video", feature="Reading video")
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise CalibrationError(f"'{self.path}' cannot be opened as a video. Convert it to H.264 in .mp4")
        return capture

    def _frames(self) -> int:
        cv2 = require("cv2", extra="video", feature="Reading video")
        capture = self._open()
        try:
            return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()

    def _check_end(self, frame: int, start: int) -> None:
        missing = sum(1 for wanted in self.frames if wanted >= frame)
        if missing > 0.01 * len(self.frames) and missing > 1:
            raise CalibrationError(f"'{self.path}' ends after {frame} frames, before {missing} of the "
                                   f"{len(self.frames)} frames asked for. The file is truncated: copy it again")

"""One image -> one input array: the same object for calibration, evaluation, the bundle and the runtime.

    pixel (uint8) -> resize, crop or letterbox -> colour order -> (pixel * scale - mean) / std -> layout -> dtype
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtkit._optional import require
from trtkit.errors import SpecError
from trtkit.records import read_record, read_settings
from trtkit.tensors import Array

__all__ = ["Preprocess", "read_image"]

_CHOICES = {
    "resize": ("stretch", "crop", "letterbox", "none"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "color": ("rgb", "bgr"),
    "layout": ("nchw", "nhwc"),
    "dtype": ("float32", "float16", "uint8"),
}


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes an input.

    Attributes:
        size: Height and width of the input, in pixels.
        resize: "stretch" ignores the aspect ratio; "crop" scales the shorter side and cuts the centre out;
            "letterbox" scales the longer side and pads; "none" takes only images that already have `size`.
        resize_to: For "crop", length of the shorter side before cutting, in pixels; the larger of `size` when None.
        interpolation: Pillow's filter.
        color: Channel order of the input; images are read as RGB.
        scale: Factor on the pixel values 0 to 255, such as 1/255.
        mean, std: Per-channel values in the input's channel order, applied after `scale`.
        layout: "nchw" or "nhwc".
        dtype: Of the input. "uint8" feeds pixels as they are: scale, mean and std must be 1, 0 and 1.
        pad: Pixel value around a letterboxed image, 0 to 255.
    """

    size: tuple[int, int]
    resize: str = "crop"
    resize_to: int | None = None
    interpolation: str = "bilinear"
    color: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: str = "nchw"
    dtype: str = "float32"
    pad: int = 114

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise SpecError(f"Preprocess {name} is '{value}'. Choose one of: {', '.join(choices)}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise SpecError(f"Preprocess size is {self.size}. Give height and width in pixels, such as [224, 224]")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise SpecError(f"Preprocess needs three mean and three positive std values, got {self.mean}, {self.std}")
        if self.resize_to is not None and self.resize_to < max(self.size):
            raise SpecError(f"Preprocess resize_to is {self.resize_to}, smaller than the crop {self.size}")
        if not 0 <= self.pad <= 255:
            raise SpecError(f"Preprocess pad is {self.pad}. Give a pixel value from 0 to 255")
        plain = self.scale == 1 and not any(self.mean) and all(s == 1 for s in self.std)
        if self.dtype == "uint8" and not plain:
            raise SpecError("Preprocess dtype uint8 feeds raw pixels: set scale 1, mean 0 and std 1, or dtype float32")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one prepared image without the batch dimension."""
        height, width = self.size
        return (3, height, width) if self.layout == "nchw" else (height, width, 3)

    def __call__(self, image: Array | Path | str) -> Array:
        """Return one prepared image with a batch dimension of 1.

        Args:
            image: A file, or an RGB array of shape (H, W, 3), uint8.

        Raises:
            SpecError: The array is no RGB image, the file does not hold one, or resize is "none" and sizes differ.
            MissingDependencyError: Pillow is needed and absent.
        """
        pixels = read_image(image) if isinstance(image, (str, Path)) else _checked(image)
        pixels = self._fit(pixels)
        if self.color == "bgr":
            pixels = pixels[:, :, ::-1]
        if self.dtype == "uint8":
            values: Array = pixels
        else:
            gain = np.float32(self.scale) / np.asarray(self.std, np.float32)
            offset = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
            values = (pixels * gain - offset).astype(self.dtype)
        if self.layout == "nchw":
            values = values.transpose(2, 0, 1)
        if self.dtype == "uint8":
            return np.array(values[None], order="C")  # never a view of the caller's image
        return np.ascontiguousarray(values[None])

    def batch(self, images: Sequence[Array | Path | str]) -> Array:
        """Return several prepared images as one array, the batch dimension first."""
        return np.concatenate([self(image) for image in images])

    def raw(self) -> Preprocess:
        """Return the part that stays on the host once scale, mean, std and colour order are inside the graph."""
        return replace(self, scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), color="rgb", dtype="uint8")

    def _fit(self, pixels: Array) -> Array:
        height, width = self.size
        if pixels.shape[:2] == (height, width) and not (self.resize == "crop" and self.resize_to):
            return pixels
        if self.resize == "none":
            raise SpecError(f"Image is {pixels.shape[0]}x{pixels.shape[1]}, the model takes {height}x{width} and "
                            "resize is 'none'. Resize it first, or set resize in the preprocessing")
        if self.resize == "stretch":
            return _resized(pixels, height, width, self.interpolation)
        if self.resize == "crop":
            return self._crop(pixels)
        return self._letterbox(pixels)

    def _crop(self, pixels: Array) -> Array:
        height, width = self.size
        factor = (self.resize_to / min(pixels.shape[:2]) if self.resize_to
                  else max(height / pixels.shape[0], width / pixels.shape[1]))
        tall, wide = max(height, round(pixels.shape[0] * factor)), max(width, round(pixels.shape[1] * factor))
        pixels = _resized(pixels, tall, wide, self.interpolation)
        top, left = (tall - height) // 2, (wide - width) // 2
        return pixels[top:top + height, left:left + width]

    def _letterbox(self, pixels: Array) -> Array:
        height, width = self.size
        factor = min(height / pixels.shape[0], width / pixels.shape[1])
        tall, wide = max(1, round(pixels.shape[0] * factor)), max(1, round(pixels.shape[1] * factor))
        canvas = np.full((height, width, 3), self.pad, np.uint8)
        top, left = (height - tall) // 2, (width - wide) // 2
        canvas[top:top + tall, left:left + wide] = _resized(pixels, tall, wide, self.interpolation)
        return canvas

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads; 1 and 1.0 give the same."""
        mean, std = (tuple(map(float, values)) for values in (self.mean, self.std))
        return {**asdict(self), "scale": float(self.scale), "mean": mean, "std": std}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """Read a dict, as `to_json` wrote it or as a recipe gives it.

        Raises:
            SpecError: A key is unknown or missing, or a value is not usable.
        """
        return read_record(cls, data, "Preprocessing")

    @classmethod
    def load(cls, path: Path) -> Preprocess:
        """Read a TOML or JSON file: a recipe, with its table [preprocess], or a file of these keys alone.

        Raises:
            SpecError: It cannot be read, a key is unknown or missing, or a value is not usable; the file is named.
        """
        settings = read_settings(path, "preprocess")
        try:
            return cls.from_json(settings)
        except SpecError as err:
            raise SpecError(f"'{path}': {err}") from err

    def fingerprint(self) -> str:
        """Return a short hash that changes when any setting changes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def read_image(path: Path | str) -> Array:
    """Return a picture as RGB, shape (H, W, 3), uint8, turned upright by its EXIF orientation; alpha is dropped.

    Raises:
        SpecError: The file is missing or holds no readable picture.
        MissingDependencyError: Pillow is absent.
    """
    image_module = require("PIL.Image", extra="images", feature="Reading images")
    image_ops = require("PIL.ImageOps", extra="images", feature="Reading images")
    try:
        with image_module.open(path) as image:
            return np.asarray(image_ops.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as err:
        raise SpecError(f"'{path}' cannot be read as an image: {err}") from err


def _checked(image: Array) -> Array:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{image.dtype}{image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise SpecError(f"An image is an RGB array of shape (H, W, 3) and dtype uint8, or a file; got {got}")
    return image


def _resized(pixels: Array, height: int, width: int, interpolation: str) -> Array:
    if pixels.shape[:2] == (height, width):
        return pixels
    image_module = require("PIL.Image", extra="images", feature="Resizing images")
    resampling = image_module.Resampling[interpolation.upper()]
    return np.asarray(image_module.fromarray(np.ascontiguousarray(pixels)).resize((width, height), resampling))

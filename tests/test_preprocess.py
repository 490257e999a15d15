"""Preprocess beside Pillow called by hand, and every way in which a picture or a setting cannot be used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trtkit.errors import MissingDependencyError, SpecError
from trtkit.preprocess import Preprocess, read_image

BILINEAR = Image.Resampling.BILINEAR
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RAW: dict[str, Any] = {"scale": 1, "dtype": "uint8"}


@pytest.fixture
def pixels() -> np.ndarray:
    """A picture of height 30 and width 40."""
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def test_stretch_is_pillow_s_resize(pixels: np.ndarray) -> None:
    expected = np.asarray(Image.fromarray(pixels).resize((12, 20), BILINEAR))
    np.testing.assert_array_equal(Preprocess((20, 12), "stretch", layout="nhwc", **RAW)(pixels)[0], expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_interpolation_is_the_pillow_filter_of_that_name(pixels: np.ndarray, interpolation: str) -> None:
    expected = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling[interpolation.upper()]))
    prepared = Preprocess((16, 16), "stretch", interpolation=interpolation, layout="nhwc", **RAW)(pixels)
    np.testing.assert_array_equal(prepared[0], expected)


def test_crop_scales_the_shorter_side_to_resize_to_and_cuts_the_centre_out(pixels: np.ndarray) -> None:
    scaled = Image.fromarray(pixels).resize((32, 24), BILINEAR)  # 40 * 24 / 30
    expected = np.asarray(scaled.crop((8, 4, 24, 20)))
    np.testing.assert_array_equal(Preprocess((16, 16), "crop", 24, layout="nhwc", **RAW)(pixels)[0], expected)


def test_crop_without_resize_to_keeps_as_much_as_it_can(pixels: np.ndarray) -> None:
    scaled = Image.fromarray(pixels).resize((21, 16), BILINEAR)  # 40 * 16 / 30 = 21.3
    expected = np.asarray(scaled)[:, 2:18]
    np.testing.assert_array_equal(Preprocess((16, 16), layout="nhwc", **RAW)(pixels)[0], expected)


def test_crop_with_resize_to_scales_an_image_that_has_the_size_already(pixels: np.ndarray) -> None:
    square = pixels[:16, :16]
    expected = np.asarray(Image.fromarray(square).resize((20, 20), BILINEAR).crop((2, 2, 18, 18)))
    np.testing.assert_array_equal(Preprocess((16, 16), "crop", 20, layout="nhwc", **RAW)(square)[0], expected)


def test_letterbox_scales_the_longer_side_and_pads_both_ends(pixels: np.ndarray) -> None:
    expected = np.full((20, 20, 3), 7, np.uint8)
    expected[2:17] = np.asarray(Image.fromarray(pixels).resize((20, 15), BILINEAR))
    np.testing.assert_array_equal(Preprocess((20, 20), "letterbox", pad=7, layout="nhwc", **RAW)(pixels)[0], expected)


def test_letterbox_keeps_one_row_of_an_extremely_wide_image() -> None:
    prepared = Preprocess((8, 8), "letterbox", layout="nhwc", **RAW)(np.zeros((1, 100, 3), np.uint8))
    assert (prepared[0] == 0).all(axis=(1, 2)).sum() == 1


def test_none_takes_images_of_the_size_alone(pixels: np.ndarray) -> None:
    prepare = Preprocess((30, 40), "none", layout="nhwc", **RAW)
    np.testing.assert_array_equal(prepare(pixels)[0], pixels)
    with pytest.raises(SpecError, match="Image is 40x30, the model takes 30x40 and resize is 'none'"):
        prepare(pixels.transpose(1, 0, 2))


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_values_are_scaled_then_normalised_in_the_input_s_channel_order(
        pixels: np.ndarray, color: str, layout: str, dtype: str) -> None:
    prepare = Preprocess((30, 40), "none", color=color, layout=layout, dtype=dtype, **IMAGENET)
    ordered = pixels[..., ::-1] if color == "bgr" else pixels
    expected = (ordered.astype(np.float64) / 255 - np.array(IMAGENET["mean"])) / np.array(IMAGENET["std"])
    expected = expected.transpose(2, 0, 1) if layout == "nchw" else expected
    prepared = prepare(pixels)
    assert prepared.shape == (1, *prepare.shape)
    assert prepared.dtype == dtype
    assert prepared.flags.c_contiguous
    np.testing.assert_allclose(prepared[0], expected, rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-5)


def test_uint8_feeds_pixels_as_they_are(pixels: np.ndarray) -> None:
    prepared = Preprocess((30, 40), "none", color="bgr", **RAW)(pixels)
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepared[0], pixels[..., ::-1].transpose(2, 0, 1))


def test_raw_is_what_stays_on_the_host(pixels: np.ndarray) -> None:
    whole = Preprocess((16, 16), "crop", 20, color="bgr", **IMAGENET)
    mean, std = np.float32(IMAGENET["mean"]), np.float32(IMAGENET["std"])
    inside_the_graph = (whole.raw()(pixels)[0, ::-1].transpose(1, 2, 0) / np.float32(255) - mean) / std
    np.testing.assert_allclose(whole(pixels)[0].transpose(1, 2, 0), inside_the_graph, rtol=1e-4, atol=1e-5)


def test_batch_puts_images_of_several_sizes_together(pixels: np.ndarray) -> None:
    prepare = Preprocess((16, 16))
    both = prepare.batch([pixels, pixels[:20, :20]])
    assert both.shape == (2, 3, 16, 16)
    np.testing.assert_array_equal(both[1:], prepare(pixels[:20, :20]))


def test_the_image_given_is_not_changed(pixels: np.ndarray) -> None:
    before = pixels.copy()
    prepared = Preprocess((30, 40), "none", layout="nhwc", **RAW)(pixels)
    prepared[:] = 0
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("image", [
    pytest.param(np.zeros((8, 8), np.uint8), id="gray"),
    pytest.param(np.zeros((8, 8, 4), np.uint8), id="alpha"),
    pytest.param(np.zeros((8, 8, 3), np.float32), id="float"),
    pytest.param([[1, 2, 3]], id="list"),
])
def test_an_array_that_is_no_rgb_image_is_refused(image: Any) -> None:
    with pytest.raises(SpecError, match=r"An image is an RGB array of shape \(H, W, 3\) and dtype uint8"):
        Preprocess((8, 8))(image)


@pytest.mark.parametrize(("settings", "match"), [
    ({"resize": "squash"}, "resize is 'squash'. Choose one of: stretch, crop, letterbox, none"),
    ({"interpolation": "area"}, "interpolation is 'area'"),
    ({"color": "gray"}, "color is 'gray'"),
    ({"layout": "chw"}, "layout is 'chw'"),
    ({"dtype": "int8"}, "dtype is 'int8'"),
    ({"size": (0, 8)}, r"size is \(0, 8\). Give height and width"),
    ({"size": (8,)}, r"size is \(8,\)"),
    ({"mean": (0.5,)}, "three mean and three positive std"),
    ({"std": (1, 1, 0)}, "three mean and three positive std"),
    ({"resize_to": 7}, r"resize_to is 7, smaller than the crop \(8, 8\)"),
    ({"pad": 256}, "pad is 256. Give a pixel value from 0 to 255"),
    ({"pad": -1}, "pad is -1"),
    ({"dtype": "uint8"}, "dtype uint8 feeds raw pixels"),
    ({**RAW, "mean": (1, 0, 0)}, "dtype uint8 feeds raw pixels"),
], ids=str)
def test_a_setting_is_refused_when_it_cannot_be(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        Preprocess(**{"size": (8, 8), **settings})


def test_settings_survive_json_and_the_fingerprint_tells_them_apart() -> None:
    prepare = Preprocess((8, 16), "crop", 20, color="bgr", **IMAGENET)
    again = Preprocess.from_json(json.loads(json.dumps(prepare.to_json())))
    assert again == prepare
    assert again.fingerprint() == prepare.fingerprint()
    assert Preprocess((8, 16)).fingerprint() != Preprocess((16, 8)).fingerprint()


def test_fingerprint_is_that_of_the_file_when_numbers_are_written_whole() -> None:
    prepare = Preprocess((8, 8), mean=(1, 2, 3), scale=1)
    assert Preprocess.from_json(json.loads(json.dumps(prepare.to_json()))).fingerprint() == prepare.fingerprint()
    assert Preprocess.from_json({"size": [8, 8], "mean": [1, 2, 3], "scale": 1}).fingerprint() == prepare.fingerprint()


@pytest.mark.parametrize(("data", "message"), [
    ({"size": [8, 8], "sclae": 1}, "Preprocessing has the unknown key 'sclae'. It takes: size, resize, resize_to"),
    ({"color": "bgr"}, "Preprocessing has no 'size'. It takes: size"),
    ({"size": 224}, "Preprocessing size is 224. Give a list in brackets of 2 values"),
    ({"size": [8, 8, 3]}, "Preprocessing size is [8, 8, 3]. Give a list in brackets of 2 values"),
    ({"size": ["8", 8]}, "Preprocessing size is '8'. Give a whole number"),
    ({"size": [8, 8], "scale": "1/255"}, "Preprocessing scale is '1/255'. Give a finite number"),
    ({"size": [8, 8], "mean": 0.5}, "Preprocessing mean is 0.5. Give a list in brackets of 3 values"),
    ({"size": [8, 8], "std": [1, float("nan"), 1]}, "Preprocessing std is nan. Give a finite number"),
    ({"size": [8, 8], "color": 3}, "Preprocessing color is 3. Give text in quotes"),
    ([224, 224], "Preprocessing is [224, 224], not a table"),
], ids=str)
def test_from_json_says_what_is_wrong(data: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Preprocess.from_json(data)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_by_their_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((2, 3, 3), np.uint8)
    upright[0] = (200, 0, 0)  # the top row is red
    upright[:, 0, 1] = 200  # the left column has green
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: np.rot90(upright.transpose(1, 0, 2), 2),
              8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), upright)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.full((4, 5, 3), 255, np.uint8))
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    (picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)).save(path)
    pixels = read_image(path)
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8


def test_a_file_and_its_pixels_are_prepared_alike(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    prepare = Preprocess((16, 16), **IMAGENET)
    for path in (tmp_path / "photo.png", str(tmp_path / "photo.png")):
        np.testing.assert_array_equal(prepare(path), prepare(pixels))


@pytest.mark.parametrize("content", [
    pytest.param(b"", id="empty"),
    pytest.param(b"words, no picture", id="text"),
    pytest.param(None, id="truncated"),
    pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(40), id="header-alone"),
])
def test_a_file_that_holds_no_picture_is_named(tmp_path: Path, pixels: np.ndarray, content: bytes | None) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(SpecError, match=r"photo\.png' cannot be read as an image: "):
        read_image(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.jpg' cannot be read as an image: .*No such file"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(SpecError, match=r"cannot be read as an image: .*Is a directory"):
        read_image(tmp_path)


def test_a_picture_too_large_to_be_meant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(SpecError, match=r"bomb\.png' cannot be read as an image: .*decompression bomb"):
        read_image(tmp_path / "bomb.png")


def test_reading_pictures_names_the_extra_when_pillow_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"Reading images needs pillow.*pip install 'trtkit\[images\]'"):
        read_image("photo.jpg")


def test_pixels_of_the_right_size_need_no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert Preprocess((8, 8))(np.zeros((8, 8, 3), np.uint8)).shape == (1, 3, 8, 8)

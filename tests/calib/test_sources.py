import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trtkit.calib import DataSource, Sample, open_data
from trtkit.errors import CalibrationError
from trtkit.preprocess import Preprocess
from trtkit.tensors import TensorSpec

ARRAY = np.random.default_rng(0).standard_normal((7, 3, 12, 12)).astype(np.float32)


def names(source: DataSource) -> list[str]:
    return [sample.name for sample in source]


def test_folder_gives_labelled_samples_in_order(images: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    source = open_data(images, input=spec, preprocess=preprocess)
    samples = list(source)
    assert [s.name for s in samples] == sorted(s.name for s in samples)
    assert len(source) == len(samples) == 10
    assert {s.name.split("/")[0]: s.labels for s in samples} == {"cat": (0,), "dog": (1,)}
    assert all(s.feeds["input"].shape == (1, 3, 12, 12) for s in samples)
    assert [s.index for s in source.samples(4)] == [4, 5, 6, 7, 8, 9]
    assert np.array_equal(samples[3].feeds["input"], preprocess(images / samples[3].name))


def test_folder_takes_labels_json_before_the_names(images: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    (images / "labels.json").write_text(json.dumps({"cat/1.png": [281, 282], "dog/0.png": 5}))
    labels = {s.name: s.labels for s in open_data(images, input=spec, preprocess=preprocess)}
    assert labels["cat/1.png"] == (281, 282)
    assert labels["dog/0.png"] == (5,)
    assert labels["cat/3.png"] is None
    (images / "labels.json").write_text("[1]")
    with pytest.raises(CalibrationError, match="not readable as labels"):
        open_data(images, input=spec, preprocess=preprocess)


def test_limit_picks_evenly_spaced_samples(images: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    everything = names(open_data(images, input=spec, preprocess=preprocess))
    assert names(open_data(images, input=spec, preprocess=preprocess, limit=5)) == everything[::2]
    with pytest.raises(CalibrationError, match="limit is 0"):
        open_data(images, input=spec, preprocess=preprocess, limit=0)


def test_fingerprint_changes_with_the_files_alone(images: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    def fingerprint(**options: Any) -> str:
        return open_data(images, input=spec, preprocess=preprocess, **options).fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    assert fingerprint(limit=3) != before
    Image.new("RGB", (20, 16), (1, 2, 3)).save(images / "cat" / "1.png")
    assert fingerprint() != before


@pytest.mark.parametrize("broken", [1, 2], ids=["1 %", "2 %"])
def test_unreadable_images_are_named_and_too_many_are_an_error(tmp_path: Path, spec: TensorSpec,
                                                               preprocess: Preprocess, broken: int) -> None:
    for index in range(100):
        path = tmp_path / f"{index:03}.png"
        if index in range(50, 50 + broken):
            path.write_bytes(b"\x89PNG not")
        else:
            Image.new("RGB", (12, 12), (index, 0, 0)).save(path)
    source = open_data(tmp_path, input=spec, preprocess=preprocess)
    if broken == 1:
        assert len(list(source)) == 99
        assert len(list(source)) == 99
        assert source.unreadable == ["050.png"]
    else:
        with pytest.raises(CalibrationError, match=r"2 of 100 images .* 050\.png, 051\.png"):
            list(source)


def test_folder_without_images_says_what_it_holds(tmp_path: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    with pytest.raises(CalibrationError, match="holds no images, nothing"):
        open_data(tmp_path, input=spec, preprocess=preprocess)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(CalibrationError, match=r"only files of type \.txt"):
        open_data(tmp_path, input=spec, preprocess=preprocess)


def test_images_without_preprocessing_are_refused(images: Path, spec: TensorSpec) -> None:
    with pytest.raises(CalibrationError, match="need a preprocessing"):
        open_data(images, input=spec)


@pytest.mark.parametrize("save", [
    lambda path: np.save(path.with_suffix(".npy"), ARRAY),
    lambda path: np.savez(path.with_suffix(".npz"), input=ARRAY),
    lambda path: np.savez(path.with_suffix(".npz"), anything=ARRAY.astype(np.float64)),
], ids=["npy", "npz by name", "npz with one array"])
def test_array_files_give_one_sample_a_row(tmp_path: Path, spec: TensorSpec, save: Callable[[Path], None]) -> None:
    save(tmp_path / "data")
    source = open_data(next(tmp_path.iterdir()), input=spec)
    assert np.array_equal(np.concatenate([s.feeds["input"] for s in source]), ARRAY)
    assert source.count == 7
    assert [s.index for s in source.samples(5)] == [5, 6]


def test_npz_keeps_labels_and_prepares_pixels(tmp_path: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)
    np.savez(tmp_path / "d.npz", input=pixels, labels=np.arange(4))
    samples = list(open_data(tmp_path / "d.npz", input=spec, preprocess=preprocess))
    assert [s.labels for s in samples] == [(0,), (1,), (2,), (3,)]
    assert np.array_equal(samples[2].feeds["input"], preprocess(pixels[2]))


@pytest.mark.parametrize(("content", "message"), [
    (b"", "not readable"), (b"PK\x03\x04 broken", "not readable"), (b"text", "not readable"),
], ids=["empty", "broken zip", "text"])
def test_damaged_array_file_is_refused(tmp_path: Path, spec: TensorSpec, content: bytes, message: str) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        open_data(tmp_path / "d.npz", input=spec)


def test_array_file_is_refused_when_objects_or_lengths_differ(tmp_path: Path, spec: TensorSpec) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CalibrationError, match="objects are not read"):
        open_data(tmp_path / "o.npy", input=spec)
    np.savez(tmp_path / "d.npz", input=ARRAY, other=ARRAY[:2])
    with pytest.raises(CalibrationError, match="same number of samples"):
        open_data(tmp_path / "d.npz", input=spec)
    np.save(tmp_path / "e.npy", ARRAY[:0])
    with pytest.raises(CalibrationError, match="at least 1"):
        open_data(tmp_path / "e.npy", input=spec)


def test_coco_gives_the_categories_of_each_image(images: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    notes = images.parent / "annotations"
    notes.mkdir()
    (notes / "instances_val.json").write_text(json.dumps({
        "images": [{"id": 5, "file_name": "dog/0.png"}, {"id": 6, "file_name": "cat/1.png"},
                   {"id": 7, "file_name": "cat/3.png"}],
        "categories": [{"id": 90}, {"id": 3}],
        "annotations": [{"image_id": 5, "category_id": 90}, {"image_id": 5, "category_id": 3},
                        {"image_id": 6, "category_id": 90}]}))
    samples = list(open_data(notes / "instances_val.json", input=spec, preprocess=preprocess))
    assert [(s.name, s.labels) for s in samples] == [("dog/0.png", (0, 1)), ("cat/1.png", (1,)), ("cat/3.png", ())]


@pytest.mark.parametrize(("content", "message"), [
    ("{", "no COCO"), ("[]", "no COCO"), ('{"images": []}', "lists no images"),
    ('{"images": [{"id": 1, "file_name": "gone.png"}]}', "none of the first is in"),
], ids=["no json", "no dict", "no images", "images elsewhere"])
def test_coco_is_refused_when_unusable(tmp_path: Path, spec: TensorSpec, preprocess: Preprocess, content: str,
                                       message: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(CalibrationError, match=message):
        open_data(tmp_path / "c.json", input=spec, preprocess=preprocess)


def write_video(path: Path, frames: int) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for index in range(frames):
        writer.write(np.full((24, 32, 3), (index * 10, 0, 0), np.uint8))  # blue
    writer.release()


def test_video_gives_evenly_spaced_frames_in_rgb(tmp_path: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    write_video(tmp_path / "v.avi", 20)
    source = open_data(tmp_path / "v.avi", input=spec, preprocess=preprocess, limit=5)
    samples = list(source)
    assert [s.name for s in samples] == [f"v.avi#{frame}" for frame in (0, 4, 8, 12, 16)]
    red, _, blue = samples[4].feeds["input"].mean(axis=(0, 2, 3))
    assert red < 0.1 < 0.5 < blue
    assert [s.name for s in source.samples(3)] == ["v.avi#12", "v.avi#16"]


def test_video_is_refused_when_it_is_none(tmp_path: Path, spec: TensorSpec, preprocess: Preprocess) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "v.mp4").write_bytes(b"text")
    with pytest.raises(CalibrationError, match="cannot be opened as a video"):
        open_data(tmp_path / "v.mp4", input=spec, preprocess=preprocess)


@pytest.mark.parametrize("source", [
    lambda: list(ARRAY),
    lambda: [{"input": x[None]} for x in ARRAY],
    lambda: [(x, 3) for x in ARRAY],
    lambda: [ARRAY[:4], ARRAY[4:]],
    lambda: iter(ARRAY),
    lambda: lambda: (x for x in ARRAY),
    lambda: [Sample("s", {"input": x[None]}) for x in ARRAY],
], ids=["arrays", "dicts", "pairs", "batches", "iterator", "function", "samples"])
def test_iterables_give_their_samples_again_and_again(spec: TensorSpec, source: Callable[[], Any]) -> None:
    opened = open_data(source(), input=spec)
    for _ in range(2):
        assert np.array_equal(np.concatenate([s.feeds["input"] for s in opened]), ARRAY)
    assert [s.index for s in opened.samples(5)] == [5, 6]
    assert opened.fingerprint() == open_data(source(), input=spec).fingerprint()
    assert opened.fingerprint() != open_data(list(ARRAY + 1), input=spec).fingerprint()


def test_iterable_keeps_labels_and_honours_the_limit(spec: TensorSpec) -> None:
    opened = open_data([(ARRAY[:3], [1, 2, 3]), (ARRAY[3], [4, 5])], input=spec)
    assert [s.labels for s in opened] == [(1,), (2,), (3,), (4, 5)]
    assert len(names(open_data(lambda: iter(ARRAY), input=spec, limit=4))) == 4


def test_spent_iterable_is_an_error(spec: TensorSpec) -> None:
    with pytest.raises(CalibrationError, match="gave no samples"):
        list(open_data(iter([]), input=spec))


def test_function_in_a_file_is_called(tmp_path: Path, spec: TensorSpec) -> None:
    (tmp_path / "data.py").write_text("import numpy as np\n\n\ndef load():\n    for i in range(3):\n"
                                      "        yield np.full((3, 12, 12), i, np.float32)\n")
    source = open_data(f"{tmp_path}/data.py:load", input=spec)
    assert [s.feeds["input"][0, 0, 0, 0] for s in source] == [0, 1, 2]
    assert source.fingerprint() == open_data(f"{tmp_path}/data.py:load", input=spec).fingerprint()
    with pytest.raises(CalibrationError, match=r"no function 'other'\. It has: load"):
        open_data(f"{tmp_path}/data.py:other", input=spec)
    with pytest.raises(CalibrationError, match="does not exist"):
        open_data(f"{tmp_path}/gone.py:load", input=spec)


def test_unknown_source_is_explained(tmp_path: Path, spec: TensorSpec) -> None:
    with pytest.raises(CalibrationError, match="does not exist"):
        open_data(tmp_path / "gone", input=spec)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(CalibrationError, match=r"of no known kind\. Give one of: .*COCO"):
        open_data(str(tmp_path / "a.txt"), input=spec)
    with pytest.raises(CalibrationError, match="Data int is of no known kind"):
        open_data(3, input=spec)

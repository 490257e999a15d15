from __future__ import annotations

import numpy as np
import pytest

from trtkit.errors import SpecError
from trtkit.tensors import FeedChecker, ShapeProfile, TensorSpec, check_unique_names, parse_shape

IMAGE = TensorSpec("image", "float32", ("batch", 3, "size", "size"))
MASK = TensorSpec("mask", "int64", ("batch",))


def _zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def test_spec_survives_json() -> None:
    assert TensorSpec.from_json(IMAGE.to_json()) == IMAGE
    assert str(IMAGE) == "image: float32[batch, 3, size, size]"


@pytest.mark.parametrize(("name", "shape", "match"), [
    pytest.param("", (1,), "A tensor needs a name", id="no-name"),
    pytest.param("x", (1, -1), r"'x' has a negative dimension in \(1, -1\)", id="negative"),
])
def test_spec_is_refused_when_it_cannot_be(name: str, shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        TensorSpec(name, "float32", shape)


def test_two_specs_are_refused_when_they_share_a_name() -> None:
    check_unique_names([IMAGE, MASK])
    with pytest.raises(SpecError, match="Two tensors are named 'mask'"):
        check_unique_names([MASK, IMAGE, MASK])
    with pytest.raises(SpecError, match="Two tensors are named 'mask'"):
        FeedChecker([MASK, MASK])


@pytest.mark.parametrize(("text", "shape"), [("1x3x224x224", (1, 3, 224, 224)), ("7", (7,)), ("2X5", (2, 5))])
def test_parse_shape_reads_sizes(text: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "1x", "axb", "1,3", "0x3", "-1x3", "1.5x2"])
def test_parse_shape_says_how_to_write_it_when_it_is_none(text: str) -> None:
    with pytest.raises(SpecError, match="Write sizes joined by x, such as 1x3x224x224"):
        parse_shape(text)


def test_profile_for_batch_covers_dynamic_inputs_alone() -> None:
    static = TensorSpec("gain", "float32", (3,))
    profile = ShapeProfile.for_batch([MASK, static], min=1, opt=4, max=8)
    assert profile == ShapeProfile({"mask": (1,)}, {"mask": (4,)}, {"mask": (8,)})
    assert ShapeProfile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize(("shapes", "match"), [
    pytest.param(({"x": (2,)}, {"x": (1,)}, {"x": (3,)}), r"'x' is not min <= opt <= max .*\(2,\), \(1,\), \(3,\)",
                 id="opt-below-min"),
    pytest.param(({"x": (1,)}, {"x": (4,)}, {"x": (3,)}), "not min <= opt <= max", id="opt-above-max"),
    pytest.param(({"x": (1,)}, {"x": (1, 1)}, {"x": (1,)}), "with one rank", id="ranks"),
    pytest.param(({"x": (1,)}, {"y": (1,)}, {"x": (1,)}), r"names different inputs: min \['x'\], opt \['y'\]",
                 id="names"),
])
def test_profile_is_refused_when_shapes_do_not_go_together(shapes: tuple, match: str) -> None:
    with pytest.raises(SpecError, match=match):
        ShapeProfile(*shapes)


@pytest.mark.parametrize("feeds", [
    pytest.param({"image": _zeros(2, 3, 8, 8), "mask": _zeros(2, dtype="int64")}, id="plain"),
    pytest.param({"mask": _zeros(1, dtype="int64"), "image": _zeros(1, 3, 5, 5)}, id="other-order"),
    pytest.param({"image": _zeros(2, 8, 8, 3).transpose(0, 3, 1, 2), "mask": _zeros(2, dtype="int64")}, id="strided"),
])
def test_feeds_pass_when_they_fit(feeds: dict) -> None:
    FeedChecker([IMAGE, MASK])(feeds)


GOOD_MASK = _zeros(2, dtype="int64")


@pytest.mark.parametrize(("feeds", "fault"), [
    pytest.param({"image": _zeros(2, 3, 8, 8)}, "input 'mask' is missing", id="missing"),
    pytest.param({"image": _zeros(2, 3, 8, 8), "mask": GOOD_MASK, "extra": GOOD_MASK}, "'extra' is not an input",
                 id="surplus"),
    pytest.param({"image": _zeros(2, 3, 8, 8), "maks": GOOD_MASK}, "input 'mask' is missing; 'maks' is not an input",
                 id="misspelt"),
    pytest.param({"image": [[1.0]], "mask": GOOD_MASK}, "input 'image' is a list, not a numpy array", id="list"),
    pytest.param({"image": _zeros(2, 3, 8, 8, dtype="float64"), "mask": GOOD_MASK},
                 "input 'image' has dtype float64, not float32", id="dtype"),
    pytest.param({"image": _zeros(3, 8, 8), "mask": GOOD_MASK}, "input 'image' has rank 3 (3, 8, 8), not 4", id="rank"),
    pytest.param({"image": _zeros(2, 8, 8, 3), "mask": GOOD_MASK},
                 "input 'image' has size 8 in dimension 1 (2, 8, 8, 3), not 3; "
                 "input 'image' has size 3 in dimension 3 (2, 8, 8, 3), not 8", id="layout"),
    pytest.param({"image": _zeros(2, 3, 8, 9), "mask": GOOD_MASK},
                 "input 'image' has size 9 in dimension 3 (2, 3, 8, 9), not 8", id="one-name-two-sizes"),
    pytest.param({"image": _zeros(2, 3, 8, 8), "mask": _zeros(3, dtype="int64")},
                 "input 'mask' has size 3 in dimension 0 (3,), not 2", id="batch-of-another-input"),
    pytest.param({"image": _zeros(2, 1, 8, 8, dtype="float16")},
                 "input 'image' has dtype float16, not float32; input 'image' has size 1 in dimension 1 (2, 1, 8, 8), "
                 "not 3; input 'mask' is missing", id="everything-at-once"),
])
def test_feeds_are_refused_with_every_fault_and_what_is_taken(feeds: dict, fault: str) -> None:
    with pytest.raises(SpecError) as caught:
        FeedChecker([IMAGE, MASK])(feeds)
    assert str(caught.value) == (f"Feeds do not fit the model: {fault}. "
                                 "It takes image: float32[batch, 3, size, size], mask: int64[batch]")


def test_feeds_of_a_scalar_and_of_no_input_pass() -> None:
    FeedChecker([TensorSpec("gain", "float32", ())])({"gain": np.array(2, np.float32)})
    FeedChecker([])({})

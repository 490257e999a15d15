from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trtkit.errors import BundleError, SpecError

Trtkit = Callable[..., str]


def test_run_prints_predictions_and_the_choice(bundle: Path, picture: Path, trtkit: Trtkit) -> None:
    printed = trtkit("run", bundle, picture, "--device", "cpu")
    assert printed.index("red.png") < printed.index("red ") < printed.index("blue") < printed.index("green")
    assert "colors.onnx" in printed
    assert "runs on onnxruntime" in printed


def test_run_prints_json(bundle: Path, picture: Path, trtkit: Trtkit) -> None:
    content = json.loads(trtkit("run", bundle, picture, picture, "--top", "2", "--json", "--threads", "1"))
    assert [[p["label"] for p in row["predictions"]] for row in content["images"]] == [["red", "blue"]]
    assert "colors.onnx" in content["choice"]


def test_run_predicts_the_others_when_one_picture_is_broken(bundle: Path, picture: Path, trtkit: Trtkit,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    broken = picture.with_name("broken.png")
    broken.write_bytes(picture.read_bytes()[:30])
    with pytest.raises(SpecError, match=r"broken\.png' cannot be read as an image"):
        trtkit("run", bundle, broken, picture)


def test_run_refuses_a_truncated_bundle(bundle: Path, picture: Path, trtkit: Trtkit) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-20])
    with pytest.raises(BundleError, match="truncated"):
        trtkit("run", bundle, picture)

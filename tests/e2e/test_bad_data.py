"""Data, tables and recipes that cannot be used: one clear message, exit status 1, and nothing lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Cli = Callable[..., Any]
Untouched = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def _nan(home: Path) -> str:
    values = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    values[2, 1, 3, 3] = np.nan
    np.savez(home / "data.npz", image=values)
    return "data.npz"


def _infinite(home: Path) -> str:
    np.save(home / "data.npy", np.full((2, 3, 8, 8), np.inf, np.float32))
    return "data.npy"


def _wrong_size(home: Path) -> str:
    np.save(home / "data.npy", np.zeros((2, 3, 9), np.float32))
    return "data.npy"


def _empty_folder(home: Path) -> str:
    (home / "data").mkdir()
    return "data"


def _texts(home: Path) -> str:
    (home / "data").mkdir()
    for name in ("a.txt", "b.md"):
        (home / "data" / name).write_text("not a picture")
    return "data"


def _broken_pictures(home: Path) -> str:
    (home / "data").mkdir()
    for number in range(3):
        (home / f"data/{number}.png").write_bytes(b"\x89PNG\r\n and no more")
    return "data"


def _missing(home: Path) -> str:
    return "no/such/place"


def _function_that_fails(home: Path) -> str:
    (home / "feed.py").write_text("def feed():\n    yield {'image': 1 / 0}\n")
    return "feed.py:feed"


def _function_with_a_syntax_error(home: Path) -> str:
    (home / "feed.py").write_text("def feed(:\n")
    return "feed.py:feed"


def _truncated_array(home: Path) -> str:
    np.savez(home / "data.npz", image=np.zeros((4, 3, 8, 8), np.float32))
    (home / "data.npz").write_bytes((home / "data.npz").read_bytes()[:500])
    return "data.npz"


@pytest.mark.parametrize(("make", "says"), [
    pytest.param(_nan, ["'image' has 1 infinite or NaN values of 192", "data.npz[2]", "Remove or repair"], id="nan"),
    pytest.param(_infinite, ["'image' has 192 infinite or NaN values", "data.npy[0]"], id="infinite"),
    pytest.param(_wrong_size, ["data.npy", "3, 8, 8"], id="size"),
    pytest.param(_empty_folder, ["'data' holds no images, nothing", "Name a folder"], id="empty"),
    pytest.param(_texts, ["'data' holds no images, only files of type .md, .txt", "Name a folder"], id="texts"),
    pytest.param(_broken_pictures, ["in 'data' cannot be read, more than 1%: 0.png", "Repair or remove"], id="broken"),
    pytest.param(_missing, ["'no/such/place' does not exist", "Give one of"], id="missing"),
    pytest.param(_function_that_fails, ["feed.py", "ZeroDivisionError", "division by zero"], id="function"),
    pytest.param(_function_with_a_syntax_error, ["feed.py", "SyntaxError", "line 1"], id="syntax"),
    pytest.param(_truncated_array, ["data.npz"], id="truncated-array"),
])
def test_data_that_cannot_be_used_is_one_message(home: Path, cli: Cli, untouched: Untouched,
                                                 make: Callable[[Path], str], says: list[str]) -> None:
    data = make(home)
    (home / "out.calib.part").unlink(missing_ok=True)
    with untouched(home):
        done = cli("calibrate", "m.onnx", "--data", data, "-o", "out.calib", "-p", "pre.toml")
    assert done.code == 1
    assert done.err.count("Error: CalibrationError: ") + done.err.count("Error: SpecError: ") == 1
    assert "Traceback" not in done.err
    assert [text for text in says if text not in done.err] == [], done.err


@pytest.mark.parametrize("make", [_empty_folder, _texts, _missing], ids=["empty", "texts", "missing"])
def test_a_deployment_without_data_leaves_the_old_bundle(home: Path, cli: Cli, make: Callable[[Path], str]) -> None:
    recipe = home / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('"photos"', f'"{make(home)}"'))
    done = cli("deploy", "recipe.toml")
    assert done.code == 1
    assert "Error: CalibrationError: " in done.err
    assert (home / "m.trtkit").read_bytes() == b"the m.trtkit of an earlier run"


@pytest.mark.parametrize(("change", "says"), [
    (("data =", "dta ="), "'recipe.toml': [calibrate] has the unknown key 'dta'. It takes: data, limit, batch"),
    (("[calibrate]", "[calibration]"), "'recipe.toml': The recipe has the unknown key 'calibration'"),
    (('"pi5"', '"pi6"'), "'recipe.toml': Target 'pi6' is unknown. There are: rtx"),
    (("size = [8, 8]", "size = 8"), "'recipe.toml': Preprocessing size is 8"),
    (("[model]", "[model"), "'recipe.toml' is not valid TOML"),
], ids=["key", "section", "target", "value", "toml"])
def test_a_recipe_with_a_mistake_is_refused_before_the_first_step(home: Path, cli: Cli, untouched: Untouched,
                                                                  change: tuple[str, str], says: str) -> None:
    recipe = home / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(*change))
    with untouched(home):
        done = cli("deploy", "recipe.toml")
    assert done.code == 1
    assert f"Error: SpecError: {says}" in done.err


def test_a_table_of_another_model_is_stale(home: Path, cli: Cli, untouched: Untouched) -> None:
    assert cli("calibrate", "m.onnx", "--data", "photos", "-o", "out.calib", "-p", "pre.toml").code == 0
    model = onnx.load("m.onnx")
    model.graph.initializer[0].raw_data = bytes(reversed(model.graph.initializer[0].raw_data))
    (home / "other.onnx").write_bytes(model.SerializeToString())
    with untouched(home):
        done = cli("quantize", "other.onnx", "--target", "pi5", "--calib", "out.calib", "-o", "out.onnx")
    assert done.code == 1
    assert "Error: CalibrationError: 'out.calib': " in done.err
    assert "the calibration table is stale. Run trtkit calibrate again on this model" in done.err


def test_a_table_that_was_cut_is_refused(home: Path, cli: Cli, untouched: Untouched) -> None:
    assert cli("calibrate", "m.onnx", "--data", "photos", "-o", "out.calib", "-p", "pre.toml").code == 0
    (home / "out.calib").write_bytes((home / "out.calib").read_bytes()[:-100])
    for command in (("quantize", "m.onnx", "--target", "pi5", "--calib", "out.calib", "-o", "out.onnx"),
                    ("inspect", "out.calib")):
        with untouched(home):
            done = cli(*command)
        assert done.code == 1
        assert "Calibration table 'out.calib'" in done.err
        assert "truncated or was changed. Run: trtkit calibrate" in done.err


def test_a_folder_that_is_missing_is_told_before_the_work(home: Path, cli: Cli, untouched: Untouched) -> None:
    for command in (("calibrate", "m.onnx", "--data", "photos", "-p", "pre.toml", "-o", "no/where/out.calib"),
                    ("rewrite", "m.onnx", "--pass", "fold-constants", "-o", "no/where/out.onnx"),
                    ("build", "m.onnx", "-o", "no/where/out.plan"),
                    ("export", "net.py:make", "--input", "1x3x8x8", "-o", "no/where/out.onnx")):
        with untouched(home):
            done = cli(*command)
        assert done.code == 1
        assert "no/where" in done.err
        assert "0:00" not in done.err  # no bar began


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(home: Path, cli: Cli) -> None:
    (home / "closed").mkdir(mode=0o500)
    done = cli("quantize", "m.onnx", "--target", "pi5", "--precision", "fp32", "-o", "closed/out.onnx")
    assert done.code == 1
    assert "'closed/out.onnx' cannot be written: Permission denied" in done.err


@pytest.mark.parametrize("arguments", [("quantize", "m.onnx"), ("calibrate", "m.onnx", "--lmit", "3"), ("quantise",),
                                       ("run", "b.trtkit"), ("calibrate", "m.onnx", "--data", "photos", "-o", "o",
                                                             "--limit", "0")],
                         ids=["missing", "unknown-option", "unknown-command", "no-picture", "range"])
def test_wrong_usage_ends_with_2_and_a_hint(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert "Usage: trtkit" in done.err
    assert "--help" in done.err

"""Bundles that were damaged, forged or come from the future: refused with a message, or they predict the same."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trtkit
from trtkit.errors import SpecError

Cli = Callable[..., Any]

STRIDE = 997


def _places(size: int) -> range:
    return range(0, size, STRIDE)


def _answers(done: Any) -> Any:
    """Return what was predicted, without the file that the choice names."""
    return [image["predictions"] for image in json.loads(done.out)["images"]]


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_flipped_byte_is_found_or_changes_nothing(home: Path, bundle: Path, cli: Cli, form: str) -> None:
    picture = home / "photos/0.png"
    if form == "folder":
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(home / "b")
        bundle = home / "b"
    right = _answers(cli("run", bundle, picture, "--device", "cpu", "--json"))
    files = [bundle] if form == "file" else sorted(path for path in bundle.rglob("*") if path.is_file())
    found = tried = 0
    for path in files:
        whole = path.read_bytes()
        for at in _places(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1:])
            verified = cli("inspect", "--verify", bundle)
            done = cli("run", bundle, picture, "--device", "cpu", "--json")
            tried += 1
            assert "Traceback" not in verified.err + done.err
            if verified.code:
                assert "Error: BundleError: " in verified.err
                found += 1
            if done.code:
                assert (done.code, "Error: BundleError: " in done.err) == (1, True)
            else:
                assert _answers(done) == right, (path, at)
        path.write_bytes(whole)
    assert tried > 20
    assert found > 0.8 * tried


def _rewritten(bundle: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Write a bundle's file again, with changed members."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(bundle, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _climbing_file(members: dict[str, bytes]) -> None:
    members["../../evil.onnx"] = members.pop("m.onnx")


def _climbing_manifest(members: dict[str, bytes]) -> None:
    members["manifest.json"] = members["manifest.json"].replace(b'"m.onnx"', b'"../../evil.onnx"')


def _newer(members: dict[str, bytes]) -> None:
    manifest = json.loads(members["manifest.json"])
    members["manifest.json"] = json.dumps({**manifest, "format_version": 99, "artifacts": "unheard of"}).encode()


def _no_manifest(members: dict[str, bytes]) -> None:
    del members["manifest.json"]


@pytest.mark.parametrize(("change", "says"), [
    (_climbing_file, ("'../../evil.onnx'", "could leave the bundle's folder")),
    (_climbing_manifest, ("was changed after it was written",)),
    (_newer, ("has bundle format 99; this trtkit reads format 1", "Run: pip install --upgrade trtkit")),
    (_no_manifest, ("has no manifest.json", "trtkit pack")),
], ids=["file-that-climbs", "manifest-that-climbs", "newer", "no-manifest"])
def test_a_bundle_that_cannot_be_trusted_is_refused(home: Path, bundle: Path, cli: Cli, says: tuple[str, ...],
                                                    change: Callable[[dict[str, bytes]], None]) -> None:
    _rewritten(bundle, change)
    before = sorted(home.parent.rglob("*"))
    for command in (("run", bundle, home / "photos/0.png"), ("inspect", bundle), ("bench", bundle)):
        done = cli(*command)
        assert done.code == 1
        assert "Error: BundleError: " in done.err
        assert [text for text in says if text not in done.err] == [], done.err
    assert sorted(home.parent.rglob("*")) == before


def test_a_truncated_bundle_is_refused_and_a_missing_one_is_named(home: Path, bundle: Path, cli: Cli) -> None:
    whole = bundle.read_bytes()
    for keep in (0, 100, len(whole) // 2, len(whole) - 1):
        bundle.write_bytes(whole[:keep])
        done = cli("run", bundle, home / "photos/0.png")
        assert done.code == 1
        assert "or truncated" in done.err
        assert "Copy it again" in done.err
    assert "does not exist" in cli("run", home / "none.trtkit", home / "photos/0.png").err


def test_pictures_that_cannot_be_read_are_named_and_the_others_predicted(home: Path, bundle: Path, cli: Cli) -> None:
    (home / "text.png").write_text("no picture")
    done = cli("run", bundle, home / "text.png", home / "photos/1.png", home / "gone.png", "--device", "cpu")
    assert done.code == 1
    assert "photos/1.png" in done.out
    assert "text.png' cannot be read as an image" in done.err
    assert "gone.png" in done.err


@pytest.mark.parametrize(("feeds", "says"), [
    ({"picture": np.zeros((1, 3, 8, 8), np.float32)}, ("'picture'", "image: float32[batch, 3, 8, 8]")),
    ({}, ("image",)),
    ({"image": np.zeros((1, 3, 8, 8), np.float64)}, ("float64", "float32")),
    ({"image": np.zeros((1, 3, 8, 8), np.uint8)}, ("uint8", "float32")),
    ({"image": np.zeros((3, 8, 8), np.float32)}, ("rank 3 (3, 8, 8)", "[batch, 3, 8, 8]")),
    ({"image": np.zeros((1, 3, 8, 9), np.float32)}, ("size 9 in dimension 3 (1, 3, 8, 9)", "[batch, 3, 8, 8]")),
    ({"image": np.zeros((1, 4, 8, 8), np.float32)}, ("size 4 in dimension 1 (1, 4, 8, 8)", "[batch, 3, 8, 8]")),
    ({"image": [[1.0]]}, ("list", "image")),
], ids=["name", "none", "float64", "uint8", "rank", "size", "channels", "list"])
def test_wrong_feeds_are_told_with_what_was_fed_and_what_it_takes(bundle: Path, feeds: dict[str, Any],
                                                                  says: tuple[str, ...]) -> None:
    with trtkit.open(bundle, device="cpu") as session:
        with pytest.raises(SpecError) as caught:
            session.run(feeds)
        assert [text for text in says if text not in str(caught.value)] == [], str(caught.value)
        assert session.run({"image": np.zeros((2, 3, 8, 8), np.float32)})["scores"].shape == (2, 5)

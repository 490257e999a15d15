from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from trtkit.bundle import BundleManifest, open_bundle, write_bundle
from trtkit.bundle.manifest import Artifact
from trtkit.errors import BundleError, SpecError
from trtkit.precision import Precision

Files = dict[str, bytes | Path]
Patch = Callable[[Path, bytes], None]


def test_bundle_returns_what_was_written(written: Path, manifest: BundleManifest, files: Files) -> None:
    with open_bundle(written, verify="all") as bundle:
        assert {name: bundle.read(name) for name in files} == files
        assert [a.size_bytes for a in bundle.manifest.artifacts] == [1000, 1000, 250, 29]
        hashless = replace(bundle.manifest, artifacts=tuple(
            replace(a, sha256="", size_bytes=0) for a in bundle.manifest.artifacts))
        assert hashless == manifest
        assert bundle.size_bytes == 1279


def test_bundle_bytes_are_equal_when_the_content_is(tmp_path: Path, manifest: BundleManifest, files: Files) -> None:
    source = tmp_path / "fp32.onnx"
    source.write_bytes(files["onnx/fp32.onnx"])  # type: ignore[arg-type]
    os.utime(source, (1, 1))
    write_bundle(tmp_path / "a.trtkit", manifest, files)
    write_bundle(tmp_path / "b.trtkit", manifest, {**dict(reversed(files.items())), "onnx/fp32.onnx": source})
    assert (tmp_path / "a.trtkit").read_bytes() == (tmp_path / "b.trtkit").read_bytes()


def test_artifacts_for_filters_by_target_precision_and_kind(written: Path) -> None:
    with open_bundle(written) as bundle:
        assert [a.file for a in bundle.artifacts_for(target="x86-vnni")] == ["onnx/fp32.onnx", "onnx/int8.onnx"]
        assert [a.target for a in bundle.artifacts_for(precision=Precision.INT8)] == ["x86-vnni", "jetson-xavier-jp5"]
        assert [a.file for a in bundle.artifacts_for(kind="calibration-cache")] == ["jp5.cache"]
        assert len(bundle.artifacts_for()) == 4


def test_extract_copies_a_file(written: Path, files: Files, tmp_path: Path) -> None:
    with open_bundle(written) as bundle:
        path = bundle.extract("onnx/int8.onnx", tmp_path / "out")
    assert path == tmp_path / "out/onnx/int8.onnx"
    assert path.read_bytes() == files["onnx/int8.onnx"]


def test_read_names_file_and_both_hashes_when_a_byte_was_flipped(written: Path, patch_byte: Patch) -> None:
    patch_byte(written, b"int8 int8")
    with open_bundle(written) as bundle:
        assert bundle.read("onnx/fp32.onnx")
        said = bundle.manifest.files["onnx/int8.onnx"].sha256
        with pytest.raises(BundleError, match=r"'onnx/int8\.onnx' is damaged: its SHA-256 is [0-9a-f]{64}") as caught:
            bundle.read("onnx/int8.onnx")
    assert said in str(caught.value)


def test_extract_leaves_nothing_when_a_byte_was_flipped(written: Path, patch_byte: Patch, tmp_path: Path) -> None:
    patch_byte(written, b"int8 int8")
    with open_bundle(written) as bundle, pytest.raises(BundleError, match="damaged"):
        bundle.extract("onnx/int8.onnx", tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_open_with_verify_all_finds_a_flipped_byte(written: Path, patch_byte: Patch) -> None:
    patch_byte(written, b"TRT-8500")
    with pytest.raises(BundleError, match=r"'jp5\.cache' is damaged"):
        open_bundle(written, verify="all")


def test_open_finds_a_flipped_byte_in_the_manifest(written: Path, patch_byte: Patch) -> None:
    patch_byte(written, b"cat")
    with pytest.raises(BundleError, match="was changed after it was written"):
        open_bundle(written)


def test_any_flipped_byte_is_an_error_or_changes_nothing(tmp_path: Path, manifest: BundleManifest) -> None:
    path = tmp_path / "m.trtkit"
    artifact = Artifact("m.onnx", "pi5", Precision.FP32, "onnx")
    complete = write_bundle(path, replace(manifest, artifacts=(artifact,)), {"m.onnx": b"model"})
    whole = path.read_bytes()
    caught = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:])
        try:
            with open_bundle(path) as bundle:
                assert bundle.manifest == complete, at
                assert bundle.read("m.onnx") == b"model", at
        except BundleError:
            caught += 1
    assert caught > len(whole) / 2


@pytest.mark.parametrize("keep", [0, 3, 40, 700, -1, -30])
def test_open_refuses_a_truncated_file(tmp_path: Path, manifest: BundleManifest, files: Files, keep: int) -> None:
    path = tmp_path / "m.trtkit"
    write_bundle(path, manifest, files)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match="truncated"):
        open_bundle(path)


def test_open_refuses_a_file_cut_anywhere(tmp_path: Path, manifest: BundleManifest) -> None:
    path = tmp_path / "m.trtkit"
    artifact = Artifact("m.onnx", "pi5", Precision.FP32, "onnx")
    write_bundle(path, replace(manifest, artifacts=(artifact,)), {"m.onnx": b"model"})
    whole = path.read_bytes()
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        with pytest.raises(BundleError):
            open_bundle(path)


def test_links_that_lead_in_a_circle_do_no_harm(tmp_path: Path, manifest: BundleManifest, files: Files) -> None:
    write_bundle(tmp_path / "m", manifest, files)
    (tmp_path / "m/a").symlink_to("b")
    (tmp_path / "m/b").symlink_to("a")
    with contextlib.suppress(BundleError):  # from Python 3.13 they resolve to themselves, inside, and harm nothing
        open_bundle(tmp_path / "m", verify="all").close()


def test_open_refuses_a_folder_whose_file_is_truncated_or_gone(tmp_path: Path, manifest: BundleManifest,
                                                               files: Files) -> None:
    write_bundle(tmp_path / "m", manifest, files)
    (tmp_path / "m/jp5.cache").write_bytes(b"TRT")
    with pytest.raises(BundleError, match=r"'jp5\.cache' has 3 bytes, the manifest says 29 bytes"):
        open_bundle(tmp_path / "m")
    (tmp_path / "m/jp5.cache").unlink()
    with pytest.raises(BundleError, match=r"'jp5\.cache' is missing"):
        open_bundle(tmp_path / "m")


def test_open_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "none.trtkit")
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        open_bundle(tmp_path)
    (tmp_path / "text.trtkit").write_text("hello " * 100)
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path / "text.trtkit")


def _rezip(path: Path, change: Callable[[zipfile.ZipInfo], None], more: dict[str, bytes] | None = None,
           compression: int = zipfile.ZIP_STORED) -> None:
    """Write a zip again, every member passed through `change`, others added."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for info, data in members:
            change(info)
            info.compress_type = compression
            archive.writestr(info, data)
        for name, data in (more or {}).items():
            archive.writestr(name, data)


def _keep(info: zipfile.ZipInfo) -> None:
    """Change nothing."""


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\evil", "C:evil", "a//b", "./a"])
def test_open_refuses_a_name_that_leaves_the_bundle(tmp_path: Path, manifest: BundleManifest, files: Files,
                                                    name: str) -> None:
    path = tmp_path / "m.trtkit"
    write_bundle(path, manifest, files)
    _rezip(path, _keep, {name: b"x"})
    with pytest.raises(BundleError, match="could leave the bundle's folder"):
        open_bundle(path)


def test_manifest_refuses_a_name_that_leaves_the_bundle() -> None:
    with pytest.raises(BundleError, match="could leave"):
        Artifact("../../.bashrc", "pi5", Precision.FP32, "onnx")


def test_open_refuses_a_file_that_the_manifest_does_not_know(tmp_path: Path, manifest: BundleManifest,
                                                             files: Files) -> None:
    path = tmp_path / "m.trtkit"
    write_bundle(path, manifest, files)
    _rezip(path, _keep, {"extra.bin": b"x"})
    with pytest.raises(BundleError, match=r"'extra\.bin', which the manifest does not know"):
        open_bundle(path)


def test_open_refuses_a_name_that_is_there_twice(tmp_path: Path, manifest: BundleManifest, files: Files) -> None:
    path = tmp_path / "m.trtkit"
    write_bundle(path, manifest, files)
    with pytest.warns(UserWarning, match="Duplicate"):
        _rezip(path, _keep, {"jp5.cache": b"x" * 29})
    with pytest.raises(BundleError, match="twice"):
        open_bundle(path)


def test_open_refuses_compressed_members_so_no_bomb_can_unfold(tmp_path: Path, manifest: BundleManifest,
                                                               files: Files) -> None:
    path = tmp_path / "m.trtkit"
    write_bundle(path, manifest, files)
    _rezip(path, _keep, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="is compressed or encrypted"):
        open_bundle(path)


def test_open_refuses_a_link_in_a_file(tmp_path: Path, manifest: BundleManifest, files: Files) -> None:
    path = tmp_path / "m.trtkit"
    write_bundle(path, manifest, files)

    def link(info: zipfile.ZipInfo) -> None:
        if info.filename == "jp5.cache":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16

    _rezip(path, link)
    with pytest.raises(BundleError, match=r"'jp5\.cache' is a link"):
        open_bundle(path)


def test_open_refuses_a_link_that_leaves_a_folder(tmp_path: Path, manifest: BundleManifest, files: Files) -> None:
    write_bundle(tmp_path / "m", manifest, files)
    (tmp_path / "outside").write_bytes(b"x" * 29)
    (tmp_path / "m/jp5.cache").unlink()
    (tmp_path / "m/jp5.cache").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="is a link that leads out of the bundle"):
        open_bundle(tmp_path / "m")


def test_folder_ignores_files_of_others(tmp_path: Path, manifest: BundleManifest, files: Files) -> None:
    write_bundle(tmp_path / "m", manifest, files)
    (tmp_path / "m/README").write_text("mine")
    with open_bundle(tmp_path / "m", verify="all") as bundle, pytest.raises(BundleError, match="holds no 'README'"):
        bundle.read("README")


def test_read_is_refused_when_the_bundle_is_closed(written: Path) -> None:
    bundle = open_bundle(written)
    bundle.close()
    with pytest.raises(BundleError, match="is closed"):
        bundle.read("jp5.cache")


def test_write_refuses_files_and_artifacts_that_do_not_go_together(place: Path, manifest: BundleManifest,
                                                                   files: Files) -> None:
    del files["jp5.cache"]
    with pytest.raises(SpecError, match=r"without a file: jp5\.cache; files without an artifact: other"):
        write_bundle(place, manifest, {**files, "other": b""})
    assert not place.exists()


def test_write_refuses_a_missing_source_and_keeps_the_old_bundle(written: Path, manifest: BundleManifest,
                                                                 files: Files) -> None:
    with pytest.raises(BundleError, match="is no file"):
        write_bundle(written, manifest, {**files, "jp5.cache": written.parent / "none"})
    open_bundle(written, verify="all").close()


def test_write_replaces_an_older_bundle_and_leaves_no_other_file(written: Path, manifest: BundleManifest,
                                                                 files: Files) -> None:
    write_bundle(written, replace(manifest, name="newer"), files)
    with open_bundle(written, verify="all") as bundle:
        assert bundle.manifest.name == "newer"
    assert list(written.parent.iterdir()) == [written]


def test_write_refuses_to_replace_a_folder_of_something_else(tmp_path: Path, manifest: BundleManifest,
                                                             files: Files) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="holds something else"):
        write_bundle(tmp_path / "home", manifest, files)
    assert (tmp_path / "home/thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["m.trtkit", "m"])
def test_memory_stays_flat_and_a_read_holds_the_file_once(tmp_path: Path, manifest: BundleManifest, name: str) -> None:
    size = 24 << 20
    (tmp_path / "big").write_bytes(bytes(size))
    big = replace(manifest, artifacts=(Artifact("big", "pi5", Precision.FP32, "onnx"),))

    def peak(work: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(lambda: write_bundle(tmp_path / name, big, {"big": tmp_path / "big"})) < size / 4
    with open_bundle(tmp_path / name) as bundle:
        assert peak(bundle.verify) < size / 4
        assert peak(lambda: bundle.extract("big", tmp_path / "out")) < size / 4
        assert peak(lambda: bundle.read("big")) < 1.2 * size


def test_one_bundle_may_be_read_by_several_threads(written: Path, files: Files) -> None:
    with open_bundle(written) as bundle, ThreadPoolExecutor(4) as pool:
        names = list(files) * 50
        assert list(pool.map(bundle.read, names)) == [files[name] for name in names]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)],
                          check=False, capture_output=True) if sys.platform == "linux" else None
    if done is None or done.returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("name", ["m.trtkit", "m"])
def test_write_keeps_the_old_bundle_when_the_disk_is_full(small_disk: Path, manifest: BundleManifest, files: Files,
                                                          name: str) -> None:
    write_bundle(small_disk / name, manifest, files)
    with pytest.raises(SpecError, match="No space left on device"):
        write_bundle(small_disk / name, manifest, {**files, "onnx/fp32.onnx": bytes(1 << 20)})
    with open_bundle(small_disk / name, verify="all") as bundle:
        assert bundle.read("onnx/fp32.onnx") == files["onnx/fp32.onnx"]
    assert [p.name for p in small_disk.iterdir()] == [name]

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtkit.build.flavour import load_flavour
from trtkit.errors import BuildError, MissingDependencyError

MODULE = "__version__ = '{version}'\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported, before all others, while the test runs."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("tensorrt", "tensorrt_rtx"):
        sys.modules.pop(name, None)


def test_flavour_prefers_tensorrt(site: Path) -> None:
    (site / "tensorrt.py").write_text(MODULE.format(version="10.3.0"))
    (site / "tensorrt_rtx.py").write_text(MODULE.format(version="1.7.1"))
    assert load_flavour("").title == "TensorRT 10.3.0"
    assert load_flavour("tensorrt_rtx").title == "TensorRT-RTX 1.7.1"


@pytest.mark.parametrize(("version", "fits"), [("10", True), ("10.3", True), ("10.3.0", True), ("", True),
                                               ("10.13", False), ("1", False), ("10.3.0.1", False)])
def test_flavour_compares_versions_part_by_part(site: Path, version: str, fits: bool) -> None:
    (site / "tensorrt.py").write_text(MODULE.format(version="10.3.0"))
    if fits:
        assert load_flavour("tensorrt", version).version == "10.3.0"
    else:
        with pytest.raises(BuildError, match=r"here is TensorRT 10\.3\.0"):
            load_flavour("tensorrt", version)


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_flavour_tells_the_loaders_words_when_a_library_is_missing(site: Path, error: str) -> None:
    (site / "tensorrt.py").write_text(f"raise {error}('libnvdla_compiler.so: cannot open shared object file')")
    (site / "tensorrt_rtx.py").write_text(MODULE.format(version="1.7.1"))
    with pytest.raises(MissingDependencyError, match=r"does not load \(libnvdla_compiler\.so"):
        load_flavour("")

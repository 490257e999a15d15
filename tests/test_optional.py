from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trtkit._optional import require
from trtkit.errors import MissingDependencyError


def test_require_returns_the_module() -> None:
    assert require("json.decoder", extra="cpu") is sys.modules["json.decoder"]


def test_require_names_package_extra_and_feature_when_the_package_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError) as caught:
        require("cv2", extra="video", feature="Reading videos")
    assert str(caught.value) == ("Reading videos needs opencv-python-headless, which is not installed. "
                                 "Run: pip install 'trtkit[video]'")
    assert isinstance(caught.value, ImportError)


def test_require_says_not_installed_when_a_submodule_s_package_is_absent() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        require("no_such_package.part", extra="onnx")
    assert str(caught.value) == "no_such_package is not installed. Run: pip install 'trtkit[onnx]'"


@pytest.mark.parametrize(("content", "reason"), [
    pytest.param("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "libnvinfer.so.10",
                 id="library-missing"),
    pytest.param("import missing_underneath", "No module named 'missing_underneath'", id="dependency-missing"),
])
def test_require_keeps_the_loader_s_words_when_a_present_package_does_not_load(
        content: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError) as caught:
        require("half_installed", extra="trt")
    assert f"half_installed is installed but does not load ({reason}" in str(caught.value)

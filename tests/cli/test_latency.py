from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trtkit.errors import SpecError
from trtkit.runtime.latency_table import LatencyTable
from trtkit.runtime.probe import probe_device
from trtkit.target import load_targets

MODULE = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "small.py").write_text(MODULE)
    return f"{tmp_path / 'small.py'}:make"


def test_a_kit_is_made_and_recorded(trtkit: Callable[..., str], factory: str, tmp_path: Path) -> None:
    device = probe_device()
    target = next(each.name for each in load_targets().values() if each.runs_on(device.machine, device.cpu_flags))
    kit, table = tmp_path / "small.kit", tmp_path / "table.json"
    said = trtkit("latency", "kit", factory, "--input", "1x3x8x8", "--target", target, "--widths", 2, "-o", kit)
    assert "2 layers of 2 kinds" in said
    assert "trtkit latency record small.kit" in said
    shown = trtkit("latency", "record", kit, "-o", table, "--threads", 1, "--seconds", 0.001)
    assert "16 -> 16" in shown
    assert "the whole model takes" in shown
    assert LatencyTable.load(table).target == target
    assert not list(tmp_path.glob("*.part"))


def test_a_precision_that_the_target_lacks_is_refused_before_the_module_is_loaded(trtkit: Callable[..., str],
                                                                                  tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not run fp8"):
        trtkit("latency", "kit", "nowhere:make", "--input", "1x3x8x8", "--target", "pi5", "--precision", "fp8",
               "-o", tmp_path / "k.kit")


def test_recording_refuses_what_is_no_kit(trtkit: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "k.kit").write_bytes(b"nothing")
    with pytest.raises(SpecError, match="is no latency kit"):
        trtkit("latency", "record", tmp_path / "k.kit", "-o", tmp_path / "t.json")

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from trtkit.bundle import CompressionRow
from trtkit.errors import SpecError
from trtkit.pipeline.tradeoff import plot_tradeoff

pytest.importorskip("matplotlib")

ROWS = (
    CompressionRow("start", "mAP", 0.85, 10**9, 10**7, 40_000_000, 12.0, 6.0),
    CompressionRow("prune", "mAP", 0.84, 5 * 10**8, 5 * 10**6, 20_000_000, 7.0, 3.5),
    CompressionRow("qat", "mAP", 0.845, 5 * 10**8, 5 * 10**6, 5_000_000, None, 3.4),
)


def _words(rows: Sequence[CompressionRow], tmp_path: Path) -> str:
    """Draw as SVG, whose comments hold the texts."""
    plot_tradeoff(rows, tmp_path / "plot.svg")
    return "\n".join(re.findall(r"<!-- (.*?) -->", (tmp_path / "plot.svg").read_text(encoding="utf-8")))


def test_plot_is_a_png_when_the_ending_says_so(tmp_path: Path) -> None:
    plot_tradeoff(ROWS, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_plot_draws_a_single_step(tmp_path: Path) -> None:
    assert "start (40 MB)" in _words(ROWS[:1], tmp_path)


def test_plot_has_plain_numbers_when_the_axis_is_logarithmic(tmp_path: Path) -> None:
    words = _words([replace(row, fp32_ms=value) for row, value in zip(ROWS, (90.0, 9.0, 1.5))], tmp_path)
    assert {"2", "5", "10", "20", "50"} <= set(words.split("\n"))


def test_plot_labels_each_step_once(tmp_path: Path) -> None:
    words = _words(ROWS, tmp_path)
    for label in ("start (40 MB)", "prune (20 MB)", "qat (5 MB)"):
        assert words.count(label) == 1
    assert "latency, ms (blue: FP32, orange: INT8)" in words
    assert "mAP, %" in words


def test_plot_is_against_size_when_nothing_was_timed(tmp_path: Path) -> None:
    words = _words([replace(row, fp32_ms=None, int8_ms=None) for row in ROWS], tmp_path)
    assert "size, MB" in words
    assert "latency" not in words


@pytest.mark.parametrize(("change", "axis"), [({"fp32_ms": None, "int8_ms": 2.0}, "latency, ms (INT8)"),
                                              ({"fp32_ms": 2.0}, "latency, ms (FP32)")], ids=["int8", "fp32"])
def test_plot_names_the_one_precision_when_all_have_it(change: dict[str, float | None], axis: str,
                                                       tmp_path: Path) -> None:
    assert axis in _words([replace(row, **change) for row in ROWS], tmp_path)  # type: ignore[arg-type]


def test_plot_says_how_many_steps_are_left_out(tmp_path: Path) -> None:
    words = _words([ROWS[0], replace(ROWS[1], fp32_ms=None, int8_ms=None), replace(ROWS[2], score=None)], tmp_path)
    assert "2 of 3 steps not measured" in words
    assert "prune" not in words


def test_plot_refuses_rows_without_a_score(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="None of 3 compression rows has a score"):
        plot_tradeoff([replace(row, score=None) for row in ROWS], tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_plot_refuses_another_ending(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\.gif"):
        plot_tradeoff(ROWS, tmp_path / "plot.gif")

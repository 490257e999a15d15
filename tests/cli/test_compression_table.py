from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from trtkit.bundle import CompressionRow, open_bundle, write_bundle
from trtkit.cli.compression_table import compression_table
from trtkit.errors import SpecError

ROWS = (
    CompressionRow("start", "map", 0.8512, 1_234_000_000, 11_700_000, 46_800_000, 12.34, 6.2),
    CompressionRow("prune to 0.5 [gradual]", "map", 0.8432, 617_000_000, 5_200_000, 20_800_000, 6.17, 3.1),
    CompressionRow("qat", "map", 0.8530, 617_000_000, 5_200_000, 4_680_000, None, 2.0),
)


def _lines(rows: Sequence[CompressionRow], width: int = 100) -> list[list[str]]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(compression_table(rows))
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def test_table_shows_changes_against_the_first_row() -> None:
    lines = {line[0]: line[1:] for line in _lines(ROWS)}
    assert lines["start"] == ["0.8512", "1.23", "G", "11.7", "M", "46.80", "12.34", "6.20", "2.0x"]
    assert lines["qat"] == ["0.8530", "+0.18", "617", "M", "2.0x", "5.2", "M", "2.2x", "4.68", "10.0x", "2.00", "6.2x"]
    assert "-0.80" in lines["prune"]


def test_table_fits_100_columns_without_cutting() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(compression_table(ROWS))
    assert "…" not in capture.get()
    assert "[gradual]" in capture.get().replace("\n", "")


def test_table_has_no_change_when_nothing_was_evaluated() -> None:
    bare = [replace(row, score=None, fp32_ms=None, int8_ms=None) for row in ROWS]
    lines = {line[0]: line[1:] for line in _lines(bare)}
    assert lines["qat"] == ["617", "M", "2.0x", "5.2", "M", "2.2x", "4.68", "10.0x"]


def test_table_refuses_rows_of_several_metrics() -> None:
    with pytest.raises(SpecError, match="cannot stand in one table"):
        compression_table([ROWS[0], replace(ROWS[1], metric="top1")])


def test_inspect_shows_the_table_of_a_bundle(bundle: Path, tmp_path: Path, trtkit: Callable[..., str]) -> None:
    assert "Compression" not in trtkit("inspect", bundle)
    with open_bundle(bundle) as opened:
        manifest = replace(opened.manifest, compression=ROWS)
        files = {name: opened.read(name) for name in manifest.files}
    write_bundle(tmp_path / "compressed.trtkit", manifest, files)
    printed = trtkit("inspect", tmp_path / "compressed.trtkit")
    for what in ("Compression", "[gradual]", "10.0x", "+0.18"):
        assert what in printed

"""Rows of compression -> a table: what each step changed against the first row, the trade-off at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from trtkit.bundle.compression import CompressionRow, shared_metric

__all__ = ["compression_table"]

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def compression_table(rows: Sequence[CompressionRow]) -> Table:
    """Return a table with one line a row, for 100 columns.

    A score stands with its change against the first row, in points (hundredths); MACs, parameters, size and latency
    with how many times less they are than the first row's; latencies of both precisions against its FP32 one.

    Raises:
        SpecError: There are no rows, or they have several metrics.
    """
    table = Table(title="Compression", title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0),
                  caption="points and x: against the first row, latency against its FP32; 2.0x is half of it",
                  caption_justify="left")
    table.add_column("step", overflow="fold")
    for name, change in ((shared_metric(rows) or "score", "points"), ("MACs", "x"), ("params", "x"), ("MB", "x"),
                         ("FP32 ms", "x"), ("INT8 ms", "x")):
        table.add_column(Text(name), justify="right", no_wrap=True)
        table.add_column(change, justify="right", no_wrap=True, style="dim")
    first = rows[0]
    base_ms = first.int8_ms if first.fp32_ms is None else first.fp32_ms
    for row in rows:
        table.add_row(
            Text(row.step),
            "" if row.score is None else f"{row.score:.4f}", _points(row, first),
            _scaled(row.macs), _times(row.macs, first.macs),
            _scaled(row.parameters), _times(row.parameters, first.parameters),
            f"{row.size_bytes / 1e6:.2f}", _times(row.size_bytes, first.size_bytes),
            _ms(row.fp32_ms), _times(row.fp32_ms, base_ms),
            _ms(row.int8_ms), _times(row.int8_ms, base_ms))
    return table


def _scaled(count: int) -> str:
    for unit, letter in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return str(count)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _points(row: CompressionRow, first: CompressionRow) -> str:
    if row is first or row.score is None or first.score is None:
        return ""
    return f"{100 * (row.score - first.score):+.2f}"


def _times(value: float | None, first: float | None) -> str:
    return f"{first / value:.1f}x" if value and first and value != first else ""

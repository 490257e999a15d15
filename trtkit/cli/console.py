"""The one console of the command line, and its progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from trtkit.progress import Progress

__all__ = ["console", "resumable", "rich_progress"]

_FILE_COLUMNS = 140

console = Console() if sys.stdout.isatty() else Console(width=_FILE_COLUMNS)
"""On a terminal as wide as that; in a file or pipe wide enough for every table."""


@contextmanager
def resumable(part: Path) -> Iterator[None]:
    """On Ctrl-C say that `part` keeps what was done, if it does, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if part.exists():
            Console(stderr=True).print(f"'{part}' keeps what was done. Run the same command to go on from there.",
                                       markup=False, highlight=False, soft_wrap=True)
        raise


@contextmanager
def rich_progress() -> Iterator[Progress]:
    """Yield a progress reporter that draws one bar a task on stderr while the block runs.

    What stands behind a comma, such as "Training epoch 2/5, loss 0.123", is news of the same task.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int | None) -> None:
            task = what.partition(",")[0]
            if task not in tasks:
                tasks[task] = bars.add_task(what, total=total)
            bars.update(tasks[task], description=what, completed=done, total=total)

        yield report

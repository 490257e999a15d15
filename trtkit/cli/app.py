"""The `trtkit` program: one file a command; errors become one message and an exit code."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from trtkit.errors import TrtkitError

__all__ = ["main"]

COMMANDS = {
    "deploy": "The whole way: recipe.toml -> bundle with every target's artifact, measured.",
    "compress": "The recipe's [[compress]] steps alone: prune, distill, QAT..., and their trade-off.",
    "prune": "torch -> a smaller or sparser torch module: channels, single weights or 2:4.",
    "export": "torch -> ONNX, checked against torch at several batch sizes.",
    "rewrite": "ONNX -> ONNX by named passes, each checked numerically.",
    "calibrate": "ONNX + data -> calibration table, in one resumable sweep.",
    "sensitivity": "ONNX + table -> its layers by the accuracy that quantizing each one costs.",
    "quantize": "ONNX + table -> ONNX lowered for a target (FP16 to INT4), checked, within a budget.",
    "audit": "Why a quantized ONNX model is not faster on a target, or wrong there; --fix repairs it.",
    "compare": "Two models on the same data: outputs, layers, task metrics.",
    "build": "ONNX -> TensorRT plan, in a child process.",
    "pack": "Artifacts -> one bundle.",
    "run": "Bundle + pictures -> predictions.",
    "bench": "Latency, throughput, size and memory of a bundle, with the conditions.",
    "tune": "What of a bundle is the fastest on this machine, measured and remembered.",
    "inspect": "An ONNX model, table, plan or bundle as a table.",
    "doctor": "What this machine has, what works with it, and how to get what is missing.",
    "latency": "Layers measured on a board, so that pruning knows how fast a module would be there.",
}
"""Every command with its one line of help; trtkit/cli/NAME.py holds a function of that name, or a
Typer of several (which Typer lists last), and imports what is heavy inside it."""


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(help="From a trained PyTorch vision model to the fastest artifact that a board can run.")
def _options(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Show what each step does, and tracebacks."),
) -> None:
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, format="%(message)s",
                        handlers=[RichHandler(console=Console(stderr=True), show_path=False)])


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with exit status 130 on Ctrl-C: Typer's own is that, or 1 in older versions."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            Console(stderr=True).print("Interrupted.")
            raise typer.Exit(130) from None

    return run


for _name, _help in COMMANDS.items():
    if importlib.util.find_spec(f"trtkit.cli.{_name}"):
        _command = getattr(importlib.import_module(f"trtkit.cli.{_name}"), _name)
        if isinstance(_command, typer.Typer):
            for _each in _command.registered_commands:
                _each.callback = _interruptible(_each.callback) if _each.callback else None
            app.add_typer(_command, name=_name, help=_help)
        else:
            app.command(_name, help=_help)(_interruptible(_command))


def main() -> None:
    """Run the command line and exit: 0 done, 1 a TrtkitError, 2 wrong usage, 130 interrupted."""
    try:
        app(prog_name="trtkit")
    except TrtkitError as err:
        if "-v" in sys.argv or "--verbose" in sys.argv:
            raise
        message = Text.assemble(("Error:", "bold red"), f" {type(err).__name__}: {err}")
        Console(stderr=True).print(message, soft_wrap=True)
        sys.exit(1)

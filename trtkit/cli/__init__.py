"""The command line: turns flags into the library's dataclasses, calls one library function, prints what it returned."""

from trtkit.cli.app import main

__all__ = ["main"]

"""`trtkit doctor`: what this machine has, what works with it, and how to get what is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from trtkit.cli.console import console

if TYPE_CHECKING:
    from trtkit.device import Device

_MARKS = {True: Text("yes", "green"), False: Text("no", "red"), None: Text("")}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what this machine has, what works here, and the command for each thing that does not."""
    from trtkit.runtime.diagnosis import diagnose, installed_packages
    from trtkit.runtime.probe import probe

    found = probe()
    findings = diagnose(found, installed_packages())
    if as_json:
        console.print_json(json.dumps({"device": found.device.to_json(), "problems": found.problems,
                                       "findings": [asdict(finding) for finding in findings]}))
        return
    table = Table("what", "found", "works", box=box.SIMPLE, pad_edge=False)
    for finding in findings:
        table.add_row(finding.topic, Text(finding.found), _MARKS[finding.ok])
    console.print(table)
    console.print(_targets(found.device))
    for finding in findings:
        if finding.ok is False:
            console.print(f"{finding.topic}: {finding.remedy}", markup=False, highlight=False, soft_wrap=True)


def _targets(device: Device) -> Table:
    from trtkit.target import load_targets

    table = Table("target", "what it is", "precisions", "here", box=box.SIMPLE, pad_edge=False)
    for target in load_targets().values():
        builds = device.tensorrt is not None and device.tensorrt.module == target.runtime
        here = "runs" if target.runs_on(device.machine, device.cpu_flags) else "builds" if builds else ""
        table.add_row(target.name, Text(target.description), ", ".join(each.value for each in target.precisions), here)
    return table

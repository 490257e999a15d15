"""trtkit audit: a quantized ONNX model + a target -> why it is not faster there, or wrong; repaired with --fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from trtkit.cli.console import console
from trtkit.errors import SpecError

if TYPE_CHECKING:
    from trtkit.quant.audit import AuditReport

__all__ = ["audit"]


def audit(
    model: Annotated[Path, typer.Argument(help="ONNX model, quantized by trtkit or by anything else.")],
    target: Annotated[str, typer.Option(help="What it is for, such as jetson-orin-jp6; trtkit doctor lists all.")],
    fix: Annotated[bool, typer.Option("--fix", help="Convert it to the form that the target runs fastest.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="With --fix: ONNX model to write.")] = None,
    build: Annotated[bool, typer.Option("--build", help="For TensorRT targets: build it as well with the TensorRT-RTX "
                                                        "of this machine, which needs no GPU.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all names.")] = False,
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
) -> None:
    """Print what was found, the most costly first; exit with 1 when the target refuses the model or computes it wrong.

    With --fix the exit code is that of the repaired model.
    """
    from trtkit.files import require_folder
    from trtkit.graph import save_model
    from trtkit.quant.audit import audit_quantization, confirm_build, fix_quantization, load_quantized
    from trtkit.target import get_target

    if fix != (output is not None):
        raise SpecError("--fix and --output go together. Give both: trtkit audit MODEL --target TARGET --fix -o FIXED")
    chosen = get_target(target, targets)
    if output is not None:
        require_folder(output)
    proto = load_quantized(model)
    report = audit_quantization(proto, chosen)
    if build:
        report = confirm_build(report, proto, chosen)
    shown: dict[str, Any] = {"model": str(model), **_record(report)}
    if not as_json:
        _print(model, report)
    if output is not None:
        fixed = fix_quantization(proto, chosen)
        save_model(fixed.model, output)
        report = audit_quantization(fixed.model, chosen)
        if build:
            report = confirm_build(report, fixed.model, chosen)
        shown["fixed"] = {"model": str(output), "cosine": fixed.cosine, "float_before": fixed.float_before,
                          "float_after": fixed.float_after, "notes": list(fixed.notes),
                          "in_float": list(fixed.in_float), **_record(report)}
        if not as_json:
            console.print(f"{escape(str(output))}: {'; '.join(fixed.notes)}. Cosine with the model as it was "
                          f"{fixed.cosine:.4f}, with its float form {fixed.float_after:.4f} (before: "
                          f"{fixed.float_before:.4f}), on noise inside the calibrated range", soft_wrap=True)
            _print(output, report)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    if not report.fits:
        raise typer.Exit(1)


def _record(report: AuditReport) -> dict[str, Any]:
    return {"target": report.target, "fits": report.fits, "layers": report.layers,
            "integer_layers": report.integer_layers, "integer_share": report.integer_share,
            "eligible_layers": report.eligible_layers, "wide_layers": report.wide_layers,
            "sparse_layers": report.sparse_layers,
            "findings": [{"rule": each.rule, "severity": each.severity.value, "share": each.share,
                          "message": each.message, "fix": each.fix, "names": list(each.names)}
                         for each in report.findings]}


def _print(model: Path, report: AuditReport) -> None:
    if report.findings:
        table = Table("", "rule", "nodes", "MACs", "what", "do", box=box.SIMPLE, pad_edge=False)
        for each in report.findings:
            colour = "red" if each.severity.value == "error" else "yellow"
            table.add_row(f"[{colour}]{each.severity.value}[/]", each.rule, str(len(each.names) or ""),
                          f"{each.share:.0%}" if each.share else "",
                          escape(each.message + (f": {each.where}" if each.names else "")), escape(each.fix))
        console.print(table)
    console.print(f"{escape(str(model))} on {report.target}: {report.summary}", soft_wrap=True)
    if report.sparsity:
        console.print(report.sparsity, soft_wrap=True)

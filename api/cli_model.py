"""`rag-owl model …`: which models there are, and whether a checkpoint computes what it should."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Answering models.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """The bundled models; folders and hub ids of mPLUG-Owl3, mPLUG-Owl and Ovis 1.6 go too."""
    from rag_owl.model.registry import names

    if as_json:
        sys.stdout.write(json.dumps(names()) + "\n")
        return
    for name in names():
        typer.echo(name)


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(help="A checkpoint folder of mPLUG-Owl3, mPLUG-Owl or Ovis 1.6.")
    ],
    tolerance: Annotated[
        float | None, typer.Option(help="Largest absolute difference that passes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load a checkpoint; where expected values lie beside it, compare every one of them."""
    from dataclasses import asdict

    from rag_owl.model.check import check_folder

    report = check_folder(folder, tolerance=tolerance)
    if as_json:
        sys.stdout.write(json.dumps({**asdict(report), "ok": report.ok}, indent=2) + "\n")
    else:
        for line in report.lines():
            typer.echo(line)
    if not report.ok:
        raise typer.Exit(1)

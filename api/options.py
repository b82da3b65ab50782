"""Options that many commands share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from rag_owl.errors import InvalidInput


def _folder(given: str) -> Path:
    # As of a shell's variable that is not set; as a path it would be the current folder.
    if not given:
        raise InvalidInput("--data is empty; name a folder ('.' is this one)")
    return Path(given)


def one_path(given: str) -> Path:
    """As an argument. Raises `InvalidInput`."""
    if not given:
        raise InvalidInput("a path is empty; name a file or folder ('.' is this one)")
    return Path(given)


def print_json(value: object) -> None:
    """With every character as it is where the output can hold it."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    typer.echo(json.dumps(value, ensure_ascii=encoding != "utf8", indent=2))


Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data",
        parser=_folder,
        metavar="PATH",
        help="The data folder (or RAG_OWL_DATA).",
        show_default="./owl-data",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

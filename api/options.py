"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from rag_owl.errors import InvalidInput


def _folder(given: str) -> Path:
    # As of a shell's variable that is not set; as a path it would be the current folder.
    if not given:
        raise InvalidInput("--data is empty; name a folder ('.' is this one)")
    return Path(given)


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

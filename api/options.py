"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Data: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder (or RAG_OWL_DATA).", show_default="./owl-data"),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

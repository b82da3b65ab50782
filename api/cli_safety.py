"""`rag-owl backup` and `restore`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rag_owl.errors import CorruptData

out = Console(soft_wrap=True)

Data = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder (or RAG_OWL_DATA).", show_default="./owl-data"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def backup(
    file: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Write everything into one file, also while the service runs.

    It holds all documents, and the hashes of the service's keys: keep it safe.
    """
    from rag_owl.client import RagOwl

    with RagOwl.open(data, work_jobs=False) as owl:
        report = owl.backup(file)
    if as_json:
        _print_json(asdict(report))
    else:
        out.print(
            f"{escape(report.file)}: {report.documents} documents, {report.blobs} files, "
            f"{report.size:,} bytes",
            highlight=False,
        )
    if report.lacking:
        raise CorruptData(
            f"the backup is written, but {len(report.lacking)} files were missing or damaged "
            f"already ({report.lacking[0]}, …); `rag-owl doctor --deep` says more"
        )


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    data: Data = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Leave out the keys of the HTTP service.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare its checksums; restore nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into an empty or new data folder, and an empty database."""
    from rag_owl.client import RagOwl
    from rag_owl.restore import check_backup

    if check:
        facts = check_backup(file)
        if as_json:
            _print_json(facts)
        else:
            out.print(f"{escape(str(file))} is whole.", highlight=False)
        return
    report = RagOwl.restore(file, data, with_keys=not without_keys)
    if as_json:
        _print_json(asdict(report))
        return
    made = datetime.fromtimestamp(report.created_at).strftime("%Y-%m-%d %H:%M")
    out.print(
        f"{escape(report.folder)} is as of {made}: {len(report.collections)} collections, "
        f"{report.documents} documents, {report.blobs} files, {report.keys} keys",
        highlight=False,
    )
    if report.embedders:
        out.print(f"Questions load {escape(', '.join(report.embedders))}.", highlight=False)
    if report.lacking:
        out.print(
            f"{len(report.lacking)} things are not in the backup either "
            f"({escape(report.lacking[0])}, …): run rag-owl doctor --deep.",
            highlight=False,
        )


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))

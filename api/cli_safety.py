"""`rag-owl collections`, `backup` and `restore`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rag_owl.api.cli_jobs import fail_unless_done
from rag_owl.api.options import AsJson, Data, print_json
from rag_owl.errors import CorruptData

out = Console(soft_wrap=True)


collections = typer.Typer(
    help="List the collections, or delete one.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@collections.callback(invoke_without_command=True)
def list_collections(context: typer.Context, data: Data = None, as_json: AsJson = False) -> None:
    """List the collections, or delete one."""
    from rag_owl.api import wire
    from rag_owl.client import RagOwl

    if context.invoked_subcommand is not None:
        return
    with RagOwl.open(data) as owl:
        infos = owl.collections()
    if as_json:
        print_json([wire.collection(info) for info in infos])
        return
    if not infos:
        out.print("There are none yet. `rag-owl ingest NAME PATH…` makes one.")
    for info in infos:
        out.print(
            f"[bold]{info.name}[/]  {info.documents} documents, {info.items} items  "
            f"{escape(info.text_embedder or '')} + {escape(info.picture_embedder or '')}",
            highlight=False,
        )


@collections.command("delete")
def delete_collection(
    collection: Annotated[str, typer.Argument(help="The collection's name.")],
    data: Data = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's id and return.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a collection with all that it holds, its answers and files too, to the last byte.

    Backups that were made before keep it.
    """
    from rag_owl.api import wire
    from rag_owl.client import RagOwl

    with RagOwl.open(data) as owl:
        job = owl.delete_collection(collection, wait=not no_wait)
    if as_json:
        print_json(wire.job(job))
    elif no_wait:
        out.print(job.id)
    elif job.state == "done":
        out.print(f"{escape(collection)} is gone.", highlight=False)
    if not no_wait:
        fail_unless_done(job)


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
        print_json(asdict(report))
    else:
        out.print(
            f"{escape(report.file)}: {report.documents} documents, {report.blobs} files, "
            f"{report.size:,} bytes",
            highlight=False,
        )
        if report.elsewhere:
            out.print("Vectors in Milvus are not in it: a restore computes them anew.")
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
        said = facts.get("lacking")
        lacking = said if isinstance(said, list) else []  # the file is a stranger's, perhaps
        if as_json:
            print_json(facts)
        elif not lacking:
            out.print(f"{escape(str(file))} is whole.", highlight=False)
        if lacking:
            raise CorruptData(
                f"{file} is as it was written, but {len(lacking)} files were missing or damaged "
                f"then ({lacking[0]}, …)"
            )
        return
    report = RagOwl.restore(file, data, with_keys=not without_keys)
    if as_json:
        print_json(asdict(report))
        return
    made = datetime.fromtimestamp(report.created_at).strftime("%Y-%m-%d %H:%M")
    out.print(
        f"{escape(report.folder)} is as of {made}: {len(report.collections)} collections, "
        f"{report.documents} documents, {report.blobs} files, {report.keys} keys",
        highlight=False,
    )
    if report.embedders:
        out.print(f"Questions load {escape(', '.join(report.embedders))}.", highlight=False)
    if report.reindexed:
        out.print(
            f"Vectors of {escape(', '.join(report.reindexed))} are not in the backup: a job makes "
            "them again when the folder is opened next, by rag-owl serve or worker. Until it "
            "is done, questions there find too little or are refused.",
            highlight=False,
        )
    if report.lacking:
        out.print(
            f"{len(report.lacking)} things are not in the backup either "
            f"({escape(report.lacking[0])}, …): run rag-owl doctor --deep.",
            highlight=False,
        )

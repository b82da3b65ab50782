"""`rag-owl documents`: what a collection holds, and how something of it is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rag_owl.api.cli_jobs import fail_unless_done
from rag_owl.api.options import AsJson, Data, print_json
from rag_owl.errors import Conflict, NotFound

if TYPE_CHECKING:
    from rag_owl.client import RagOwl

out = Console(soft_wrap=True)


def documents(
    collection: Annotated[str, typer.Argument(help="The collection's name.")],
    delete: Annotated[
        list[str] | None, typer.Option("--delete", help="A document's id or name; may be repeated.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List a collection's documents, or delete some of them, to the last byte."""
    from rag_owl.api import show, wire
    from rag_owl.client import RagOwl

    with RagOwl.open(data) as owl:
        if delete:
            # All are known before the first is deleted.
            chosen = _chosen(owl, collection, delete)
            begun = [owl.delete_document(collection, each) for each in chosen]
            ended = [owl.wait_for_job(each) for each in dict.fromkeys(job.id for job in begun)]
            for job in ended:
                fail_unless_done(job)
            if as_json:
                print_json([wire.job(job) for job in ended])
            else:
                out.print(f"{len(chosen)} deleted.")
            return
        if as_json:
            print_json([wire.document(each) for each in owl.documents(collection)])
            return
        for each in owl.documents(collection):
            name = escape(show.one_line(each.name))
            out.print(f"{each.id}  {name}  {each.items} items", highlight=False)


def _chosen(owl: RagOwl, collection: str, wanted: list[str]) -> list[str]:
    """The ids of the documents that are meant, each once. Raises `NotFound`, `Conflict`."""
    found = dict[str, list[str]]((given, []) for given in wanted)
    for each in owl.documents(collection):
        for given in found.keys() & {each.id, each.name}:
            found[given].append(each.id)
    for given, ids in found.items():
        if not ids:
            raise NotFound(
                f"no document {given!r} in {collection!r}; "
                f"`rag-owl documents {collection}` lists them"
            )
        if len(ids) > 1:
            raise Conflict(f"{len(ids)} documents are called {given!r}; give an id: {ids[0]}, …")
    return list(dict.fromkeys(ids[0] for ids in found.values()))

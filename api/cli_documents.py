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
            chosen = dict.fromkeys(_the(owl, collection, given) for given in delete)
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


def _the(owl: RagOwl, collection: str, given: str) -> str:
    """The id of the one document that is meant. Raises `NotFound`, `Conflict`."""
    found = [each.id for each in owl.documents(collection) if given in (each.id, each.name)]
    if not found:
        raise NotFound(
            f"no document {given!r} in {collection!r}; `rag-owl documents {collection}` lists them"
        )
    if len(found) > 1:
        raise Conflict(f"{len(found)} documents are called {given!r}; give an id: {found[0]}, …")
    return found[0]

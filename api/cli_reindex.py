"""`rag-owl reindex`: what is to change, then the comparison, then the switch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from rag_owl.api.cli_jobs import fail_unless_done
from rag_owl.api.options import AsJson, Data, print_json
from rag_owl.errors import InvalidInput

if TYPE_CHECKING:
    from rag_owl.client import RagOwl
    from rag_owl.store.generations import GenerationInfo
    from rag_owl.types import Job

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def reindex(
    collection: Annotated[str, typer.Argument(help="The collection's name.")],
    text_embedder: Annotated[
        str | None, typer.Option("--text-embedder", help="Any sentence-transformers name.")
    ] = None,
    picture_embedder: Annotated[
        str | None,
        typer.Option("--picture-embedder", help="owl-nano-eyes, descriptor, or a multimodal one."),
    ] = None,
    index_type: Annotated[
        str | None, typer.Option("--index-type", help="auto, flat, hnsw or ivf.")
    ] = None,
    vector_engine: Annotated[
        str | None, typer.Option("--vector-engine", help="faiss or milvus.")
    ] = None,
    answerer: Annotated[
        str | None,
        typer.Option("--answerer", help="Have this model look at every picture now."),
    ] = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Build and compare; leave the switch for later.")
    ] = False,
    switch: Annotated[bool, typer.Option("--switch", help="Make live what was held.")] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to what was live before.")
    ] = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Delete all vectors but the live ones.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's id and return.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a collection's vectors anew beside those that are searched, compare, and switch.

    Questions and ingestion go on meanwhile. What is not named stays as it is, with the embedders
    as they are installed now. Asked again while it is unfinished, it is joined or resumed.
    """
    from rag_owl.client import RagOwl

    flags = {"switch": switch, "rollback": rollback, "drop": drop_old}
    asked = [name for name, given in flags.items() if given]
    if len(asked) > 1:
        raise InvalidInput("give one of --switch, --rollback and --drop-old")
    action = asked[0] if asked else "build"
    choice: dict[str, Any] = {
        "text_embedder": text_embedder,
        "picture_embedder": picture_embedder,
        "index_type": index_type,
        "vector_engine": vector_engine,
        "answerer": answerer,
    }
    with RagOwl.open(data) as owl:
        if no_wait:
            job = owl.reindex(collection, **choice, hold=hold, action=action, wait=False)  # type: ignore[arg-type]
            _report(owl, job, as_json, None)
            return
        before = owl.generations(collection)
        if action == "build":
            # Held in any case: what was compared is shown before anything is switched.
            job = _wait(owl, owl.reindex(collection, **choice, hold=True, wait=False), as_json)
            ready = _held(owl, collection, choice)
            if ready is not None:
                _say_compared(ready, as_json)
                if not hold:
                    job = _wait(owl, owl.reindex(collection, action="switch", wait=False), as_json)
        else:
            job = _wait(owl, owl.reindex(collection, **choice, action=action, wait=False), as_json)  # type: ignore[arg-type]
        _report(owl, job, as_json, before)


def _wait(owl: RagOwl, job: Job, as_json: bool) -> Job:
    from rag_owl.api import show

    if as_json:
        job = owl.wait_for_job(job.id)
    else:
        with show.progress(err) as follow:
            job = owl.wait_for_job(job.id, follow)
    fail_unless_done(job)
    return job


def _held(owl: RagOwl, collection: str, choice: dict[str, Any]) -> GenerationInfo | None:
    """What was asked for, where it waits to be switched to."""
    there = owl.generations(collection)
    ready = next((each for each in there if each.state == "ready"), None)
    live = next((each.generation for each in there if each.state == "live"), None)
    if ready is None or not owl.models.reindexed(live, choice).same_as(ready.generation):
        return None
    return ready


def _say_compared(ready: GenerationInfo, as_json: bool) -> None:
    from rag_owl.api import reindexing

    if not as_json:
        out.print(escape(reindexing.compared(ready)), highlight=False)


def _report(owl: RagOwl, job: Job, as_json: bool, before: list[GenerationInfo] | None) -> None:
    """before: None where nobody waited."""
    from rag_owl.api import reindexing, show, wire

    now = owl.generations(job.collection or "")
    if as_json:
        found = {**wire.job(job), "generations": [reindexing.generation(each) for each in now]}
        print_json(found)
    elif before is None:
        out.print(job.id)
    else:
        show.job(out, job)
        if [(g.generation, g.state) for g in before] == [(g.generation, g.state) for g in now]:
            out.print("Nothing has changed: its vectors are of just this kind.")
        for line in reindexing.lines(now):
            out.print(escape(line), highlight=False)

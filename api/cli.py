"""The command line. Prints for people, or with `--json` JSON alone; errors are one line."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.markup import escape

from rag_owl import __version__
from rag_owl.api import (
    cli_documents,
    cli_eval,
    cli_jobs,
    cli_model,
    cli_reindex,
    cli_safety,
    cli_sample,
    cli_service,
    cli_train,
)
from rag_owl.api.cli_jobs import fail_unless_done, known
from rag_owl.api.options import AsJson, Data, one_path, print_json
from rag_owl.errors import InvalidInput, NotFound, RagOwlError
from rag_owl.types import Verify

if TYPE_CHECKING:
    from rag_owl.client import RagOwl

app = typer.Typer(
    name="rag-owl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_model.app, name="model")
app.add_typer(cli_train.app, name="train")
app.add_typer(cli_service.keys, name="keys")
app.command()(cli_sample.sample)
app.command()(cli_sample.demo)
app.command()(cli_reindex.reindex)
app.add_typer(cli_safety.collections, name="collections")
app.command()(cli_documents.documents)
app.command()(cli_jobs.jobs)
app.command()(cli_service.serve)
app.command()(cli_service.mcp)
app.command()(cli_service.worker)
app.command()(cli_service.migrate)
app.command()(cli_safety.backup)
app.command()(cli_safety.restore)
app.command("eval")(cli_eval.evaluate)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"rag-owl {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def every(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Ask your pictures, pages and videos. Get an answer, and the exact evidence for it."""


Images = Annotated[
    list[Path] | None, typer.Option("--image", help="A picture shown with it; may be repeated.")
]
Filters = Annotated[
    str | None,
    typer.Option(
        "--filter", help='Metadata filter, as \'{"field": "year", "op": ">=", "value": 1990}\'.'
    ),
]
Collection = Annotated[str, typer.Argument(help="The collection's name.")]
Many = Annotated[int | None, typer.Option("-k", "--k", min=1, help="How many items to retrieve.")]


@contextmanager
def _open(data: Path | None) -> Iterator[RagOwl]:
    from rag_owl.client import RagOwl

    with RagOwl.open(data) as owl:
        yield owl


@contextmanager
def _suggesting(owl: RagOwl, collection: str) -> Iterator[None]:
    """Where there is no such collection, say how it is made."""
    from rag_owl.store.collections import can_name

    try:
        yield
    except NotFound as error:
        there = {info.name for info in owl.collections()}
        if collection in there or not can_name(collection):
            raise
        raise NotFound(f"{error}. `rag-owl ingest {collection} PATH` makes one.") from error


def _warn(note: str) -> None:
    err.print(f"[yellow]note:[/] {escape(note)}", highlight=False)


def _filters(given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        parsed = json.loads(given)
    except RecursionError:
        raise InvalidInput("--filter is nested too deep to be read") from None
    except ValueError as error:  # no JSON, or an integer of more than 4,300 digits
        raise InvalidInput(f"--filter is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InvalidInput(f"--filter: expected an object, got {given[:100]}")
    return parsed


@app.command()
def ingest(
    collection: Collection,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files and folders.", parser=one_path, metavar="PATHS..."),
    ],
    data: Data = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's id and return.")
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Read also what links lead to outside.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add files and folders to a collection, made where it does not exist."""
    from rag_owl.api import show, wire
    from rag_owl.store.collections import check_name

    # A job only notes what is gone by the time that it looks; here it is a slip of the keys.
    check_name(collection)
    for path in paths:
        if not os.path.lexists(path):
            raise InvalidInput(f"there is no file or folder {str(path)!r}; nothing was added")
    with _open(data) as owl:
        job = owl.ingest(collection, list(paths), wait=False, follow_links=follow_links)
        if as_json and not no_wait:
            job = owl.wait_for_job(job.id)
        elif not no_wait:
            with show.progress(err) as follow:
                job = owl.wait_for_job(job.id, follow)
        if as_json:
            print_json(wire.job(job))
        elif no_wait:
            out.print(job.id)
        else:
            show.job(out, job)
    if not no_wait:
        fail_unless_done(job)


@app.command()
def search(
    collection: Collection,
    query: Annotated[str, typer.Argument(help="Words to look for; may be '' with --image.")],
    image: Images = None,
    k: Many = None,
    filter: Filters = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Find items by words, by pictures or by both."""
    from rag_owl.api import show, wire

    with _open(data) as owl, _suggesting(owl, collection):
        hits = owl.search(collection, query, list(image or []), _filters(filter), k, on_note=_warn)
    if as_json:
        print_json([wire.retrieved(hit) for hit in hits])
    else:
        show.retrieved(out, hits)


@app.command()
def ask(
    collection: Collection,
    question: Annotated[str, typer.Argument(help="The question.")],
    image: Images = None,
    video: Annotated[
        Path | None, typer.Option("--video", help="A video that the question is about.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="The answering model; repeated, all are asked."),
    ] = None,
    k: Many = None,
    filter: Filters = None,
    verify: Annotated[
        str,
        typer.Option(help="`full`: also what each statement loses without each item it cites."),
    ] = "default",
    require_support: Annotated[
        bool, typer.Option("--require-support", help="Leave out statements without support.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question; the answer comes with its evidence."""
    from rag_owl.api import show, wire

    with _open(data) as owl, _suggesting(owl, collection):
        answers = [
            owl.ask(
                collection,
                question,
                list(image or []),
                _filters(filter),
                k,
                name or None,
                video=video,
                verify=cast(Verify, verify),  # checked with the question
                require_support=require_support,
            )
            for name in (model or [""])
        ]
    if as_json:
        written = [wire.answer(answer) for answer in answers]
        print_json(written if len(written) > 1 else written[0])
        return
    for answer in answers:
        if len(answers) > 1:
            out.rule(escape(answer.model))
        show.answer(out, answer)


@app.command()
def answer(
    answer: Annotated[str, typer.Argument(help="The answer's id, as `ask` prints it.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show an answer again, with its evidence, as it was given."""
    from rag_owl.api import show, wire

    with _open(data) as owl:
        stored = owl.answer(known("answer", answer))
    if as_json:
        print_json(wire.answer(stored))
        return
    out.print(f"[bold cyan]▸ {escape(show.one_line(stored.question))}[/]", highlight=False)
    show.answer(out, stored)


@app.command()
def doctor(
    data: Data = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every stored file and compare checksums.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is installed, what works, and whether the data folder is sound."""
    from dataclasses import asdict

    from rag_owl.api.doctor import examine

    findings = []
    with _open(data) as owl:
        for finding in examine(owl, deep):
            findings.append(finding)
            if not as_json:
                mark = "[green]✓[/]" if finding.well else "[red]✗[/]"
                out.print(
                    f"{mark} {escape(finding.what)}: {escape(finding.detail)}", highlight=False
                )
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: every failure is one line on standard error and exit status 1.

    With RAG_OWL_DEBUG=1 an unexpected one shows its traceback as well.
    """
    _quiet()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # it may know few characters, as in ASCII
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # what cannot be written is told here, not by Python as it ends
    except RagOwlError as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read has what they wanted
        _write_no_more()
        sys.exit(1)
    except Exception as error:
        if os.environ.get("RAG_OWL_DEBUG") == "1":
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _write_no_more()
            _fail(f"cannot write {error.filename or 'all of it'}: {error.strerror}; make space")
        _fail(
            f"unexpected {type(error).__name__}: {str(error)[:300]} "
            "(RAG_OWL_DEBUG=1 shows where; please report it)"
        )


def _write_no_more() -> None:
    """What is still to be written goes nowhere: Python would try it again as it ends."""
    with suppress(OSError, ValueError):  # the latter: it has no file, as in a test
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _fail(message: str) -> NoReturn:
    from rag_owl.api import show

    line = show.one_line(" ".join(message.split()))
    err.print(f"[red]error:[/] {escape(line)}", highlight=False)
    sys.exit(1)


def _quiet() -> None:
    """What went wrong is said once, by the command; libraries' own notes do not belong between."""
    logging.getLogger().setLevel(logging.WARNING)
    if not os.environ.get("RAG_OWL_DEBUG"):
        logging.getLogger("rag_owl").setLevel(logging.CRITICAL)
        # Why an embedder cannot be used is said there alone: notes are read by strangers too.
        logging.getLogger("rag_owl.indexer.queries").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()

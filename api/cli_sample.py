"""`rag-owl sample` and `rag-owl demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rag_owl.api.options import AsJson, Data, print_json
from rag_owl.errors import InvalidInput

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def sample(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    questions: Annotated[
        Path | None,
        typer.Option("--questions", help="Write questions about it with their answers, as JSONL."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the sample collection: flags drawn by code, and facts about their countries."""
    from rag_owl.sample import write_sample

    if questions is not None:
        _check_place(questions, folder)
    written = write_sample(folder)
    if questions is not None:
        from rag_owl.evaluation.journal import write_whole
        from rag_owl.sample.questions import sample_questions

        rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in sample_questions())
        write_whole(questions, "".join(rows))
    if as_json:
        print_json({"folder": str(folder), "files": len(written)})
    else:
        out.print(f"{len(written)} files in {escape(str(folder))}")
        out.print(f"Next: rag-owl ingest flags {escape(str(folder))}")
        if questions is not None:
            out.print(
                f"and then: rag-owl eval {escape(str(questions))} --images {escape(str(folder))} "
                "--collection flags --limit 20"
            )


def _check_place(file: Path, made: Path) -> None:
    """Whether it can be written once the folder `made` is there. Raises `InvalidInput`."""
    folder = file.absolute().parent
    if file.is_dir():
        raise InvalidInput(f"cannot write {file}: it is a folder; name a file")
    if folder != made.absolute() and not folder.is_dir():
        raise InvalidInput(f"cannot write {file}: there is no folder {folder}")


def demo(
    data: Data = None,
    open: Annotated[
        bool, typer.Option("--open", help="Then serve it and open the page in a browser.")
    ] = False,
) -> None:
    """Write the sample collection, ingest it and ask three questions about it."""
    from rag_owl.api.demo import run, serve_page

    run(data, out, err)
    if open:
        serve_page(data, out)

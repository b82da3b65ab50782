"""`rag-owl eval`: questions with known answers, several models side by side, figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

Data = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder (or RAG_OWL_DATA).", show_default="./owl-data"),
]


def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Questions as JSONL.")],
    collection: Annotated[str, typer.Option("--collection", help="The collection to ask.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="An answering model; repeated, they are compared."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Ask so many of the questions, always the same."),
    ] = None,
    k: Annotated[int | None, typer.Option("-k", "--k", min=1, help="Items per question.")] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="What judges citations; `none` leaves that out."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="The folder of the questions' pictures.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder of the run.", show_default="./eval-COLLECTION-…"),
    ] = None,
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure answers and their evidence; stopped at any moment, it goes on where it was."""
    from rag_owl.client import RagOwl
    from rag_owl.evaluation import dataset as datasets
    from rag_owl.evaluation import page, run
    from rag_owl.evaluation.journal import write_whole

    console, note = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    questions = datasets.load(dataset, images)
    folder = out or Path(f"eval-{collection}-{questions.sha256[:8]}")
    with RagOwl.open(data) as owl, _progress(note) as follow:
        models = model or [owl.settings.model]
        report = run.evaluate(
            owl, questions, collection, models, folder,
            limit=limit, k=k, judge=judge, on_progress=follow,
        )  # fmt: skip
    text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
    write_whole(folder / "report.json", text)
    write_whole(folder / "report.html", page.write(report))
    if as_json:
        sys.stdout.write(text)
        return
    show(console, report)
    console.print(f"{escape(str(folder / 'report.html'))} has plots and every question")


def show(console: Console, report: dict[str, Any]) -> None:
    from rag_owl.evaluation import page

    models: dict[str, Any] = report["models"]
    table = Table(show_edge=False)
    table.add_column("")
    for name in models:
        table.add_column(escape(name), justify="right")
    for key, label in page.LABELS.items():
        if any(found[key] is not None for found in models.values()):
            cells = [page.with_interval(m[key], m.get(f"{key}_interval")) for m in models.values()]
            table.add_row(label, *(escape(cell) for cell in cells))
    for key in ("seconds", "seconds_to_first_token", "seconds_per_token", "peak_memory_bytes"):
        if any(found[key] is not None for found in models.values()):
            table.add_row(key.replace("_", " "), *(page.cost(key, m[key]) for m in models.values()))
    console.print(table)
    for channel, found in report["retrieval"].items():
        recall = ", ".join(f"recall@{k} {value:.3f}" for k, value in found["recall"].items())
        console.print(f"retrieval by {channel}: {recall}, MRR {found['mrr']:.3f}", highlight=False)
    for each in report["comparisons"]:
        low, high = each["difference_interval"]
        console.print(
            f"{escape(' − '.join(each['models']))}, {page.LABELS[each['measure']]}: "
            f"{each['difference']:+.3f} {escape(f'[{low:+.3f}, {high:+.3f}]')}, p {each['p']:.4f} "
            f"({each['questions']} questions)",
            highlight=False,
        )
    for note in report["notes"]:
        console.print(f"[yellow]note:[/] {escape(note)}", highlight=False)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def follow(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield follow

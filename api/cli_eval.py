"""`rag-owl eval`: questions with known answers, several models side by side, figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rag_owl.api.options import AsJson, Data
from rag_owl.api.show import one_line
from rag_owl.errors import InvalidInput

if TYPE_CHECKING:
    from rag_owl.evaluation.owleval import OwlQuestion

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class _Given:
    """What was asked for on the command line."""

    dataset: Path | None
    collection: str | None
    models: list[str]
    limit: int | None
    k: int | None
    judge: str | None
    images: Path | None
    answers: list[Path]
    out: Path | None
    data: Path | None
    as_json: bool

    def needs_collection(self) -> str:
        if self.collection is None:
            raise InvalidInput("name the collection that is asked, with --collection")
        return self.collection


def evaluate(
    dataset: Annotated[
        Path | None, typer.Argument(help="Questions as JSONL, or OwlEval's folder.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="The collection that is asked.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="An answering model; repeated, they are compared."),
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Ask stored questions again; say what changed.")
    ] = False,
    rate: Annotated[
        bool, typer.Option("--rate", help="Rate OwlEval's answers, on a page of this machine.")
    ] = False,
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
    answers: Annotated[
        list[Path] | None,
        typer.Option("--answers", help="Published answers to OwlEval, to be rated as well."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder of the run.", show_default="./eval-…"),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="For --rate.")] = 0,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Measure answers and their evidence; stopped at any moment, it goes on where it was."""
    from rag_owl.evaluation import owleval

    given = _Given(
        dataset, collection, model or [], limit, k, judge, images, answers or [], out, data, as_json
    )
    if replay:
        if dataset is not None or rate:
            raise InvalidInput("--replay asks stored questions: give no dataset with it")
        _replay(given)
    elif dataset is None:
        raise InvalidInput("give a file of questions, or --replay with --collection")
    elif not dataset.exists():
        raise InvalidInput(f"there is no {dataset}; give a file of questions")
    elif owleval.is_owleval(dataset):
        _owleval(given, port if rate else None)
    elif rate:
        raise InvalidInput(f"--rate is for OwlEval: {dataset} holds questions of another kind")
    else:
        _questions(given)


def _questions(given: _Given) -> None:
    from rag_owl.client import RagOwl
    from rag_owl.evaluation import dataset, page, run

    assert given.dataset is not None
    collection = given.needs_collection()
    questions = dataset.load(given.dataset, given.images)
    folder = given.out or Path(f"eval-{collection}-{questions.sha256[:8]}")
    with RagOwl.open(given.data) as owl, _progress() as follow:
        report = run.evaluate(
            owl,
            questions,
            collection,
            given.models or [owl.settings.model],
            folder,
            limit=given.limit,
            k=given.k,
            judge=given.judge,
            on_progress=follow,
        )
    _keep(folder, report, page.write(report), given)
    if not given.as_json:
        show(out, report)
        out.print(f"{escape(str(folder / 'report.html'))} has plots and every question")


def _replay(given: _Given) -> None:
    from rag_owl.client import RagOwl
    from rag_owl.evaluation import replay, replay_page

    collection = given.needs_collection()
    if len(given.models) > 1:
        raise InvalidInput("--replay asks one model; give --model once, or leave it out")
    model = given.models[0] if given.models else None
    with RagOwl.open(given.data) as owl, _progress() as follow:
        folder = given.out or Path(replay.folder_of(owl, collection, model))
        report = replay.replay(
            owl, collection, folder, model=model, limit=given.limit, on_progress=follow
        )
    _keep(folder, report, replay_page.write(report), given)
    if given.as_json:
        return
    for kind, count in sorted(report["counts"].items()):
        out.print(f"{count:>6,} {kind}", highlight=False)
    for row in report["changed"][:10]:
        out.rule(escape(one_line(row["before"].get("question", row["before"]["id"]))))
        out.print(f"[bold]{row['kind']}[/]", highlight=False)
        for when, answer in (("before", row["before"]), ("now", row["now"])):
            if answer is None or "text" not in answer:
                out.print(f"{when}: {escape(one_line(row.get('error', '')))}", highlight=False)
                continue
            out.print(f"[cyan]{when}[/]: {escape(one_line(answer['text']))}", highlight=False)
            for cited in answer["evidence"]:
                line = f"[{cited['marker']}] {cited['document_name']}: “{cited['quote'] or ''}”"
                shown = f"{one_line(line)} {cited['verdict']}"
                out.print(f"      {escape(shown)}", highlight=False, style="dim")
    out.print(f"{escape(str(folder / 'report.html'))} has all of them")


def _owleval(given: _Given, rating_port: int | None) -> None:
    from rag_owl.client import RagOwl
    from rag_owl.evaluation import journal, owleval, ratings

    assert given.dataset is not None
    questions, digest = owleval.load(given.dataset, given.images)
    others = owleval.published(given.answers, questions)
    if given.limit is not None:
        questions = questions[: given.limit]
    folder = given.out or Path(f"eval-owleval-{digest[:8]}")
    if rating_port is not None:
        if not (folder / journal.FILE).exists():
            raise InvalidInput(f"{folder} holds no answers; ask first, without --rate")
        found = owleval.answers_in(journal.read(folder / journal.FILE))
        _rate(questions, found, folder, digest, rating_port)
        return
    with RagOwl.open(given.data) as owl, _progress() as follow:
        found = owleval.answer_all(
            owl,
            questions,
            digest,
            given.models or [owl.settings.model],
            folder,
            collection=given.collection,
            others=others,
            on_progress=follow,
        )
    report = {
        **ratings.summary(ratings.stored(folder), found, questions),
        "answers": {
            name: {str(number): text for number, text in texts.items()}
            for name, texts in found.items()
        },
    }
    _keep(folder, report, None, given)
    if not given.as_json:
        for name, texts in found.items():
            out.print(f"{escape(name)}: {len(texts)} answers", highlight=False)
        dataset = escape(str(given.dataset))
        out.print(f"Rate them: rag-owl eval {dataset} --rate --out {escape(str(folder))}")


def _rate(
    questions: list[OwlQuestion],
    found: dict[str, dict[int, str]],
    folder: Path,
    digest: str,
    port: int,
) -> None:
    from rag_owl.api import rating
    from rag_owl.evaluation.ratings import Ratings

    with Ratings(folder, digest) as given:
        pages = rating.Rating(questions, found, given)
        rating.serve(pages, port, lambda url: err.print(f"Rate at {url} (Ctrl+C ends)"))


def _keep(folder: Path, report: dict[str, Any], html: str | None, given: _Given) -> None:
    from rag_owl.evaluation.journal import write_whole

    text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
    write_whole(folder / "report.json", text)
    if html is not None:
        write_whole(folder / "report.html", html)
    if given.as_json:
        sys.stdout.write(text.encode("utf-8", "replace").decode())


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
    for key, label in page.COSTS.items():
        if any(found[key] is not None for found in models.values()):
            table.add_row(label, *(page.cost(key, m[key]) for m in models.values()))
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
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=not err.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def follow(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield follow

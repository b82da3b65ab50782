"""What the command line prints for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rag_owl.types import (
    Answer,
    Citation,
    Job,
    Location,
    PageLocation,
    Retrieved,
    Support,
    TextLocation,
    VideoLocation,
)

_SHOWN = 10  # skipped files listed in full
_MARKS = {"supported": "✓", "partly": "~", "unsupported": "✗", "unchecked": "?"}


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Job], None]]:
    """A progress bar that follows a job."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[items]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        task = bar.add_task("looking for files", total=None, items="")

        def follow(job: Job) -> None:
            looking = "looking for files" if job.kind == "ingest" else job.kind
            bar.update(
                task,
                description=_DOING.get(job.kind, job.kind) if job.found else looking,
                total=job.found or None,
                completed=job.handled,
                items=f"{job.items} items" if job.items else "",
            )

        yield follow


_DOING = {
    "ingest": "ingesting",
    "reindex": "reindexing",
    "merge": "merging",
    "delete": "deleting",
    "backup": "backing up",
    "verify": "verifying",
}


def job(console: Console, value: Job, idle: bool = False) -> None:
    """idle: nobody works jobs at the moment, so that one which runs was interrupted."""
    interrupted = idle and value.state == "running" and not value.cancelling
    if value.kind == "ingest":
        parts = [f"{value.added} added"]
        parts += [f"{value.updated} updated"] if value.updated else []
        parts += [f"{value.unchanged} unchanged"] if value.unchanged else []
    else:
        parts = [f"{value.kind}: {value.done} done"]
    parts += [f"{value.skipped_count} skipped"] if value.skipped_count else []
    parts += [f"{value.failed} failed"] if value.failed else []
    parts += [f"{value.left} left"] if value.left else []
    if value.state == "running" and value.rate and not interrupted:
        parts.append(f"{value.rate:.3g} a second")
    if value.expected_end is not None and not interrupted:
        parts.append(f"done in about {duration(value.expected_end - time.time())}")
    items = f" ({value.items} new items)" if value.kind == "ingest" else ""
    whose = escape(value.collection or "the whole folder")
    state: str = "cancelling" if value.cancelling else value.state
    if interrupted:
        state = "interrupted; it goes on when `rag-owl worker` or `serve` runs"
    console.print(f"[bold]{whose}[/]: {', '.join(parts)}{items}, job {value.id} {state}")
    if value.error:
        console.print(f"  [red]{escape(one_line(value.error))}[/]", highlight=False)
    if value.kind == "ingest" and value.state == "done" and not value.added + value.updated:
        if value.unchanged:
            console.print("Nothing has changed since the last time.")
        elif not value.found:
            console.print("There was no file to read.")
    for skipped in value.skipped[:_SHOWN]:
        console.print(f"  [yellow]skipped[/] {escape(one_line(skipped.name))}: ", end="")
        console.print(escape(one_line(skipped.reason)), highlight=False)
    if value.skipped_count > _SHOWN:
        console.print(f"  … and {value.skipped_count - _SHOWN} more (`rag-owl jobs {value.id}`)")


def duration(seconds: float) -> str:
    seconds = max(seconds, 0)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6_000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.0f} h" if seconds < 360_000 else f"{seconds / 86_400:.0f} days"


def answer(console: Console, value: Answer) -> None:
    style = "yellow" if value.abstained else "bold"
    text = "\n".join(one_line(line) for line in value.text.split("\n"))
    console.print(f"[{style}]{escape(text)}[/]", highlight=False)
    if value.citations or value.moments or value.looks:
        console.print()
    for citation in value.citations:
        _citation(console, citation)
    _doubts(console, value)
    for moment in value.moments:
        said = one_line(value.text[moment.start : moment.end])
        place = VideoLocation(moment.start_seconds, moment.end_seconds)
        console.print(f"  [cyan]your video[/], {where(place)}: {escape(said)}", highlight=False)
    for look in value.looks:
        said = one_line(value.text[look.start : look.end])
        numbers = ", ".join(map(str, look.pictures))
        console.print(f"  [cyan]your pictures {numbers}[/]: {escape(said)}", highlight=False)
    if value.dangling_markers:
        listed = ", ".join(f"[{marker}]" for marker in value.dangling_markers)
        console.print(f"[red]points to nothing:[/] {escape(listed)}")
    if value.left_out:
        console.print(f"{len(value.left_out)} retrieved items did not fit the context whole")
    for note in value.notes:
        console.print(f"[yellow]note:[/] {escape(one_line(note))}", highlight=False)
    console.print(f"answer {value.id}", highlight=False, style="dim")


def _doubts(console: Console, value: Answer) -> None:
    """Statements that nothing is cited for, and those that a source denies."""
    cited = {(citation.start, citation.end) for citation in value.citations}
    for statement in value.statements:
        said = one_line(value.text[statement.start : statement.end])
        if statement.verdict == "unsupported" and (statement.start, statement.end) not in cited:
            console.print(f"  [red]✗ no support:[/] {escape(said)}", highlight=False)
        if statement.contradicted_by:
            listed = ", ".join(f"[{marker}]" for marker in statement.contradicted_by)
            console.print(
                f"  [red]✗ {escape(listed)} says otherwise:[/] {escape(said)}", highlight=False
            )


def _citation(console: Console, value: Citation) -> None:
    verdict: str = value.support.verdict
    if value.filled:
        verdict += " (no marker in the answer)"
    if measured := measures(value.support):
        verdict += f"; {measured}"
    console.print(
        f"  [cyan]{escape(f'[{value.marker}]')}[/] [bold]{escape(one_line(value.title))}[/]  "
        f"{escape(one_line(value.document_name))}, {where(value.location)}  "
        f"{_MARKS[value.support.verdict]} {verdict}",
        highlight=False,
    )
    if value.quote:
        console.print(f"      “{escape(one_line(value.quote))}”", highlight=False, style="dim")


def measures(support: Support) -> str:
    """What else was measured that a reader should see beside the verdict; "" where nothing was."""
    said = []
    if support.relevance is not None:
        said.append(f"answers the question: {support.relevance:.0%}")
    if support.alike is not None:
        said.append(f"shows the same: {support.alike:.0%}")
    return ", ".join(said)


def retrieved(console: Console, found: list[Retrieved]) -> None:
    if not found:
        console.print("[yellow]Nothing was found.[/]")
    for rank, hit in enumerate(found, 1):
        console.print(
            f"[cyan]{rank}.[/] [bold]{escape(one_line(hit.item.title))}[/]  "
            f"{escape(one_line(hit.item.document_name))}, {where(hit.item.location)}  "
            f"{hit.score:.4f} by {', '.join(hit.channels)}",
            highlight=False,
        )
        if hit.item.text:
            console.print(
                f"   {escape(one_line(hit.item.text)[:160])}", highlight=False, style="dim"
            )


def where(location: Location) -> str:
    if isinstance(location, TextLocation):
        return f"characters {location.start}–{location.end}"
    if isinstance(location, PageLocation):
        return f"page {location.page}"
    if isinstance(location, VideoLocation):
        return f"seconds {location.start_seconds:.1f}–{location.end_seconds:.1f}"
    return "the picture"


def one_line(text: str) -> str:
    """A stranger's text without the control characters that could drive a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)

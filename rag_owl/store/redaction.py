"""What stored answers keep of a document that is deleted: that there was something, and no word.

Blacked out are the stretches that cite it, what else an answer says in its very words, and its name
and title. Offsets stay as they were, so the other citations stay where they belong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Text, cast, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from rag_owl.rows import (
    AnswerRow,
    CitationRow,
    DocumentRow,
    ItemRow,
    JobInputRow,
    JobRow,
    RevisionRow,
    SkippedRow,
)
from rag_owl.store import job_inputs
from rag_owl.store.jobs import DEADLY, DELETED

BLACK = "█"
REMOVED = "(deleted)"
_SHINGLE = 16  # characters in a row that are no chance
_LEAST_NAME = 4  # shorter ones stand in words of others


def redact_answers(session: Session, document: DocumentRow) -> int:
    """Before the document's rows go; how many answers hold something of it."""
    citing = select(CitationRow.answer_id).where(CitationRow.document_id == document.id)
    shown = cast(AnswerRow.sources, Text).like(f'%"{document.id}.%')
    chosen = AnswerRow.collection_key == document.collection_key
    rows = session.scalars(
        select(AnswerRow).where(chosen, or_(AnswerRow.id.in_(citing), shown))
    ).all()
    conversations = {row.conversation_id for row in rows if row.conversation_id}
    known = {row.id for row in rows}
    # A follow-up is read with what was said before it.
    later = [
        row
        for row in session.scalars(
            select(AnswerRow).where(chosen, AnswerRow.conversation_id.in_(conversations))
        )
        if row.id not in known
    ]
    told: dict[str | None, list[str]] = {}  # by conversation, the items that it was told of
    for row in rows:
        own = [each for each in row.sources if str(each).startswith(f"{document.id}.")]
        told.setdefault(row.conversation_id or row.id, []).extend(own)
    for row in [*rows, *later]:
        ids = list(dict.fromkeys(told[row.conversation_id or row.id]))
        _redact(session, row, document, _Words.of(session, document, ids))
    session.flush()
    return len(rows)


def forget_inputs(session: Session, document: DocumentRow) -> None:
    """What finished jobs of the collection know of their files: nobody asks for it any more."""
    of_it = JobRow.collection_key == document.collection_key
    done = select(JobRow.id).where(of_it, JobRow.state.not_in(("queued", "running")))
    # Also those at work: one that fails later keeps its files, to be read again.
    again = select(JobRow).where(of_it, JobRow.kind == "ingest", JobRow.state != "done")
    for job in session.scalars(again).all():
        uploaded = JobInputRow.job_id == job.id, JobInputRow.origin.is_not(None)
        of_this = select(JobInputRow.position).where(*uploaded, job_inputs.holds(document.origin))
        if session.scalar(of_this.limit(1)) is not None:
            job.parameters = {**job.parameters, "withdrawn": True}  # its files are not kept either
    # Those that are not stored because their readers died are read again when that is asked for.
    given_up = exists().where(
        SkippedRow.job_id == JobInputRow.job_id,
        SkippedRow.name == JobInputRow.name,
        SkippedRow.reason == DEADLY,
    )
    session.execute(
        delete(JobInputRow).where(JobInputRow.job_id.in_(done), JobInputRow.done, ~given_up)
    )
    session.execute(
        update(SkippedRow)
        .where(SkippedRow.job_id.in_(done), SkippedRow.reason == DELETED)
        .values(name=REMOVED)
    )
    for job in session.scalars(select(JobRow).where(of_it, JobRow.state == "done")):
        kept = dict(job.parameters)
        if "upload" in kept:
            kept |= {"metadata": {}, "origins": {}}
        if document.origin in kept.get("paths", ()):
            kept["paths"] = [REMOVED if p == document.origin else p for p in kept["paths"]]
        if kept != job.parameters:
            job.parameters = kept
    session.flush()


class _Words:
    """What a document says, as far as an answer can have it from there."""

    def __init__(self, texts: Iterable[str], names: Iterable[str]) -> None:
        self._shingles = {
            text[at : at + _SHINGLE] for text in texts for at in range(len(text) - _SHINGLE + 1)
        }
        self._names = sorted({name for name in names if len(name) >= _LEAST_NAME}, key=len)[::-1]

    @classmethod
    def of(cls, session: Session, document: DocumentRow, item_ids: list[str]) -> _Words:
        texts: list[str] = []
        for at in range(0, len(item_ids), 500):
            rows = session.execute(
                select(ItemRow.text, ItemRow.heading).where(ItemRow.id.in_(item_ids[at : at + 500]))
            )
            texts += [text for row in rows for text in row if text]
        titles = session.scalars(
            select(RevisionRow.title).where(RevisionRow.document_key == document.key)
        )
        return cls(texts, [document.name, document.origin, *titles])

    def black_out(self, text: str, spans: Iterable[tuple[int, int]] = ()) -> str:
        """Of the same length; `spans` wholly, but for blanks and markers."""
        black = [False] * len(text)
        for start, end in spans:
            black[start:end] = [True] * len(black[start:end])
        for at in range(len(text) - _SHINGLE + 1):
            if text[at : at + _SHINGLE] in self._shingles:
                black[at : at + _SHINGLE] = [True] * _SHINGLE
        for name in self._names:
            at = text.find(name)
            while at >= 0:
                black[at : at + len(name)] = [True] * len(name)
                at = text.find(name, at + 1)
        return "".join(
            BLACK if hide and char not in " \n[]" and not _in_marker(text, at) else char
            for at, (char, hide) in enumerate(zip(text, black, strict=True))
        )

    def black_out_all(self, value: Any) -> Any:
        """Of JSON: every text in it that is no key."""
        if isinstance(value, str):
            return self.black_out(value)
        if isinstance(value, list):
            return [self.black_out_all(each) for each in value]
        if isinstance(value, dict):
            return {key: self.black_out_all(each) for key, each in value.items()}
        return value


def _in_marker(text: str, at: int) -> bool:
    """Whether it is a digit of a `[12]`."""
    left, right = at, at
    while left and text[left - 1].isdigit():
        left -= 1
    while right < len(text) and text[right].isdigit():
        right += 1
    return left < right and text[left - 1 : left] == "[" and text[right : right + 1] == "]"


def _redact(session: Session, row: AnswerRow, document: DocumentRow, words: _Words) -> None:
    citations = session.scalars(
        select(CitationRow).where(CitationRow.answer_id == row.id).order_by(CitationRow.ordinal)
    ).all()
    mine = [each for each in citations if each.document_id == document.id]
    spans = [(each.citation["start"], each.citation["end"]) for each in mine]
    row.text = words.black_out(row.text, spans)
    if row.short is not None:
        short = words.black_out(row.short)
        row.short = short if short in row.text or not spans else BLACK * len(row.short)
    request = dict(row.request)
    for field in ("notes", "reading", "statements"):
        if field in request:
            request[field] = words.black_out_all(request[field])
    row.request = request
    if row.rating_comment is not None:
        row.rating_comment = words.black_out(row.rating_comment)
    for each in mine:
        quote = None if each.citation["quote"] is None else REMOVED
        each.citation = {
            **each.citation,
            "document_name": REMOVED,
            "title": REMOVED,
            "picture": None,
            "quote": quote,
        }

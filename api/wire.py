"""Values as JSON, the same on the command line and over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rag_owl.store.collections import CollectionInfo
from rag_owl.types import Answer, Citation, Document, Item, Job, Retrieved


def answer(value: Answer) -> dict[str, Any]:
    return {
        "id": value.id,
        "collection": value.collection,
        "question": value.question,
        "text": value.text,
        "short": value.short,
        "abstained": value.abstained,
        "answerable": value.answerable,
        "model": value.model,
        "generation": value.generation,
        "citations": [
            citation(each, heatmap_address(value, number))
            for number, each in enumerate(value.citations)
        ],
        "dangling_markers": list(value.dangling_markers),
        "statements": [asdict(statement) for statement in value.statements],
        "left_out": list(value.left_out),
        "pictures": list(value.pictures),
        "video": value.video,
        "moments": [asdict(moment) for moment in value.moments],
        "looks": [asdict(look) for look in value.looks],
        "notes": list(value.notes),
        "conversation_id": value.conversation_id,
        "reading": value.reading,
        "exclude_items": list(value.exclude_items),
        "replay_of": value.replay_of,
        "usage": asdict(value.usage) if value.usage else None,
        "rating": value.rating,
        "rating_comment": value.rating_comment,
        "created_at": value.created_at,
    }


def heatmap_address(value: Answer, number: int) -> str | None:
    """Where the heatmap of a citation can be had, of models that can say where they looked."""
    shown = value.pictures and value.citations[number].picture is not None
    if not value.heatmaps or not shown:
        return None
    return f"/v1/answers/{value.id}/citations/{number}/heatmap"


def whole_answer(value: Answer, shown: Sequence[Retrieved | None]) -> dict[str, Any]:
    """With what the model was shown; None among it was deleted since then."""
    return {**answer(value), "sources": sources(shown)}


def sources(shown: Sequence[Retrieved | None]) -> list[dict[str, Any]]:
    return [
        {"marker": marker, **retrieved(source)}
        for marker, source in enumerate(shown, 1)
        if source is not None
    ]


def citation(value: Citation, heatmap: str | None = None) -> dict[str, Any]:
    return {
        "start": value.start,
        "end": value.end,
        "marker": value.marker,
        "source": {
            "document_id": value.document_id,
            "document_name": value.document_name,
            "item_id": value.item_id,
            "revision": value.revision,
            "title": value.title,
        },
        "location": {**asdict(value.location), **({"heatmap_url": heatmap} if heatmap else {})},
        "quote": value.quote,
        "filled": value.filled,
        "support": asdict(value.support),
    }


def item(value: Item) -> dict[str, Any]:
    return {
        "id": value.id,
        "document_id": value.document_id,
        "document_name": value.document_name,
        "revision": value.revision,
        "kind": value.kind,
        "title": value.title,
        "heading": value.heading,
        "text": value.text,
        "picture": value.picture,
        "location": asdict(value.location),
        "metadata": dict(value.metadata),
    }


def retrieved(value: Retrieved) -> dict[str, Any]:
    return {
        "item": item(value.item),
        "score": value.score,
        "channels": list(value.channels),
        "similarities": dict(value.similarities),
    }


def document(value: Document) -> dict[str, Any]:
    return {**asdict(value), "metadata": dict(value.metadata)}


def job(value: Job, folder: Path | None = None) -> dict[str, Any]:
    """folder: the data folder, which what went wrong may name: strangers are told no path of it."""
    shown = asdict(value)
    if folder is not None and value.error:
        shown["error"] = value.error.replace(str(folder), "the data folder")
    return shown


def collection(value: CollectionInfo) -> dict[str, Any]:
    return asdict(value)

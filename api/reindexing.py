"""Reindexing at the edge: generations as JSON and in words, and what may be chosen over HTTP."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from rag_owl.api import answering
from rag_owl.errors import ModelNotFound
from rag_owl.indexer.compare import in_words
from rag_owl.settings import Settings
from rag_owl.store.generations import GenerationInfo

BUNDLED_TEXT, BUNDLED_PICTURE = ("all-MiniLM-L6-v2",), ("owl-nano-eyes", "descriptor")


def generation(value: GenerationInfo) -> dict[str, Any]:
    made_with = asdict(value.generation)
    return {
        "generation": made_with.pop("key"),
        "state": value.state,
        **made_with,
        "vectors": value.vectors,
        "created_at": value.created_at,
        "live_since": value.live_since,
        "comparison": dict(value.comparison) if value.comparison is not None else None,
    }


def check_names(
    settings: Settings,
    text_embedder: str | None,
    picture_embedder: str | None,
    answerer: str | None,
    in_use: Collection[str] = (),
) -> str | None:
    """The answerer as `RagOwl.reindex` takes it. Raises `ModelNotFound`.

    Never a path or a hub id that the operator did not register: those do not exist here.
    in_use: names as generations have them, with revisions; so they may be given again.
    """
    registered = [name.strip() for name in settings.embedders.split(",") if name.strip()]
    for field, given, names in (
        ("text_embedder", text_embedder, (*BUNDLED_TEXT, settings.text_embedder)),
        ("picture_embedder", picture_embedder, (*BUNDLED_PICTURE, settings.picture_embedder)),
    ):
        known = list(dict.fromkeys([*names, *registered]))
        if given and given in in_use and given.rpartition("@")[0] in known:
            continue
        if given is not None and given not in known:
            error = ModelNotFound(
                f"no embedder {given[:100]!r}; there are: {', '.join(known)}. The operator "
                "registers more with RAG_OWL_EMBEDDERS."
            )
            error.field = field
            raise error
    if answerer is None:
        return None
    return answering.resolve(settings, answerer) or settings.model


def lines(generations: Sequence[GenerationInfo]) -> list[str]:
    """For people, the live one first."""
    said = {
        "live": "searched",
        "kept": "searched before, --rollback goes back to it",
        "ready": "finished and held, --switch makes it live",
        "building": "begun and not finished",
    }
    found = []
    for each in sorted(generations, key=lambda each: each.state != "live"):
        made = each.generation
        found.append(
            f"generation {made.key}: {made.text_embedder} + {made.picture_embedder}, "
            f"{made.index_type}, {each.vectors} vectors; {said[each.state]}"
        )
    return found


def compared(value: GenerationInfo) -> str:
    return in_words(value.comparison) if value.comparison else "not compared"

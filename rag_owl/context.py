"""Laying out what was retrieved for the answering model, within its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rag_owl.types import Context, Question, Retrieved

_LEAST = 200  # characters: a shorter cut of an item is not worth a marker


def interleave(retrieved: Sequence[Retrieved], question: Question, budget: int) -> Context:
    """The best items in order of rank, as much of each as fits; `sources[i]` is marker `[i+1]`.

    budget: characters of headings and texts together. Every item that does not fit is named in
    `Context.left_out`; an item is cut only at its end, so that offsets into its text stay true.
    """
    sources: list[Retrieved] = []
    left_out: list[str] = []
    for found in retrieved:
        item = found.item
        text = item.text or ""
        room = budget - len(item.heading)
        if room >= len(text):
            sources.append(found)
            budget -= len(item.heading) + len(text)
        elif room >= _LEAST:
            cut = text.rfind(" ", _LEAST, room)
            shown = text[: cut if cut > 0 else room]
            sources.append(replace(found, item=replace(item, text=shown)))
            left_out.append(item.id)
            budget = 0
        else:
            left_out.append(item.id)
    return Context(question, tuple(sources), tuple(left_out))

"""Where a model looked, as a transparent picture over the item's own.

Nothing of it is stored: the model reads the same sources again, which gives the same map.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from rag_owl import db
from rag_owl.api import answering
from rag_owl.api.deps import on_lane
from rag_owl.api.errors import Problem
from rag_owl.api.state import State
from rag_owl.client import RagOwl
from rag_owl.media import decode_picture
from rag_owl.model import registry
from rag_owl.ports import Heatmapper
from rag_owl.settings import Settings
from rag_owl.store import answers
from rag_owl.types import Answer, Context

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 512  # pixels of the longer side
_WEAK, _STRONG = (150, 0, 170), (255, 225, 0)  # two hues: one of them shows on any picture
_STRONGEST = 190  # of 255: the picture stays visible


async def of(request: Request, state: State, owl: RagOwl, answer_id: str, number: int) -> bytes:
    """A PNG of the item picture's proportions. Raises `NotFound`, `Problem` 404, `Busy`."""
    answer, context = await run_in_threadpool(_what_was_read, owl, answer_id)
    if number >= len(answer.citations):
        raise Problem(404, f"this answer has {len(answer.citations)} citations", "n")
    citation = answer.citations[number]
    picture = citation.picture
    if not answer.heatmaps or picture is None:
        raise Problem(404, "there is no heatmap of this citation", "n")
    if len(context.sources) < len(answer.sources):
        raise Problem(404, "some of what the model was shown is deleted by now", "n")
    name = await run_in_threadpool(_who_answered, state.settings, answer)

    def draw() -> bytes:
        model = owl.models.answerer(name)
        if not isinstance(model, Heatmapper):
            raise Problem(404, "this model cannot say where it looked", "n")
        _, own = model.heatmap(context, citation.marker - 1)
        if own is None:
            raise Problem(404, "there is no heatmap of this citation", "n")
        size = decode_picture(owl.blobs.get(picture), owl.limits, max_side=_SIDE).size
        return paint(own, size)

    return await on_lane(request, answering.lane_of(state, name), lambda _: draw())


def _what_was_read(owl: RagOwl, answer_id: str) -> tuple[Answer, Context]:
    answer = owl.answer(answer_id)
    sources = tuple(each for each in owl.sources(answer_id) if each is not None)
    with db.reading(owl.engine) as session:
        return answer, Context(answers.question_of(session, answer_id), sources)


def _who_answered(settings: Settings, answer: Answer) -> str:
    """The model by the name that loads it: the service's own or a bundled one."""
    for name in (settings.model, *registry.names()):
        if registry.called(name) == answer.model:
            return name
    raise Problem(404, f"the model that answered is not asked here any more: {answer.model}", "n")


def paint(attention: NDArray[np.float32], size: tuple[int, int]) -> bytes:
    """attention: (G, G), from the top left; size: width and height in pixels. -> PNG.

    What drew twice the mean or more is painted strongest, in yellow, less in violet, and what drew
    no more than the mean not at all: attention that was spread evenly says nothing, and shows
    nothing.
    """
    from PIL import Image

    mean = float(attention.mean())
    share = (attention / mean - 1).clip(0, 1) if mean > 0 else attention
    # Bicubic weights would paint beyond the strongest, and a rim around it.
    shares = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    share = np.asarray(shares)[..., None]
    colour = np.array(_WEAK) + share * (np.array(_STRONG) - np.array(_WEAK))
    laid = np.concatenate([colour, share * _STRONGEST], -1).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(laid).save(file, "PNG")
    return file.getvalue()

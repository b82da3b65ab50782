"""Where a model looked, as a transparent picture over the item's own.

Nothing of it is stored: the model reads the same sources again, which gives the same map.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from fastapi import Request

from rag_owl import db
from rag_owl.api import wire
from rag_owl.api.deps import on_lane
from rag_owl.api.errors import Problem
from rag_owl.api.state import State
from rag_owl.client import RagOwl
from rag_owl.media import decode_picture
from rag_owl.store import answers
from rag_owl.types import Context

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 512  # pixels of the longer side
_COLOUR = (214, 39, 40)
_STRONGEST = 190  # of 255: the picture stays visible


@runtime_checkable
class Heatmapper(Protocol):
    def heatmap(
        self, context: Context, source: int
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.float32] | None]:
        """-> per picture of the user's and for the source's own: a (G, G) map of attention."""
        ...


async def of(request: Request, state: State, owl: RagOwl, answer_id: str, number: int) -> bytes:
    """A PNG of the item picture's proportions. Raises `NotFound`, `Problem` 404, `Busy`."""

    def look() -> tuple[Context, int, bytes]:
        answer = owl.answer(answer_id)
        if number >= len(answer.citations):
            raise Problem(404, f"this answer has {len(answer.citations)} citations", "n")
        citation = answer.citations[number]
        if answer.model not in wire.HEATMAPS or citation.picture is None:
            raise Problem(404, "there is no heatmap of this citation", "n")
        shown = [each for each in owl.sources(answer_id) if each is not None]
        if len(shown) < len(answer.sources):
            raise Problem(404, "some of what the model was shown is deleted by now", "n")
        with db.reading(owl.engine) as session:
            question = answers.question_of(session, answer_id)
        context = Context(question, tuple(shown))
        return context, citation.marker - 1, owl.blobs.get(citation.picture)

    def draw() -> bytes:
        context, source, picture = look()
        model = owl.models.answerer(wire.HEATMAPS[0])
        if not isinstance(model, Heatmapper):
            raise Problem(404, "this model cannot say where it looked", "n")
        _, own = model.heatmap(context, source)
        if own is None:
            raise Problem(404, "there is no heatmap of this citation", "n")
        return paint(own, decode_picture(picture, owl.limits, max_side=_SIDE).size)

    return await on_lane(request, state.lane, lambda _: draw())


def paint(attention: NDArray[np.float32], size: tuple[int, int]) -> bytes:
    """attention: (G, G), from the top left; size: width and height in pixels. -> PNG.

    What drew twice the mean or more is painted strongest, what drew no more than the mean not at
    all: attention that was spread evenly says nothing, and shows nothing.
    """
    from PIL import Image

    mean = float(attention.mean())
    share = (attention / mean - 1).clip(0, 1) if mean > 0 else attention
    alpha = Image.fromarray((share * _STRONGEST).clip(0, 255).astype(np.uint8))
    laid = Image.new("RGBA", size, (*_COLOUR, 0))
    laid.putalpha(alpha.resize(size, Image.Resampling.BICUBIC))
    file = io.BytesIO()
    laid.save(file, "PNG")
    return file.getvalue()

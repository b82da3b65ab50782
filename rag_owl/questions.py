"""Questions to an opened data folder: asked, searched for, replayed, rated."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rag_owl import conversation, db, own_video
from rag_owl.ask import Parts, answer_question, check, check_form
from rag_owl.asked_media import PictureInput
from rag_owl.errors import InvalidInput, InvalidQuestion
from rag_owl.ports import Answerer
from rag_owl.store import answers, collections, names
from rag_owl.system import System
from rag_owl.types import Answer, Channel, Question, Retrieved, Turn, Verify

log = logging.getLogger(__name__)


class Questions(System):
    """The half of `RagOwl` that answers."""

    def ask(
        self,
        collection: str,
        question: str,
        images: Sequence[PictureInput] = (),
        filters: Mapping[str, Any] | None = None,
        k: int | None = None,
        model: str | None = None,
        on_text: Callable[[str], None] | None = None,
        video: PictureInput | None = None,
        *,
        conversation_id: str | None = None,
        exclude_items: Sequence[str] = (),
        max_tokens: int | None = None,
        seed: int | None = None,
        budget: int | None = None,
        on_sources: Callable[[Sequence[Retrieved]], None] | None = None,
        asked_by: str | None = None,
        history: Sequence[Turn] = (),
        wrap: Callable[[Answerer], Answerer] | None = None,
        verify: Verify = "default",
        require_support: bool = False,
    ) -> Answer:
        """Answer from the collection alone, with the exact evidence.

        images: files or bytes, shown to the model with the question. filters: DESIGN's metadata
        filters, as in `{"field": "year", "op": ">=", "value": 1990}`. on_text: gets the answer's
        text as it comes. video: a file or bytes, shown as frames with their times; a model that
        watches no videos gets four pictures of it, and the answer says so. conversation_id: that of
        an earlier answer, to go on from it. exclude_items: ids of items that the model must not be
        shown. max_tokens: of the answer; seed: for models that draw. budget: characters of text
        that the model is shown, instead of the setting `context_characters`. on_sources: gets what
        the model is shown, before its text. asked_by: id of the key that asks. history: turns that
        are not stored here, instead of a conversation's. wrap: put around the answerer. verify:
        "full" also says what each statement loses without each cited item (`ablation_drop`).
        require_support: statements that no item bears out are left out, and text comes sentence
        by sentence.
        Raises `InvalidQuestion`, `InvalidFilter`, `NotFound`, `ModelError`.
        """
        if isinstance(exclude_items, str) or not isinstance(exclude_items, Iterable):
            raise InvalidQuestion("exclude_items is a list of item ids")
        asked = self._question(
            collection,
            question,
            images,
            filters,
            k,
            conversation_id=conversation_id or uuid.uuid4().hex,
            exclude_items=tuple(exclude_items),
            max_tokens=max_tokens,
            seed=seed,
            budget=budget,
            model=model,
            asked_by=asked_by,
            verify=verify,
            require_support=require_support,
        )
        if video is not None:
            asked = replace(asked, video=self._intake.video(video))
        if conversation_id is not None:
            history = self._history(collection, conversation_id)
        asked = conversation.with_history(asked, history)
        parts = self._parts(model)
        if wrap is not None:
            parts = replace(parts, answerer=wrap(parts.answerer))
        return answer_question(asked, parts, on_text, on_sources)

    def replay(
        self,
        answer_id: str,
        *,
        exclude_items: Sequence[str] | None = None,
        model: str | None = None,
        on_text: Callable[[str], None] | None = None,
        on_sources: Callable[[Sequence[Retrieved]], None] | None = None,
        asked_by: str | None = None,
    ) -> Answer:
        """Ask again what an answer was given to: a new answer, from what is stored now.

        exclude_items, model: instead of those of the first time. Raises as `ask` does.
        """
        with db.reading(self.engine) as session:
            asked = answers.question_of(session, answer_id)
        asked = replace(asked, asked_by=asked_by, model=model or asked.model)
        if exclude_items is not None:
            asked = replace(asked, exclude_items=tuple(exclude_items))
        return answer_question(asked, self._parts(asked.model), on_text, on_sources)

    def _parts(self, model: str | None) -> Parts:
        return Parts(
            self.engine,
            self._retriever,
            self.models.answerer(model),
            self.settings.context_characters,
            lambda key: own_video.stills(self.blobs, key, self.limits),
            self.models.judge,
        )

    def _history(self, collection: str, conversation_id: str) -> list[Turn]:
        with db.reading(self.engine) as session:
            key = collections.get(session, collection).key
            return answers.history(session, key, conversation_id)

    def search(
        self,
        collection: str,
        query: str,
        images: Sequence[PictureInput] = (),
        filters: Mapping[str, Any] | None = None,
        k: int | None = None,
        channels: Sequence[Channel] | None = None,
        on_note: Callable[[str], None] = log.warning,
    ) -> list[Retrieved]:
        """The k best items for words, pictures or both, best first. Raises as `ask` does.

        channels: only these searches; None: all that fit. on_note: told in a sentence of each
        search that was left out because the collection's embedder for it is gone.
        """
        asked = self._question(collection, query, images, filters, k)
        asked = replace(asked, channels=tuple(channels) if channels is not None else None)
        check(asked, needs_text=False)
        return self._retriever.retrieve(asked, on_note)

    def answer(self, answer_id: str) -> Answer:
        """An answer as it was given. Raises `NotFound`."""
        with db.reading(self.engine) as session:
            return answers.get(session, answer_id)

    def sources(self, answer_id: str) -> list[Retrieved | None]:
        """What the model was shown, in the order of its markers; None: deleted since then.

        Raises `NotFound`.
        """
        with db.reading(self.engine) as session:
            return answers.sources(session, answer_id)

    def rate(self, answer_id: str, rating: int, comment: str | None = None) -> Answer:
        """rating: -1, 0 or 1. Raises `NotFound`, `InvalidInput`."""
        if isinstance(rating, bool) or rating not in (-1, 0, 1):
            raise InvalidInput("a rating is -1, 0 or 1")
        if comment is not None and not names.is_storable(comment):
            raise InvalidInput("the comment holds a NUL or a lone surrogate; leave it out")
        with db.writing(self.engine) as session:
            answers.rate(session, answer_id, rating, comment)
            return answers.get(session, answer_id)

    def _question(
        self,
        collection: str,
        text: str,
        images: Sequence[PictureInput],
        filters: Mapping[str, Any] | None,
        k: int | None,
        **more: Any,
    ) -> Question:
        k = k if k is not None else self.settings.k
        asked = Question(collection, text, (), filters, k, **more)
        check_form(asked)
        with db.reading(self.engine) as session:
            collections.get(session, collection)  # before anything is stored of a stranger's input
        return replace(asked, pictures=self.keep_pictures(images))

    def keep_pictures(self, images: Sequence[PictureInput]) -> tuple[str, ...]:
        """Store a question's pictures; their blob keys. Raises `InvalidQuestion`."""
        return self._intake.pictures(images)

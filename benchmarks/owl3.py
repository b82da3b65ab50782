"""What the visual memory of mPLUG-Owl3 is worth: three ways to answer, measured side by side.

    python -m benchmarks.owl3 --size 0.5b

(a) this runtime, with stored features;
(b) the same without visual memory, as the published code works: at every token each hyper layer
    norms and projects the features of all pictures, rotates the keys, repeats keys and values for
    every head, and then attends;
(r) between the two: this runtime's attention, but projected again at every token;
(c) every visual token in the language model's own sequence (the way of LLaVA-NeXT-Interleave),
    with the same language model.

Weights are random: time and memory do not depend on them. Decoding steps of all configurations
are taken in turn, so that what else the machine does hits all of them alike. On a CPU the
processor time of this process is measured beside the time on the clock: on a machine that others
use as well it says more (`OMP_WAIT_POLICY=passive` keeps waiting threads from counting).
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.owl3_ways import KINDS, WAYS, Prompt, check_same_work, features
from rag_owl.model.owl3 import Owl3
from rag_owl.model.owl3.generate import Batch, Request
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.sizes import SIZES, random_model
from rag_owl.model.owl3.vision import VisionTower

RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """One way at one number of pictures; seconds and bytes. None: not measured."""

    way: str
    pictures: int
    first_token: float = 0.0  # features given
    first_token_encoding: float = 0.0  # with the vision tower; its time per picture is measured
    per_token: float = 0.0
    per_token_best: float = 0.0
    first_token_cpu: float = 0.0  # processor time, all threads
    per_token_cpu: float = 0.0
    peak_bytes: int = 0
    steps: list[float] = field(default_factory=list)
    steps_cpu: list[float] = field(default_factory=list)


class Peak:
    """Peak memory while it runs, above what was held before."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self._before = device, 0, 0

    def __enter__(self) -> Peak:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        import psutil

        if platform.system() == "Linux":  # else memory that was freed before is used unseen
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._process, self._done = psutil.Process(), threading.Event()
        self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, self._process.memory_info().rss) - self._before


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, float, Any]:
    """-> seconds on the clock, seconds of processor time, the result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start, start_cpu = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, time.process_time() - start_cpu, result


@torch.no_grad()
def encoding_seconds(size: str, device: torch.device, dtype: torch.dtype, pictures: int) -> float:
    """The vision tower's and projector's time per picture, without a language model beside it."""
    config = SIZES[size]
    S = config.vision.image_size
    with torch.device(device):
        tower = VisionTower(config.vision).to(dtype)
        projector = torch.nn.Linear(config.vision.hidden_size, config.hidden_size, dtype=dtype)
        pixels = torch.randn(pictures, 3, S, S, dtype=dtype)
    times = [timed(device, lambda: projector(tower(pixels)))[0] for _ in range(3)]
    return min(times[1:]) / pictures


@torch.no_grad()
def measure(
    model: Owl3,
    counts: dict[str, Sequence[int]],
    steps: int,
    repeats: int,
    per_picture: float,
    say: Callable[[str], None],
) -> list[Row]:
    """Every way at every number of pictures, decoding steps taken in turn.

    per_picture: the vision tower's seconds for one.
    """
    device = model.device
    say(f"vision tower: {per_picture:.4g} s per picture")
    say(f"(a), (r) and (b) agree within {check_same_work(model, 3):.1e} of the logits' range")
    rows: list[Row] = []
    runs: list[tuple[Row, Any, Tensor]] = []
    jobs = sorted((n, way) for way, numbers in counts.items() for n in numbers)
    for n, way in jobs:
        row = Row(way, n)
        with Peak(device) as peak:
            runner = KINDS[way](model, n)
            times = []
            for _ in range(repeats if n <= 8 and way != "c" else max(1, repeats // 2)):
                seconds, cpu, logits = timed(device, runner.first)
                times.append((seconds, cpu))
        row.first_token, row.first_token_cpu = (min(column) for column in zip(*times, strict=True))
        row.first_token_encoding = row.first_token + n * per_picture
        row.peak_bytes = peak.bytes
        say(f"{WAYS[way]}, {n} pictures: first token {row.first_token:.3f} s")
        rows.append(row)
        runs.append((row, runner, logits[:, -1].argmax(-1, keepdim=True)))
    for number in range(steps + 1):
        for row, runner, token in runs:
            slow = row.steps and statistics.median(row.steps) > 3
            if slow and len(row.steps) >= 3:
                continue
            work = functools.partial(runner.step, token)
            seconds, cpu, _ = timed(device, work)
            if number:  # the first step warms up
                row.steps.append(seconds)
                row.steps_cpu.append(cpu)
    for row in rows:
        row.per_token_cpu = statistics.median(row.steps_cpu)
        row.per_token, row.per_token_best = statistics.median(row.steps), min(row.steps)
    return rows


@torch.no_grad()
def attribution_cost(model: Owl3, pictures: int, tokens: int) -> tuple[float, float]:
    """Median seconds per token without and with attribution, steps taken in turn.

    On a CPU in processor time, on a GPU by the clock.
    """
    clock = 0 if model.device.type == "cuda" else 1
    batches = []
    for attention in (False, True):
        memory, prompt = features(model, pictures), Prompt(model, pictures)
        how = Sampling(max_new_tokens=tokens + 3)
        batch = Batch(model)
        batch.join(Request(prompt.ids, memory, prompt.starts, how, attention=attention))
        batch.step()
        batches.append(batch)
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(tokens):
        for which in (0, 1) if i % 2 else (1, 0):
            times[which].append(timed(model.device, batches[which].step)[clock])
    return statistics.median(times[0]), statistics.median(times[1])


def ratios(rows: Sequence[Row]) -> list[str]:
    """What is claimed of the runtime, as far as it was measured."""
    at = {(row.way, row.pictures): row for row in rows}
    claims = (
        (
            "per_token",
            ("a", 32),
            ("a", 1),
            "seconds per token, (a) at 32 pictures / (a) at 1",
            "<= 1.3",
        ),
        ("per_token", ("b", 32), ("a", 32), "seconds per token at 32, (b) / (a)", ">= 7"),
        ("first_token", ("c", 8), ("a", 8), "first token at 8, (c) / (a)", ">= 30"),
    )
    lines = []
    for name, above, below, what, wanted in claims:
        if above in at and below in at:
            clock = getattr(at[above], name) / getattr(at[below], name)
            cpu = getattr(at[above], f"{name}_cpu") / getattr(at[below], f"{name}_cpu")
            lines.append(f"{what}: {clock:.2f} on the clock, {cpu:.2f} processor time ({wanted})")
    return lines


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| way | pictures | first token, s | (CPU) | with encoding | per token, s | (CPU) | best "
        "| peak, GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {WAYS[row.way]} | {row.pictures} | {row.first_token:.3f} | "
        f"{row.first_token_cpu:.3f} | {row.first_token_encoding:.2f} | {row.per_token:.4f} | "
        f"{row.per_token_cpu:.4f} | {row.per_token_best:.4f} | "
        f"{row.peak_bytes / 1e9:.2f} |"
        for row in sorted(rows, key=lambda row: (row.way, row.pictures))
    ]
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    clock, unit = ("_cpu", "s, processor time") if "threads" in title else ("", "s")
    panels = (
        (f"first_token{clock}", f"first token, features given ({unit})"),
        (f"per_token{clock}", f"per token ({unit})"),
        ("peak_bytes", "peak memory (GB)"),
    )
    ticks = sorted({row.pictures for row in rows})
    for axis, (name, label) in zip(axes, panels, strict=True):
        for way, description in WAYS.items():
            mine = sorted((row for row in rows if row.way == way), key=lambda row: row.pictures)
            scale = 1e-9 if name == "peak_bytes" else 1
            values = [getattr(row, name) * scale for row in mine]
            axis.plot([row.pictures for row in mine], values, marker="o", label=description)
        axis.set(xscale="log", yscale="log", xlabel="pictures", ylabel=label)
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.grid(alpha=0.3, which="both")
    axes[1].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        load = f"load average {os.getloadavg()[0]:.1f}"
        where = f"{platform.machine()}, {torch.get_num_threads()} threads, {load} at the start"
    return f"{where}; torch {torch.__version__}, transformers {transformers.__version__}"


def report(name: str, heading: str, rows: Sequence[Row], extra: Sequence[str], out: Path) -> str:
    """Write table, numbers and plot under `out`; give back the printed text."""
    lines = [f"# {heading}", "", *extra, "", table(rows), "", *[f"- {r}" for r in ratios(rows)], ""]
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
    numbers = {"heading": heading, "rows": [asdict(row) for row in rows]}
    (out / f"{name}.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    plot(rows, out / f"{name}.png", heading)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny", choices=("tiny", "0.5b", "7b"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default=None, choices=("float32", "bfloat16"))
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 8, 32, 100, 400])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = getattr(torch, args.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    here = machine(device)
    per_picture = encoding_seconds(args.size, device, dtype, 2 if device.type == "cpu" else 16)
    model = random_model(args.size, dtype=dtype, device=device, vision_layers=2)
    cpu = device.type == "cpu"  # there (b) at 400 takes half a minute per token, (c) hours
    counts = {
        "a": args.pictures,
        "b": [n for n in args.pictures if n <= 100 or not cpu],
        "r": [n for n in args.pictures if n <= 32 or not cpu],
        "c": [n for n in args.pictures if n <= (8 if cpu else 32)],
    }
    weights = sum(weight.nbytes for weight in model.language_model.parameters())
    say = functools.partial(print, flush=True)
    rows = measure(model, counts, args.steps, args.repeats, per_picture, say)
    without, with_it = attribution_cost(model, 8, max(10, args.steps))
    heading = f"mPLUG-Owl3 {args.size}, {str(dtype).removeprefix('torch.')}: {here}"
    extra = [
        "Seconds per token are medians, first tokens the best of the repeats. Encoding is the "
        "time per picture of the vision tower, measured, times the pictures. Peak memory is that "
        f"of the features and of answering, beside {weights / 1e9:.2f} GB of weights.",
        "",
        f"Attribution at 8 pictures: {without:.4f} s per token without, {with_it:.4f} with "
        f"({100 * (with_it / without - 1):+.1f} %).",
    ]
    print(report(f"owl3-{args.size}-{device.type}", heading, rows, extra, args.out))


if __name__ == "__main__":
    main()

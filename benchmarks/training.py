"""An epoch of owl3's first stage with stored features, against encoding every picture each time.

    python -m benchmarks.training [--size 0.5b] [--pictures 64] [--each 4] [--threads 1]

Random weights; the vision tower of published size, which the stage holds still. Each example shows
`--each` pictures, one to an item, and is one step (forward, backward, AdamW). The epoch is run
twice from the same weights: first every picture goes through the tower (what storing adds is
measured apart and taken off), then none does. Losses of each step must be the same. Other programs
run beside this one, so the ratio is of processor time too.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import machine
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.processor import Owl3Processor
from rag_owl.model.owl3.sizes import random_model
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer
from rag_owl.model.train.examples import PICTURES, Example, Pictures, Shown
from rag_owl.model.train.learner import Learner, Local, row_of
from rag_owl.model.train.recipes import recipe
from rag_owl.model.train.run import choose


@dataclass
class Clock:
    """Seconds on the wall and of the processor since it was made."""

    wall: float = field(default_factory=time.perf_counter)
    processor: float = field(default_factory=time.process_time)

    def since(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.processor


def write_examples(folder: Path, pictures: int, each: int) -> list[Example]:
    """Pictures of noise, no two alike."""
    (folder / PICTURES).mkdir()
    chance = np.random.default_rng(0)
    keys = []
    for _ in range(pictures):
        file = io.BytesIO()
        Image.fromarray(chance.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(file, "PNG")
        keys.append(hashlib.sha256(file.getvalue()).hexdigest())
        (folder / PICTURES / keys[-1]).write_bytes(file.getvalue())
    words = random.Random(0)
    examples = []
    for at in range(0, pictures, each):
        shown = tuple(
            Shown(key, f"Plate {number}", f"It shows {words.randint(2, 99)} owls.", picture=key)
            for number, key in enumerate(keys[at : at + each], at)
        )
        examples.append(Example(str(at), "How many owls are there?", shown, "Seven owls. [1]"))
    return examples


class Timed(FeatureStore):
    """Knows how long storing took."""

    wall = processor = 0.0

    def put_all(self, *args: Any, **kwargs: Any) -> Any:
        clock = Clock()
        kept = super().put_all(*args, **kwargs)
        wall, processor = clock.since()
        self.wall, self.processor = self.wall + wall, self.processor + processor
        return kept


def epoch(learner: Learner, rows: list[Any], rate: float) -> tuple[list[float], float, float]:
    """-> losses, seconds, seconds of the processor; the weights that learn are put back."""
    learning = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in learning.items()}
    optimizer = torch.optim.AdamW(learning.values(), lr=rate, weight_decay=0.0)
    clock, losses = Clock(), []
    for row in rows:
        loss = learner([row])["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        print(f"  step {len(losses)} of {len(rows)}: loss {losses[-1]:.6f}", flush=True)
    wall, processor = clock.since()
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.copy_(before[name])
    return losses, wall, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="0.5b")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--each", type=int, default=4, help="pictures of an example")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine.describe(), flush=True)
    model = random_model(args.size, dtype=getattr(torch, args.dtype))
    words = Owl3Tokenizer.of_bytes()
    processor = Owl3Processor.of(words, model.config)
    local = Local("owl3", model, processor, words, words.turn_end)
    stage = recipe("owl3").stage(1)
    choose(model, stage)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        examples = write_examples(folder, args.pictures, args.each)
        learner = Learner(local, Pictures(folder), folder / "features")
        store = learner._kept = Timed(folder / "features", 2**40, "float32")
        rows = [row_of(local, example, 4096) for example in examples]
        tokens = sum(len(row.ids) for row in rows)
        print(
            f"owl3 {args.size}, {args.dtype}, {args.threads} threads: {args.pictures} pictures in "
            f"{len(rows)} examples of {tokens / len(rows):.0f} tokens, one a step",
            flush=True,
        )
        print("every picture encoded:", flush=True)
        first, wall, cpu = epoch(learner, rows, stage.rate)
        wall, cpu, looked = wall - store.wall, cpu - store.processor, learner.looked
        print("features stored:", flush=True)
        second, less_wall, less_cpu = epoch(learner, rows, stage.rate)
        again = learner.looked - looked
    apart = max(abs(a - b) for a, b in zip(first, second, strict=True))
    print(f"encoded each time: {wall:.1f} s, processor {cpu:.1f} s ({looked} looked at)")
    print(f"stored features: {less_wall:.1f} s, processor {less_cpu:.1f} s ({again} looked at)")
    print(f"storing them once: {store.wall:.1f} s")
    print(
        f"ratio {wall / less_wall:.2f} on the clock, {cpu / less_cpu:.2f} of the processor (>= 3)"
    )
    print(f"losses differ by at most {apart:.2g}")


if __name__ == "__main__":
    main()

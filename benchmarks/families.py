"""All families side by side with random weights: time to the first token, per token, memory.

    python -m benchmarks.families                     # published sizes on a GPU, else tiny ones

Weights are random: time and memory do not depend on them. Each model has the same drawn pictures
as evidence, once remembered and once looked at for the question (the baseline). Table, numbers
and plot are written under `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from rag_owl.errors import InvalidInput
from rag_owl.model.bench import RANDOM, measure, plot, random_loader, table

RESULTS = Path(__file__).parent / "results"


def compare(
    size: str, device: str, pictures: list[int], tokens: int, repeats: int, out: Path
) -> str:
    """Measure, write the files, and give back the table."""
    loaders = [(family, random_loader(family, size, device=device)) for family in RANDOM]
    measured = measure(loaders, pictures, tokens, repeats, partial(print, flush=True))
    text = f"# Models side by side, {size} sizes, random weights\n\n{table(measured)}\n"
    out.mkdir(parents=True, exist_ok=True)
    name = f"families-{size}-{device.partition(':')[0]}"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    numbers = json.dumps(asdict(measured), indent=1)
    (out / f"{name}.json").write_text(numbers, encoding="utf-8")
    try:
        plot(measured, out / f"{name}.png")
    except InvalidInput as error:  # no reason to lose what was measured
        text += f"\nNo plot: {error}\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu = torch.cuda.is_available()
    parser.add_argument("--size", default="published" if gpu else "tiny")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    print(compare(args.size, args.device, args.pictures, args.tokens, args.repeats, args.out))


if __name__ == "__main__":
    main()

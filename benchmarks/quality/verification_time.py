"""What the default verification adds to the time of an answer with owl-nano.

    python -m benchmarks.quality.verification_time [--rounds 40] [--threads 2]

Questions in words over five texts of about 800 characters, as they are retrieved, and the same
with a picture; each answer and its check in turns, so that they share what else the machine does.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.quality.nano_looking import Drawn, Shelf, drawn_flags
from rag_owl.types import Context, Item, Question, Retrieved


def item(shelf: Shelf, drawn: Drawn, i: int) -> Item:
    name, key = drawn.names[i], shelf.put(drawn.pictures[i])
    return Shelf.item(name, drawn.texts[i][:800], key, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    import torch

    from rag_owl.evidence import verify
    from rag_owl.model.nano import NanoAnswerer, NanoJudge

    torch.set_num_threads(args.threads)
    shelf = Shelf()
    model, judge = NanoAnswerer.load(shelf.blobs), NanoJudge.load()
    drawn = drawn_flags()
    print("| question | answer, ms | verification, ms | added | full verification, ms |")
    print("|---|---|---|---|---|")
    for pictured in (False, True):
        spent: dict[str, list[float]] = {"answer": [], "verify": [], "full": []}
        for number in range(args.rounds):
            first = number % (len(drawn.names) - 5)
            sources = tuple(Retrieved(item(shelf, drawn, i), 1.0) for i in range(first, first + 5))
            keys = (shelf.put(drawn.pictures[first + 2]),) if pictured else ()
            place = "this country" if pictured else drawn.names[first + 2]
            shown = Context(Question("b", f"What is the capital of {place}?", keys), sources)
            for seen in (*keys, *(s.item.picture for s in sources)):
                model.look(seen)  # what is indexed was looked at before
            begun = time.perf_counter()
            draft = model.answer(shown)
            answered = time.perf_counter()
            verify(draft, shown, 0, judge, grounding=model.grounding)
            checked = time.perf_counter()
            if draft.abstained:
                continue
            model.ablate(shown, draft)
            spent["answer"].append(answered - begun)
            spent["verify"].append(checked - answered)
            spent["full"].append(time.perf_counter() - answered)
        answer, check, full = (1000 * float(np.median(each)) for each in spent.values())
        kind = "with a picture" if pictured else "in words"
        print(f"| {len(spent['answer'])} {kind} | {answer:.1f} | {check:.1f} | "
              f"{100 * check / answer:.0f} % | {full:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

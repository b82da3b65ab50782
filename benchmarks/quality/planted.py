"""Are planted errors found? 200 answers with an altered statement or marker, and 200 untouched.

    python -m benchmarks.quality.planted --data DATA [--cases 200] [--judge owl-nano]

`planted_cases` says how they are made, of the articles that no threshold was set on. An answer is
flagged where `rag_owl.evidence` marks a statement as unsupported, or as contradicted by a source,
or reports a marker that points to nothing. Baselines: a statement is flagged that does not stand in
the cited item word for word, or that has a name or number which does not stand there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.quality.nano_reading import context
from benchmarks.quality.planted_cases import UNTOUCHED, Planted, planted
from benchmarks.quality.scores import interval
from rag_owl.checking import names_and_numbers
from rag_owl.evidence import verify
from rag_owl.ports import Judge
from rag_owl.statements import statements
from rag_owl.types import Answer, Attribution, Draft


def answered(case: Planted, judge: Judge | None) -> Answer:
    """The case as a model that writes would hand it in, and as it comes out."""
    shown = context(case.question, list(case.texts))
    found = statements(case.text, len(case.texts))
    attributions = tuple(
        Attribution(start, end, source) for start, end, marked in found for source in marked
    )
    return verify(Draft(case.text, attributions, model="planted"), shown, 0, judge)


def flagged(answer: Answer) -> bool:
    return bool(answer.dangling_markers) or any(
        statement.verdict == "unsupported" or statement.contradicted_by
        for statement in answer.statements
    )


def not_word_for_word(case: Planted) -> bool:
    if case.cited >= len(case.texts):
        return True
    return " ".join(case.statement.split()) not in " ".join(case.texts[case.cited].split())


def names_missing(case: Planted) -> bool:
    if case.cited >= len(case.texts):
        return True
    text = case.texts[case.cited].lower()
    return any(name.lower() not in text for name in names_and_numbers(case.statement))


def main() -> None:
    from rag_owl.model import registry

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="of owl-nano, instead of the bundled ones")
    parser.add_argument("--judge", default=registry.NANO)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    judge = registry.load_judge(args.judge)
    if args.weights is not None:
        from rag_owl.model.nano import NanoJudge

        judge = NanoJudge.load(args.weights)
    cases = planted(args.data, args.cases, seed=args.seed)
    begun = time.perf_counter()
    found: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    for case in cases:
        kind = f"{case.kind}, same item" if case.same_item else case.kind
        caught = flagged(answered(case, judge))
        found[kind].append((caught, not_word_for_word(case), names_missing(case)))
    seconds = (time.perf_counter() - begun) / len(cases)
    altered = [row for kind, rows in found.items() if kind != UNTOUCHED for row in rows]
    print("| answers | flagged | not word for word | a name or number missing |")
    print("|---|---|---|---|")
    shares = {}
    for kind, rows in [*sorted(found.items()), ("altered, all", altered)]:
        own, words, names = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        low, high = interval([row[0] for row in rows])
        shares[kind] = own
        print(f"| {len(rows)} {kind} | {own:.3f} ({low:.3f} to {high:.3f}) | {words:.3f} | "
              f"{names:.3f} |")  # fmt: skip
    print(f"{args.judge}, {seconds * 1000:.0f} ms per answer")
    if args.json:
        args.json.write_text(json.dumps({"flagged": shares, "cases": len(cases)}, indent=1))


if __name__ == "__main__":
    main()

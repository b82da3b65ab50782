"""`rag-owl eval` on many questions, killed again and again: it goes on where it was.

    python -m benchmarks.reliability.evaluation [--questions 1000] [--kills 5] [--model sentences] \
        [--no-calm]

Asks questions of the sample through the command, as a person does; kills it (SIGKILL) at random
moments, starts it again with the same folder, and lets it end. Checked: every line that was on the
disk before a kill stands there after it, unchanged and in its place; every question has exactly one
answer; and the figures are those of a run that nobody killed (`--no-calm` leaves that run out).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from rag_owl.evaluation.journal import FILE, read
from rag_owl.sample import write_sample
from rag_owl.sample.questions import sample_questions

_FIGURES = ("f1", "exact_match", "f1_with_unanswerable", "abstained", "abstention_auroc")


@dataclass
class Course:
    """What happened."""

    kills: int = 0
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(
    folder: Path, questions: int, kills: int, model: str, seed: int = 0, calm: bool = True
) -> Course:
    """Kill and resume; calm: then compare with an undisturbed run of the same questions."""
    rng = random.Random(seed)
    chosen = [dict(each) for each in sample_questions() if not each["images"]]
    chosen = rng.sample(chosen, min(questions, len(chosen)))
    for row in chosen:
        row["items"] = []  # nothing is searched for by itself: each line is an answer
    asked = folder / "questions.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in chosen), "utf-8")
    write_sample(folder / "sample")
    data = folder / "data"
    _command("ingest", "flags", folder / "sample", "--data", data).wait()
    # One item each: it is the run that is tested, not the answers.
    arguments = (
        "eval", asked, "--collection", "flags", "--data", data, "--model", model, "--judge", "none",
        "--k", 1, "--json",
    )  # fmt: skip
    course, out = Course(), folder / "killed"
    start = time.monotonic()
    path = out / FILE
    for number in range(1, kills + 1):
        before = _whole(path)
        # Spread over the run: the next kill comes when so many answers are there.
        wanted = max(len(before) + 1, rng.randint(1, len(chosen) * number // (kills + 1)))
        process = _command(*arguments, "--out", out)
        while process.poll() is None and len(_whole(path)) < wanted:
            time.sleep(0.05)
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        course.kills += 1
        after = _whole(path)
        if after[: len(before)] != before:
            course.wrong.append(f"kill {number} changed what was kept before")
    survived = _whole(path)
    report = _report(_command(*arguments, "--out", out))
    course.seconds = time.monotonic() - start
    rows = [row for row in read(path)[1:] if "answer" in row]
    course.answers = len(rows)
    if _whole(path)[: len(survived)] != survived:
        course.wrong.append("the last run changed what was kept before")
    if sorted(row["question"] for row in rows) != sorted(row["id"] for row in chosen):
        course.wrong.append("not every question has exactly one answer")
    if not calm:
        return course
    undisturbed = _report(_command(*arguments, "--out", folder / "calm"))
    for name in _FIGURES:
        a, b = report["models"][model][name], undisturbed["models"][model][name]
        if a != b:
            course.wrong.append(f"{name} is {a}, without kills {b}")
    return course


def _command(*arguments: object) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("rag-owl")
    return subprocess.Popen(
        [str(program), *map(str, arguments)],
        stdout=subprocess.PIPE if "--json" in arguments else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RAG_OWL_TEXT_EMBEDDER": "hashing"},
    )


def _report(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    out, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"rag-owl eval ended with {process.returncode}")
    report: dict[str, Any] = json.loads(out)
    return report


def _whole(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--model", default="sentences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-calm", action="store_true", help="without the undisturbed run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        course = run(
            Path(scratch), args.questions, args.kills, args.model, args.seed, not args.no_calm
        )
    print(
        f"{course.kills} kills, {course.answers} answers of {args.questions} questions in "
        f"{course.seconds:.0f} s with all starts; wrong: {course.wrong or 'nothing'}"
    )
    print(describe())
    raise SystemExit(bool(course.wrong))


if __name__ == "__main__":
    main()

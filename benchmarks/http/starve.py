"""How long questions take while an ingest runs beside them.

    python -m benchmarks.http.starve --seconds 60

One client asks one question after the other: first nothing else runs, then the service's job worker
reads what was uploaded, then (both for half as long) nothing else again. Prints median, 99th
percentile and the longest of each, and how far the ingest came meanwhile (one that stands still
would starve nobody). The mark: a median of at most three times the quiet one, and no question
refused; exits with 1 beyond it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import httpx

from benchmarks.http.load import ASKED, percentiles
from benchmarks.http.served import Served, machine, scratch, served
from rag_owl.client import RagOwl
from rag_owl.sample import write_sample

_MOST = 3.0  # times the quiet median
_PARAGRAPHS = 40  # of each document
_AT_ONCE = 100  # documents of one upload


def ask(http: httpx.Client, seconds: float) -> list[float]:
    """Seconds that each question took, sorted. Raises for one that is not answered."""
    times = []
    until = time.perf_counter() + seconds
    for question in itertools.cycle(ASKED):
        begun = time.perf_counter()
        if begun >= until:
            return sorted(times)
        body = {"collection": "flags", "question": question}
        http.post("/v1/answers", json=body).raise_for_status()
        times.append(time.perf_counter() - begun)
    raise AssertionError


def upload(http: httpx.Client, number: int) -> list[str]:
    """Documents of many passages each, no two alike; the ids of their jobs."""
    jobs = []
    for first in range(0, number, _AT_ONCE):
        files = [
            ("files", (f"{at}.txt", text(at).encode())) for at in range(first, first + _AT_ONCE)
        ]
        sent = http.post("/v1/collections/others/documents", files=files).raise_for_status()
        jobs.append(sent.json()["job"]["id"])
    return jobs


def text(number: int) -> str:
    sentence = "In survey {} of year {} the observers counted {} owls along the northern river. "
    return "\n\n".join(
        "".join(sentence.format(number, 1900 + at, number * at + each) for each in range(6))
        for at in range(_PARAGRAPHS)
    )


def progress(http: httpx.Client, jobs: list[str]) -> tuple[int, bool]:
    """How many documents are read, and whether there are more to come."""
    found = [http.get(f"/v1/jobs/{each}").raise_for_status().json() for each in jobs]
    finished = all(each["state"] in ("done", "failed", "cancelled") for each in found)
    return sum(each["added"] for each in found), not finished


def measure(server: Served, seconds: float, documents: int) -> dict[str, object]:
    with httpx.Client(base_url=server.address, timeout=600) as http:
        ask(http, seconds / 4)  # the first ones load what is needed
        before = ask(http, seconds / 2)
        say("before", before)
        jobs = upload(http, documents)
        while progress(http, jobs)[0] == 0:  # it has begun in earnest
            time.sleep(0.2)
        begun, done = time.perf_counter(), progress(http, jobs)[0]
        during = ask(http, seconds)
        read, goes_on = progress(http, jobs)
        took = time.perf_counter() - begun
        say(f"while {read - done} documents were read", during)
        for each in jobs:
            http.post(f"/v1/jobs/{each}/cancel")
        while progress(http, jobs)[1]:
            time.sleep(0.2)
        after = ask(http, seconds / 2)
        say("after", after)
    quiet = min(before[len(before) // 2], after[len(after) // 2])
    return {
        "questions": [len(before), len(during), len(after)],
        "before_ms": percentiles(before),
        "during_ms": percentiles(during),
        "after_ms": percentiles(after),
        "median_during_to_quiet": round(during[len(during) // 2] / quiet, 2),
        "documents_per_second": round((read - done) / took, 2),
        "the_ingest_ran_all_the_while": goes_on,
    }


def say(part: str, times: list[float]) -> None:
    """A run that is stopped has said what it knew."""
    print(f"{part}: {len(times)} questions, ms: {percentiles(times)}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="beside the ingest")
    parser.add_argument("--documents", type=int, default=2_000)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    given = parser.parse_args()
    rates = {"key_rate": "1000000/minute", "address_rate": "1000000/minute"}
    with scratch() as folder:
        write_sample(folder / "sample")
        with RagOwl.open(folder / "data") as owl:
            owl.ingest("flags", [folder / "sample"])
        with served(folder / "data", job_runner="process", **rates) as server:
            found = {"machine": machine(), **measure(server, given.seconds, given.documents)}
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    missed = [
        name
        for name, well in {
            "the ingest stood still": found["documents_per_second"] != 0,
            "the ingest was over too soon; give more --documents": bool(
                found["the_ingest_ran_all_the_while"]
            ),
            f"questions took more than {_MOST:g} times as long": float(
                str(found["median_during_to_quiet"])
            )
            <= _MOST,
        }.items()
        if not well
    ]
    sys.exit("; ".join(missed) or 0)


if __name__ == "__main__":
    main()

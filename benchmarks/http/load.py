"""The service under load, against `owl.ask` alone in a loop, in one run on one machine.

    python -m benchmarks.http.load --clients 32 --seconds 60

Prints throughput of both and their ratio, how requests ended (200, 429, 503; anything else is
lost), how long `/healthz` took meanwhile and beside one long answer after the other, and what idle
event streams cost in memory. The marks: nothing lost, a ratio of 0.8 or more, health under 50 ms
beside long answers (its 99th percentile), 200 streams under 50 MB; exits with 1 below one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import http.client
import itertools
import json
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.http.served import Served, machine, scratch, served
from rag_owl.client import RagOwl
from rag_owl.sample import write_sample
from rag_owl.settings import MOST_ITEMS

COUNTRIES = ("Japan", "France", "Kenya", "Brazil", "Norway", "India", "Chile", "Ghana")
QUESTIONS = ("What is the capital of {}?", "Which currency does {} have?", "Where is {}?")
ASKED = [each.format(name) for name in COUNTRIES for each in QUESTIONS]
WELL = {"200", "429", "503"}


def alone(data: Path, seconds: float) -> float:
    """Questions per second of `owl.ask` in a loop, in a process of its own."""
    code = (
        "import sys, time; from rag_owl import RagOwl\n"
        f"asked = {ASKED!r}\n"
        f"with RagOwl.open({str(data)!r}) as owl:\n"
        "    for each in asked[:5]: owl.ask('flags', each)\n"
        "    begun, done = time.perf_counter(), 0\n"
        f"    while time.perf_counter() - begun < {seconds}:\n"
        "        owl.ask('flags', asked[done % len(asked)]); done += 1\n"
        "    print(done / (time.perf_counter() - begun))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(found.stdout)


async def load(address: str, clients: int, seconds: float) -> dict[str, object]:
    """How requests of that many clients ended, and how long `/healthz` took meanwhile."""
    ends: collections.Counter[str] = collections.Counter()
    until = time.perf_counter() + seconds

    async def client(session: httpx.AsyncClient, number: int) -> None:
        for each in itertools.islice(itertools.cycle(ASKED), number, None):
            if time.perf_counter() >= until:
                return
            try:
                body = {"collection": "flags", "question": each}
                answer = await session.post("/v1/answers", json=body)
                ends[str(answer.status_code)] += 1
                if answer.status_code in (429, 503):
                    wait = float(answer.headers["retry-after"])
                    await asyncio.sleep(max(0.0, min(wait, until - time.perf_counter())))
            except (httpx.HTTPError, KeyError) as error:
                ends[type(error).__name__] += 1

    # One for all of them: making one costs more than a request.
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as session:
        begun = time.perf_counter()
        looking = asyncio.create_task(looked_at(address, seconds))
        await asyncio.gather(*(client(session, number) for number in range(clients)))
        took = time.perf_counter() - begun
        times = await looking
    return {
        "ends": dict(ends),
        "lost": sum(number for end, number in ends.items() if end not in WELL),
        "per_second": round(ends["200"] / took, 2),
        "health_under_load_ms": percentiles(times),
    }


async def beside_long_answers(address: str, seconds: float) -> list[float]:
    """How long `/healthz` takes while one client asks what takes longest, again and again."""
    until = time.perf_counter() + seconds
    longest = "Compare all countries: " + " ".join(ASKED)
    body = {"collection": "flags", "question": longest, "k": MOST_ITEMS}

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=600) as session:
            while time.perf_counter() < until:
                (await session.post("/v1/answers", json=body)).raise_for_status()

    times, _ = await asyncio.gather(looked_at(address, seconds), ask())
    return times


async def looked_at(address: str, seconds: float) -> list[float]:
    """`health` in a process of its own: here it would wait for the clients as well."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, health, address, seconds)


def percentiles(times: list[float]) -> dict[str, float]:
    """times: sorted seconds. -> milliseconds"""
    at = {"median": 0.5, "p99": 0.99, "most": 1.0}
    last = len(times) - 1
    return {name: round(1_000 * times[int(last * share)], 1) for name, share in at.items()}


def health(address: str, seconds: float) -> list[float]:
    """Seconds that `/healthz` took, sorted; over one connection, ten times a second."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    times = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        times.append(time.perf_counter() - begun)
        time.sleep(0.1)
    connection.close()
    return sorted(times)


async def idle_streams(server: Served, number: int) -> float:
    """MiB that many open event streams of a job that waits cost the service."""
    process = psutil.Process(server.process.pid)
    async with httpx.AsyncClient(
        base_url=server.address, timeout=60, limits=httpx.Limits(max_connections=number + 10)
    ) as http:
        sent = await http.post(
            "/v1/collections/waiting/documents", files={"files": ("a.txt", b"An owl.")}
        )
        job = sent.raise_for_status().json()["job"]["id"]

        async def follow(opened: asyncio.Event, leave: asyncio.Event) -> None:
            async with http.stream("GET", f"/v1/jobs/{job}/events") as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        opened.set()
                        break
                await leave.wait()

        async def open_some(count: int) -> tuple[list[asyncio.Task[None]], asyncio.Event]:
            leave = asyncio.Event()
            opened = [asyncio.Event() for _ in range(count)]
            tasks = [asyncio.create_task(follow(each, leave)) for each in opened]
            await asyncio.gather(*(each.wait() for each in opened))
            await asyncio.sleep(2)
            return tasks, leave

        warm, leave_warm = await open_some(5)
        before = process.memory_info().rss
        streams, leave = await open_some(number)
        cost = process.memory_info().rss - before
        leave.set()
        leave_warm.set()
        await asyncio.gather(*warm, *streams)
    return cost / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    given = parser.parse_args()
    rates = {"key_rate": "1000000/minute", "address_rate": "1000000/minute"}
    with scratch() as folder:
        write_sample(folder / "sample")
        with RagOwl.open(folder / "data") as owl:
            owl.ingest("flags", [folder / "sample"])
        before = alone(folder / "data", given.seconds / 3)
        with served(folder / "data", job_runner="none", **rates) as server:
            found = asyncio.run(load(server.address, given.clients, given.seconds))
            beside = asyncio.run(beside_long_answers(server.address, given.seconds / 3))
            streams = asyncio.run(idle_streams(server, given.streams))
        after = alone(folder / "data", given.seconds / 3)
    reference = (before + after) / 2  # on a machine that others use too, it is never the same
    figures = {
        "machine": machine(),
        "clients": given.clients,
        "seconds": given.seconds,
        "alone_per_second": [round(before, 1), round(after, 1)],
        **found,
        "ratio": round(float(str(found["per_second"])) / reference, 2),
        "health_beside_long_answers_ms": percentiles(beside),
        "streams": given.streams,
        "streams_mib": round(streams, 1),
    }
    print(json.dumps(figures, indent=2))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    missed = [
        name
        for name, well in {
            "requests are lost": not found["lost"],
            "the ratio is below 0.8": figures["ratio"] >= 0.8,
            "health takes 50 ms or more": percentiles(beside)["p99"] < 50,
            "the streams cost 50 MB or more": streams * 2**20 < 50e6,
        }.items()
        if not well
    ]
    sys.exit("; ".join(missed) or 0)


if __name__ == "__main__":
    main()

"""Questions while a collection is reindexed: `python -m benchmarks.reliability.reindex`.

A service of its own over N documents of one item each; clients ask it in turns, each the next
question when the last is answered, first without a reindex, then during one, then after it. Every
question has one right answer. The embedders are cheap ones, so that the collection is built in
minutes: hashed words before, the mean of MiniLM's token vectors (as a model folder, in other
dimensions) after; `--text-embedder all-MiniLM-L6-v2` reindexes with the real model instead. Prints
how the answers ended, their times and the ratio, and fails where one failed or was empty.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks import machine
from benchmarks.http.served import Served, scratch, served
from rag_owl.client import RagOwl

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor", "model": "sentences"}
NAME = "birds"
_BIRDS = ("barn owl", "kestrel", "heron", "wren", "crane", "falcon", "swift", "magpie")
_STARTS = ("Grey", "Elm", "Marsh", "Stone", "Oak", "Mill", "Fox", "Hay", "Black", "Thorn")
_ENDS = ("field", "stead", "ton", "worth", "bury", "ham", "ford", "leigh", "wick", "combe")


def place(number: int) -> str:
    """A name that no other number has."""
    letters = ""
    rest = number // 100
    while True:
        letters = chr(ord("a") + rest % 26) + letters
        rest //= 26
        if not rest:
            break
    return f"{_STARTS[number % 10]}{_ENDS[number // 10 % 10]} {letters.capitalize()}moor"


def fact(number: int) -> tuple[str, str, str]:
    """(text, question, what the answer holds)."""
    bird, weight = _BIRDS[number % len(_BIRDS)], 100 + number
    text = f"The {bird} of {place(number)} weighs {weight} grams. It was ringed there in spring."
    return text, f"How much does the {bird} of {place(number)} weigh?", f"{weight} grams"


@dataclass
class Asked:
    """What the clients met, by part."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    generations: dict[str, set[int]] = field(default_factory=dict)


class Clients:
    """So many, each with one question at a time; what is answered is booked on the part it began
    in."""

    def __init__(self, address: str, count: int, items: int) -> None:
        self._address, self._items = address, items
        self.part = "warm"
        self.asked = Asked()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(at, count), daemon=True) for at in range(count)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, at: int, step: int) -> None:
        number = at
        with httpx.Client(base_url=self._address, timeout=300) as session:
            while not self._stop.is_set():
                number = (number + step * 7_919) % self._items
                _, question, expected = fact(number)
                part, begun = self.part, time.perf_counter()
                try:
                    sent = session.post(
                        "/v1/answers", json={"collection": NAME, "question": question}
                    )
                    took = time.perf_counter() - begun
                    self._book(part, took, sent, question, expected)
                except httpx.HTTPError as error:
                    with self._lock:
                        self.asked.failed.append(f"{part}: {type(error).__name__} {error}")

    def _book(
        self, part: str, took: float, sent: httpx.Response, question: str, expected: str
    ) -> None:
        with self._lock:
            asked = self.asked
            if sent.status_code != 200:
                asked.failed.append(f"{part}: {sent.status_code} {sent.text[:200]}")
                return
            answer = sent.json()
            asked.seconds.setdefault(part, []).append(took)
            asked.generations.setdefault(part, set()).add(answer["generation"])
            if not answer["text"] or answer["abstained"] or not answer["citations"]:
                asked.empty.append(f"{part}: {question}")
            elif expected not in answer["text"]:
                asked.wrong.append(f"{part}: {question} {answer['text'][:80]}")


def build(folder: Path, items: int) -> float:
    rows = folder / "rows.jsonl"
    with rows.open("w") as file:
        for number in range(items):
            file.write(json.dumps({"text": fact(number)[0]}) + "\n")
    begun = time.perf_counter()
    with RagOwl.open(folder / "data", **LIGHT) as owl:
        job = owl.ingest(NAME, [rows])
    if job.added != items:
        raise SystemExit(f"{job.added} documents of {items} were added: {job}")
    return time.perf_counter() - begun


def token_means(folder: Path, dimension: int) -> Path:
    """A sentence-transformers folder: the mean of the first numbers of MiniLM's token vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    from rag_owl.indexer.embed import _load_default

    model = _load_default("cpu")[0]
    weights = model.auto_model.get_input_embeddings().weight.detach().numpy()[:, :dimension]
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    embedding = StaticEmbedding(tokenizer, embedding_weights=weights.copy())
    SentenceTransformer(modules=[embedding], device="cpu").save(str(folder))
    return folder


def reindexed(server: Served, embedder: str) -> tuple[float, dict[str, object]]:
    """(seconds, the new generation), once it is live. Raises SystemExit where it fails."""
    begun = time.perf_counter()
    with httpx.Client(base_url=server.address, timeout=300) as session:
        sent = session.post(f"/v1/collections/{NAME}/reindex", json={"text_embedder": embedder})
        if sent.status_code != 202:
            raise SystemExit(f"{sent.status_code} {sent.text}")
        job = sent.json()
        while job["state"] not in ("done", "failed", "cancelled"):
            time.sleep(0.2)
            job = session.get(f"/v1/jobs/{job['id']}").json()
        took = time.perf_counter() - begun
        if job["state"] != "done" or job["skipped_count"]:
            raise SystemExit(f"the reindex ended as {job['state']}: {job['error']} {job}")
        found = session.get(f"/v1/collections/{NAME}/generations").json()["data"]
    return took, next(each for each in found if each["state"] == "live")


def p95(seconds: list[float]) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="of asking before and after")
    parser.add_argument("--text-embedder", help="instead of the cheap one")
    parser.add_argument("--database-url", help="a PostgreSQL instead of SQLite")
    given = parser.parse_args()
    print(machine.describe(), flush=True)
    settings = {**LIGHT, "key_rate": "1000000/minute", "address_rate": "1000000/minute"}
    if given.database_url:
        settings["database_url"] = given.database_url
    with scratch() as folder:
        embedder = given.text_embedder or str(token_means(folder / "token-means", 128))
        print(
            f"{given.items} documents of one item, ingested in {build(folder, given.items):.0f} s; "
            f"{given.clients} clients; hashing, 256 dimensions -> "
            f"{given.text_embedder or 'token means, 128 dimensions'}",
            flush=True,
        )
        with (
            served(folder / "data", **settings, embedders=embedder) as server,
            Clients(server.address, given.clients, given.items) as clients,
        ):
            time.sleep(min(10, given.seconds))
            clients.part = "before"
            time.sleep(given.seconds)
            clients.part = "during"
            try:
                took, live = reindexed(server, embedder)
            except httpx.HTTPError as error:
                ended = server.process.poll()  # None: it still runs
                log = server.log.read_text()[-3_000:]
                raise SystemExit(f"the service failed ({ended}): {error}\n{log}") from error
            clients.part = "after"
            time.sleep(given.seconds)
        asked = clients.asked
        print(f"failed: {len(asked.failed)} {asked.failed[:3]}")
        print(f"empty: {len(asked.empty)} {asked.empty[:3]}")
        print(f"another answer: {len(asked.wrong)} {asked.wrong[:3]}", flush=True)
        if not all(asked.seconds.get(part) for part in ("before", "during", "after")):
            raise SystemExit("too few answers to compare; give it more --seconds")
        for part in ("before", "during", "after"):
            seconds = asked.seconds[part]
            print(
                f"{part:6} {len(seconds):6} answers, {1e3 * statistics.median(seconds):7.0f} ms "
                f"median, {1e3 * p95(seconds):7.0f} ms p95, generations "
                f"{sorted(asked.generations[part])}"
            )
        ratio = p95(asked.seconds["during"]) / p95(asked.seconds["before"])
        print(f"reindexed in {took:.0f} s; {live['vectors']} vectors; {live['comparison']}")
        print(f"p95 during / before: {ratio:.2f} (limit 2)")
        late = asked.generations["after"] != {live["generation"]}
        if late:
            print("after the switch, answers came from another generation as well")
    sys.exit(bool(asked.failed or asked.empty or late or live["vectors"] != given.items))


if __name__ == "__main__":
    main()

"""schemathesis against the running service, with all its checks.

    python -m benchmarks.http.fuzz --examples 100

Runs over the OpenAPI document with path parameters that name what exists, so that the endpoints do
their work, then with whatever schemathesis makes up, and at last over what deletes. Exits with 1 on
any finding.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx

from benchmarks.http.served import PATIENCE, Served, machine, scratch, served
from rag_owl import db
from rag_owl.client import RagOwl
from rag_owl.sample import write_sample
from rag_owl.store import keys

# A schema cannot say that base64 must be a picture, a job unfinished, a form whole; these are no
# faults. Any 5xx is one.
_ACCEPTED = ["2xx", "304", "400", "401", "403", "404", "405", "409", "413", "415", "416", "422"]
_NOT = ("--exclude-operation-id",)
_CONFIG = """
[generation]
max-examples = {examples}
deterministic = {deterministic}
allow-extra-parameters = {extra}

[checks]
positive_data_acceptance.expected-statuses = {accepted}
negative_data_rejection.expected-statuses = {accepted}
missing_required_header.expected-statuses = {accepted}
"""


def prepare(data: Path) -> str:
    """A collection with the sample, and a key for all of it."""
    sample = data.parent / "sample"
    write_sample(sample)
    some = sorted(sample.glob("j*"))
    with RagOwl.open(data) as owl:
        owl.ingest("flags", some)
        with db.writing(owl.engine) as session:
            return keys.create(session, "fuzz", keys.SCOPES)[1]


def existing(server: Served, key: str) -> dict[str, str]:
    """Values of path parameters that name something."""
    headers = {"Authorization": f"Bearer {key}"}

    def first(url: str) -> str:
        found = httpx.get(server.address + url, headers=headers, timeout=PATIENCE)
        return str(found.raise_for_status().json()["data"][0]["id"])

    asked = httpx.post(
        f"{server.address}/v1/answers",
        headers=headers,
        json={"collection": "flags", "question": "What is the capital of Japan?"},
        timeout=PATIENCE,
    )
    return {
        "name": "flags",
        "document_id": first("/v1/collections/flags/documents"),
        "item_id": first("/v1/collections/flags/items"),
        "job_id": first("/v1/jobs"),
        "answer_id": asked.raise_for_status().json()["id"],
        "model": "flags",
    }


def run(
    server: Served, key: str, examples: int, folder: Path, names: dict[str, str], *more: str
) -> tuple[int, int]:
    """One run: (exit status, how many cases), printing what it says."""
    config = folder / "schemathesis.toml"
    text = _CONFIG.format(
        examples=examples, deterministic="true", extra="false", accepted=json.dumps(_ACCEPTED)
    )
    if names:
        text += "\n[parameters]\n" + "".join(
            f'"path.{name}" = {json.dumps(value)}\n' for name, value in names.items()
        )
    config.write_text(text)
    command = [
        sys.executable, "-P", str(Path(__file__).with_name("st.py")),
        "--config-file", str(config), "--no-color",
        "run", f"{server.address}/openapi.json", "--header", f"Authorization: Bearer {key}",
        "--checks", "all", "--continue-on-failure", "--request-timeout", "300",
        # How long answers take is measured by `load`; here the machine may have other work.
        "--max-response-time", "300", "--suppress-health-check", "all", *more,
    ]  # fmt: skip
    # It leaves a folder of its own where it runs. A long run is watched as it goes.
    said = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            said.append(line)
            print(line, end="", flush=True)
    return running.returncode, cases("".join(said))


def cases(output: str) -> int:
    """Of the summary: how many test cases there were."""
    return sum(int(number) for number in re.findall(r"(\d+) generated", output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="for each operation and phase")
    parser.add_argument("--workers", type=int, default=1, help="requests at once")
    given = parser.parse_args()
    print(machine(), flush=True)
    with scratch() as folder:
        data = folder / "data"
        key = prepare(data)
        settings = {
            "require_key": "true",
            "key_rate": "1000000/minute",
            "address_rate": "1000000/minute",
            "job_runner": "process",
        }
        with served(data, **settings) as server:
            names = existing(server, key)
            # Deleting what the other calls name, and the key itself, would leave them nothing.
            many = ("--workers", str(given.workers))
            size = (given.examples, folder)
            results = [
                run(server, key, *size, names, *many, "--exclude-method", "DELETE"),
                run(server, key, *size, {}, *many, *_NOT, "revoke_key"),
                run(server, key, *size, {}, *many, "--include-method", "DELETE"),
            ]
            alive = server.process.poll() is None
            log = server.log.read_text()
        failures = [line for line in log.splitlines() if '"request failed"' in line]
        print("\n".join(failures[:20]))
        total = sum(number for _, number in results)
        print(f"cases: {total}; the service lives: {alive}; failed in it: {len(failures)}")
    sys.exit(any(status for status, _ in results) or not alive or bool(failures))


if __name__ == "__main__":
    main()

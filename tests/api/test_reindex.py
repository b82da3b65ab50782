"""Reindexing over HTTP and on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rag_owl.api.cli import main
from tests.service import bearer, finished, make_key, problem, running, upload

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor", "model": "sentences"}
OWLS = {"owls.txt": b"The barn owl sleeps in the barn.", "foxes.txt": b"The fox sleeps outside."}


@pytest.mark.usefixtures("on_each_database")
def test_over_http(tmp_path: Path) -> None:
    with running(tmp_path / "data", **LIGHT) as client:
        upload(client, "c", OWLS)
        address = "/v1/collections/c/reindex"
        sent = client.post(address, json={"index_type": "hnsw", "hold": True})
        assert sent.status_code == 202
        job = finished(client, sent.json()["id"])
        assert (job["kind"], job["state"], job["done"]) == ("reindex", "done", 2)
        ready, live = client.get("/v1/collections/c/generations").json()["data"]
        assert (ready["state"], ready["index_type"]) == ("ready", "hnsw")
        assert ready["comparison"]["same_locations"] == 1.0
        assert (live["state"], live["text_embedder"]) == ("live", "hashing@1")
        for action, state in (("switch", "live"), ("rollback", "kept")):
            done = finished(client, client.post(address, json={"action": action}).json()["id"])
            assert done["state"] == "done"
            now = client.get("/v1/collections/c/generations").json()["data"][0]
            assert (now["generation"], now["state"]) == (ready["generation"], state)
            found = client.post("/v1/collections/c/search", json={"query": "barn owl"})
            assert found.json()["data"][0]["item"]["document_name"] == "owls.txt"
        done = finished(client, client.post(address, json={"action": "drop"}).json()["id"])
        assert done["state"] == "done"
        assert len(client.get("/v1/collections/c/generations").json()["data"]) == 1
        problem(client.post(address, json={"action": "rollback"}), 409)
        problem(client.post(address, json={"index_type": "tree"}), 422, "index_type")
        problem(
            client.post(address, json={"action": "drop", "index_type": "flat"}), 422, "index_type"
        )
        problem(client.post("/v1/collections/d/reindex", json={}), 404)


@pytest.mark.usefixtures("on_each_database")
def test_only_what_the_operator_registered(tmp_path: Path) -> None:
    secret = tmp_path / "a-model-folder"
    secret.mkdir()
    with running(tmp_path / "data", **LIGHT, embedders="team/embedder, other") as client:
        upload(client, "c", OWLS)
        address = "/v1/collections/c/reindex"
        for field in ("text_embedder", "picture_embedder"):
            for name in (str(secret), "somebody/model", "hashing@2"):
                told = problem(client.post(address, json={field: name}), 404, field)
                assert "there are:" in told["detail"]
                assert "team/embedder, other" in told["detail"]
        problem(client.post(address, json={"answerer": str(secret)}), 404, "model")
        # Registered, but not to be had: the job says so, and nothing has changed.
        sent = client.post(address, json={"text_embedder": "other"})
        assert sent.status_code == 202
        job = finished(client, sent.json()["id"])
        assert job["state"] == "failed"
        assert "other" in job["error"]
        assert len(client.get("/v1/collections/c/generations").json()["data"]) == 1
        sent = client.post(address, json={"text_embedder": "hashing", "answerer": "sentences"})
        assert finished(client, sent.json()["id"])["state"] == "done"
        # As the collection itself names them.
        shown = client.get("/v1/collections/c").json()
        again = {field: shown[field] for field in ("text_embedder", "picture_embedder")}
        assert again["text_embedder"].startswith("hashing")
        sent = client.post(address, json=again)
        assert finished(client, sent.json()["id"])["state"] == "done"


@pytest.mark.usefixtures("on_each_database")
def test_who_may(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, **LIGHT) as client:
        upload(client, "c", OWLS)
        upload(client, "d", OWLS)
    reader, adder = make_key(data, "ask"), make_key(data, "ingest")
    of_d = make_key(data, "admin", only=["d"])
    with running(data, **LIGHT) as client:
        for key in (reader, adder):
            refused = client.post("/v1/collections/c/reindex", json={}, headers=bearer(key))
            problem(refused, 403, "Authorization")
        for method, end in (("POST", "reindex"), ("GET", "generations")):
            body = {"json": {}} if method == "POST" else {}
            hidden = client.request(
                method, f"/v1/collections/c/{end}", headers=bearer(of_d), **body
            )
            told = problem(hidden, 404)
            nothing = client.request(
                method, f"/v1/collections/nothing/{end}", headers=bearer(of_d), **body
            )
            assert (
                told["detail"].replace("'c'", "'nothing'").replace("ingest c ", "ingest nothing ")
                == problem(nothing, 404)["detail"]
            )
        sent = client.post("/v1/collections/d/reindex", json={}, headers=bearer(of_d))
        assert finished(client, sent.json()["id"], headers=bearer(of_d))["state"] == "done"


class Shell:
    """Runs `rag-owl …` in this process."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
    ) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("RAG_OWL_DATA", str(data))
        for name, value in LIGHT.items():
            monkeypatch.setenv(f"RAG_OWL_{name.upper()}", value)
        monkeypatch.setenv("NO_COLOR", "1")

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        self._monkeypatch.setattr(sys, "argv", ["rag-owl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        written = self._capsys.readouterr()
        return int(stop.value.code or 0), written.out, written.err


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Shell:
    for name, content in OWLS.items():
        (tmp_path / name).write_bytes(content)
    run = Shell(monkeypatch, capsys, tmp_path / "data")
    assert run("ingest", "c", *(tmp_path / name for name in OWLS))[0] == 0
    return run


def parsed(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.usefixtures("on_each_database")
def test_on_the_command_line(shell: Shell) -> None:
    status, out, err = shell("reindex", "c", "--index-type", "hnsw")
    assert status == 0, err
    compared, done, live, kept = out.splitlines()
    assert compared.startswith("compared on 2 texts of its items (no question is stored yet): 100%")
    assert "reindex: " in done
    assert "hnsw, 2 vectors; searched" in live
    assert "--rollback goes back to it" in kept
    status, out, _ = shell("reindex", "c", "--index-type", "hnsw")
    assert status == 0
    assert "Nothing has changed" in out
    status, out, _ = shell("reindex", "c", "--rollback", "--json")
    assert [each["state"] for each in parsed(out)["generations"]] == ["kept", "live"]
    status, out, _ = shell("reindex", "c", "--drop-old", "--json")
    assert [each["state"] for each in parsed(out)["generations"]] == ["live"]


@pytest.mark.usefixtures("on_each_database")
def test_held_on_the_command_line(shell: Shell) -> None:
    status, out, _ = shell("reindex", "c", "--index-type", "flat", "--hold")
    assert status == 0
    assert "finished and held, --switch makes it live" in out
    # Nothing else is switched to by the way.
    status, out, _ = shell("reindex", "c", "--json")
    assert [each["state"] for each in parsed(out)["generations"]] == ["ready", "live"]
    status, out, _ = shell("reindex", "c", "--switch", "--json")
    assert [each["state"] for each in parsed(out)["generations"]] == ["live", "kept"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing", "--index-type", "flat"), "no collection 'nothing'"),
        (("c", "--index-type", "tree"), "'tree' is no index type; use auto, flat, hnsw, ivf"),
        (("c", "--switch", "--rollback"), "one of --switch, --rollback and --drop-old"),
        (("c", "--rollback"), "no earlier generation"),
        (("c", "--switch"), "--hold"),
        (("c", "--rollback", "--index-type", "flat"), "goes with building alone"),
        (("c", "--text-embedder", "./not-there"), "./not-there"),
        (("c", "--text-embedder", ""), "is no name"),
    ],
)
def test_one_clear_line(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    status, out, err = shell("reindex", *arguments)
    assert (status, out) == (1, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1

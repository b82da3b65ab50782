"""Deleting over HTTP, and backups from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_owl.api.cli import app
from rag_owl.restore import check_backup
from tests import databases
from tests.service import bearer, finished, make_key, opened, problem, running, upload

pytestmark = pytest.mark.usefixtures("on_each_database")

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
NOTE = b"The barn owl of Greyfield weighs 430 grams."


def test_documents_and_collections_are_deleted(tmp_path: Path) -> None:
    with running(tmp_path, **LIGHT) as client:
        upload(client, "notes", {"owls.txt": NOTE, "more.txt": b"Herons stand still."})
        upload(client, "other", {"owls.txt": NOTE})
        asked = {"collection": "notes", "question": "How much does the barn owl weigh?"}
        answer = client.post("/v1/answers", json=asked).json()
        assert "430 grams" in answer["text"]
        (document,) = [
            each
            for each in client.get("/v1/collections/notes/documents").json()["data"]
            if each["name"] == "owls.txt"
        ]
        where = f"/v1/collections/notes/documents/{document['id']}"
        assert client.delete(where).status_code == 204
        problem(client.delete(where), 404)
        redacted = client.get(f"/v1/answers/{answer['id']}").json()
        assert "grams" not in json.dumps(redacted)
        begun = client.delete("/v1/collections/notes")
        assert begun.status_code == 202
        assert (begun.json()["kind"], begun.json()["collection"]) == ("delete", "notes")
        problem(client.delete("/v1/collections/notes"), 404)
        problem(client.get(f"/v1/answers/{answer['id']}"), 404)
        assert [each["name"] for each in client.get("/v1/collections").json()["data"]] == ["other"]
        owl = opened(client)
        assert owl.jobs()[0].id == begun.json()["id"]
        assert finished(client, begun.json()["id"])["state"] == "done"
        # Those of the collection are gone with it.
        listed = client.get("/v1/jobs").json()["data"]
        assert [(each["kind"], each["collection"]) for each in listed] == [
            ("delete", "notes"),
            ("ingest", "other"),
        ]
        assert client.post("/v1/collections", json={"name": "notes"}).status_code == 201


def test_a_key_deletes_only_what_it_sees(tmp_path: Path) -> None:
    with running(tmp_path, **LIGHT) as client:
        upload(client, "mine", {"owls.txt": NOTE})
        upload(client, "theirs", {"owls.txt": NOTE})
        mine = bearer(make_key(tmp_path, "ask", "ingest", only=["mine"]))
        asks = bearer(make_key(tmp_path, "ask", only=["mine"]))
        admin = bearer(make_key(tmp_path))
        problem(client.delete("/v1/collections/theirs", headers=mine), 404)
        problem(client.delete("/v1/collections/mine", headers=asks), 403, "Authorization")
        begun = client.delete("/v1/collections/mine", headers=mine)
        assert begun.status_code == 202
        # Of a collection that is no more there is nothing to be seen, nor of one made after it.
        job = f"/v1/jobs/{begun.json()['id']}"
        problem(client.get(job, headers=mine), 404)
        upload(client, "mine", {"more.txt": NOTE}, headers=mine)
        problem(client.get(job, headers=mine), 404)
        assert finished(client, begun.json()["id"], headers=admin)["collection"] == "mine"
        client.delete("/v1/collections/mine", headers=mine)
        names = [e["name"] for e in client.get("/v1/collections", headers=admin).json()["data"]]
        assert names == ["theirs"]


def test_backup_and_restore_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LIGHT.items():
        monkeypatch.setenv(f"RAG_OWL_{name.upper()}", value)
    note = tmp_path / "owls.txt"
    note.write_bytes(NOTE)

    def run(*arguments: object) -> object:
        with pytest.raises(SystemExit) as ended:
            app([*map(str, arguments), "--json"])
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    data, file, again = tmp_path / "data", tmp_path / "a.backup", tmp_path / "again"
    databases.to_restore_into(again)
    run("ingest", "notes", note, "--data", data)
    made = run("backup", file, "--data", data)
    assert isinstance(made, dict)
    assert (made["documents"], made["lacking"]) == (1, [])
    run("restore", file, "--check")
    run("restore", file, "--data", again)
    (found,) = run("collections", "--data", again)  # type: ignore[misc]
    assert (found["name"], found["documents"]) == ("notes", 1)
    job = run("collections", "delete", "notes", "--data", again)
    assert isinstance(job, dict)
    assert (job["kind"], job["state"]) == ("delete", "done")
    assert run("collections", "--data", again) == []


def test_a_backup_is_a_job_too(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    with running(tmp_path / "data", **LIGHT) as client:
        assert "RAG_OWL_BACKUP_FOLDER" in problem(client.post("/v1/backups"), 409)["detail"]
    folder.mkdir()
    with running(tmp_path / "data", **LIGHT, backup_folder=folder) as client:
        upload(client, "notes", {"owls.txt": NOTE})
        begun = client.post("/v1/backups")
        assert begun.status_code == 202
        job = finished(client, begun.json()["id"])
        assert (job["kind"], job["state"], job["found"], job["failed"]) == ("backup", "done", 2, 0)
        assert check_backup(folder / f"owl-{job['id']}.backup")["lacking"] == []
        limited = bearer(make_key(tmp_path / "data", "admin", only=["notes"]))
        problem(client.post("/v1/backups", headers=limited), 403)

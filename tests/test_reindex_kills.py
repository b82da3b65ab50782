"""A reindex whose process is killed again and again: the live vectors answer, nothing is lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_owl import RagOwl
from tests.consistency import problems
from tests.test_reindex import LIGHT, Other

ROWS, KILLS = 160, 5

_REINDEX = """
import sys
from rag_owl import RagOwl
from rag_owl.indexer import fill
from tests.test_reindex import LIGHT, Other

class Slow(Other):
    def embed_texts(self, texts, batch_size=32):
        print("batch", flush=True)
        sys.stdin.readline()
        return super().embed_texts(texts, batch_size)

fill._FIRST_BATCH = fill._LARGEST_BATCH = 16
with RagOwl.open(sys.argv[1], database_url=sys.argv[2] or None, **LIGHT) as owl:
    owl.models.put("text", Slow())
    print(owl.reindex("c", text_embedder="letters@1").state, flush=True)
"""


def killed(data: Path, url: str, batches: int, chance: random.Random) -> bool:
    """Reindex in another process until it has begun so many batches, and kill it in the last of
    them or soon after it; False: it was done before."""
    child = subprocess.Popen(
        [sys.executable, "-c", _REINDEX, str(data), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    for begun, line in enumerate(child.stdout, 1):
        if line == "done\n":
            assert child.wait() == 0
            return False
        assert line == "batch\n"
        last = begun == batches
        if not last or chance.random() < 0.5:
            child.stdin.write("\n")
            child.stdin.flush()
            time.sleep(chance.uniform(0, 0.2) if last else 0)
        if last:
            child.kill()
            break
    child.stdout.close()
    assert child.wait() != 0
    child.stdin.close()
    return True


def found(owl: RagOwl) -> set[str]:
    hits = owl.search("c", "barn", k=ROWS, channels=("text",))
    names = [hit.item.document_name for hit in hits]
    assert len(names) == len(set(names))
    return set(names)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_reindex_that_is_killed_again_and_again(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgresql" else ""
    chance = random.Random(7)
    data, rows = tmp_path / "data", tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": f"The barn number {at} is red."}) + "\n" for at in range(ROWS))
    )
    with RagOwl.open(data, database_url=url or None, **LIGHT) as owl:
        owl.ingest("c", [rows])
        expected = {document.name for document in owl.documents("c")}
        assert len(expected) == ROWS
        assert found(owl) == expected
    kills, vectors = 0, 0
    while kills < KILLS and killed(data, url, 1 + kills % 3, chance):
        kills += 1
        with RagOwl.open(data, work_jobs=False, database_url=url or None, **LIGHT) as owl:
            owl.models.put("text", Other())  # for a kill right after the switch
            assert found(owl) == expected
            gone = chance.choice(list(owl.documents("c")))
            owl.delete_document("c", gone.id)
            expected.remove(gone.name)
            assert found(owl) == expected
            now = max(g.vectors for g in owl.generations("c") if g.state != "live")
            assert now >= vectors  # what was done is not done again
            vectors = now
    assert kills == KILLS
    assert vectors > 0
    assert not killed(data, url, ROWS, chance)
    with RagOwl.open(data, database_url=url or None, **LIGHT) as owl:
        owl.models.put("text", Other())
        assert [(g.generation.text_embedder, g.state) for g in owl.generations("c")] == [
            ("letters@1", "live"),
            ("hashing@1", "kept"),
        ]
        assert found(owl) == expected
        (job,) = [job for job in owl.jobs() if job.kind == "reindex"]
        assert (job.state, job.found, job.done) == ("done", len(expected), len(expected))
        assert owl.reindex("c", action="rollback").state == "done"
        assert found(owl) == expected
        for job in owl.jobs():  # deletions among them, whose workers were killed as well
            assert owl.wait_for_job(job.id).state == "done"
        owl.remove_orphans()
    assert problems(data, url) == []

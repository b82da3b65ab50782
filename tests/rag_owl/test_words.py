"""Terms of every script, and the words channel on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from rag_owl import db
from rag_owl.store import collections, revisions, words
from rag_owl.store import documents as document_store
from rag_owl.store import items as item_store
from rag_owl.store.items import NewItem
from rag_owl.store.revisions import NewDocument
from rag_owl.terms import index_terms, query_terms
from rag_owl.types import TextLocation


def store(engine: Engine, collection: str, texts: list[str]) -> tuple[int, list[int]]:
    """One document per text; (collection key, item keys)."""
    keys = []
    with db.writing(engine) as session:
        target = collections.get_or_create(session, collection).key
        for at, content in enumerate(texts):
            new = NewDocument(f"o{at}", f"d{at}", f"t{at}", f"{collection}{at}", "text/plain", {})
            revision = revisions.open_revision(session, target, new)
            item = NewItem("passage", content, "", TextLocation(0, len(content)))
            keys += item_store.add(session, target, revision, 1, [item], 0)
            revisions.complete_revision(session, revision.key)
    return target, keys


def found(engine: Engine, collection: int, query: str, **options: object) -> list[int]:
    with db.reading(engine) as session:
        hits = words.search(session, collection, query, 10, **options)  # type: ignore[arg-type]
    return [key for key, _ in hits]


def test_terms_fold_case_accents_and_width() -> None:
    assert index_terms("Ｔｏｋｙｏ São-Paulo Straße") == ["tokyo", "sao", "paulo", "strasse"]


def test_terms_of_plain_ascii_are_those_of_every_script() -> None:
    everything = "".join(map(chr, range(128))) + " Word_1 it's x-ray " + "a" * 100
    assert index_terms(everything) == index_terms(everything + " é")[:-1]
    assert index_terms(everything)[-1] == "a" * 64


def test_terms_of_chinese_japanese_korean_are_characters_and_pairs() -> None:
    assert index_terms("东京塔") == ["东", "京", "塔", "东京", "京塔"]
    assert query_terms("东京塔") == ["东京", "京塔"]
    assert query_terms("塔") == ["塔"]
    assert "서울" in index_terms("서울특별시")
    assert query_terms("GPU加速") == ["gpu", "加速"]


def test_terms_keep_the_marks_that_are_letters_elsewhere() -> None:
    assert index_terms("हिन्दी भाषा") == ["हिन्दी", "भाषा"]


@pytest.mark.parametrize(
    "hostile", ['" OR 1 --', "a* NEAR(b)", "'; DROP TABLE items; --", "()&|!:"]
)
def test_query_syntax_is_only_text(engine: Engine, hostile: str) -> None:
    collection, _ = store(engine, "c", ["plain words"])
    found(engine, collection, hostile)
    assert query_terms("Robert'); DROP") == ["robert", "drop"]


def test_search_ranks_rare_words_first_and_stays_in_its_collection(engine: Engine) -> None:
    collection, keys = store(
        engine,
        "c",
        ["the owl sees at night"] + ["the mouse is at home"] * 5 + ["an owl and another owl"],
    )
    other, _ = store(engine, "other", ["owl owl owl"])
    assert found(engine, collection, "the owl")[0] in (keys[0], keys[6])
    assert set(found(engine, collection, "owl")) == {keys[0], keys[6]}
    assert found(engine, collection, "owl")[0] == keys[6]  # twice in a text of equal length
    assert len(found(engine, other, "owl")) == 1
    assert found(engine, collection, "zebra") == []
    assert found(engine, collection, "") == []


def test_search_finds_cjk_singly_and_in_pairs(engine: Engine) -> None:
    collection, keys = store(
        engine, "c", ["東京は日本の首都です。", "서울은 한국의 수도입니다.", "北京是中国的首都。"]
    )
    assert found(engine, collection, "首都")[0] in (keys[0], keys[2])
    assert set(found(engine, collection, "首都")) == {keys[0], keys[2]}
    assert found(engine, collection, "東") == [keys[0]]
    assert found(engine, collection, "한국의 수도") == [keys[1]]


def test_search_among_allowed_items_only(engine: Engine) -> None:
    collection, keys = store(engine, "c", ["owl one", "owl two", "owl three"])
    assert found(engine, collection, "owl", allowed=[keys[2]]) == [keys[2]]
    assert found(engine, collection, "owl", allowed=[]) == []


def test_the_commonest_terms_of_a_long_query_are_dropped(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "POSTINGS", 5)
    collection, keys = store(engine, "c", ["common rare"] + ["common"] * 6)
    assert found(engine, collection, "common rare") == [keys[0]]
    assert len(found(engine, collection, "common")) == 7  # alone it is all there is to go by


def test_a_deleted_document_is_not_found(engine: Engine) -> None:
    collection, keys = store(engine, "c", ["owl one", "owl two"])
    with db.writing(engine) as session:
        first = document_store.list_page(session, collection)[0][1]
        document_store.delete(session, collection, first.id)
    assert found(engine, collection, "owl") == [keys[1]]
    with db.reading(engine) as session:
        assert session.execute(text("SELECT count(*) FROM item_words")).scalar() == 1

"""Identity, revisions and tombstones, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import IntegrityError

from rag_owl import db
from rag_owl.errors import InvalidInput, NotFound
from rag_owl.rows import RevisionRow
from rag_owl.store import collections, documents, items, revisions, segments, words
from rag_owl.store.collections import Generation
from rag_owl.store.items import NewItem
from rag_owl.store.revisions import NewDocument
from rag_owl.types import TextLocation


class Shelf:
    """A collection with a live generation, and documents of one item each."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with db.writing(engine) as session:
            self.key = collections.get_or_create(session, "c").key
            wanted = Generation(0, 1, "e", 4, "p", 4)
            self.generation = collections.create_generation(session, self.key, wanted).key

    def put(self, origin: str, content: str, complete: bool = True, **facts: str) -> str:
        """What became of it: added, updated or unchanged."""
        new = NewDocument(origin, origin, origin, content, "text/plain", facts)
        with db.writing(self.engine) as session:
            known = revisions.find(session, self.key, content, origin, 1)
            if known is not None and known.complete:
                revisions.move(session, self.key, [new])
                return "unchanged"
            stored = known.items if known is not None else 0
            revision = (
                revisions.continue_revision(session, self.key, new, 1, stored)
                if stored
                else revisions.open_revision(session, self.key, new)
            )
            assert revision is not None
            item = NewItem("passage", content, "", TextLocation(0, len(content)))
            items.add(session, self.key, revision, 1, [item], stored)
            if complete:
                revisions.complete_revision(session, revision.key)
            return revision.outcome

    def searched(self) -> dict[str, str]:
        """name -> text of what can be found, by words and by vectors alike."""
        with db.reading(self.engine) as session:
            by_words = {key for key, _ in words.search(session, self.key, "one two three four", 50)}
            dead = set(segments.tombstones(session, self.generation, "text"))
            everything = set(items.load(session, range(1, 100)))
            found = items.load(session, sorted(by_words))
        assert everything - dead == by_words
        return {item.document_name: item.text or "" for item in found.values()}


@pytest.fixture
def shelf(engine: Engine) -> Shelf:
    return Shelf(engine)


def test_the_same_bytes_again_change_only_name_and_metadata(shelf: Shelf) -> None:
    assert shelf.put("a", "one") == "added"
    assert shelf.put("b", "one", year="1990") == "unchanged"
    with db.reading(shelf.engine) as session:
        ((_, document),) = documents.list_page(session, shelf.key)
    assert (document.name, document.revision, document.metadata) == ("b", 1, {"year": "1990"})
    assert shelf.searched() == {"b": "one"}


def test_other_bytes_from_the_same_origin_are_a_new_revision(shelf: Shelf) -> None:
    shelf.put("a", "one")
    with db.reading(shelf.engine) as session:
        old = items.load(session, [1])[1]
    assert shelf.put("a", "two") == "updated"
    assert shelf.searched() == {"a": "two"}
    with db.reading(shelf.engine) as session:
        ((_, document),) = documents.list_page(session, shelf.key)
        assert document.revision == 2
        assert items.get(session, shelf.key, old.id).text == "one"  # still citable


def test_going_back_to_older_bytes_is_a_revision_too(shelf: Shelf) -> None:
    for content in ("one", "two", "one"):
        shelf.put("a", content)
    with db.reading(shelf.engine) as session:
        ((_, document),) = documents.list_page(session, shelf.key)
    assert document.revision == 3
    assert shelf.searched() == {"a": "one"}


def test_bytes_that_move_to_a_known_origin_take_its_place(shelf: Shelf) -> None:
    shelf.put("a", "one")
    shelf.put("b", "two")
    assert shelf.put("b", "one") == "unchanged"  # the file a now lies at b; what b held is gone
    assert shelf.searched() == {"b": "one"}
    shelf.put("a", "two")
    assert shelf.searched() == {"a": "two", "b": "one"}


def test_rows_shifted_by_one_end_as_they_are_in_the_file(shelf: Shelf) -> None:
    for at, content in enumerate(["one", "two", "three"]):
        shelf.put(f"rows#{at}", content)
    for at, content in enumerate(["four", "one", "two", "three"]):
        shelf.put(f"rows#{at}", content)
    wanted = {"rows#0": "four", "rows#1": "one", "rows#2": "two", "rows#3": "three"}
    assert shelf.searched() == wanted


def test_a_first_revision_is_searched_while_it_grows_a_later_one_when_complete(
    shelf: Shelf,
) -> None:
    shelf.put("a", "one", complete=False)
    assert shelf.searched() == {"a": "one"}
    assert shelf.put("a", "one") == "added"  # goes on where it was, and completes
    shelf.put("a", "two", complete=False)
    assert shelf.searched() == {"a": "one"}
    with db.reading(shelf.engine) as session:
        one, two = (revisions.find(session, shelf.key, sha, "a", 1) for sha in ("one", "two"))
        assert one is not None
        assert one.complete
        assert two is not None
        assert (two.complete, two.items, two.document.origin) == (False, 1, "a")
        assert revisions.find(session, shelf.key, "three", "a", 1) is None
    shelf.put("a", "two")
    assert shelf.searched() == {"a": "two"}


def test_abandoning_takes_back_what_was_begun(shelf: Shelf) -> None:
    shelf.put("a", "one")
    shelf.put("a", "two", complete=False)
    shelf.put("b", "three", complete=False)
    with db.writing(shelf.engine) as session:
        revisions.abandon(session, shelf.key, "two")
        revisions.abandon(session, shelf.key, "three")
        revisions.abandon(session, shelf.key, "one")  # complete: stays
    assert shelf.searched() == {"a": "one"}
    with db.reading(shelf.engine) as session:
        assert len(documents.list_page(session, shelf.key)) == 1


def test_the_database_itself_refuses_a_second_current_copy(shelf: Shelf) -> None:
    shelf.put("a", "one")
    with db.reading(shelf.engine) as session:
        row = session.get_one(RevisionRow, 1)
        columns = {c.key: getattr(row, c.key) for c in inspect(RevisionRow).column_attrs}
    twin = RevisionRow(**{**columns, "key": None, "number": 2})
    with pytest.raises(IntegrityError), db.writing(shelf.engine) as session:
        session.add(twin)


def test_delete_leaves_nothing_to_find(shelf: Shelf) -> None:
    shelf.put("a", "one")
    shelf.put("a", "two")
    shelf.put("b", "three")
    with db.writing(shelf.engine) as session:
        (_, first), _ = documents.list_page(session, shelf.key)
        documents.delete(session, shelf.key, first.id)
        with pytest.raises(NotFound):
            documents.get(session, shelf.key, first.id)
        with pytest.raises(NotFound, match="no document"):
            documents.delete(session, shelf.key, first.id)
    assert shelf.searched() == {"b": "three"}
    assert shelf.put("a", "one") == "added"  # and it may come back
    assert shelf.searched() == {"a": "one", "b": "three"}


def test_a_document_is_not_found_through_another_collection(shelf: Shelf) -> None:
    shelf.put("a", "one")
    with db.writing(shelf.engine) as session:
        other = collections.get_or_create(session, "other").key
        ((_, document),) = documents.list_page(session, shelf.key)
        assert documents.list_page(session, other) == []
        for call in (documents.get, documents.delete):
            with pytest.raises(NotFound):
                call(session, other, document.id)
        with pytest.raises(NotFound):
            items.get(session, other, f"{document.id}.1.0")
        assert words.search(session, other, "one", 5) == []


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a/b", "ä", "x" * 64, "a\n"])
def test_a_collection_name_follows_the_rule(engine: Engine, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a collection"), db.writing(engine) as s:
        collections.get_or_create(s, name)


def test_an_unknown_collection_names_those_that_exist(shelf: Shelf) -> None:
    wanted = pytest.raises(NotFound, match="no collection 'flaps'; there are: c")
    with wanted, db.reading(shelf.engine) as session:
        collections.get(session, "flaps")

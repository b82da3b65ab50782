"""The words channel: SQLite's FTS5, or `tsvector` with BM25-like ranks on PostgreSQL.

Terms come from `rag_owl.terms`; they hold letters, marks and digits only, so they need no escaping
in either query language. Each begins with its collection's key: a search reads no posting of
another collection, and how common a term is there has no influence here. Only items of current
revisions are in the index.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Result, bindparam, select, text
from sqlalchemy.orm import Session

from rag_owl.rows import ItemRow
from rag_owl.terms import index_terms, query_terms

# How many postings one query may touch. Where a term stands nearly everywhere its BM25 is nearly
# nothing, but it costs most of the time: a long query loses its commonest terms first.
POSTINGS = 10_000
NEGLIGIBLE = 0.01  # of the best score


def add(session: Session, collection_key: int, items: Iterable[tuple[int, str]]) -> None:
    """Index (item key, text) pairs."""
    mark = _mark(collection_key)
    rows = [(key, [mark + term for term in index_terms(content)]) for key, content in items]
    if not rows:
        return
    if _is_sqlite(session):
        statement = "INSERT INTO item_words (rowid, words) VALUES (:key, :words)"
        written = [{"key": key, "words": " ".join(terms)} for key, terms in rows]
    else:
        statement = (
            "INSERT INTO item_words (item_key, words) VALUES (:key, CAST(:words AS tsvector))"
        )
        written = [{"key": key, "words": _tsvector(terms)} for key, terms in rows]
    session.execute(text(statement), written)


def add_revision(session: Session, collection_key: int, revision_key: int) -> None:
    """Index all items of a revision, from the database."""
    rows = session.execute(
        select(ItemRow.key, ItemRow.heading, ItemRow.text)
        .where(ItemRow.revision_key == revision_key)
        .execution_options(yield_per=1_000)
    )
    for part in rows.partitions():
        add(
            session,
            collection_key,
            ((key, f"{heading}\n{body or ''}") for key, heading, body in part),
        )


def remove(session: Session, revision_key: int) -> None:
    column = "rowid" if _is_sqlite(session) else "item_key"
    session.execute(
        text(
            f"DELETE FROM item_words WHERE {column} IN "
            "(SELECT key FROM items WHERE revision_key = :revision)"
        ),
        {"revision": revision_key},
    )


def search(
    session: Session,
    collection_key: int,
    query: str,
    limit: int,
    allowed: Container[int] | None = None,
    known_counts: dict[str, int] | None = None,
) -> list[tuple[int, float]]:
    """(item key, score) of the best matches, best first; any shared term matches.

    allowed: the only item keys that may be found, or None for all. known_counts: how common terms
    are, kept by the caller from query to query and filled here; it may be a little out of date.
    """
    mark = _mark(collection_key)
    counts = _count(session, [mark + term for term in query_terms(query)], known_counts)
    terms = _affordable(counts)
    if not terms:
        return []
    if _is_sqlite(session):
        ranked = _rank_sqlite(session, terms)
    else:
        ranked = _rank_postgresql(session, terms, counts)
    # Here and not in SQL: FTS5 would answer `rowid IN (…)` with one search for each of them.
    permitted: Iterator[Any] = (hit for hit in ranked if allowed is None or hit[0] in allowed)
    hits: list[tuple[int, float]] = [(key, float(score)) for key, score in islice(permitted, limit)]
    ranked.close()
    # What shares only words that stand everywhere is no match beside one that shares a rare word.
    return [hit for hit in hits if hit[1] >= NEGLIGIBLE * hits[0][1]]


def _count(session: Session, terms: Sequence[str], known: dict[str, int] | None) -> dict[str, int]:
    """How many items each term stands in; terms that stand in none are left out."""
    known = known if known is not None else {}
    unknown = [term for term in terms if term not in known]
    if unknown and _is_sqlite(session):
        counted = text("SELECT term, doc FROM item_words_terms WHERE term IN :terms").bindparams(
            bindparam("terms", expanding=True)
        )
        known.update(session.execute(counted, {"terms": unknown}).all())  # type: ignore[arg-type]
    elif unknown:
        # Counting stops where a term is too common anyway.
        counted = text(
            "SELECT count(*) FROM (SELECT 1 FROM item_words "
            "WHERE words @@ CAST(:term AS tsquery) LIMIT :most) AS matching"
        )
        for term in unknown:
            values = {"term": f"'{term}'", "most": POSTINGS + 1}
            if count := session.execute(counted, values).scalar_one():
                known[term] = count
    return {term: known[term] for term in terms if term in known}


def _affordable(counts: dict[str, int]) -> list[str]:
    """The rarest terms within `POSTINGS`, and always the rarest one."""
    chosen: list[str] = []
    spent = 0
    for term in sorted(counts, key=lambda term: counts[term]):
        spent += counts[term]
        if chosen and spent > POSTINGS:
            break
        chosen.append(term)
    return chosen


def _rank_sqlite(session: Session, terms: Sequence[str]) -> Result[Any]:
    # FTS5's bm25() is smaller for better matches.
    statement = (
        "SELECT rowid, -bm25(item_words) AS score FROM item_words "
        "WHERE item_words MATCH :match ORDER BY score DESC, rowid"
    )
    return session.execute(text(statement), {"match": " OR ".join(f'"{t}"' for t in terms)})


def _rank_postgresql(session: Session, terms: Sequence[str], counts: dict[str, int]) -> Result[Any]:
    total = session.execute(
        text("SELECT greatest(reltuples, 0) FROM pg_class WHERE relname = 'item_words'")
    ).scalar_one()
    # ts_rank of one term grows with its count in the text and saturates; 1: divided by 1 + log
    # of the length. Times the term's inverse document frequency this orders much as BM25 does.
    parts: list[str] = []
    values: dict[str, Any] = {}
    for at, term in enumerate(terms):
        parts.append(f"ts_rank('{{1,1,1,1}}', words, CAST(:t{at} AS tsquery), 1) * :w{at}")
        values[f"t{at}"] = f"'{term}'"
        n = max(float(total), counts[term])
        values[f"w{at}"] = math.log(1 + (n - counts[term] + 0.5) / (counts[term] + 0.5))
    values["any"] = " | ".join(f"'{term}'" for term in terms)
    statement = (
        f"SELECT item_key, {' + '.join(parts)} AS score FROM item_words "
        "WHERE words @@ CAST(:any AS tsquery) ORDER BY score DESC, item_key"
    )
    return session.execute(text(statement), values)


def _mark(collection_key: int) -> str:
    return f"c{collection_key}x"


def _tsvector(terms: Sequence[str]) -> str:
    """A tsvector literal; positions end at 16383 and at 256 a term, as PostgreSQL has it."""
    places: dict[str, list[str]] = {}
    for position, term in enumerate(terms, 1):
        kept = places.setdefault(term, [])
        if len(kept) < 256:
            kept.append(str(min(position, 16_383)))
    return " ".join(f"'{term}':{','.join(at)}" for term, at in places.items())


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"

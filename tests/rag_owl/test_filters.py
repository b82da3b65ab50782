"""Metadata filters mean the same on both databases, and the same as a plain reading of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import Engine

from rag_owl import db
from rag_owl.errors import InvalidFilter
from rag_owl.store import collections, filters, revisions
from rag_owl.store import items as item_store
from rag_owl.store.items import NewItem
from rag_owl.store.revisions import NewDocument
from rag_owl.types import TextLocation

ROWS: list[dict[str, Any]] = [
    {"year": 1990, "name": "a", "open": True},
    {"year": 1991.5, "name": "B", "open": False},
    {"year": "1990", "name": "ä"},
    {"name": None, 'odd key\'s "name" $.x': 1},
    {},
    {"year": -3, "name": "", "open": True, "nested": {"year": 1990}, "tags": ["a"]},
]


def expected(node: dict[str, Any], row: dict[str, Any]) -> bool:
    """The filter, read plainly."""
    if "and" in node:
        return all(expected(part, row) for part in node["and"])
    if "or" in node:
        return any(expected(part, row) for part in node["or"])
    if "not" in node:
        return not expected(node["not"], row)
    stored, operator, value = row.get(node["field"]), node["op"], node["value"]
    if operator == "exists":
        return (stored is not None) == value
    if operator == "in":
        return any(expected({**node, "op": "==", "value": v}, row) for v in value)
    if kind(stored) != kind(value):
        return False
    compare = {
        "==": stored == value, "!=": stored != value, "<": stored < value,
        "<=": stored <= value, ">": stored > value, ">=": stored >= value,
    }  # fmt: skip
    return bool(compare[operator])


def kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return {int: "number", float: "number", str: "text"}.get(type(value), "none")


DEEP: list[Any] = []
for _ in range(5_000):
    DEEP = [DEEP]


@pytest.fixture
def stored(engine: Engine) -> tuple[Engine, int, list[int]]:
    return store(engine, ROWS)


def store(engine: Engine, rows: list[dict[str, Any]]) -> tuple[Engine, int, list[int]]:
    keys = []
    with db.writing(engine) as session:
        target = collections.get_or_create(session, "c").key
        for at, row in enumerate(rows):
            new = NewDocument(f"o{at}", f"d{at}", "t", f"sha{at}", "text/plain", row)
            revision = revisions.open_revision(session, target, new)
            item = NewItem("passage", "x", "", TextLocation(0, 1))
            keys += item_store.add(session, target, revision, 1, [item], 0)
            revisions.complete_revision(session, revision.key)
    return engine, target, keys


def run(stored: tuple[Engine, int, list[int]], node: Any) -> list[int]:
    engine, target, keys = stored
    with db.reading(engine) as session:
        return [keys.index(key) for key in filters.item_keys(session, target, 1, node)]


def test_every_operator_on_every_kind_of_value(stored: tuple[Engine, int, list[int]]) -> None:
    values = [1990, 1991.5, "1990", "a", "ä", "", True, False]
    fields = ["year", "name", "open", "missing", 'odd key\'s "name" $.x', "nested", "tags"]
    leaves = [
        {"field": field, "op": operator, "value": value}
        for field, operator, value in itertools.product(
            fields, ["==", "!=", "<", "<=", ">", ">="], values
        )
    ]
    leaves += [{"field": f, "op": "exists", "value": v} for f in fields for v in (True, False)]
    leaves += [{"field": f, "op": "in", "value": [1990, "a", True]} for f in fields]
    nodes: list[dict[str, Any]] = [*leaves[:60], *({"not": leaf} for leaf in leaves[::5])]
    nodes += leaves[60:]
    nodes += [{"and": [leaves[0], leaves[-1]]}, {"or": [leaves[0], leaves[-1]]}]
    nodes += [{"and": []}, {"or": []}]
    for node in nodes:
        wanted = [at for at, row in enumerate(ROWS) if expected(node, row)]
        assert run(stored, node) == wanted, node


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"field": "year", "op": "~", "value": 1}, "unknown op"),
        ({"field": "year", "op": "==", "value": [1]}, "can compare with"),
        ({"field": "year", "op": "in", "value": 1}, "takes a list"),
        ({"field": "year", "op": "exists", "value": 1}, "takes true or false"),
        ({"field": 1, "op": "==", "value": 1}, "'field' \\(a text\\)"),
        ({"and": {"field": "x"}}, "expected a list"),
        ({"and": [], "or": []}, "expected one of"),
        ({"and": ["x"]}, r"filters.and\[0\]: expected an object"),
        ([], "expected an object"),
        ({1: [], "and": []}, "expected one of"),
        ({10**5000: []}, "expected one of"),
        ({"field": "year", "op": "==", "value": 1, 2: 3}, "alone"),
        ({"field": "year", "op": 10**5000, "value": 1}, "unknown op a int"),
        ({"field": "year", "op": "==", "value": DEEP}, "can compare with"),
        ({"field": "year", "op": "in", "value": [1, DEEP]}, "can compare with"),
        ({"field": "year", "op": "==", "value": float("nan")}, "a number must lie"),
        ({"field": "year", "op": "<", "value": float("inf")}, "a number must lie"),
        ({"field": "year", "op": "<", "value": 10**400}, "a number must lie"),
        ({"field": "year\0", "op": "==", "value": 1}, "holds a NUL"),
        ({"field": "name", "op": "==", "value": "\ud800"}, "lone surrogate"),
        ({"field": "name", "op": "in", "value": ["a", "\0"]}, "holds a NUL"),
        ({"or": [{"field": "a", "op": "==", "value": 1}] * 500}, "more than 500 conditions"),
        ({"and": [{"field": "a", "op": "in", "value": [1] * 9_000}] * 2}, "10,000 values"),
    ],
)
def test_a_bad_filter_says_where_and_what(
    stored: tuple[Engine, int, list[int]], node: Any, message: str
) -> None:
    with pytest.raises(InvalidFilter, match=message):
        run(stored, node)


def test_a_filter_nested_without_end_is_refused(stored: tuple[Engine, int, list[int]]) -> None:
    node: dict[str, Any] = {"field": "year", "op": "exists", "value": True}
    for _ in range(100):
        node = {"not": node}
    with pytest.raises(InvalidFilter, match="nested"):
        run(stored, node)


def test_numbers_of_any_size_compare_and_none_spoils_the_rest(engine: Engine) -> None:
    numbers = [10**400, 2**70, 2**63, 2**53 + 1, 2**53, 0.1, -(2**63), -(2**63) - 2**20]
    stored = store(engine, [{"size": number} for number in numbers] + [{"size": "no number"}])
    for number in numbers[1:]:
        for operator in ("==", "<", ">", "in"):
            value = [number, "x"] if operator == "in" else number
            node = {"field": "size", "op": operator, "value": value}
            plain = {
                "==": lambda n, number=number: n == number,
                "in": lambda n, number=number: n == number,
                "<": lambda n, number=number: n < number,
                ">": lambda n, number=number: n > number,
            }[operator]
            assert run(stored, node) == [at for at, n in enumerate(numbers) if plain(n)], node


def test_as_many_conditions_and_values_as_are_allowed(
    stored: tuple[Engine, int, list[int]],
) -> None:
    leaf = {"field": "year", "op": "==", "value": 1990}
    assert run(stored, {"and": [leaf] * 499}) == [0]
    assert run(stored, {"or": [leaf] * 499}) == [0]
    many = [*range(9_998), "1990", True]
    assert run(stored, {"field": "year", "op": "in", "value": many}) == [0, 2]
    assert run(stored, {"field": "year", "op": "in", "value": []}) == []

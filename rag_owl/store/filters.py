"""Metadata filters to exact SQL.

    {"and": [{"field": "year", "op": ">=", "value": 1990}, {"not": {…}}]}

`and`, `or`, `not`; ops `== != in < <= > >= exists`. A comparison holds between values of one kind
(numbers, texts, booleans); a missing or null field matches nothing but `exists: false`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Numeric,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    not_,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.orm import Session

from rag_owl.errors import InvalidFilter
from rag_owl.rows import ItemRow, RevisionRow
from rag_owl.store.names import is_storable

Value: TypeAlias = str | int | float | bool

_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
# A filter is a stranger's input, and SQLite reads expressions no more than 1,000 deep.
_DEEPEST, _MOST_CONDITIONS, _MOST_VALUES = 20, 500, 10_000


def item_keys(
    session: Session, collection_key: int, splitter: int, filters: Mapping[str, Any]
) -> list[int]:
    """Sorted keys of the current items whose document matches. Raises `InvalidFilter`."""
    matches = condition(session, filters)
    return list(
        session.scalars(
            select(ItemRow.key)
            .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
            .where(
                RevisionRow.collection_key == collection_key,
                RevisionRow.current,
                ItemRow.splitter == splitter,
                matches,
            )
            .order_by(ItemRow.key)
        )
    )


def condition(session: Session, filters: Mapping[str, Any] | None) -> ColumnElement[bool]:
    """Whether a `RevisionRow`'s metadata match; None or {}: always. Raises `InvalidFilter`."""
    if filters is None or filters == {}:
        return true()
    check(filters)
    return _compile(filters, session.get_bind().dialect.name)


# --- what a filter may be -------------------------------------------------------------------------


def check(filters: Any) -> None:
    """Raises `InvalidFilter` that says where and what; asks no database."""
    values = 0
    for conditions, found in enumerate(_values_of(filters, "filters", 0), 1):
        values += found
        if conditions > _MOST_CONDITIONS or values > _MOST_VALUES:
            raise InvalidFilter(
                f"filters: more than {_MOST_CONDITIONS} conditions or {_MOST_VALUES:,} values; "
                "ask for less at once"
            )


def _values_of(node: Any, where: str, depth: int) -> Iterator[int]:
    """Of every condition in turn, once it is known to be good, with how many values it compares."""
    if not isinstance(node, Mapping):
        raise InvalidFilter(f"{where}: expected an object, got {type(node).__name__}")
    if depth > _DEEPEST:
        raise InvalidFilter(f"{where}: nested more than {_DEEPEST} deep")
    if "field" in node:
        yield _check_leaf(node, where)
        return
    if len(node) != 1 or next(iter(node)) not in ("and", "or", "not"):
        raise InvalidFilter(
            f"{where}: expected one of 'and', 'or', 'not', or 'field' with 'op' and 'value'; "
            f"got {', '.join(map(_shown, node)) if len(node) < 9 else len(node)}"
        )
    yield 0
    name, below = next(iter(node.items()))
    if name == "not":
        yield from _values_of(below, f"{where}.not", depth + 1)
        return
    if not isinstance(below, list):
        raise InvalidFilter(f"{where}.{name}: expected a list of conditions")
    for at, part in enumerate(below):
        yield from _values_of(part, f"{where}.{name}[{at}]", depth + 1)


def _check_leaf(node: Mapping[str, Any], where: str) -> int:
    extra = set(node) - {"field", "op", "value"}
    field, operator, value = node.get("field"), node.get("op"), node.get("value")
    if extra or not isinstance(field, str):
        raise InvalidFilter(f"{where}: expected 'field' (a text), 'op' and 'value' alone")
    _check_text(field, where)
    if operator == "exists":
        if not isinstance(value, bool):
            raise InvalidFilter(f"{where}: 'exists' takes true or false, not a {_type(value)}")
        return 1
    if operator == "in":
        if not isinstance(value, list):
            raise InvalidFilter(f"{where}: 'in' takes a list of values, not a {_type(value)}")
        for each in value[: _MOST_VALUES + 1]:
            _check_value(each, where)
        return len(value)
    if operator not in _COMPARISONS:
        raise InvalidFilter(
            f"{where}: unknown op {_shown(operator)}; "
            f"use one of {', '.join(_COMPARISONS)}, in, exists"
        )
    _check_value(value, where)
    return 1


def _check_value(value: Any, where: str) -> None:
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, int | float):
        try:
            finite = math.isfinite(value)
        except OverflowError:  # an integer beyond every float
            finite = False
        if not finite:
            raise InvalidFilter(f"{where}: a number must lie between -1.8e308 and 1.8e308")
    else:
        raise InvalidFilter(
            f"{where}: can compare with a text, number or boolean, not with a {_type(value)}"
        )


def _check_text(value: str, where: str) -> None:
    if not is_storable(value):
        raise InvalidFilter(
            f"{where}: {_shown(value)} holds a NUL or a lone surrogate; leave it out"
        )


def _shown(value: Any) -> str:
    """A stranger's value, short: not everything that Python can hold can be written down."""
    return reprlib.repr(value) if isinstance(value, str) else f"a {_type(value)}"


def _type(value: Any) -> str:
    return type(value).__name__


# --- what it is in SQL ----------------------------------------------------------------------------


def _compile(node: Mapping[str, Any], dialect: str) -> ColumnElement[bool]:
    """Of a filter that was checked."""
    if "and" in node:
        return and_(true(), *(_compile(part, dialect) for part in node["and"]))
    if "or" in node:
        return or_(false(), *(_compile(part, dialect) for part in node["or"]))
    if "not" in node:
        return not_(_compile(node["not"], dialect))
    field, operator, value = node["field"], node["op"], node["value"]
    if operator == "exists":
        exists = _holds(dialect, field, None, [])
        return exists if value else not_(exists)
    return _holds(dialect, field, operator, value if operator == "in" else [value])


def _holds(
    dialect: str, field: str, operator: str | None, values: list[Value]
) -> ColumnElement[bool]:
    """Whether the document has the field and, with an operator, its value compares so."""
    if dialect == "sqlite":
        # json_each instead of a JSON path: any field name is plain data here.
        each = func.json_each(RevisionRow.properties).table_valued("key", "type", "atom")
        kind: ColumnElement[Any] = each.c.type
        plain: ColumnElement[Any] = each.c.atom
        kinds = {"number": ("integer", "real"), "text": ("text",), "boolean": ("true", "false")}
        typed: dict[str, ColumnElement[Any]] = dict.fromkeys(kinds, plain)
    else:
        each = func.jsonb_each(RevisionRow.properties).table_valued("key", "value")
        kind, plain = func.jsonb_typeof(each.c.value), each.c.value.op("#>>")(text("'{}'"))
        kinds = {"number": ("number",), "text": ("string",), "boolean": ("boolean",)}
        typed = {
            # CASE, because AND does not keep a cast from seeing a text that is no number. Numeric,
            # because a float's cast fails at a number beyond floats, for whatever is compared.
            "number": case((kind == "number", cast(plain, Numeric))),
            "text": cast(plain, Text).collate("C"),  # by code point, as SQLite compares
            "boolean": plain,
        }
    condition = and_(each.c.key == field, kind != "null")
    if operator is not None:
        bound: dict[str, list[Any]] = {}
        for value in values:
            bound.setdefault(_kind(value), []).append(_bind(dialect, value))
        compared = (
            and_(kind.in_(kinds[name]), _compare(typed[name], operator, group))
            for name, group in bound.items()
        )
        condition = and_(condition, or_(false(), *compared))
    return select(1).select_from(each).where(condition).exists()


def _compare(column: ColumnElement[Any], operator: str, values: list[Any]) -> ColumnElement[bool]:
    if operator == "in":
        return column.in_(values)
    compared: dict[str, ColumnElement[bool]] = {
        "==": column == values[0],
        "!=": column != values[0],
        "<": column < values[0],
        "<=": column <= values[0],
        ">": column > values[0],
        ">=": column >= values[0],
    }
    return compared[operator]


def _kind(value: Value) -> str:
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _bind(dialect: str, value: Value) -> Any:
    """The value as the database compares it: with what it makes of the same value in JSON."""
    if isinstance(value, bool):
        return int(value) if dialect == "sqlite" else "true" if value else "false"
    if isinstance(value, str):
        return value
    if dialect == "sqlite":
        return value if isinstance(value, float) or -(2**63) <= value < 2**63 else float(value)
    return Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)

"""Metadata filters to exact SQL.

    {"and": [{"field": "year", "op": ">=", "value": 1990}, {"not": {…}}]}

`and`, `or`, `not`; ops `== != in < <= > >= exists`. A comparison holds between values of one kind
(numbers, texts, booleans); a missing or null field matches nothing but `exists: false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
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
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION
from sqlalchemy.orm import Session

from rag_owl.db import ItemRow, RevisionRow
from rag_owl.errors import InvalidFilter

_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_DEEPEST, _WIDEST = 20, 1_000  # a filter is a stranger's input


def item_keys(
    session: Session, collection_key: int, splitter: int, filters: Mapping[str, Any]
) -> list[int]:
    """Sorted keys of the current items whose document matches. Raises `InvalidFilter`."""
    matches = _compile(filters, session.get_bind().dialect.name, "filters", 0)
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


def _compile(node: Any, dialect: str, where: str, depth: int) -> ColumnElement[bool]:
    if not isinstance(node, Mapping):
        raise InvalidFilter(f"{where}: expected an object, got {type(node).__name__}")
    if depth > _DEEPEST:
        raise InvalidFilter(f"{where}: nested more than {_DEEPEST} deep")
    if "field" in node:
        return _leaf(node, dialect, where)
    if len(node) != 1 or next(iter(node)) not in ("and", "or", "not"):
        raise InvalidFilter(
            f"{where}: expected one of 'and', 'or', 'not', or 'field' with 'op' and 'value'; "
            f"got {sorted(map(str, node))}"
        )
    name, below = next(iter(node.items()))
    if name == "not":
        return not_(_compile(below, dialect, f"{where}.not", depth + 1))
    if not isinstance(below, list) or len(below) > _WIDEST:
        raise InvalidFilter(f"{where}.{name}: expected a list of at most {_WIDEST} conditions")
    parts = [
        _compile(part, dialect, f"{where}.{name}[{at}]", depth + 1) for at, part in enumerate(below)
    ]
    return and_(true(), *parts) if name == "and" else or_(false(), *parts)


def _leaf(node: Mapping[str, Any], dialect: str, where: str) -> ColumnElement[bool]:
    extra = set(node) - {"field", "op", "value"}
    field, operator, value = node.get("field"), node.get("op"), node.get("value")
    if extra or not isinstance(field, str):
        raise InvalidFilter(f"{where}: expected 'field' (a text), 'op' and 'value' alone")
    if operator == "exists":
        if not isinstance(value, bool):
            raise InvalidFilter(f"{where}: 'exists' takes true or false, got {value!r}")
        exists = _holds(dialect, field, None)
        return exists if value else not_(exists)
    if operator == "in":
        if not isinstance(value, list) or len(value) > _WIDEST:
            raise InvalidFilter(f"{where}: 'in' takes a list of at most {_WIDEST} values")
        return or_(false(), *(_holds(dialect, field, ("==", _plain(v, where))) for v in value))
    if operator not in _COMPARISONS:
        raise InvalidFilter(
            f"{where}: unknown op {operator!r}; use one of {', '.join(_COMPARISONS)}, in, exists"
        )
    return _holds(dialect, field, (operator, _plain(value, where)))


def _plain(value: Any, where: str) -> str | float | bool:
    if isinstance(value, str | int | float | bool):
        return value
    raise InvalidFilter(f"{where}: can compare with a text, number or boolean, not {value!r}")


def _holds(
    dialect: str, field: str, comparison: tuple[str, str | float | bool] | None
) -> ColumnElement[bool]:
    """Whether the document has the field and, with a comparison, its value compares so."""
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
            # CASE, because AND does not keep a cast from seeing a text that is no number
            "number": case((kind == "number", cast(plain, DOUBLE_PRECISION))),
            "text": cast(plain, Text).collate("C"),  # by code point, as SQLite compares
            "boolean": plain,
        }
    condition = and_(each.c.key == field, kind != "null")
    if comparison is not None:
        operator, value = comparison
        name = (
            "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        )
        bound: Any = value
        if name == "boolean":
            bound = int(value) if dialect == "sqlite" else "true" if value else "false"
        column = typed[name]
        compared = {
            "==": column == bound,
            "!=": column != bound,
            "<": column < bound,
            "<=": column <= bound,
            ">": column > bound,
            ">=": column >= bound,
        }[operator]
        condition = and_(condition, kind.in_(kinds[name]), compared)
    return select(1).select_from(each).where(condition).exists()

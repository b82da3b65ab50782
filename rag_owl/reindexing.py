"""Beginning a reindex: what may be asked for, and as which job. `indexer/reindex.py` works it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from sqlalchemy.orm import Session

from rag_owl.errors import Conflict, InvalidInput
from rag_owl.store import collections, generations, jobs, names

Action: TypeAlias = Literal["build", "switch", "rollback", "drop"]
IndexType: TypeAlias = Literal["auto", "flat", "hnsw", "ivf"]

VectorEngine: TypeAlias = Literal["faiss", "milvus"]

ACTIONS: tuple[Action, ...] = get_args(Action)
INDEX_TYPES: tuple[IndexType, ...] = get_args(IndexType)
VECTOR_ENGINES: tuple[VectorEngine, ...] = get_args(VectorEngine)


def begin(
    session: Session,
    collection: str,
    action: str = "build",
    *,
    text_embedder: str | None = None,
    picture_embedder: str | None = None,
    index_type: str | None = None,
    vector_engine: str | None = None,
    answerer: str | None = None,
    hold: bool = False,
    key_id: str | None = None,
) -> str:
    """The id of the job that does it: of the one that does just this already, or of a new one.

    Raises `NotFound`, `InvalidInput`, and `Conflict` where the collection is reindexed otherwise
    at the moment or has nothing to switch to, to go back to or to drop.
    """
    chosen = {
        "text_embedder": text_embedder,
        "picture_embedder": picture_embedder,
        "index_type": index_type,
        "vector_engine": vector_engine,
        "answerer": answerer,
    }
    _check(action, chosen, hold)
    key = collections.get(session, collection).key
    generations.lock(session, key)
    parameters: dict[str, Any] = {"action": action}
    if action == "build":
        parameters |= {name: value for name, value in chosen.items() if value is not None}
        parameters |= {"hold": True} if hold else {}
    elif action == "drop":
        there = generations.of_state(session, key, "building", "ready", "kept")
        if not there:
            raise Conflict(f"{collection} has no generation but the live one: nothing to drop")
        parameters["generations"] = [each.key for each in there]
    else:
        parameters["generation"] = _target(session, collection, key, action)
    for job_id, theirs in generations.reindexes(session, key):
        # Who waits for it decides about the switch afterwards.
        if {**theirs, "hold": None} == {**parameters, "hold": None}:
            return job_id
        else:
            raise Conflict(
                f"{collection} is being reindexed by job {job_id}; wait for it, or stop it with "
                f"`rag-owl jobs {job_id} --cancel`"
            )
    return jobs.create(session, key, "reindex", parameters, key_id)[0]


def _target(session: Session, collection: str, key: int, action: str) -> int:
    state: generations.State = "ready" if action == "switch" else "kept"
    # An interrupted one may have switched already: then this joins its job.
    for _, theirs in generations.reindexes(session, key):
        if theirs.get("action") == action:
            return int(theirs["generation"])
    there = generations.of_state(session, key, state)
    if there:
        return there[0].key
    if action == "switch":
        raise Conflict(
            f"{collection} has no finished generation to switch to; "
            f"`rag-owl reindex {collection} --hold` with what is to change builds one"
        )
    raise Conflict(f"{collection} has no earlier generation to go back to")


def _check(action: str, chosen: dict[str, str | None], hold: bool) -> None:
    if action not in ACTIONS:
        raise InvalidInput(f"{action!r} is no action; use {', '.join(ACTIONS)}", "action")
    for name, value in chosen.items():
        if value is None:
            continue
        if action != "build":
            raise InvalidInput(f"{name} goes with building alone, not with {action}", name)
        if not isinstance(value, str) or not value.strip() or not names.is_storable(value):
            raise InvalidInput(f"{name}: {value!r} is no name", name)
    if hold and action != "build":
        raise InvalidInput(f"hold goes with building alone, not with {action}", "hold")
    index_type = chosen["index_type"]
    if index_type is not None and index_type not in INDEX_TYPES:
        raise InvalidInput(
            f"{index_type!r} is no index type; use {', '.join(INDEX_TYPES)}", "index_type"
        )
    vector_engine = chosen["vector_engine"]
    if vector_engine is not None and vector_engine not in VECTOR_ENGINES:
        raise InvalidInput(
            f"{vector_engine!r} is no vector engine; use {', '.join(VECTOR_ENGINES)}",
            "vector_engine",
        )

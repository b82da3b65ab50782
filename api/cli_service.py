"""`rag-owl serve`, `mcp`, `worker`, `migrate` and `keys`."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rag_owl.api.options import AsJson, Data, print_json
from rag_owl.errors import InvalidInput

out = Console(soft_wrap=True)


keys = typer.Typer(
    help="Keys of the HTTP service.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_UNITS = {"m": 60, "h": 3_600, "d": 86_400, "y": 365 * 86_400}


def serve(
    host: Annotated[
        str | None, typer.Option("--host", help="Where to listen.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="0: any that is free.", show_default="8000")
    ] = None,
    data: Data = None,
) -> None:
    """Serve the data folder over HTTP. Any address but loopback needs a key first."""
    from rag_owl.api.serve import serve as run
    from rag_owl.settings import read_settings

    run(read_settings(data=data, host=host, port=port))


def mcp(data: Data = None) -> None:
    """Serve the collections as tools to an assistant that starts this command (MCP over stdio)."""
    from rag_owl.api.mcp import serve_stdio
    from rag_owl.settings import read_settings

    serve_stdio(read_settings(data=data))


def worker(
    data: Data = None,
    until_closed: Annotated[
        bool, typer.Option("--until-closed", help="End when standard input is closed.")
    ] = False,
) -> None:
    """Work the data folder's jobs, beside a service or other processes."""
    from rag_owl.api.worker import work

    work(data, until_closed)


def migrate(
    data: Data = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for a database that starts.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Bring the database to this version's schema, before services and workers start.

    An SQLite database is copied first. Opening a data folder does the same; on several machines
    one alone should.
    """
    from rag_owl.client import RagOwl
    from rag_owl.rows import SCHEMA

    before, now = _schema_before(data, wait), SCHEMA
    with RagOwl.open(data, work_jobs=False) as owl:
        if owl.engine.dialect.name == "postgresql":
            from rag_owl.job_queue import prepare_queue

            prepare_queue(owl.engine)
    if as_json:
        print_json({"before": before, "schema": now})
    elif before == now:
        out.print(f"The database has schema {now}; nothing to do.", highlight=False)
    else:
        out.print(f"The database has schema {now} now (before: {before or 'none'}).")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="ask, ingest or admin; may be repeated.")
    ] = None,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", help="May see only this; may be repeated.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", help="After so long, as in 90d, 12h or 1y.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once. Without --scope it may ask."""
    from rag_owl import db
    from rag_owl.client import RagOwl
    from rag_owl.store import keys as store

    until = None if expires is None else time.time() + _seconds(expires)
    with RagOwl.open(data, work_jobs=False) as owl, db.writing(owl.engine) as session:
        key, secret = store.create(session, name, scope or ["ask"], collection or None, until)
    if as_json:
        print_json({**asdict(key), "key": secret})
    else:
        typer.echo(secret)
        Console(stderr=True).print(
            f"Key {key.id} for {escape(key.name)}. It is shown this once; keep it safe.",
            highlight=False,
        )


@keys.command("list")
def list_keys(data: Data = None, as_json: AsJson = False) -> None:
    """List the keys. What opens the door is not among it."""
    from rag_owl import db
    from rag_owl.api import show
    from rag_owl.client import RagOwl
    from rag_owl.store import keys as store

    with RagOwl.open(data, work_jobs=False) as owl, db.reading(owl.engine) as session:
        found = store.list_all(session)
    if as_json:
        print_json([asdict(key) for key in found])
        return
    if not found:
        out.print("There are none yet. `rag-owl keys create NAME` makes one.")
    for key in found:
        state = "" if key.works else "[red]revoked[/] " if key.revoked_at else "[red]expired[/] "
        only = "all collections" if key.collections is None else ", ".join(key.collections)
        used = "never used" if key.last_used_at is None else f"used {_day(key.last_used_at)}"
        until = "" if key.expires_at is None else f", until {_day(key.expires_at)}"
        out.print(
            f"{state}[bold]{key.id}[/]  {escape(show.one_line(key.name))}  "
            f"{'+'.join(key.scopes)}  {escape(only)}  {used}{until}",
            highlight=False,
        )


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id, as `list` shows it.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """From now on the key opens nothing."""
    from rag_owl import db
    from rag_owl.client import RagOwl
    from rag_owl.store import keys as store

    with RagOwl.open(data, work_jobs=False) as owl, db.writing(owl.engine) as session:
        revoked = store.revoke(session, key)
    if as_json:
        print_json(asdict(revoked))
    else:
        out.print(f"{revoked.id} opens nothing any more.", highlight=False)


def _schema_before(data: Path | None, wait: float) -> str | None:
    """The schema of a database that may be starting just now."""
    from rag_owl import db
    from rag_owl.errors import DatabaseUnavailable
    from rag_owl.schema import stored_schema
    from rag_owl.settings import read_settings

    settings = read_settings(data=data)
    if settings.database_url is None and not (settings.data / "rag_owl.db").is_file():
        return None  # looking would make it
    engine = db.connect(settings.database)
    until = time.monotonic() + wait
    try:
        while True:
            try:
                return stored_schema(engine)
            except DatabaseUnavailable:
                if time.monotonic() > until:
                    raise
            time.sleep(1)
    finally:
        engine.dispose()


def _seconds(given: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([mhdy])", given)
    if found is None or not int(found[1]):
        raise InvalidInput(f"--expires {given!r}: give a number with m, h, d or y, as in 90d")
    return float(int(found[1]) * _UNITS[found[2]])


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d")

"""`rag-owl model …`: which models there are, whether a checkpoint computes what it should, how
fast models are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from rag_owl.api.options import AsJson

if TYPE_CHECKING:
    from rag_owl.ports import Answerer, BlobStore

    Loader: TypeAlias = Callable[[Path, BlobStore], Answerer]

app = typer.Typer(help="Answering models.", no_args_is_help=True)


@app.command("list")
def list_models(
    under: Annotated[
        list[Path] | None, typer.Option("--under", help="A folder with trained models.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The models to choose from: bundled ones, servers, trained ones, families of checkpoints."""
    from rag_owl.model.check import HUB_IDS, NAMES
    from rag_owl.model.registry import names
    from rag_owl.settings import read_settings

    servers = sorted(read_settings().remote_models)
    if as_json:
        families = {family: {"name": NAMES[family], "hub": HUB_IDS[family]} for family in NAMES}
        found = {"bundled": names(), "servers": servers, "families": families}
        found["trained"] = dict(_trained(under or []))
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name in [*names(), *servers]:
        typer.echo(name)
    for folder, card in _trained(under or []):
        loss = card.get("held_back_loss")
        measured = "" if loss is None else f", held-back loss {loss:.3f}"
        typer.echo(
            f"{folder}: recipe {card['recipe']} on {card['examples']} examples of {card['base']}, "
            f"{card['steps']} steps{measured}"
        )
    typer.echo("A checkpoint's folder or hub id, as of")
    for family, ids in HUB_IDS.items():
        typer.echo(f"  {NAMES[family]}: {', '.join(ids)}")


def _trained(folders: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Results of `rag-owl train run` below these folders, with their cards."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("card.json")):
            try:
                card = json.loads(path.read_text(encoding="utf-8"))
                wanted = {"recipe", "examples", "base", "steps"}
            except (OSError, ValueError):
                continue
            if isinstance(card, dict) and wanted <= card.keys():
                found.append((str(path.parent), card))
    return found


@app.command()
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names, folders or hub ids; the first is what others are held against."
        ),
    ] = None,
    random: Annotated[
        str | None,
        typer.Option(help="All families with random weights too: `tiny`, or `published` sizes."),
    ] = None,
    pictures: Annotated[
        str, typer.Option(help="How many pictures the prompt shows, with commas.")
    ] = "1,8,32",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens that are generated.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is done.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time to the first token, time per token and memory, side by side, on this machine.

    The baseline of each row is the same question with no picture remembered. Nothing is written
    to the data folder.
    """
    from dataclasses import asdict

    from rag_owl.errors import InvalidInput
    from rag_owl.model import bench as benchmark
    from rag_owl.models import Models
    from rag_owl.settings import read_settings

    counts = [part.strip() for part in pictures.split(",")]
    if not all(part.isdecimal() and len(part) < 5 for part in counts):
        raise InvalidInput(f"--pictures {pictures}: numbers with commas, as in 1,8,32.")
    if not models and random is None:
        raise InvalidInput("name models, or give --random tiny; `rag-owl model list` says which.")
    settings = read_settings()

    def named(name: str) -> Loader:
        return lambda folder, blobs: Models(settings, blobs, folder).answerer(name)

    loaders: list[tuple[str, Loader]] = [(name, named(name)) for name in models or []]
    if random is not None:
        how = {"device": settings.device, "dtype": settings.dtype}
        loaders += [
            (f"{family} ({random})", benchmark.random_loader(family, random, **how))
            for family in benchmark.RANDOM
        ]
    measured = benchmark.measure(
        loaders,
        sorted({int(part) for part in counts}),
        tokens,
        repeats,
        lambda line: typer.echo(line, err=True),
    )
    if plot is not None:
        benchmark.plot(measured, plot)
    if as_json:
        sys.stdout.write(json.dumps(asdict(measured), indent=2) + "\n")
    else:
        typer.echo(benchmark.table(measured))


@app.command()
def check(
    folder: Annotated[
        Path,
        typer.Argument(help="A checkpoint folder of mPLUG-Owl3, mPLUG-Owl, Ovis 1.6 or Qwen2-VL."),
    ],
    tolerance: Annotated[
        float | None, typer.Option(help="Largest absolute difference that passes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load a checkpoint; where expected values lie beside it, compare every one of them."""
    from dataclasses import asdict

    from rag_owl.model.check import check_folder

    report = check_folder(folder, tolerance=tolerance)
    if as_json:
        sys.stdout.write(json.dumps({**asdict(report), "ok": report.ok}, indent=2) + "\n")
    else:
        for line in report.lines():
            typer.echo(line)
    if not report.ok:
        raise typer.Exit(1)

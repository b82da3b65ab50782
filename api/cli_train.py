"""`rag-owl train …`: examples from one's own collection, and recipes that learn from them."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rag_owl.api.options import AsJson, Data
from rag_owl.errors import InvalidInput

app = typer.Typer(help="Train local models on one's own collections.", no_args_is_help=True)
err = Console(stderr=True, soft_wrap=True)
_NEEDED = ("accelerate", "peft", "matplotlib", "tqdm")


@app.command("make-data")
def make_data(
    collection: Annotated[str, typer.Argument(help="The collection's name.")],
    questions: Annotated[Path, typer.Option("--questions", help="Questions with answers, JSONL.")],
    out: Annotated[Path, typer.Option("--out", help="A folder for the examples.")],
    images: Annotated[
        Path | None, typer.Option("--images", help="The folder of the questions' pictures.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Items per example.")] = 5,
    missing: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of examples whose answer is taken out."),
    ] = 0.15,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Turn a collection's questions into examples; look at preview.html before training."""
    from rich.progress import Progress

    from rag_owl.api import train_data
    from rag_owl.client import RagOwl
    from rag_owl.evaluation.dataset import load

    dataset = load(questions, images)
    with RagOwl.open(data) as owl, Progress(console=err, transient=True) as bar:
        task = bar.add_task("examples", total=len(dataset.questions))
        made = train_data.make(
            owl, collection, dataset, out, k=k, missing=missing,
            on_progress=lambda done: bar.update(task, completed=done),
        )  # fmt: skip
    if as_json:
        sys.stdout.write(json.dumps(made) + "\n")
        return
    typer.echo(f"{made['examples']} examples in {out}: {made['kinds']}")
    typer.echo(f"Look at {out / 'preview.html'}, then: rag-owl train run RECIPE --examples {out}")


@app.command("recipes")
def recipes(as_json: AsJson = False) -> None:
    """The recipes and their stages."""
    from rag_owl.model.train.recipes import RECIPES

    about = {r.name: [r.about, [s.name for s in r.stages]] for r in RECIPES.values()}
    about["nano"] = ["the bundled owl-nano, further on one's own questions", ["nano"]]
    if as_json:
        sys.stdout.write(json.dumps({k: {"about": a, "stages": s} for k, (a, s) in about.items()}))
        sys.stdout.write("\n")
        return
    for name, (text, stages) in about.items():
        numbered = ", ".join(f"{i} {stage}" for i, stage in enumerate(stages, 1))
        typer.echo(f"{name}: {text} (stages: {numbered})")


@app.command("run")
def run(
    recipe: Annotated[str, typer.Argument(help="One of `rag-owl train recipes`.")],
    examples: Annotated[Path, typer.Option("--examples", help="A folder of make-data.")],
    out: Annotated[Path, typer.Option("--out", help="A folder for checkpoints and the result.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Folder or hub id; owl-nano needs none.")
    ] = None,
    stage: Annotated[int, typer.Option(min=1, help="The stage of the recipe.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of epochs.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0.01, help="How often all are seen.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples per step and device.")] = 4,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches per step.")] = 1,
    rate: Annotated[float | None, typer.Option(help="Instead of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="nano: end by then.")] = None,
    held_back: Annotated[float, typer.Option(min=0, max=0.9, help="For evaluation.")] = 0.1,
    evaluate_every: Annotated[int, typer.Option(min=0, help="Steps; 0: at the end.")] = 0,
    ask: Annotated[
        int, typer.Option(min=0, help="Held-back examples that are asked then; 0: the loss alone.")
    ] = 32,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …")] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory, more time.")
    ] = False,
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: each process holds a part.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run one stage; stopped at any moment, the same command goes on where it was."""
    gone = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if gone:
        raise InvalidInput(f"training needs {', '.join(gone)}: pip install 'rag-owl[train]'")
    began = time.time()
    if recipe == "nano":
        others = {
            "--model": model not in (None, "owl-nano"), "--stage": stage != 1, "--steps": steps,
            "--batch": batch != 4, "--accumulate": accumulate != 1,
            "--evaluate-every": evaluate_every, "--save-every": save_every != 50,
            "--dtype": dtype, "--device": device not in (None, "cpu"),
            "--checkpointing": checkpointing, "--ask": ask != 32, "--shard": shard,
        }  # fmt: skip
        if given := [name for name, said in others.items() if said]:
            raise InvalidInput(f"recipe nano has no {', '.join(given)}: leave it out")
        if epochs is not None and epochs < 1:
            raise InvalidInput("recipe nano sees every example at least once: --epochs 1 or more")
        from rag_owl.model.train.nano import further

        result = further.run(
            examples,
            out,
            epochs=int(epochs or 3),
            rate=rate or further.RATE,
            held_back=held_back,
            minutes=minutes,
        )
    else:
        from rag_owl.model.train.recipes import recipe as named
        from rag_owl.model.train.run import Plan, run_stage

        chosen = named(recipe)
        if model is None:
            raise InvalidInput(f"recipe {recipe} needs --model, the checkpoint to start from")
        plan = Plan(
            epochs=epochs or 1.0, steps=steps, batch=batch, accumulate=accumulate, rate=rate,
            held_back=held_back, evaluate_every=evaluate_every, save_every=save_every,
            dtype=dtype, device=device, checkpointing=checkpointing, asked=ask,
            shard=shard,
        )  # fmt: skip
        result = run_stage(chosen, stage, model, examples, out, plan)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes says it
    if (result / "card.json").stat().st_mtime < began:
        err.print("This run had ended before: nothing was run. Another --out begins anew.")
    card = json.loads((result / "card.json").read_text(encoding="utf-8"))
    if as_json:
        sys.stdout.write(json.dumps({"model": str(result), **card}) + "\n")
        return
    typer.echo(f"{result}\nAsk it: rag-owl ask COLLECTION QUESTION --model {result}")

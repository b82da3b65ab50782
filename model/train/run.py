"""One stage of a recipe: transformers' Trainer over a folder of examples, resumed where it was.

OUT/STAGE/ holds checkpoints of what learns (and the optimizer), `log.jsonl`, `loss.png`, and at the
end `model/` or, of LoRA, `adapter/`, which `--model` accepts; `card.json` says what was done.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from rag_owl.errors import InvalidInput
from rag_owl.model import placement
from rag_owl.model.registry import called
from rag_owl.model.train import adapters
from rag_owl.model.train.examples import Example, Pictures, drawn, read_examples, split
from rag_owl.model.train.figures import KEPT, figures
from rag_owl.model.train.learner import (
    Learner,
    Local,
    Row,
    answerer_of,
    collate,
    load_local,
    row_of,
)
from rag_owl.model.train.origin import begin, check, digest_of, name_of
from rag_owl.model.train.recipes import Recipe, Stage
from rag_owl.model.train.sharding import (
    optimizer_state,
    put,
    put_optimizer_state,
    read_state,
    shard,
    whole,
)

LEARNT = "learnt.safetensors"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how wide; what is learnt is the recipe's."""

    epochs: float = 1.0
    steps: int | None = None  # instead of epochs
    batch: int = 4
    accumulate: int = 1
    save_every: int = 50  # steps
    log_every: int = 10
    evaluate_every: int = 0  # steps; 0: at the end alone
    held_back: float = 0.1  # share of the examples
    longest: int = 2048  # positions of one row
    dtype: str | None = None
    device: str | None = None
    seed: int = 0
    rate: float | None = None  # instead of the recipe's
    checkpointing: bool = False  # of activations
    keep_features: bool = True  # what frozen eyes see is stored
    asked: int = 32  # held-back examples that are asked where it is evaluated; 0: only the loss
    shard: bool = False  # the weights parted over all processes; then only the loss is measured

    @property
    def fate(self) -> dict[str, Any]:
        """What the result depends on."""
        free = ("save_every", "log_every", "evaluate_every", "device", "checkpointing", "asked")
        fate = {k: v for k, v in asdict(self).items() if k not in (*free, "keep_features", "shard")}
        return fate | ({"shard": True} if self.shard else {})  # its checkpoints are of another kind


class Rows(Dataset[Row]):
    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


def run_stage(recipe: Recipe, number: int, model: str, data: Path, out: Path, plan: Plan) -> Path:
    """-> the folder of the result. `number` from 1. A stage that ended is not run again.

    Raises ModelNotFound, InvalidCheckpoint; InvalidInput: a recipe of another family, examples
    that cannot be read.
    """
    stage = recipe.stage(number)
    folder = out / f"{number}-{stage.name}"
    result = folder / ("adapter" if stage.low_rank else "model")
    about = {"examples": digest_of(data), "base": _base(model), "recipe": recipe.name, **plan.fate}
    check(folder, about)
    if (result / "card.json").is_file():
        return result
    device = placement.device_of(plan.device or "auto")
    arguments = _arguments(stage, plan, folder, device)
    device = arguments.device  # of several processes each has its own
    # Frozen weights may be narrow; what learns in bf16 alone would lose small steps.
    local = load_local(model, plan.dtype or "float32", "cpu" if plan.shard else str(device))
    if local.family not in recipe.families:
        raise InvalidInput(
            f"{model} is of the family {local.family}; recipe {recipe.name} is for "
            f"{', '.join(recipe.families)}"
        )
    examples, held_back = split(read_examples(data), plan.held_back)
    longest = min(plan.longest, _positions(local))
    rows = [row_of(local, example, longest) for example in examples]
    if not rows:
        raise InvalidInput(f"{data}: all examples are held back; give more, or a smaller share")
    begin(folder, about)
    set_seed(plan.seed)  # LoRA's own beginning is random
    kept = data / "features" if plan.keep_features else None
    learner = Learner(local, Pictures(data), kept)
    choose(local.model, stage)
    if plan.shard:
        shard(learner, device)
    trainer = _Trainer(
        model=learner,
        args=arguments,
        train_dataset=Rows(rows),
        eval_dataset=Rows([row_of(local, e, longest) for e in held_back]) if held_back else None,
        data_collator=collate,
        callbacks=[_Log(folder / "log.jsonl"), _Temperature(stage)],
    )
    arguments.save_only_model = False
    asked = [] if plan.shard else drawn(held_back, plan.asked)
    trainer.figures = partial(_figures, local, Pictures(data), asked)
    began = time.time()
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    found: dict[str, Any] = {}
    if held_back:
        measured = trainer.evaluate()
        found["held_back_loss"] = measured["eval_loss"]
        found["held_back_asked"] = len(asked)
        found["figures"] = {
            name: measured[f"eval_{name}"] for name in KEPT if f"eval_{name}" in measured
        }
    learnt = trainer.learnt()
    if trainer.is_world_process_zero():
        plot(folder / "log.jsonl", folder / "loss.png")
        digest = hashlib.sha256()
        for name in sorted(learnt):
            digest.update(name.encode())
            digest.update(learnt[name].flatten().view(torch.uint8).numpy().tobytes())
        card = {
            "name": name_of(called(model), f"{recipe.name}-{stage.name}", digest.hexdigest()),
            "base": _base(model),
            "family": local.family,
            "recipe": recipe.name,
            "stage": stage.name,
            "plan": asdict(plan),
            "examples": len(rows),
            "held_back": len(held_back),
            "steps": trainer.state.global_step,
            "seconds_of_last_run": round(time.time() - began, 1),
            **found,
        }
        if plan.shard:  # written from a model that is whole
            local = load_local(model, plan.dtype or "float32", "cpu")
            choose(local.model, stage)
            for name, parameter in Learner(local, Pictures(data)).named_parameters():
                if name in learnt:
                    put(parameter, learnt[name])
        adapters.write(local, stage, model, result, card)
    trainer.accelerator.wait_for_everyone()
    return result


def _base(model: str) -> str:
    """A folder by its whole path, so that a card is true wherever it is read."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _figures(local: Local, pictures: Pictures, asked: Sequence[Example]) -> dict[str, float]:
    return figures(answerer_of(local, pictures), asked) if asked else {}


def choose(model: nn.Module, stage: Stage) -> set[str]:
    """Freeze all but what the stage trains -> the names of what learns."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if stage.low_rank is not None:
        adapters.add(model, stage.low_rank)
    names = dict(model.named_parameters())
    for name in stage.chosen(names):
        names[name].requires_grad_(True)
    return {name for name, parameter in names.items() if parameter.requires_grad}


def _positions(local: Local) -> int:
    if local.family == "owl3":
        return int(local.model.config.max_position_embeddings)
    return int(local.model.max_positions)


def _arguments(stage: Stage, plan: Plan, folder: Path, device: torch.device) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=plan.batch,
        per_device_eval_batch_size=plan.batch,
        gradient_accumulation_steps=plan.accumulate,
        num_train_epochs=plan.epochs,
        max_steps=plan.steps or -1,
        learning_rate=plan.rate or stage.rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=stage.warmup,
        adam_beta1=stage.betas[0],
        adam_beta2=stage.betas[1],
        adam_epsilon=stage.epsilon,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.clip,
        logging_steps=plan.log_every,
        save_steps=plan.save_every,
        save_total_limit=2,
        save_only_model=plan.shard,  # the Trainer's word for it; `_Trainer` keeps the optimizer too
        eval_strategy="steps" if plan.evaluate_every else "no",
        eval_steps=plan.evaluate_every or None,
        activation_checkpointing=plan.checkpointing,
        disable_tqdm=True,  # it prints to standard output; ours does not
        seed=plan.seed,
        bf16=False,
        use_cpu=device.type == "cpu",
        report_to=[],
        remove_unused_columns=False,
        prediction_loss_only=True,
        dataloader_pin_memory=False,
    )


class _Trainer(Trainer):  # type: ignore[misc]
    """Keeps what learns, not what it was given: checkpoints of a LoRA run are a few megabytes."""

    figures: Callable[[], dict[str, float]] = staticmethod(dict)  # of the model as it is now

    def learnt(self) -> dict[str, Tensor]:
        """What learns, on the CPU. Of sharded weights all processes must ask."""
        learner: Any = self.accelerator.unwrap_model(self.model)
        return {name: whole(p) for name, p in learner.named_parameters() if p.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        tensors = self.learnt()
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / LEARNT)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        learner: Any = self.accelerator.unwrap_model(model if model is not None else self.model)
        stored = load_file(Path(resume_from_checkpoint) / LEARNT)
        mine = {n: p for n, p in learner.named_parameters() if p.requires_grad}
        if set(mine) != set(stored):
            raise InvalidInput(
                f"{resume_from_checkpoint} was made by another recipe: choose another --out"
            )
        for name, parameter in mine.items():
            put(parameter, stored[name])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_distributed_loading_by_transformers:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = optimizer_state(self.model, self.optimizer.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_distributed_loading_by_transformers:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = read_state(Path(checkpoint) / "optimizer.pt")
        put_optimizer_state(self.model, self.optimizer.optimizer, state)
        self.lr_scheduler.load_state_dict(read_state(Path(checkpoint) / "scheduler.pt"))

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        with torch.no_grad():
            return self.compute_loss(model, inputs).detach(), None, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss, and the figures of `rag-owl eval`; the first process asks, others wait."""
        measured: dict[str, float] = super().evaluate(*args, **kwargs)
        if self.is_world_process_zero():
            self.model.eval()
            found = {f"eval_{name}": value for name, value in self.figures().items()}
            if found:
                self.log(found)
            measured |= found
        self.accelerator.wait_for_everyone()
        return measured


class _Temperature(TrainerCallback):  # type: ignore[misc]
    """Ovis' falling temperature, where its visual tokens are drawn: linear over the steps."""

    def __init__(self, stage: Stage) -> None:
        self._from_to = stage.temperature

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        model: Any = more["model"]
        local = getattr(model, "module", model).model
        if self._from_to is None or not hasattr(local, "temperature"):
            return
        first, last = self._from_to
        local.temperature = first + (last - first) * state.global_step / max(1, state.max_steps)


class _Log(TrainerCallback):  # type: ignore[misc]
    """A line of JSON per report, and a bar on standard error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        if state.is_world_process_zero:
            total, at = state.max_steps, state.global_step
            self._bar = tqdm(total=total, initial=at, desc=self.path.parent.name, mininterval=1)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            line = {"step": state.global_step, **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def plot(log: Path, picture: Path, loss: str = "loss per token (nats)") -> None:
    """The losses of a log as a PNG; of steps that ran twice, the later ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seen: dict[str, dict[int, float]] = {"loss": {}, "eval_loss": {}}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for name, values in seen.items():
            if name in entry:
                values[entry["step"]] = entry[name]
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for (name, values), label in zip(seen.items(), ("training", "held back"), strict=True):
        if values:
            steps = sorted(values)
            axes.plot(
                steps,
                [values[s] for s in steps],
                label=label,
                marker="." if name != "loss" else None,
            )
    axes.set(xlabel="step", ylabel=loss)
    axes.legend()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)

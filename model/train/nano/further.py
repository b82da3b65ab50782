"""Train the bundled reader further on examples of one's own collection (recipe `nano`).

The eyes stay as they are, and so do the picture embeddings. So that citations are still judged as
before, the support head is held to what it said before (its logits, on the same items). Windows
are those that the answerer makes of the same context. Resumes from OUT/nano/state.pt.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.nano import weights
from rag_owl.model.nano.answerer import NanoAnswerer
from rag_owl.model.nano.looking import Seen
from rag_owl.model.nano.reader import Reader, Reading, Rows
from rag_owl.model.nano.window import Window, collate, lay_out, tokenise
from rag_owl.model.registry import called
from rag_owl.model.train.examples import Example, Pictures, drawn, read_examples, split
from rag_owl.model.train.figures import figures
from rag_owl.model.train.nano.export import logistic
from rag_owl.model.train.nano.passages import occurrences, token_range
from rag_owl.model.train.nano.reader import groups_of
from rag_owl.model.train.origin import begin, check, digest_of, name_of
from rag_owl.statements import declare
from rag_owl.types import Context

RATE = 1e-4
_WARM = 10  # steps until the rate is reached
_AT_ONCE = 8  # examples per step
_SUPPORT_EVERY = 2  # steps
_LEAST_TO_CALIBRATE = 40  # held-back examples
_ASKED = 100  # of them, before and after


@dataclass(frozen=True, slots=True)
class Prepared:
    """An example as the reader gets it."""

    windows: list[Window]
    starts: list[list[int]]  # per window the tokens where the answer may begin, else [0]
    ends: list[list[int]]
    gold: list[list[bool]]  # per window and piece
    context: Context
    said: str  # the question and its answer as a statement


def prepare(answerer: NanoAnswerer, example: Example) -> Prepared | None:
    """None where the answer stands in none of the gold items: there is nothing to point at."""
    context = example.context()
    windows = answerer._windows_of(context, *answerer.look_at(context))  # as it will meet them
    starts: list[list[int]] = []
    ends: list[list[int]] = []
    gold: list[list[bool]] = []
    pointed = False
    for window in windows:
        first, last = [], []
        held = []
        for i, piece in enumerate(window.pieces):
            places = []
            if piece.item in example.gold and example.short:
                text = example.items[piece.item].text or ""
                places = [
                    token_range(piece.text, a, b) for a, b in occurrences(text, example.short)
                ]
            found = [place for place in places if place is not None]
            first += [window.starts[i] + a for a, _ in found]
            last += [window.starts[i] + b for _, b in found]
            held.append(bool(found))
        pointed = pointed or bool(first)
        starts.append(first or [0])
        ends.append(last or [0])
        gold.append(held)
    if example.gold and not pointed:
        return None
    said = declare(example.question, example.short or "unknown")
    return Prepared(windows, starts, ends, gold, context, said)


class _Run:
    def __init__(self, base: Path, data: Path) -> None:
        self.answerer = NanoAnswerer.load(Pictures(data), base)  # type: ignore[arg-type]
        self.reader: Reader = self.answerer._reader
        self.reader.requires_grad_(True)
        self.reader.words.requires_grad_(False)
        self.before = copy.deepcopy(self.reader).requires_grad_(False)

    def sights(self, example: Prepared) -> tuple[list[Seen], list[Seen | None]]:
        return self.answerer.look_at(example.context)

    def loss(self, example: Prepared) -> Tensor:
        rows = self.answerer._rows(example.windows, *self.sights(example))
        reading = self._read(rows)
        total = torch.zeros(())
        for b, window in enumerate(example.windows):
            for logits, places in (
                (reading.start[b], example.starts[b]),
                (reading.end[b], example.ends[b]),
            ):
                total = total + (logits.logsumexp(0) - logits[places].logsumexp(0)) / 2
            wanted = torch.tensor(example.gold[b], dtype=torch.float32)
            item = reading.item[b, : len(window.pieces)]
            total = total + F.binary_cross_entropy_with_logits(item, wanted)
        return total / len(example.windows)

    def support_loss(self, example: Prepared) -> Tensor:
        """How far the support head has moved on this statement and these items."""
        pieces = [piece for window in example.windows for piece in window.pieces][:2]
        if not pieces:
            return torch.zeros(())
        said = tokenise(self.answerer._tokenizer, [example.said])[0]
        rows = collate([lay_out(said.ids, [piece]) for piece in pieces])
        with torch.no_grad():
            wanted = self.before(rows).support
        return F.mse_loss(self._read(rows).support, wanted)

    def _read(self, rows: Rows) -> Reading:
        """As narrow as the reader was trained first: half the time, where the processor can."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.reader(rows)  # type: ignore[no-any-return]

    @torch.no_grad()
    def scores(self, examples: Sequence[Prepared]) -> tuple[list[float], list[bool], list[bool]]:
        """Per example the best span's score, whether it is right, and whether there is one."""
        scores, right, answerable = [], [], []
        for example in examples:
            found = self.answerer.point(example.context, *self.sights(example))
            if not found:
                continue
            golds = {
                piece.item
                for window, held in zip(example.windows, example.gold, strict=True)
                for piece, there in zip(window.pieces, held, strict=True)
                if there
            }
            scores.append(found[0].score)
            right.append(found[0].item in golds)
            answerable.append(bool(golds))
        return scores, right, answerable


def run(
    data: Path,
    out: Path,
    base: Path = weights.FOLDER,
    *,
    epochs: int = 3,
    rate: float = RATE,
    held_back: float = 0.1,
    minutes: float | None = None,
    save_every: float = 60,
) -> Path:
    """-> the folder of the new weights, for `--model`. A run that ended is not run again.

    minutes: ends by then, whatever the epochs. Raises InvalidInput: no example points at an answer.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    from rag_owl.model.train.run import plot

    result = out / "nano" / "model"
    about = {
        "examples": digest_of(data),
        "base": weights.manifest(base)["files"],
        "held_back": held_back,
    }
    check(result.parent, about)
    if (result / "card.json").is_file():
        return result
    torch.manual_seed(0)
    this = _Run(base, data)
    learnt, kept = split(read_examples(data), held_back)
    prepared = [p for e in learnt if (p := prepare(this.answerer, e)) is not None]
    if not prepared:
        raise InvalidInput(f"{data}: in no example does the answer stand in the text of an item")
    begin(result.parent, about)
    groups = groups_of(this.reader)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    steps = math.ceil(len(prepared) / _AT_ONCE) * epochs
    state, step, spent = out / "nano" / "state.pt", 0, 0.0
    if state.exists():  # of this run: `check` saw to it
        stored = torch.load(state, weights_only=True)
        this.reader.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        step, spent = stored["step"], stored["seconds"]
    began = saved = time.monotonic()
    bar = tqdm(total=steps, initial=step, desc="nano", mininterval=1)
    log = (out / "nano" / "log.jsonl").open("a", encoding="utf-8")
    while step < steps:
        now = spent + time.monotonic() - began
        done = step / steps if minutes is None else max(step / steps, now / (60 * minutes))
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / _WARM) * (1 - done) * group["times"]
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for example in _batch(prepared, step):
            loss = this.loss(example) / _AT_ONCE
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            if step % _SUPPORT_EVERY == 0:
                (this.support_loss(example) / _AT_ONCE).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(
            [p for p in this.reader.parameters() if p.requires_grad], 1.0
        )
        optimizer.step()
        step += 1
        bar.update()
        log.write(json.dumps({"step": step, "loss": total}) + "\n")
        log.flush()
        if time.monotonic() - saved > save_every:
            saved = time.monotonic()
            _save(state, this.reader, optimizer, step, spent + saved - began)
    bar.close()
    log.close()
    plot(out / "nano" / "log.jsonl", out / "nano" / "loss.png", "loss per window (nats)")
    _save(state, this.reader, optimizer, step, spent + time.monotonic() - began)
    this.reader.eval()
    held = [p for e in kept if (p := prepare(this.answerer, e)) is not None]
    calibrated = _calibrated(this, held)
    arriving = result.with_name("model.part")
    shutil.rmtree(arriving, ignore_errors=True)
    plain, checks = weights.manifest(base)["calibration"], weights.evidence(base)
    if checks is None:
        plain |= calibrated
    weights.write(arriving, this.answerer._looker.eyes, this.reader, plain)
    files = weights.manifest(arriving)["files"]
    if checks is not None:
        # Of the checks of citations: the head that judges was held, so its thresholds stay.
        checks |= {"carried_over_from": checks["reader"]}
        checks |= {name: files[f"{name}.safetensors"] for name in ("reader", "eyes")}
        checks["answerable"] = checks.get("answerable", {}) | calibrated
        text = json.dumps(checks, indent=2) + "\n"
        (arriving / weights.EVIDENCE).write_text(text, encoding="utf-8")
    asked = drawn(kept, _ASKED)
    pictures: Any = Pictures(data)
    before, after = (
        figures(NanoAnswerer.load(pictures, folder), asked) if asked else {}
        for folder in (base, arriving)
    )
    own = "owl-nano" if base == weights.FOLDER else called(str(base))
    card = {
        "name": name_of(own, "nano", files["reader.safetensors"]),
        "base": own if base == weights.FOLDER else str(base.resolve()),
        "recipe": "nano",
        "examples": len(prepared),
        "passed_over": len(learnt) - len(prepared),
        "held_back": len(held),
        "steps": step,
        "seconds": round(spent + time.monotonic() - began, 1),
        "calibrated": sorted(calibrated),
        "held_back_asked": len(asked),
        "figures": after,
        "figures_before": before,
    }
    (arriving / "card.json").write_text(json.dumps(card, indent=2), encoding="utf-8")
    shutil.rmtree(result, ignore_errors=True)  # one without a card was never whole
    os.replace(arriving, result)
    return result


def _batch(prepared: Sequence[Prepared], step: int) -> list[Prepared]:
    """Every example once per epoch; the same step always takes the same ones."""
    per_epoch = math.ceil(len(prepared) / _AT_ONCE)
    epoch, at = divmod(step, per_epoch)
    order = random.Random(epoch).sample(range(len(prepared)), len(prepared))
    return [prepared[i] for i in order[at * _AT_ONCE : (at + 1) * _AT_ONCE]]


def _calibrated(this: _Run, held: Sequence[Prepared]) -> dict[str, float]:
    """The probability of the best span, from the held-back examples where they are enough."""
    out: dict[str, float] = {}
    for kind, wanted in (("plain", False), ("pictured", True)):
        chosen = [e for e in held if bool(e.context.question.pictures) == wanted]
        scores, right, answerable = this.scores(chosen)
        if len(scores) < _LEAST_TO_CALIBRATE or len(set(right)) < 2:
            continue
        (slope,), offset = logistic(np.array(scores)[:, None], right)
        if slope <= 0:
            continue
        out |= {f"{kind}_slope": float(slope), f"{kind}_offset": offset}
        # Nine of ten answerable questions are answered, and whatever is more likely right than
        # not: from there on answering is worth more than abstaining.
        answered = torch.tensor([s for s, a in zip(scores, answerable, strict=True) if a])
        low = float(answered.quantile(0.1))
        likely = 1 / (1 + math.exp(-(slope * low + offset)))
        out[f"{kind}_threshold"] = min(likely, 0.5)
    return out


def _save(
    path: Path, reader: Reader, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "model": reader.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds,
        },
        temporary,
    )
    os.replace(temporary, path)

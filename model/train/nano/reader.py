"""Train the reader: python -m rag_owl.model.train.nano.reader --data DATA --out FOLDER

Needs FOLDER/eyes.pt for the picture episodes (not with `--text-only`, which can run beside the
eyes and be resumed without it). Resumes from FOLDER/reader.pt, as the eyes do.
Everything but the word embeddings learns. Losses: the pointer (the log-probability of every place
where the answer stands, position 0 where there is none), the items that support an answer, and
the support of statements.

After the eyes were trained further, `--start FOLDER --sight-only --kinds look` begins from the
reader of written weights and trains nothing but what pictures enter by: texts are read as before,
to the bit.

Two processes of one thread each, where the machine is shared:
python -m torch.distributed.run --nproc-per-node 2 -m rag_owl.model.train.nano.reader …
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rag_owl.model.nano import minilm, weights
from rag_owl.model.nano.eyes import Eyes, EyesConfig
from rag_owl.model.nano.likeness import APPEARANCE, UNLIKE, similarities
from rag_owl.model.nano.reader import Reader, Rows, Sight
from rag_owl.model.nano.window import Piece, Window, collate, lay_out, spread, tokenise
from rag_owl.model.train.nano import passages, pictures, statements, tables
from rag_owl.model.train.nano.cards import card_episode, card_statements
from rag_owl.model.train.nano.episodes import PictureEpisodes
from rag_owl.model.train.nano.eyes import save
from rag_owl.model.train.nano.passages import PASSAGE_TOKENS, Episode

LONG_TOKENS = 200
SIGHT = ("patch_in.", "pooled_in.", "similarity_in.", "visual_kv.", "gate.", "lean.")
KINDS = ("read", "look", "support", "read", "look", "read", "support", "read")


class Material:
    """Draws a batch of one kind for a step; the same step always draws the same batch.

    `size` is the number of rows of three passages; others are sized to cost about as much.
    `kinds` are the steps' kinds in turn.
    """

    def __init__(
        self, data: Path, cache: Path, part: str = "train", kinds: Sequence[str] = KINDS
    ) -> None:
        self.kinds = kinds
        self.tokenizer = minilm.tokenizer()
        self.articles = passages.load_squad(data, part, self.tokenizer)
        self.asked = [(a, q) for a in self.articles for q in a.questions]
        titles = tokenise(self.tokenizer, [f"{a.title}." for a in self.articles])
        self.titles = {a.title: t.ids for a, t in zip(self.articles, titles, strict=True)}
        self.tables = tables.load_tables(data, part)
        self.order = random.Random(1).sample(range(len(self.asked)), len(self.asked))
        things = pictures.load(data, cache, "held")
        self.flags = pictures.load_flags(data)
        self.pictures = PictureEpisodes(self.tokenizer, things, self.flags)

    def draw(
        self, step: int, size: int, look: bool = True, share: tuple[int, int] = (0, 1)
    ) -> tuple[str, list[Episode]]:
        """`share`: which process of how many; all draw the same kind, each its own rows."""
        rank, world = share
        rng = random.Random(step * world + rank)
        kind = self.kinds[step % len(self.kinds)]
        if kind == "look" and not look:
            kind = "read"
        if kind == "look":
            return kind, [self.pictures.flag(rng) if rng.random() < 0.5
                          else self.pictures.thing(rng) for _ in range(size)]  # fmt: skip
        # One kind of text and one number of passages per batch, and more rows of fewer: little
        # padding, even steps.
        which = rng.random()
        if kind == "support" and which < 0.3:
            return kind, [
                episode
                for _ in range(3 * size // 2)
                for episode in card_statements(self.flags.countries, rng, self.tokenizer)
            ]
        which = which if kind == "read" else 1.0
        if which < 0.08:
            made = tables.table_episode if which < 0.04 else tables.markdown_episode
            return kind, [made(rng.choice(self.tables), rng, self.tokenizer) for _ in range(size)]
        if which < 0.22:
            cards = rng.randint(2, 5)
            return kind, [
                card_episode(self.flags.countries, rng, self.tokenizer, cards)
                for _ in range(3 * size // 2)
            ]
        count = rng.choice((1, 1, 2, 2, 3, 4) if kind == "read" else (1, 1, 1, 2))
        # What a splitter makes of documents is longer than what fits four times into a row.
        long = count < 3 and rng.random() < 0.5
        rows = max(2, int(size * {1: 5, 2: 3, 3: 2, 4: 1.5}[count] * (0.3 if long else 0.5)))
        first = (step * world + rank) * 2 * size
        out: list[Episode] = []
        for i in range(rows):
            article, asked = self.asked[self.order[(first + i) % len(self.order)]]
            prefix = self.titles[article.title] if rng.random() < 0.4 else np.zeros(0, np.int32)
            if kind == "read":
                out.append(passages.squad_episode(
                    article, asked, rng, prefix,
                    passages=count, answerable=rng.random() > 0.15,
                    limit=LONG_TOKENS if long else PASSAGE_TOKENS,
                ))  # fmt: skip
            elif i < rows // 2:  # the true statement and a false one of the same question
                out += [
                    statements.statement_episode(
                        article, asked, rng, prefix, truth, count, rng.choice(self.articles)
                    )
                    for truth in (statements.SUPPORTED, statements.CONTRADICTED)
                ]
        return kind, out


def windows_of(tokenizer: Any, episodes: Sequence[Episode]) -> list[Window]:
    questions = tokenise(tokenizer, [e.question for e in episodes])
    out = []
    for episode, question in zip(episodes, questions, strict=True):
        pieces = [Piece(i, prefix, text) for i, (prefix, text) in enumerate(episode.items)]
        window = lay_out(question.ids, pieces)
        while len(window.ids) > 512:  # four long passages and a long question
            pieces = [Piece(p.item, p.prefix, p.text.cut(0, len(p.text.ids) - 8)) for p in pieces]
            window = lay_out(question.ids, pieces)
        out.append(window)
    return out


def with_pictures(
    rows: Rows,
    windows: Sequence[Window],
    episodes: Sequence[Episode],
    features: Tensor,
    pooled: Tensor,
    hide: Sequence[bool],
    eyes: Eyes,
) -> None:
    """Put what the eyes saw into the rows: pictures in the order user's, items'."""
    N = 1 + max(len(e.items) for e in episodes)
    B, T = rows.ids.shape
    sight = Sight(
        torch.zeros(B, N, *features.shape[1:]),
        torch.zeros(B, N, pooled.shape[1]),
        torch.zeros(B, N, dtype=torch.long),
        torch.zeros(B, T, N, dtype=torch.bool),
    )
    values, at = [], 0
    for b, (window, episode) in enumerate(zip(windows, episodes, strict=True)):
        n = 1 + len(episode.items)
        sight.patches[b, :n], sight.pooled[b, :n] = features[at : at + n], pooled[at : at + n]
        sight.positions[b, 0] = window.question_end
        sight.visible[b, : len(window.ids), 0] = True
        user, *own = pooled[at : at + n]
        row = similarities(user[None], own, eyes)
        if episode.strange:
            row = [[v * kept for v, kept in zip(r, APPEARANCE, strict=True)] for r in row]
        for i in range(len(episode.items)):
            start, end = window.piece_range(i)
            sight.positions[b, 1 + i] = start
            sight.visible[b, start:end, 1 + i] = True
        values.append([list(UNLIKE)] * len(row) if hide[b] else row)
        at += n
    rows.similarities, rows.sight = spread(windows, values), sight


def pointer_loss(
    start: Tensor, end: Tensor, windows: Sequence[Window], episodes: Sequence[Episode]
) -> Tensor:
    wanted = torch.zeros(2, *start.shape, dtype=torch.bool)
    for b, (window, episode) in enumerate(zip(windows, episodes, strict=True)):
        kept = 0
        for item, first, last in episode.answers:
            if last < len(window.pieces[item].text.ids):
                wanted[0, b, window.starts[item] + first] = True
                wanted[1, b, window.starts[item] + last] = True
                kept += 1
        if not kept:
            wanted[:, b, 0] = True
    loss = torch.zeros(())
    for logits, right in zip((start, end), wanted, strict=True):
        chosen = logits.masked_fill(~right, -torch.inf).logsumexp(1)
        loss = loss + (logits.logsumexp(1) - chosen).mean() / 2
    return loss


def item_loss(item: Tensor, rows: Rows, episodes: Sequence[Episode]) -> Tensor:
    gold = torch.zeros(rows.separators.shape)
    for b, episode in enumerate(episodes):
        gold[b, episode.gold] = 1.0
    each = F.binary_cross_entropy_with_logits(item, gold, reduction="none")
    return each[rows.separators >= 0].mean()


def losses(
    reader: Reader,
    eyes: Eyes | None,
    material: Material,
    step: int,
    size: int,
    share: tuple[int, int] = (0, 1),
) -> tuple[str, dict[str, Tensor]]:
    kind, episodes = material.draw(step, size, eyes is not None, share)
    windows = windows_of(material.tokenizer, episodes)
    rows = collate(windows)
    if kind == "look" and eyes is not None:
        g = torch.Generator().manual_seed(step * share[1] + share[0])
        pixels = material.pictures.render(episodes, g)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features, *parts = eyes(pixels.contiguous(memory_format=torch.channels_last))
        hide = (torch.rand(len(episodes), generator=g) < 0.2).tolist()
        with_pictures(rows, windows, episodes, features, torch.cat(parts, 1), hide, eyes)
    with torch.autocast("cpu", torch.bfloat16):
        reading = reader(rows)
    if kind == "support":
        target = torch.full(rows.separators.shape, -100)
        for b, episode in enumerate(episodes):
            target[b, : len(episode.items)] = torch.tensor(episode.support)
        return kind, {"support": F.cross_entropy(reading.support.flatten(0, 1), target.flatten())}
    return kind, {
        f"{kind}_pointer": pointer_loss(reading.start, reading.end, windows, episodes),
        f"{kind}_item": item_loss(reading.item, rows, episodes),
    }


def load_eyes(path: Path) -> Eyes:
    state = torch.load(path, weights_only=True)["model"]
    eyes = Eyes(EyesConfig(kinds=len(state["kinds.weight"]))).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    eyes.load_state_dict(state)
    return eyes.eval().requires_grad_(False)  # type: ignore[no-any-return]


def groups_of(reader: Reader) -> list[dict[str, Any]]:
    """New parts learn three times as fast as what was published."""
    fresh = ("pointer", "item_head", "support_head", "visual_kv", "gate", "_in.", "lean")
    groups = []
    for new in (False, True):
        for decays in (False, True):
            chosen = [
                p for n, p in reader.named_parameters()
                if p.requires_grad and any(f in n for f in fresh) == new and (p.ndim > 1) == decays
            ]  # fmt: skip
            groups.append({"params": chosen, "weight_decay": 0.01 if decays else 0.0,
                           "times": 2.0 if new else 1.0})  # fmt: skip
    return groups


def average_gradients(reader: Reader, world: int) -> None:
    """One exchange per step: two processes of one thread each do not wait for each other inside
    every operation, as two threads do, which matters on a machine that others use as well."""
    if world == 1:
        return
    gradients = [p.grad for p in reader.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, part in zip(
        gradients, torch.split(flat / world, [g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(part.view_as(gradient))


def agreed(value: float, world: int) -> float:
    """The first process's value, for all of them."""
    if world == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64)
    torch.distributed.broadcast(told, 0)
    return float(told)


def train(args: argparse.Namespace) -> None:
    from tqdm import tqdm  # type: ignore[import-untyped]

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    share = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if share[1] > 1:
        torch.distributed.init_process_group("gloo")
    material = Material(args.data, args.out / "cache", kinds=args.kinds)
    eyes = None if args.text_only else load_eyes(args.out / "eyes.pt")
    reader = Reader()
    reader.load_minilm(minilm.weights())
    reader.words.requires_grad_(False)
    path, step = args.out / "reader.pt", 0
    if args.start and not path.exists():
        reader.load_state_dict(weights.load_reader(args.start).state_dict())
    if args.sight_only:
        for name, parameter in reader.named_parameters():
            parameter.requires_grad_(any(part in name for part in SIGHT))
    optimizer = torch.optim.AdamW(groups_of(reader), betas=(0.9, 0.98), eps=1e-6)
    if path.exists():
        state = torch.load(path, weights_only=True)
        reader.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    chief = share[0] == 0  # the one that writes
    log = (args.out / "reader.jsonl").open("a")
    bar = tqdm(total=args.steps, initial=step, desc="reader", mininterval=20, disable=not chief)
    mean: dict[str, float] = {}
    saved = logged = time.monotonic()
    began = time.monotonic()
    while True:
        done = step / args.steps
        if args.minutes:  # a fixed time: all processes go by the first one's clock
            done = (time.monotonic() - began) / (60 * args.minutes)
            done = agreed(done, share[1])
        if done >= 1:
            break
        rate = args.rate * min(1.0, (step + 1) / 150) * (1 - done)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["times"]
        _, parts = losses(reader, eyes, material, step, args.batch, share)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        average_gradients(reader, share[1])
        nn.utils.clip_grad_norm_([p for p in reader.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        step += 1
        bar.update()
        for k, v in parts.items():
            mean[k] = 0.95 * mean.get(k, v.item()) + 0.05 * v.item()
        now = time.monotonic()
        if chief and now - logged > args.log_every:
            logged = now
            line = {"step": step, "rate": rate, **{k: round(v, 4) for k, v in mean.items()}}
            log.write(json.dumps(line) + "\n")
            log.flush()
            bar.write(json.dumps(line))
        if chief and now - saved > args.save_every:
            saved = now
            keep(path, reader, optimizer, step)
    if chief:
        keep(path, reader, optimizer, step)
        log.write(json.dumps({"step": step, **mean}) + "\n")


def keep(path: Path, reader: Reader, optimizer: torch.optim.Optimizer, step: int) -> None:
    model = {"model": reader.state_dict(), "step": step}
    save(path, {**model, "optimizer": optimizer.state_dict()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a folder of written weights to begin from")
    parser.add_argument("--sight-only", action="store_true", help="texts are read as before")
    parser.add_argument("--text-only", action="store_true", help="before the eyes are trained")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, help="instead of --steps: rate to zero by then")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--kinds", nargs="+", choices=sorted(set(KINDS)), default=KINDS,
                        help="of the steps, in turn")  # fmt: skip
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", 2)))
    parser.add_argument("--save-every", type=float, default=120)
    parser.add_argument("--log-every", type=float, default=120)
    args = parser.parse_args()
    if args.sight_only and (args.text_only or {*args.kinds} != {"look"}):
        parser.error("--sight-only learns from pictures alone: give it --kinds look")
    train(args)


if __name__ == "__main__":
    main()

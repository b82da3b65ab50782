"""Train the eyes: python -m rag_owl.model.train.nano.eyes --data DATA --out FOLDER

Resumes from FOLDER/eyes.pt; a killed run loses at most `--save-every` seconds. The rate falls
linearly to zero at `--steps`; resumed with another `--steps` it falls to zero there instead.
`--start FOLDER` begins from the eyes of written weights, with other draws (`--seed`).

Losses: classes of natural pictures (cosine softmax over proxies on the instance vector; most
hold a box of another one and are of both classes by area), flags
against all flags (proxies) and against each other under two warps (supervised contrastive,
Khosla et al. 2020, eq. 2; invented flags as further instances), and the text vector against
the MiniLM vectors of names and descriptions (softmax over all of them, as CLIP does in a batch).
The last `--settle` of the steps sees pictures nearly whole and unmixed, as they are met later:
hard crops show things larger than they will be (Touvron et al. 2019, "FixRes"). For the same
reason, and because it costs less, smaller pictures come first (`--sides`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rag_owl.model.nano import weights
from rag_owl.model.nano.eyes import Eyes, EyesConfig, normalise
from rag_owl.model.train.nano import pictures, texts, warp
from rag_owl.model.train.nano.pictures import SIDE

NATURAL, REAL, INVENTED = 176, 16, 6  # per step; flags are seen in two views each


class Heads(nn.Module):
    """What training alone needs: a proxy per class and per distinct flag, and temperatures."""

    def __init__(self, config: EyesConfig, classes: int, flags: int) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.randn(classes, config.instance_width))
        self.flags = nn.Parameter(torch.randn(flags, config.instance_width))
        self.scales = nn.Parameter(torch.full((4,), math.log(16.0)))

    def logits(self, vectors: Tensor, proxies: Tensor, scale: int) -> Tensor:
        return self.scale(scale) * vectors @ F.normalize(proxies, dim=-1).T

    @torch.no_grad()
    def begin(self, eyes: Eyes, data: Data) -> None:
        """Proxies and temperatures of eyes that were trained before."""
        self.classes.copy_(F.normalize(eyes.kinds.weight, dim=-1))
        self.scales.fill_(math.log(30.0))
        self.scales[0] = eyes.kinds.weight.norm(dim=-1).mean().log()
        shown = F.interpolate(data.flag_pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        vectors = embed(eyes, (shown.permute(0, 2, 3, 1) * 255).byte().numpy())[0]
        self.flags.zero_().index_add_(0, data.groups, vectors)

    def scale(self, which: int) -> Tensor:
        return self.scales[which].exp().clamp(max=60)


def contrastive(vectors: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Khosla et al. 2020, eq. 2: every other view of the same thing is a positive."""
    similar = vectors @ vectors.T / temperature
    itself = torch.eye(len(vectors), dtype=torch.bool)
    log_probability = similar - similar.masked_fill(itself, -1e9).logsumexp(1, keepdim=True)
    same = (labels[:, None] == labels[None]) & ~itself
    return -(log_probability * same).sum(1).div(same.sum(1).clamp(min=1)).mean()


class Data:
    def __init__(self, data: Path, cache: Path, seed: int = 0) -> None:
        self.seed = seed
        self.train = pictures.load(data, cache, "train")
        self.val = pictures.load(data, cache, "val")
        self.unseen = pictures.load(data, cache, "unseen")
        self.flags = pictures.load_flags(data)
        self.class_texts = texts.class_vectors(self.train.names)  # (classes, 384)
        self.flag_texts = texts.flag_vectors(self.flags.countries)  # (flags, kinds, 384)
        self.flag_pixels = torch.from_numpy(self.flags.pixels).permute(0, 3, 1, 2).float() / 255
        self.aspects = torch.from_numpy(self.flags.aspects)
        self.groups = torch.from_numpy(self.flags.groups)

    def batch(self, step: int, side: int, settle: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> pixels (B, 3, side, side) from -1 to 1, shares of the classes (NATURAL, classes),
        flag ids, contrast labels."""
        g = torch.Generator().manual_seed(self.seed * 1_000_000 + step)
        rows = torch.randint(len(self.train.labels), (NATURAL,), generator=g)
        stored = torch.from_numpy(self.train.pixels[np.sort(rows.numpy())])
        rows = rows.sort().values
        natural = stored.permute(0, 3, 1, 2).float() / 255
        least, turn = (0.65, 0.0) if settle else (0.3, 0.25)
        seen = warp.crop_and_flip(natural, side, g, least, turn)
        other, own = torch.arange(NATURAL), torch.ones(NATURAL)
        if not settle:
            seen, other, own = warp.cut_mix(seen, g)
        ids = torch.randperm(len(self.flag_pixels), generator=g)[:REAL]
        invented = warp.invent(INVENTED, self.flag_pixels.shape[-1] // 2, g)
        invented = F.interpolate(invented, size=self.flag_pixels.shape[-2:], mode="bilinear")
        clean = torch.cat([self.flag_pixels[ids], invented])
        aspects = torch.cat([self.aspects[ids], torch.full((INVENTED,), 1.5)])
        views = []
        for _ in range(2):
            pick = torch.randint(NATURAL, (len(clean),), generator=g)
            flat = torch.rand(len(clean), 3, 1, 1, generator=g).expand(-1, -1, side, side)
            real = torch.rand(len(clean), 1, 1, 1, generator=g) < 0.5
            background = torch.where(real, F.interpolate(natural[pick], size=(side, side)), flat)
            views.append(warp.photograph(clean, aspects, background, side, g))
        fresh = 10_000 + torch.arange(INVENTED)
        contrast = torch.cat([self.groups[ids], fresh]).repeat(2)
        pixels = torch.cat([seen, *views]).mul(2).sub(1)
        classes = F.one_hot(
            torch.from_numpy(self.train.labels[rows.numpy()]), len(self.train.names)
        )
        classes = own[:, None] * classes + (1 - own[:, None]) * classes[other]
        return pixels.contiguous(memory_format=torch.channels_last), classes, ids, contrast


def losses(
    model: Eyes, heads: Heads, data: Data, step: int, side: int, settle: bool
) -> dict[str, Tensor]:
    pixels, classes, ids, contrast = data.batch(step, side, settle)
    with torch.autocast("cpu", torch.bfloat16):
        _, instance, text, _ = model(pixels)
    half = REAL + INVENTED
    flag_rows = torch.cat([torch.arange(REAL), half + torch.arange(REAL)]) + NATURAL
    groups = data.groups[ids].repeat(2)
    kind = step % data.flag_texts.shape[1]
    flag_text = heads.logits(text[flag_rows], data.flag_texts[:, kind], 3)
    # identical flags share their texts' probability: any of the group's texts is right
    right = data.groups[None] == groups[:, None]  # (2 REAL, flags)
    aligned = flag_text.logsumexp(1) - flag_text.masked_fill(~right, -1e9).logsumexp(1)
    smooth = 0.1
    return {
        "class": F.cross_entropy(
            heads.logits(instance[:NATURAL], heads.classes, 0), classes, label_smoothing=smooth
        ),
        "flag": F.cross_entropy(heads.logits(instance[flag_rows], heads.flags, 1), groups),
        "contrast": contrastive(instance[NATURAL:], contrast),
        "name": F.cross_entropy(heads.logits(text[:NATURAL], data.class_texts, 2), classes),
        "description": aligned.mean(),
    }


WEIGHTS = {"class": 1.0, "flag": 0.5, "contrast": 0.5, "name": 0.7, "description": 0.3}


@torch.no_grad()
def embed(model: Eyes, stored: Any) -> tuple[Tensor, ...]:
    """uint8 (n, SIDE, SIDE, 3) -> instance (n, D1), text (n, D2), appearance (n, D3)."""
    learning = model.training
    model.eval()
    parts = []
    for i in range(0, len(stored), 256):
        x = normalise(torch.from_numpy(np.array(stored[i : i + 256])))
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(model(x.contiguous(memory_format=torch.channels_last))[1:])
    model.train(learning)
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


@torch.no_grad()
def set_rest(model: Eyes, heads: Heads, stored: Any) -> None:
    """What is not learned step by step: the directions that hold most of what the heads are made
    from, over training pictures (n, SIDE, SIDE, 3) in uint8, and the proxies as kinds of things."""
    learning = model.training
    model.eval()
    moments = torch.zeros(model.appearance.in_features, model.appearance.in_features)
    for i in range(0, len(stored), 256):
        x = normalise(torch.from_numpy(np.array(stored[i : i + 256])))
        pooled = model.look(x.contiguous(memory_format=torch.channels_last))[1]
        moments += pooled.T @ pooled
    components = torch.linalg.eigh(moments).eigenvectors.flip(1)  # the largest first
    model.appearance.weight.copy_(components[:, : model.config.appearance_width].T)
    model.kinds.weight.copy_(heads.scale(0) * F.normalize(heads.classes, dim=-1))
    model.train(learning)


def precision_at_5(vectors: Tensor, labels: Tensor, rounds: int = 400, seed: int = 0) -> float:
    """Five of the query's class among 100 pictures, besides the query: the share of the five
    nearest that are of its class, averaged over random draws."""
    g = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(rounds):
        query = int(torch.randint(len(labels), (1,), generator=g))
        same = (labels == labels[query]).nonzero()[:, 0]
        same = same[same != query][torch.randperm(len(same) - 1, generator=g)[:5]]
        other = (labels != labels[query]).nonzero()[:, 0]
        other = other[torch.randperm(len(other), generator=g)[:95]]
        near = vectors[torch.cat([same, other])] @ vectors[query]
        total += float((near.topk(5).indices < 5).float().mean())
    return total / rounds


def evaluate(model: Eyes, heads: Heads, data: Data) -> dict[str, float]:
    instance, text, _ = embed(model, data.val.pixels)
    index = torch.tensor([data.train.names.index(n) for n in data.val.names])
    labels = index[torch.from_numpy(data.val.labels)]
    proxies = F.normalize(heads.classes.detach(), dim=-1)
    unseen = embed(model, data.unseen.pixels)
    unseen_labels = torch.from_numpy(data.unseen.labels)
    g = torch.Generator().manual_seed(7)
    names = data.flag_pixels
    small = F.interpolate(names, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    clean = embed(model, (small.permute(0, 2, 3, 1) * 255).byte().numpy())[0]
    noise = torch.rand(len(names), 3, 1, 1, generator=g).expand(-1, -1, SIDE, SIDE)
    warped = warp.photograph(names, data.aspects, noise, SIDE, g)
    seen = embed(model, (warped.permute(0, 2, 3, 1) * 255).byte().numpy())[0]
    found = data.groups[(seen @ clean.T).argmax(1)]
    return {
        "val_class": float(((instance @ proxies.T).argmax(1) == labels).float().mean()),
        "val_name": float(((text @ data.class_texts.T).argmax(1) == labels).float().mean()),
        "unseen_p5_instance": precision_at_5(unseen[0], unseen_labels),
        "unseen_p5_text": precision_at_5(unseen[1], unseen_labels),
        "unseen_p5_appearance": precision_at_5(unseen[2], unseen_labels),
        "flag_warped": float((found == data.groups).float().mean()),
    }


def save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)  # a kill leaves the old file or the new one


def train(args: argparse.Namespace) -> None:
    from tqdm import tqdm  # type: ignore[import-untyped]

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    data = Data(args.data, args.out / "cache", args.seed)
    config = EyesConfig(kinds=len(data.train.names))
    model = Eyes(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    heads = Heads(model.config, len(data.train.names), int(data.groups.max()) + 1)
    path, step = args.out / "eyes.pt", 0
    if args.start and not path.exists():
        model.load_state_dict(weights.load_eyes(args.start).state_dict())
        heads.begin(model, data)
    learned = [p for m in (model, heads) for p in m.parameters() if p.requires_grad]
    decay, rest = [p for p in learned if p.ndim > 1], [p for p in learned if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.15}, {"params": rest, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    log = (args.out / "eyes.jsonl").open("a")
    saved = evaluated = time.monotonic()
    bar = tqdm(total=args.steps, initial=step, desc="eyes", mininterval=20)
    mean: dict[str, float] = {}
    while step < args.steps:
        side = next((s for s, until in args.sides if step < until * args.steps), SIDE)
        rate = args.rate * min(1.0, (step + 1) / 200) * (1 - step / args.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        parts = losses(model, heads, data, step, side, step >= (1 - args.settle) * args.steps)
        loss = torch.stack([WEIGHTS[k] * v for k, v in parts.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 2.0)
        optimizer.step()
        step += 1
        bar.update()
        for k, v in parts.items():
            mean[k] = 0.98 * mean.get(k, v.item()) + 0.02 * v.item()
        now = time.monotonic()
        last = step == args.steps
        if now - evaluated > args.eval_every or last:
            evaluated = now
            set_rest(model, heads, data.train.pixels[::30])
            line = {"step": step, "rate": rate, **mean, **evaluate(model, heads, data)}
            log.write(json.dumps(line) + "\n")
            log.flush()
            bar.write(json.dumps(line))
        if now - saved > args.save_every or last:
            saved = now
            set_rest(model, heads, data.train.pixels[:: 9 if last else 30])
            state = {"model": model.state_dict(), "heads": heads.state_dict(), "step": step}
            save(path, {**state, "optimizer": optimizer.state_dict()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument(
        "--sides",
        type=lambda text: [(int(s), float(u)) for s, u in (p.split(":") for p in text.split(","))],
        default=[(64, 0.45), (80, 0.9)],
        help="sides in pixels, each with the share of steps at which it ends: 64:0.45,80:0.9",
    )
    parser.add_argument("--start", type=Path, help="a folder of written weights to begin from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settle", type=float, default=0.03, help="share of steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=120)
    parser.add_argument("--eval-every", type=float, default=240)
    train(parser.parse_args())


if __name__ == "__main__":
    main()

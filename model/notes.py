"""What a reader should know of an answer: what could not be read, and what was shown less of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rag_owl.errors import InvalidQuestion
from rag_owl.model.evidence_prompt import EvidencePrompt, Sights
from rag_owl.types import Context


def check_question(sights: Sights, failed: dict[str, str]) -> None:
    """What the user shows must be readable. Raises InvalidQuestion."""
    for view in sights.pictures:
        if view.key in failed:
            raise InvalidQuestion(f"a picture of the question: {failed[view.key]}")
    film = sights.film.frames
    if film and all(frame.key in failed for frame in film):
        raise InvalidQuestion(f"the video of the question: {failed[film[0].key]}")


def left_out(
    context: Context, sights: Sights, laid: EvidencePrompt, failed: dict[str, str]
) -> Iterable[str]:
    """Ids of the sources that were not shown, or not with all that they have to show."""
    for number, (found, stretch) in enumerate(zip(context.sources, sights.sources, strict=True)):
        if number >= laid.shown or any(view.key in failed for view in stretch.frames):
            yield found.item.id


def notes(
    context: Context, sights: Sights, laid: EvidencePrompt, failed: dict[str, str], seconds: float
) -> Iterator[str]:
    for number, stretch in enumerate(sights.sources[: laid.shown]):
        bad = [failed[view.key] for view in stretch.frames if view.key in failed]
        if bad:
            what = "The picture" if stretch.frames[0].seconds is None else "A part"
            of = f"of [{number + 1}] {context.sources[number].item.title!r}"
            yield f"{what} {of} could not be read and was left out: {bad[0]}."
    if any(view.key in failed for views in sights.earlier for view in views):
        yield "A picture of an earlier question is gone and was left out."
    unread = sum(frame.key in failed for frame in sights.film.frames)
    paired = any(frame.also is not None for frame in sights.film.frames)
    if unread:
        what = "pairs of frames" if paired else "frames"
        yield f"{unread} {what} of your video could not be read."
    steps = len(laid.film.frames)  # one for each second, where there is room
    if sights.film.frames and steps < int(seconds):
        shown = 2 * steps if paired else steps
        yield f"Your video of {seconds:.0f} s was shown as {shown} frames."
    pairs = enumerate(zip(sights.sources, laid.stretches, strict=False))
    small = [
        f"[{number + 1}]"
        for number, (given, used) in pairs
        if used.frames and used.frames[0].most < given.frames[0].most
    ]
    if small:
        yield f"The pictures of {', '.join(small)} were shown smaller, so that all fitted."
    if any(a.most < b.most for a, b in zip(laid.pictures, sights.pictures, strict=False)):
        yield "Your pictures were shown smaller, so that the question fitted."
    turns = len(context.question.history) - len(laid.turns) // 2
    if turns:
        yield f"The conversation's first {turns} questions did not fit any more."

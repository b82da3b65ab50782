"""mPLUG-Owl's conversations as its authors train on them.

Every answer ends with the end token, earlier ones too (an earlier answer that a model is only shown
has none), and every answer is learnt with its end; no question, speaker or picture is. The released
`train_it.sh` and its dataset class, github.com/X-PLUG/mPLUG-Owl, commit 0f3068f.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag_owl.model.owl1.processor import Owl1Processor
from rag_owl.model.prompting import Turn


def conversation(
    processor: Owl1Processor, turns: Sequence[Turn], answer: str, end: int
) -> tuple[list[int], list[bool], list[int]]:
    """turns: the last one the user's, whom `answer` answers -> ids, which of them are learnt, and
    each picture's first placeholder.
    """
    ids: list[int] = []
    learnt: list[bool] = []
    starts: list[int] = []
    asked: list[Turn] = []
    spoken = [*turns, Turn("assistant", (answer,))]
    for turn in spoken:
        if turn.role != "assistant":
            asked.append(turn)
            continue
        # Nobody speaks for the system twice, and a row begins once.
        prompt = processor.prompt([Turn("system", ()), *asked] if ids else asked)
        new = prompt.input_ids[1:] if ids else prompt.input_ids
        starts += [len(ids) - bool(ids) + start for start in prompt.image_starts]
        words = "".join(part for part in turn.parts if isinstance(part, str))
        said = [*processor.tokenizer.encode(words), end]
        learnt += [False] * len(new) + [True] * len(said)
        ids += [*new, *said]
        asked = []
    return ids, learnt, starts

"""Rankings of several searches become one, by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rag_owl.types import Channel, Question

RANK_CONSTANT = 60  # Cormack et al. 2009, "Reciprocal Rank Fusion", §2
# A question with a picture ("What is the capital of this country?") is first of all about what the
# picture shows: its words alone fit any country. With 20, what looks most alike stays ahead of what
# comes tenth, however well the words fit that one: 20 / 61 - 20 / 70 > 2 / 61.
PICTURE_WEIGHT = 20.0
# Words find a picture less surely than a text: one that the words fit first does not pass a text
# that both the other searches put first.
PICTURE_BY_TEXT_WEIGHT = 0.9


@dataclass(frozen=True, slots=True)
class Ranking:
    channel: Channel
    hits: Mapping[int, float]  # item key to similarity, best first


def _weight(ranking: Ranking, with_pictures: bool) -> float:
    if ranking.channel != "picture":
        return 1.0
    return PICTURE_WEIGHT if with_pictures else PICTURE_BY_TEXT_WEIGHT


def fuse(found: Sequence[Ranking], with_pictures: bool) -> dict[int, float]:
    """Score by item key, by weighted reciprocal-rank fusion, best first; of equals the oldest.

    Of the rankings of the picture channel, one for each picture of the user's, the best one counts:
    each may show something else, and what comes twentieth for two of them is neither.
    """
    scores: dict[int, float] = {}
    by_picture: dict[int, float] = {}
    for ranking in found:
        weight = _weight(ranking, with_pictures)
        for rank, key in enumerate(ranking.hits, 1):
            score = weight / (RANK_CONSTANT + rank)
            if ranking.channel == "picture":
                by_picture[key] = max(by_picture.get(key, 0.0), score)
            else:
                scores[key] = scores.get(key, 0.0) + score
    for key, score in by_picture.items():
        scores[key] = scores.get(key, 0.0) + score
    return dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0])))


def with_leaders(best: list[int], found: Sequence[Ranking], question: Question) -> list[int]:
    """Of a question in words, the first of a search is among the `question.k` best.

    Else a part number that one item alone has may be outvoted by items that look alike: they are
    found in the middle of both rankings, and it is first in one of them. Of four items one may be
    such a leader (of three none: the third of all is worth more), that by words before others.
    """
    if question.pictures:
        return best
    by_words_first = sorted(found, key=lambda ranking: ranking.channel != "words")
    firsts = [next(iter(ranking.hits)) for ranking in by_words_first if ranking.hits]
    leaders = list(dict.fromkeys(firsts))[: question.k // 4]
    others = [key for key in best if key not in leaders][: question.k - len(leaders)]
    shown = {*leaders, *others}
    return [key for key in best if key in shown] + [key for key in best if key not in shown]


def found_by(found: Sequence[Ranking], key: int) -> dict[Channel, float]:
    similarities: dict[Channel, float] = {}
    for ranking in found:
        if key in ranking.hits:
            best = max(similarities.get(ranking.channel, -np.inf), ranking.hits[key])
            similarities[ranking.channel] = float(best)
    return similarities
